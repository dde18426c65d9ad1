"""The readout as a service: Ray Serve, an HTTP ingress before shards that hold part of the sources each.

Design decisions:
- A copy of what is served is one Serve replica with its shards as actors beside it, in one placement group. A query
  goes to all shards of one copy; an answer is whole, and of one store, or it is an error.
- Copies are what is added under load, and exchanged when the store is: requests go to one that is up.
- Ray starts a dead shard again, Serve a dead copy or ingress; whoever waited for it asks again.
- What is asked at the same time is read out together, first come, first served.
- Errors are problem+json (RFC 9457).
- Ray is loaded by what needs it, and a client does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dist_attr.serving.schemas import AttributionRequest, AttributionResponse

if TYPE_CHECKING:
    from dist_attr.serving.deployment import application, deploy, stop

__all__ = ["AttributionRequest", "AttributionResponse", "application", "deploy", "stop"]


def __getattr__(name: str) -> Any:
    if name not in ("application", "deploy", "stop"):
        raise AttributeError(f"module 'dist_attr.serving' has no attribute {name!r}")
    from dist_attr.serving import deployment

    return getattr(deployment, name)
