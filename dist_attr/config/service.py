"""How a store is served."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dist_attr.config.base import Settings
from dist_attr.config.probing import ProbeConfig
from dist_attr.config.training import PrecisionName

Held = Literal["sources", "basis", "both"]


class ServiceConfig(Settings):
    """The arguments of the Serve application `dist_attr.serving:application`, and the options of `dist-attr serve`."""

    store: str = Field(description="the store, a path or any fsspec URL; every node must reach it")
    model: str | None = Field(None, description="another place of the store's model than `model` beside it")
    corpus: str | None = Field(
        None, description="another place of the run's documents than the run's own, any fsspec URL; for probing"
    )
    # On, since a service that is never asked pays nothing: the prober is started, and reads the documents, at the first
    # request. Where the documents are missing or have changed, that request is refused and attributions go on.
    probing: ProbeConfig | None = Field(
        ProbeConfig(),
        description="in-context probing: template, chat and window, and what holds where a request says nothing. From "
        "the first request on a copy has one more process, with the model and all documents; none: it does not probe",
    )
    shards: int = Field(2, ge=1, le=1024, description="readout shards; each has the model and its part of the sources")
    hold: Held | None = Field(
        None,
        description="tangents of all sources, the directions of the readout basis, or both; by default both if the "
        "store is calibrated. Without the sources' own, requests have to give a rank",
    )
    precision: PrecisionName = Field("fp32", description="bf16 computes the linear readout only")
    per_pass: int = Field(8, ge=1, description="directions read out together, where memory allows it")
    replicas: int = Field(1, ge=1, description="copies of all shards; requests are spread over them")
    most_replicas: int | None = Field(None, ge=1, description="start more copies under load, up to so many")
    waiting_per_replica: int = Field(8, ge=1, description="requests under way for each copy that scaling aims at")
    ingresses: int = Field(1, ge=1, description="processes that speak HTTP")
    cpus: float = Field(1.0, gt=0, description="of a shard")
    gpus: float | None = Field(None, ge=0, description="of a shard; by default 1 where the cluster has that many")
    surge: bool = Field(
        True, description="at a change of store the new shards start before the old ones stop; needs room for both"
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="longest time for an answer, seconds")
    most_waiting: int = Field(512, ge=1, description="queries that an ingress lets in at once; others get 429")
    most_tokens: int = Field(32_768, ge=1, description="of all queries of a request together")
    most_probes: int = Field(
        4096, ge=1, description="queries x sources x documents of a request, and of those that a copy lets in at once"
    )
    most_bytes: int = Field(4 * 2**20, ge=1024, description="of a request's body")
    keys_file: str | None = Field(
        None,
        description="a file on the ingress's node, one bearer key a line; without it keys are those in the "
        "environment variable DIST_ATTR_KEYS, separated by commas, and without that none is asked for",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise ValueError(f"most_replicas is {self.most_replicas}, less than replicas, {self.replicas}")
        return self
