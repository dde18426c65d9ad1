"""The models: transformers causal LMs, built or loaded so that their derivatives are right, as pure functions.

Design decisions:
- Only model types whose derivatives are tested here are accepted; the list is `SUPPORTED_TYPES`.
- Attention is transformers' "eager" kernel: the fused ones have no forward-mode derivative.
- Dropout is off, in the run and in the simulation: a replica must see what the run saw. Asking for dropout is an error.
- float32 parameters.
"""

from dist_attr.models.build import SUPPORTED_TYPES, build_model
from dist_attr.models.causal import causal_forward, context_length
from dist_attr.models.files import (
    download_folder,
    load_model,
    model_fingerprint,
    save_model,
    saved_context_length,
    upload_folder,
)
from dist_attr.models.linear import linear_layers
from dist_attr.models.prefix import Prefix, prefixes_after, read_after

__all__ = [
    "SUPPORTED_TYPES",
    "Prefix",
    "build_model",
    "causal_forward",
    "context_length",
    "download_folder",
    "linear_layers",
    "load_model",
    "model_fingerprint",
    "prefixes_after",
    "read_after",
    "save_model",
    "saved_context_length",
    "upload_folder",
]
