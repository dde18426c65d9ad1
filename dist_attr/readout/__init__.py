"""Turning an influence store and queries into scores, in one process and with forward passes only.

Design decisions:
- Prompt and completion are tokenised separately and joined: which tokens are scored depends on nothing but the query.
- Without a prompt the completion follows an end-of-text token, as the beginning of every document did in training.
- A query that does not fit the model's context is an error; nothing is cut in silence.
- Queries are padded on the right, which a causal model cannot see: batching changes no score.
"""

from dist_attr.readout.attributor import Attribution, Attributor
from dist_attr.readout.calibration import calibrate, sample_queries
from dist_attr.readout.query import EncodedQuery, Query, encode_query

__all__ = ["Attribution", "Attributor", "EncodedQuery", "Query", "calibrate", "encode_query", "sample_queries"]
