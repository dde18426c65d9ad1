"""The attributor on a real saved model and a store made for it, in one process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

import dist_attr as da
from dist_attr.errors import ModelError, QueryError, StoreError
from dist_attr.influence import ParameterSpace
from dist_attr.store import (
    Place,
    copy_model,
    copy_store,
)
from tests.s3_server import S3Server
from tests.stores import GPT2, make_store

NAMES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readout")


@pytest.fixture(scope="module")
def store(folder: Path) -> da.InfluenceStore:
    return make_store(folder, NAMES)


@pytest.fixture(scope="module")
def attributor(store: da.InfluenceStore) -> da.Attributor:
    return da.Attributor(store)


QUERIES = [da.Query(prompt="ab", completion="cdé"), da.Query(completion="x"), da.Query(prompt="hello", completion=" w")]


def logprob(folder: Path, query: da.Query, tangent: NDArray[np.float32] | None = None) -> torch.Tensor:
    """log p(completion | prompt), as a user of transformers would compute it."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    if tangent is not None:
        space = ParameterSpace.of(model)
        space.write(model, space.read(model) - torch.from_numpy(tangent))
    prompt = tokenizer(query.prompt).input_ids or [tokenizer.eos_token_id]
    completion = tokenizer(query.completion).input_ids
    logits = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    return torch.stack([logits[len(prompt) - 1 + i, token] for i, token in enumerate(completion)])


def test_logprobs_are_the_models(folder: Path, attributor: da.Attributor) -> None:
    result = attributor.attribute(QUERIES)
    for query, logprobs in zip(QUERIES, result.token_logprobs, strict=True):
        np.testing.assert_allclose(logprobs, logprob(folder, query).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_counterfactual_is_what_the_changed_model_loses(
    folder: Path, store: da.InfluenceStore, attributor: da.Attributor
) -> None:
    result = attributor.attribute(QUERIES, readout="counterfactual")
    for row, tangent in enumerate(store.tangents()):
        for query, scores in zip(QUERIES, result.token_scores, strict=True):
            true = logprob(folder, query) - logprob(folder, query, tangent)
            np.testing.assert_allclose(scores[row], true.detach().numpy(), rtol=1e-3, atol=1e-4)


def test_linear_is_the_gradients_inner_product(
    folder: Path, store: da.InfluenceStore, attributor: da.Attributor
) -> None:
    result = attributor.attribute(QUERIES)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    space, tokenizer = ParameterSpace.of(model), AutoTokenizer.from_pretrained(folder / "model")
    query = QUERIES[0]
    ids = tokenizer(query.prompt + query.completion).input_ids
    logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    sum(logits[i - 1, ids[i]] for i in range(2, len(ids))).backward()
    gradient = space.flatten({name: p.grad for name, p in model.named_parameters() if p.grad is not None}).numpy()
    np.testing.assert_allclose(result.scores[0], store.tangents() @ gradient, rtol=1e-3, atol=1e-4)


def test_shapes_and_names(attributor: da.Attributor) -> None:
    result = attributor.attribute(QUERIES)
    assert result.sources == list(NAMES)
    assert result.scores.shape == (3, 3)
    assert result.tokens[0] == ["c", "d", "<0xC3>", "<0xA9>"]
    assert [scores.shape for scores in result.token_scores] == [(3, 4), (3, 1), (3, 2)]
    np.testing.assert_allclose(result.scores[0], result.token_scores[0].sum(1), rtol=1e-6)


def test_batching_order_and_shards_change_no_score(store: da.InfluenceStore, attributor: da.Attributor) -> None:
    many = [da.Query(prompt="abc"[: n % 3], completion="longer and longer"[: 1 + n % 16]) for n in range(150)]
    whole = attributor.attribute(many)
    backwards = attributor.attribute(many[::-1])
    np.testing.assert_allclose(backwards.scores[::-1], whole.scores, rtol=1e-4, atol=1e-5)
    for i in (0, 37, 149):
        np.testing.assert_allclose(attributor.attribute([many[i]]).scores[0], whole.scores[i], rtol=1e-4, atol=1e-5)
    part = da.Attributor(store, rows=[2, 0], sources_per_pass=1).attribute(many)
    assert part.sources == ["cat", "ant"]
    np.testing.assert_allclose(part.scores, whole.scores[:, [2, 0]], rtol=1e-4, atol=1e-5)


def test_the_tokenizers_padding_side_changes_nothing(
    attributor: da.Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = attributor.attribute(QUERIES).scores
    monkeypatch.setattr(attributor.engine.tokenizer, "padding_side", "left")
    np.testing.assert_array_equal(attributor.attribute(QUERIES).scores, before)


def test_no_queries_no_scores(attributor: da.Attributor) -> None:
    assert attributor.attribute([]).scores.shape == (0, 3)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (da.Query(prompt="a", completion=""), "query 1: the completion is empty"),
        (da.Query(prompt="a" * 20, completion="b" * 6), "do not fit the model's context of 24 tokens"),
        (da.Query(completion="b" * 25), "do not fit"),
    ],
)
def test_a_query_that_cannot_be_scored_is_named(query: da.Query, message: str, attributor: da.Attributor) -> None:
    with pytest.raises(QueryError, match=message):
        attributor.attribute([QUERIES[0], query])


