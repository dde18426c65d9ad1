"""What a process of the service counts, and the counts of all processes together, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class IngressMetrics:
    """Of a process that speaks HTTP."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dist_attr_requests", "requests by route and status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "dist_attr_request_seconds", "time to the last byte", ["route"], buckets=SECONDS, registry=registry
        )
        self.admitted = Gauge("dist_attr_admitted_queries", "queries let in and not yet answered", registry=registry)
        self.retried = Counter(
            "dist_attr_requests_retried", "asked again, since what answered them was gone", registry=registry
        )

    def text(self) -> str:
        """In Prometheus' format."""
        return generate_latest(self.registry).decode()


class ReadoutMetrics:
    """Of a process before a set of shards."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.stages = Histogram(
            "dist_attr_stage_seconds",
            "time by stage: encode, queue, read, generate; of probes load, turn, probe",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram("dist_attr_batch_queries", "queries read out together", buckets=SIZES, registry=registry)
        self.waiting = Gauge("dist_attr_queue_queries", "queries that wait to be read out", registry=registry)
        self.errors = Counter("dist_attr_readout_errors", "by kind", ["kind"], registry=registry)
        self.deaths = Counter("dist_attr_shard_deaths", "times that a shard was found dead", registry=registry)
        self.probes = Counter("dist_attr_probes", "queries after a document each", registry=registry)
        self.probing = Gauge("dist_attr_admitted_probes", "probes let in and not yet answered", registry=registry)
        self.prober_deaths = Counter(
            "dist_attr_prober_deaths", "times that the prober was found dead", registry=registry
        )

    def text(self) -> str:
        """In Prometheus' format."""
        return generate_latest(self.registry).decode()


def merged(texts: Iterable[tuple[str, str]]) -> bytes:
    """The counts of several processes, each with its name as the label `process`."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))
    return generate_latest(registry)


class _Merged(Collector):
    """Families of metrics by name, with the samples of all processes."""

    def __init__(self, texts: Iterable[tuple[str, str]]) -> None:
        self._families: dict[str, Metric] = {}
        for process, text in texts:
            for family in text_string_to_metric_families(text):
                known = self._families.setdefault(family.name, family)
                own = [sample._replace(labels={**sample.labels, "process": process}) for sample in family.samples]
                known.samples = own if known is family else known.samples + own

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()
