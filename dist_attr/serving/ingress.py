"""The HTTP side as a Serve deployment. It holds nothing: any number may run, and none is missed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from dist_attr.config import ServiceConfig
from dist_attr.serving.api import build_api
from dist_attr.serving.front import Front
from dist_attr.serving.metrics import IngressMetrics, merged

METRICS_SECONDS = 5.0


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """Speaks HTTP.

    Args:
        config: of the service.
        readout: the deployment of `Readout`.

    Raises:
        ConfigError: the keys cannot be read.
    """

    def __init__(self, config: ServiceConfig, readout: DeploymentHandle[Any]) -> None:
        self._config, self._readout = config, readout
        self._metrics = IngressMetrics()
        context = serve.get_replica_context()
        self._own = serve.get_deployment_handle(context.deployment, context.app_name)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve calls this once the constructor is done."""
        front = Front(self._config, self._readout, self._metrics)
        return build_api(self._config, front, self._metrics, self._all_metrics)

    async def metrics(self) -> tuple[str, str]:
        """The name of this process, and what it counts, in Prometheus' format."""
        return serve.get_replica_context().replica_tag, self._metrics.text()

    async def _all_metrics(self) -> bytes:
        found: list[tuple[str, str]] = []
        for handle in (self._own, self._readout):
            everyone = handle.broadcast("metrics").results_async(timeout_s=METRICS_SECONDS, return_exceptions=True)
            # One that is being started again is missed once.
            found += [counted for counted in await everyone if not isinstance(counted, BaseException)]
        return merged(found)