def test_the_longest_query_that_fits(attributor: da.Attributor) -> None:
    assert attributor.attribute([da.Query(prompt="a" * 20, completion="b" * 5)]).scores.shape == (1, 3)


def test_an_unknown_readout_is_refused(attributor: da.Attributor) -> None:
    with pytest.raises(QueryError, match="unknown readout 'magic'"):
        attributor.attribute(QUERIES, readout="magic")  # type: ignore[arg-type]


def test_the_model_beside_a_store_is_reached_as_the_store_is(
    s3: S3Server, store: da.InfluenceStore, attributor: da.Attributor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    s3.files().mkdir("readout")
    target = Place("s3://readout/influence.zarr", s3.options)
    copy_store(store, target)
    copy_model(store.place, target)
    remote = da.Attributor(da.open_store(target.url, options=s3.options))
    np.testing.assert_array_equal(remote.attribute(QUERIES).scores, attributor.attribute(QUERIES).scores)


def test_another_model_is_refused(store: da.InfluenceStore, tmp_path: Path) -> None:
    make_store(tmp_path, NAMES, settings=GPT2)
    with pytest.raises(StoreError, match="belongs to another model"):
        da.Attributor(store, model=str(tmp_path / "model"))
    with pytest.raises(ModelError, match="there is no model at"):
        da.Attributor(store, model=str(tmp_path / "nothing"))


def test_the_model_is_the_one_beside_the_store_whatever_its_manifest_names(
    folder: Path, store: da.InfluenceStore, attributor: da.Attributor, tmp_path: Path
) -> None:
    make_store(tmp_path / "other", NAMES, settings=GPT2)
    shutil.copytree(folder, tmp_path / "copy")
    run = da.RunConfig.model_validate({"model": {"path": f"{tmp_path}/other/model"}, "output": f"{tmp_path}/other"})
    manifest = store.manifest.model_copy(update={"run": run})
    zarr.open_group(f"{tmp_path}/copy/influence.zarr", mode="r+").attrs.update(manifest.attributes())
    found = da.Attributor(da.open_store(f"{tmp_path}/copy/influence.zarr")).attribute(QUERIES)
    assert np.array_equal(found.scores, attributor.attribute(QUERIES).scores)


def test_law_9_no_backward_pass(attributor: da.Attributor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a backward pass was started")

    before = [attributor.attribute(QUERIES, readout=readout).scores for readout in ("linear", "counterfactual")]
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refused)
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", refused)
    with pytest.raises(AssertionError, match="backward"):
        torch.ones(1, requires_grad=True).sum().backward()
    after = [attributor.attribute(QUERIES, readout=readout).scores for readout in ("linear", "counterfactual")]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
