"""The runs that scripts/dial.py turns its levers on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import dist_attr as da
from dist_attr.evaluation import drop_subsets
from scripts import fidelity
from scripts.dial_tasks import Bench


def small_gpt(folder: Path, quick: bool) -> Bench:
    protocol = replace(fidelity.QUICK, steps=10, subsets=4) if quick else fidelity.Protocol()
    queries = fidelity.split_speeches(protocol, documents := folder / "documents.jsonl")
    tokenizer = fidelity.save_tokenizer(documents, queries, folder / "tokenizer")
    config = fidelity.run_config(protocol, documents, tokenizer, folder / "run", "trajectory", 1)
    subsets = [drop_subsets(protocol.sources, protocol.subsets, number, 0) for number in protocol.drops]
    return Bench(fidelity.retraining_of(config, queries), np.concatenate(subsets), folder, config.tokenizer)


def fine_tune(folder: Path, quick: bool) -> Bench:
    """SmolLM2 with LoRA as in scripts/smollm2.py, but smaller; each source is left out alone, and half of them."""
    from dist_attr.corpus import end_of_text_id, load_documents, load_tokenizer, pack
    from dist_attr.evaluation import Retraining
    from dist_attr.readout import encode_query
    from scripts import smollm2

    recipe = smollm2.QUICK if quick else smollm2.Recipe(adapted_layers=4, steps=12, batch_size=4, queries_per_source=1)
    model = smollm2.export_model(folder / "model")
    queries = smollm2.split_speeches(recipe, documents := folder / "documents.jsonl")
    config = smollm2.run_config(recipe, model, documents, folder / "run")
    tokenizer = load_tokenizer(config.tokenizer, [])
    corpus = pack(load_documents(config.corpus), tokenizer, recipe.sequence_length)
    encoded = [encode_query(query, tokenizer, 2048) for query in queries]
    retraining = Retraining(config.model, config.training, corpus, len(tokenizer), end_of_text_id(tokenizer), encoded)
    half = drop_subsets(recipe.sources, 3 if quick else recipe.sources, recipe.sources // 2, 0)
    # Of other runs it says too little: each has seen other rows (docs/results/field.md).
    levers = (
        "trajectory",
        "trajectory, share 0.25, weight 0.4",
        "trajectory, share",
        "trajectory, share and weight",
        "trajectory, window",
        "tangent, share",
        "tangent, stride",
        "gradient dot product",
    )
    dropped = np.concatenate([np.eye(recipe.sources, dtype=bool), half])
    return Bench(retraining, dropped, folder, config.tokenizer, levers)


def passages(folder: Path, quick: bool) -> Bench:
    """The same small GPT, and many small sources, each in few batches: what horizons are for."""
    from dist_attr.config import CorpusConfig
    from dist_attr.corpus import load_documents

    number, size = (30, 128) if quick else (300, 128)  # sources, and characters of each
    text = {speech.id: speech.text for speech in load_documents(CorpusConfig.model_validate({"example": "sotu"}))}
    draw, names = np.random.default_rng(0), list(text)
    parts = [(names[i % len(names)], 2 * size * (i // len(names))) for i in range(number)]
    lines = [
        json.dumps({"id": f"{name} {start}", "source": f"{name} {start}", "text": text[name][start : start + size]})
        for name, start in parts
    ]
    (documents := folder / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")
    asked = [text[name][4 * size :][:64] for name in draw.choice(names, 24, replace=False)]
    queries = [da.Query(prompt=passage[:24], completion=passage[24:]) for passage in asked]
    protocol = replace(fidelity.Protocol(), sources=number, steps=10 if quick else 100, learning_rate=1e-3)
    tokenizer = fidelity.save_tokenizer(documents, queries, folder / "tokenizer")
    config = fidelity.run_config(protocol, documents, tokenizer, folder / "run", "trajectory", 1)
    training = config.training.model_copy(update={"batch_size": 6})
    subsets = [drop_subsets(number, 4 if quick else 20, dropped, 0) for dropped in (number // 10, number // 2)]
    retraining = fidelity.retraining_of(config.model_copy(update={"training": training}), queries)
    return Bench(
        retraining,
        np.concatenate(subsets),
        folder,
        config.tokenizer,
        levers=("tangent, horizon", "trajectory", "trajectory, share 0.25, weight 0.4", "gradient dot product"),
    )


BENCHES = {"small-gpt": small_gpt, "smollm2": fine_tune, "passages": passages}
