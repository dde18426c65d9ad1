"""Finished stores without a run: a real model with random weights, and tangents drawn at random."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dist_attr as da
from dist_attr.config import CodecName, ModelConfig, StoreConfig
from dist_attr.corpus import Document, corpus_fingerprint, load_tokenizer, tokenizer_fingerprint
from dist_attr.influence import ParameterSpace
from dist_attr.models import build_model, model_fingerprint, save_model, upload_folder
from dist_attr.store import Manifest, ModelIdentity, SourceRecord, Space, StoreWriter

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2}


def make_store(
    folder: Path,
    names: Sequence[str],
    *,
    settings: Mapping[str, Any] = LLAMA,
    context: int = 24,
    codec: CodecName = "float32",
    directions: int | None = None,
    documents: Sequence[Document] = (),
    seed: int = 0,
) -> da.InfluenceStore:
    """A store in `influence.zarr` and its model in `model`, as a run would leave them.

    Args:
        folder: where to.
        names: of the sources.
        settings: of the model.
        context: tokens it reads at once; a token is a byte.
        codec: of the tangents.
        directions: tangents vary in so many directions, and a little in all others; by default in all alike.
        documents: what it was made of, in `documents.jsonl`; by default a corpus that is nowhere.
        seed: of the tangents; the model is always the same.
    """
    tokenizer = load_tokenizer("bytes", [])
    model = build_model(
        ModelConfig(config=dict(settings)), vocabulary=257, end_of_text=256, sequence_length=context, seed=3
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    space = ParameterSpace.of(model)
    save_model(model, f"{folder}/model")
    with upload_folder(f"{folder}/model") as files:
        tokenizer.save_pretrained(files)
    if documents:
        rows = [json.dumps({"id": each.id, "source": each.source, "text": each.text}) for each in documents]
        (folder / "documents.jsonl").write_text("\n".join(rows), encoding="utf-8")
    empty = Manifest(
        identity=str(uuid.uuid4()),
        created="2026-01-01T00:00:00+00:00",
        complete=False,
        model=None,
        space=Space(names=space.names, shapes=space.shapes, coverage=1.0),
        encoding=StoreConfig(codec=codec),
        sources=len(names),
        sources_checksum=None,
        corpus=corpus_fingerprint(documents) if documents else "c" * 64,
        computes="e" * 64,
        run=da.RunConfig.parse({"corpus": {"path": f"{folder}/documents.jsonl"}}),
        versions={},
    )
    records = [
        SourceRecord(name=name, documents=1, tokens=1, trained_tokens=1, first_step=0, last_step=0, examples=())
        for name in names
    ]
    writer = StoreWriter.create(f"{folder}/influence.zarr", empty, records)
    draw = np.random.default_rng(seed)
    few = np.zeros((len(names), space.size))
    if directions is not None:
        few = draw.standard_normal((len(names), directions)) @ draw.standard_normal((directions, space.size)) / 0.3
    tangents = few + draw.standard_normal((len(names), space.size))
    for row, tangent in enumerate((0.02 if directions is None else 0.006) * tangents):
        writer.write(row, tangent.astype(np.float32), 1)
    kind = settings["model_type"]
    writer.finish(
        ModelIdentity(type=kind, weights=model_fingerprint(model), tokenizer=tokenizer_fingerprint(tokenizer))
    )
    return da.open_store(writer.url)
