"""The readout as a service: Ray Serve, an HTTP ingress before shards that hold part of the sources each.

Design decisions:
- A copy of what is served is one Serve replica with its shards as actors beside it, in one placement group. A query
  goes to all shards of one copy; an answer is whole, and of one store, or it is an error.
- Copies are what is added under load, and exchanged when the store is: requests go to one that is up.
- Ray starts a dead shard again, Serve a dead copy or ingress; whoever waited for it asks again.
- What is asked at the same time is read out together, first come, first served.
- Errors are problem+json (RFC 9457).
"""

from dist_attr.serving.deployment import application, deploy, stop
from dist_attr.serving.schemas import AttributionRequest, AttributionResponse

__all__ = ["AttributionRequest", "AttributionResponse", "application", "deploy", "stop"]
