"""Where a run stands, as metrics of the Ray cluster: for its dashboard, for Prometheus and for Grafana."""

from __future__ import annotations

from dataclasses import asdict

from ray.util.metrics import Counter, Gauge

from dist_attr.simulation.reports import StrideReport

GAUGES = {
    "step": "steps done",
    "steps": "steps of the whole run",
    "loss": "of the last step over the global batch, nats per token",
    "drift": "distance of the simulation from DeepSpeed's parameters at the last check, of the way trained so far",
    "replica_steps_per_second": "sources simulated times steps, in the last stride",
}


class RunMetrics:
    """The metrics of one run, `dist_attr_step` and so on; a label names the run by its output.

    Ray adds `ray_` before the names and publishes what each process last said every few seconds.
    """

    def __init__(self, output: str) -> None:
        self._labels = {"run": output}
        self._gauges = {name: Gauge(f"dist_attr_{name}", text, ("run",)) for name, text in GAUGES.items()}
        self._lost = Counter("dist_attr_workers_lost", "how often the run lost a worker", ("run",))

    def report(self, stride: StrideReport) -> None:
        """What a stride came to."""
        values = asdict(stride)
        for name, gauge in self._gauges.items():
            if values[name] is not None:  # the loss of a run that trains nothing
                gauge.set(values[name], self._labels)

    def worker_lost(self) -> None:
        """A worker died; whether the run goes on is another question."""
        self._lost.inc(1, self._labels)
