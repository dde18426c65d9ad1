"""The model that a store belongs to."""

from __future__ import annotations

import torch
from torch import nn

from dist_attr.corpus import Tokenizer, load_tokenizer, tokenizer_fingerprint
from dist_attr.models import download_folder, load_model, model_fingerprint, saved_context_length
from dist_attr.store import InfluenceStore


def store_model(store: InfluenceStore, model: str | None = None) -> tuple[nn.Module, Tokenizer]:
    """The trained model of a store and its tokenizer, on the GPU where there is one.

    Args:
        store: from `open_store`. Its model is the `model` folder beside it.
        model: another place, any fsspec URL, of the very same model and tokenizer.

    Raises:
        StoreError: the model or the tokenizer is not the store's.
        ModelError: there is no model.
    """
    beside = store.place.beside("model")
    with download_folder(model or beside.url, None if model else beside.options) as folder:
        module = load_model(folder)
        tokenizer = load_tokenizer(folder, [])
    store.check_model(model_fingerprint(module), tokenizer_fingerprint(tokenizer))
    return module.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def store_tokenizer(store: InfluenceStore, model: str | None = None) -> tuple[Tokenizer, int]:
    """The tokenizer of a store's model and the tokens that the model reads at once; its weights are not read.

    Args:
        store: from `open_store`.
        model: as for `store_model`.

    Raises:
        StoreError: the tokenizer is not the store's.
        ModelError: there is no model.
    """
    beside = store.place.beside("model")
    with download_folder(model or beside.url, None if model else beside.options, weights=False) as folder:
        tokenizer, context = load_tokenizer(folder, []), saved_context_length(folder)
    assert store.manifest.model is not None
    store.check_model(store.manifest.model.weights, tokenizer_fingerprint(tokenizer))
    return tokenizer, context
