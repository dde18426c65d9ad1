"""The readout as a service: Ray Serve, an HTTP ingress before shards that hold part of the sources each.

Design decisions:
- A shard holds the model and the tangents of every N-th source. A query goes to all shards; an answer is whole or it
  is an error.
- The answer names the store it came from, and every shard has to hold that very store.
- Errors are problem+json (RFC 9457).
"""

from dist_attr.serving.deployment import application, deploy, stop
from dist_attr.serving.schemas import AttributionRequest, AttributionResponse

__all__ = ["AttributionRequest", "AttributionResponse", "application", "deploy", "stop"]
