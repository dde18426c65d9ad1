"""The readout engine: memory, precision, its check of derivatives, and the model's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import dist_attr as da
from dist_attr.errors import QueryError, StoreError
from dist_attr.readout import ReadoutEngine, Rows, Sampling, check_readout, compute_in, engine, generate
from tests.stores import make_store

NAMES = [f"s{n}" for n in range(9)]
QUERIES = [da.Query(prompt="the state", completion=" of the"), da.Query(completion="é")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    return make_store(tmp_path_factory.mktemp("engine"), NAMES, context=48)


def test_less_memory_takes_fewer_directions_at_once_and_none_is_refused(
    store: da.InfluenceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributor = da.Attributor(store)
    before = attributor.attribute(QUERIES).scores
    sizes: list[int] = []
    parts = Rows.parts

    def seen(rows: Rows, number: int) -> Iterator[torch.Tensor]:
        sizes.append(number)
        return parts(rows, number)

    monkeypatch.setattr(Rows, "parts", seen)
    free = 2**62
    monkeypatch.setattr(engine, "free_memory", lambda device: free)
    attributor.attribute(QUERIES)
    assert set(sizes) == {8}
    while set(sizes) == {8}:
        free //= 2
        attributor.attribute(QUERIES)
    np.testing.assert_allclose(attributor.attribute(QUERIES).scores, before, rtol=1e-4, atol=1e-5)
    free = 1000
    with pytest.raises(QueryError, match="do not fit into the memory of a readout; shorten the prompt"):
        attributor.attribute(QUERIES)


def test_what_bfloat16_costs_is_measured(store: da.InfluenceStore) -> None:
    exact = da.Attributor(store).attribute(QUERIES)
    half = da.Attributor(store, precision="bf16")
    found = half.attribute(QUERIES)
    apart = np.linalg.norm(found.scores - exact.scores) / np.linalg.norm(exact.scores)
    assert half.precision_error is not None and 1e-3 < half.precision_error < 0.1
    assert 1e-4 < apart < 4 * half.precision_error
    assert da.Attributor(store).precision_error is None
    for readout in ("counterfactual", "central-difference"):
        with pytest.raises(QueryError, match="drown in the rounding of bfloat16"):
            half.attribute(QUERIES, readout)


def test_a_derivative_that_is_wrong_is_noticed(store: da.InfluenceStore) -> None:
    whole = ReadoutEngine(store)
    rows = Rows.of(store, range(3), whole.device)
    check_readout(whole, rows)

    class Wrong(torch.autograd.Function):
        """The identity, with half of its derivative."""

        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def setup_context(ctx: object, inputs: object, output: object) -> None: ...

        @staticmethod
        def jvp(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    layer = whole.module.get_submodule("lm_head")
    layer.register_forward_hook(lambda *seen: Wrong.apply(seen[2]))  # type: ignore[no-untyped-call]
    with pytest.raises(StoreError, match="derivatives of the store's model are wrong"):
        check_readout(whole, rows)
    assert compute_in(whole, "fp32", rows) is None


def test_the_likeliest_tokens_are_those_of_transformers(store: da.InfluenceStore) -> None:
    query, ended = generate(ReadoutEngine(store), "the state", Sampling(12))
    model = AutoModelForCausalLM.from_pretrained(f"{store.place.beside('model').url}")
    tokens = list(b"the state")
    for _ in range(12):
        scores = model(torch.tensor([tokens])).logits[0, -1]
        if len(tokens) == 9:
            scores[256] = -torch.inf  # at least one token
        tokens.append(int(scores.argmax()))
        if tokens[-1] == 256:
            break
    expected = tokens[:-1] if tokens[-1] == 256 else tokens
    assert list(query.tokens) == expected and query.start == 9 and ended == (tokens[-1] == 256)


def test_drawing_leaves_the_state_of_chance_alone(store: da.InfluenceStore) -> None:
    whole = ReadoutEngine(store)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = {generate(whole, "the", Sampling(8, temperature=1.0, seed=seed))[0].tokens for seed in (1, 1, 2, 3)}
    assert torch.equal(torch.rand(3), expected) and 2 <= len(drawn) <= 3


def test_what_does_not_fit_the_context_is_not_begun(store: da.InfluenceStore, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"prompt \(40 tokens\) and max_tokens \(10\) do not fit"):
        generate(ReadoutEngine(store), "a" * 40, Sampling(10))
