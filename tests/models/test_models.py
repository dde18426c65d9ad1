"""Building, checking and saving models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_attr.config import ModelConfig
from dist_attr.errors import ModelError, StoreError
from dist_attr.models import (
    build_model,
    context_length,
    download_folder,
    load_model,
    model_fingerprint,
    save_model,
)
from dist_attr.store import places
from tests.disk import Disk
from tests.runs import MODELS

GPT2: dict[str, Any] = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2}


def build(config: dict[str, Any], **changes: int) -> nn.Module:
    arguments = {"vocabulary": 30, "end_of_text": 0, "sequence_length": 16, "seed": 0, **changes}
    return build_model(ModelConfig(config=config), **arguments)


@pytest.mark.parametrize("model_type", MODELS)
def test_the_model_fits_tokenizer_and_context(model_type: str) -> None:
    model = build(MODELS[model_type])
    assert model.config.vocab_size == 30  # type: ignore[union-attr]
    assert context_length(model) == 16
    assert not any(part.p for part in model.modules() if isinstance(part, nn.Dropout))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_seed_decides_the_weights() -> None:
    assert model_fingerprint(build(GPT2)) == model_fingerprint(build(GPT2))
    assert model_fingerprint(build(GPT2)) != model_fingerprint(build(GPT2, seed=1))


def test_a_longer_context_may_be_asked_for() -> None:
    assert context_length(build({**GPT2, "n_positions": 64})) == 64


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "'bert' is not supported"),
        ({"model_type": "no-such-thing"}, "'no-such-thing' is not supported"),
        ({**GPT2, "n_layers": 3}, "gpt2 has no n_layers"),
        ({**GPT2, "attn_pdrop": 0.1}, "dropout is not supported, set attn_pdrop to 0"),
        ({**GPT2, "n_positions": 8}, "the model has 8 positions"),
        ({**GPT2, "vocab_size": 10}, "the tokenizer has 30 tokens, but the model only 10"),
        ({**GPT2, "n_head": 3}, "cannot build this gpt2"),
        ({**GPT2, "activation_function": "nonsense"}, "cannot build this gpt2"),
    ],
)
def test_a_model_that_cannot_be_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(config)


@pytest.mark.parametrize("model_type", MODELS)
def test_saved_and_loaded_it_is_the_same(model_type: str, tmp_path: Path) -> None:
    model = build(MODELS[model_type])
    save_model(model, str(tmp_path / "model"))
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert model_fingerprint(load_model(str(tmp_path / "model"))) == model_fingerprint(model)


def test_a_remote_folder_is_fetched(tmp_path: Path) -> None:
    model = build(GPT2)
    save_model(model, "memory://models/one")
    with download_folder("memory://models/one") as folder:
        assert model_fingerprint(load_model(folder)) == model_fingerprint(model)


def test_dropout_of_a_saved_model_is_switched_off(tmp_path: Path) -> None:
    model = build(GPT2)
    model.config.resid_pdrop = 0.1  # type: ignore[union-attr]
    save_model(model, str(tmp_path))
    loaded = load_model(str(tmp_path)).train()
    tokens = torch.arange(10)[None]
    assert torch.equal(loaded(input_ids=tokens).logits, loaded(input_ids=tokens).logits)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a causal LM"):
        load_model(str(tmp_path))
    with pytest.raises(ModelError, match="no model at"), download_folder(str(tmp_path / "nothing")):
        pass


def test_a_full_disk_is_told_from_a_place_that_is_not_reached(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(GPT2)
    save_model(model, "memory://models/two")
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.fill()
    said = f"no room for the model at memory://models/two in {disk.folder} on .*: make room there, or set TMPDIR"
    with pytest.raises(ModelError, match=said), download_folder("memory://models/two"):
        pass
    with pytest.raises(ModelError, match=said):
        save_model(model, "memory://models/two")
    monkeypatch.undo()
    with pytest.raises(StoreError, match=f"no room for {disk.folder}/model on .*; make room"):
        save_model(model, f"{disk.folder}/model")


def test_a_server_that_is_not_there_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ATTEMPTS", 1)
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "c"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot reach s3://bucket/model: "):
        save_model(build(GPT2), "s3://bucket/model")
    with pytest.raises(StoreError, match="cannot reach s3://bucket/model: "), download_folder("s3://bucket/model"):
        pass
