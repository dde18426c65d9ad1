"""The comparison of query costs: it runs, it refuses scores that differ, and its break-even is where lines cross."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from dist_attr.config import ModelConfig
from dist_attr.models import build_model
from scripts.query_cost import CHOICES, TINY, break_even, check
from scripts.query_rivals import Case, backward_passes, readouts


def test_the_script_times_every_way_and_compares_their_scores(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    options = ["--length", "16", "--sources", "9", "--sources", "18", "--dimensions", "64", "--timed", "8"]
    command = [
        sys.executable,
        "-m",
        "scripts.query_cost",
        "--model",
        "tiny",
        "--rounds",
        "1",
        *options,
        "--json",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (table,) = json.loads(out.read_text())["tables"].values()
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    names = ["linear", "counterfactual", "linear, basis of 16", "a backward pass", "a backward pass per token"]
    libraries = {"trak": "TRAK-10, 64 dimensions", "bergson": "bergson", "kronfluence": "kronfluence"}
    names += [name for library, name in libraries.items() if find_spec(library) is not None]
    assert [name for name in names if not any(row.startswith(name) for row in rows)] == []
    passes = {name: float(row["9 sources"].split()[0].replace(",", "")) for name, row in rows.items()}
    assert all(number > 0 for number in passes.values())
    # Rounding differs, so that a comparison that was made left its trace.
    compared = ["a backward pass", "a backward pass per token", "the same, 4 tokens at once"]
    assert all(0 < float(rows[name]["differs by"]) < 1e-3 for name in compared)
    # 64 dimensions cost more than none.
    if "TRAK-10, 64 dimensions" in rows:
        assert passes["TRAK-10, 64 dimensions"] > passes["TRAK-10, projection free"]
    assert "9 sources" in done.stdout and "18 sources" in done.stdout


@pytest.mark.parametrize("lora", [False, True])
def test_a_gradients_product_is_the_linear_score(lora: bool) -> None:
    """With more sources than there are vectors, for the completion and for each token."""
    config = ModelConfig.model_validate({"config": TINY, "lora": {"rank": 2} if lora else None})
    case = Case.of(config, 64, 12)
    linear = readouts(case, 4)[0].do(20)
    assert linear is not None and linear.shape == (20, 6) and linear.abs().max() > 0
    assert torch.equal(linear[:8], linear[8:16])
    for work in backward_passes(case):
        scores = work.do(20)
        assert scores is not None
        assert check(work.name, scores, linear) < 1e-4


def test_scores_that_differ_stop_the_run() -> None:
    linear = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    assert check("same", linear * (1 + 1e-4), linear) == pytest.approx(1e-4, rel=1e-2)
    assert check("of the query", linear.sum(1), linear) == 0
    for wrong in (linear * 1.01, linear.flip(0), linear * math.nan, linear.sum(1).flip(0)):
        with pytest.raises(SystemExit, match="wrong: its scores are"):
            check("wrong", wrong, linear)


def test_the_break_even_is_where_the_lines_cross() -> None:
    # 2 S against 40 + S, against 3 S, and against S.
    assert break_even([32, 128], [56, 104], (16, 64)) == pytest.approx(40)
    assert break_even([32, 128], [48, 192], (16, 64)) == math.inf
    assert break_even([32, 128], [16, 64], (16, 64)) == 0
    # What takes a little less or more time with more sources does not depend on them.
    for other in (800, 864):
        assert break_even([32, 128], [832, other], (16, 64)) == pytest.approx(416)


def test_adapters_of_a_timed_model_have_gradients() -> None:
    """peft's own adapters are zero on one side, whose products would be compared as zeros."""
    config, vocabulary = CHOICES["llama-30M, LoRA"]
    small = ModelConfig.model_validate({"config": {**TINY}, "lora": config.lora})
    fresh = build_model(small, vocabulary=vocabulary, end_of_text=0, sequence_length=8, seed=0)
    assert all(not p.any() for name, p in fresh.named_parameters() if "lora_B" in name)
    case = Case.of(small, vocabulary, 8)
    (gradient,) = torch.autograd.grad(case.at.logprobs(theta := case.at.theta.clone().requires_grad_()).sum(), theta)
    zero = [name for name, part in case.at.space.unflatten(gradient).items() if not part.any()]
    assert zero == []
