"""What is trained: patterns, and LoRA adapters, which peft and transformers must be able to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from dist_attr.config import ModelConfig
from dist_attr.errors import ModelError
from dist_attr.influence import ParameterSpace
from dist_attr.models import build_model, download_folder, load_model, model_fingerprint, save_model, upload_folder
from tests.runs import MODELS, VOCABULARY, small_model

LORA: dict[str, Any] = {"lora": {"rank": 2, "alpha": 8}}


def adapted(name: str) -> nn.Module:
    """An adapted model whose adapters have learned something."""
    return small_model(name, trained=LORA)


@pytest.mark.parametrize("name", MODELS)
def test_peft_loads_what_is_saved(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    save_model(model, str(tmp_path / "model"))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = torch.arange(10)[None] % VOCABULARY
    unadapted = base(input_ids=tokens).logits
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "model" / "adapter"))
    ours = model(input_ids=tokens).logits
    torch.testing.assert_close(theirs(input_ids=tokens).logits, ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(unadapted, ours, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trained", [LORA, {}])
def test_a_saved_model_is_the_same_when_loaded(name: str, trained: dict[str, Any], tmp_path: Path) -> None:
    model = small_model(name, trained=trained)
    save_model(model, str(tmp_path / "model"))
    loaded = load_model(str(tmp_path / "model"))
    assert model_fingerprint(loaded) == model_fingerprint(model)
    assert ParameterSpace.of(model).names == tuple(
        name for name, _ in loaded.named_parameters() if name in ParameterSpace.of(model).names
    )


def test_adapters_travel_through_any_file_system(tmp_path: Path) -> None:
    model, url = adapted("gpt2"), "memory://adapted/model"
    save_model(model, url)
    with upload_folder(url) as folder:
        (Path(folder) / "more.txt").write_text("beside it")
    with download_folder(url) as folder:
        assert (Path(folder) / "more.txt").exists()
        assert model_fingerprint(load_model(folder)) == model_fingerprint(model)


def test_untrained_adapters_change_nothing() -> None:
    config = MODELS["gpt2"]
    arguments = {"vocabulary": VOCABULARY, "end_of_text": 0, "sequence_length": 12, "seed": 0}
    plain = build_model(ModelConfig(config=config), **arguments)
    lora = build_model(ModelConfig(config=config, **LORA), **arguments)
    tokens = torch.arange(10)[None]
    torch.testing.assert_close(plain(input_ids=tokens).logits, lora(input_ids=tokens).logits)
    again = build_model(ModelConfig(config=config, **LORA), **arguments)
    assert model_fingerprint(lora) == model_fingerprint(again)


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"include": ["nothing"]}, "model.include: 'nothing' is in no parameter's name"),
        ({"exclude": ["wte", "h.7"]}, "model.exclude: 'h.7' is in no parameter's name"),
        ({"include": ["wte"], "exclude": ["transformer"]}, "leave no parameter to train"),
        ({"lora": {"targets": ["q_proj"]}}, "peft cannot adapt this model"),
    ],
)
def test_what_cannot_be_trained_is_refused(trained: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        small_model("gpt2", trained=trained)


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    save_model(adapted("gpt2"), str(tmp_path / "model"))
    settings = tmp_path / "model" / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "r": 4}))
    with pytest.raises(ModelError, match="do not fit"):
        load_model(str(tmp_path / "model"))
    with pytest.raises(ModelError, match="has adapters already"):
        save_model(adapted("gpt2"), str(tmp_path / "other"))
        build_model(
            ModelConfig(path=str(tmp_path / "other"), **LORA), vocabulary=0, end_of_text=0, sequence_length=1, seed=0
        )
