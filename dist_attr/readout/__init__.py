"""Turning an influence store and queries into scores, in one process and with forward passes only.

Design decisions:
- Prompt and completion are tokenised separately and joined: which tokens are scored depends on nothing but the query.
- Without a prompt the completion follows an end-of-text token, as the beginning of every document did in training.
- A query that does not fit the model's context is an error; nothing is cut in silence.
- Queries are padded on the right, which a causal model cannot see: batching changes no score.
"""

from dist_attr.readout.attribution import Along, Attribution
from dist_attr.readout.attributor import Attributor, basis_of, ranked_basis
from dist_attr.readout.calibration import calibrate, sample_queries
from dist_attr.readout.checks import check_readout, compute_in
from dist_attr.readout.engine import BATCH_TOKENS, ReadoutEngine, free_memory
from dist_attr.readout.files import read_queries
from dist_attr.readout.generation import Sampling, generate
from dist_attr.readout.model import store_model, store_tokenizer
from dist_attr.readout.query import EncodedQuery, Query, encode_queries, encode_query
from dist_attr.readout.rows import Mixed, Rows

__all__ = [
    "BATCH_TOKENS",
    "Along",
    "Attribution",
    "Attributor",
    "EncodedQuery",
    "Mixed",
    "Query",
    "ReadoutEngine",
    "Rows",
    "Sampling",
    "basis_of",
    "calibrate",
    "check_readout",
    "compute_in",
    "encode_queries",
    "encode_query",
    "free_memory",
    "generate",
    "ranked_basis",
    "read_queries",
    "sample_queries",
    "store_model",
    "store_tokenizer",
]
