"""What the demo trains on and how it judges itself."""

from __future__ import annotations

import pytest

from dist_attr.demo.ranks import check_ranks
from dist_attr.demo.run import demo_config
from dist_attr.demo.speeches import PRESIDENTS, TRAINING_WORDS, HeldOut, split_speeches
from dist_attr.readout import Query
from dist_attr.serving import AttributionResponse
from dist_attr.serving.schemas import AttributedQuery, Fidelity, SourceScore, StoreIdentity


def test_as_many_words_of_each_and_nothing_held_out_is_trained_on() -> None:
    training, held_out = split_speeches()
    for president in PRESIDENTS:
        texts = [document.text for document in training if document.source == president]
        assert sum(len(text.split(" ")) for text in texts) == TRAINING_WORDS
    joined = " ".join(" ".join(document.text.split()) for document in training)
    assert len(held_out) >= 30
    assert not any(sentence.query.completion in joined for sentence in held_out)


def answer(rankings: list[list[str]]) -> AttributionResponse:
    identity = StoreIdentity(identity="", created="", method="trajectory", model="", tokenizer="", corpus="")
    fidelity = Fidelity(measured=[], coverage=1.0, codec="int8", precision="fp32", precision_error=None)
    results = [
        AttributedQuery(
            tokens=[], token_logprobs=[], logprob=0.0, sources=[SourceScore(source=s, score=0.0) for s in names]
        )
        for names in rankings
    ]
    return AttributionResponse(store=identity, readout="linear", fidelity=fidelity, results=results)


def test_ranks_are_counted_against_the_speaker() -> None:
    order = list(PRESIDENTS)
    said = [HeldOut(president, 1900, Query(completion="x")) for president in (order[0], order[1], order[3])]
    check = check_ranks(said, answer([order] * 3))
    assert check.mean_reciprocal_rank == pytest.approx((1 + 1 / 2 + 1 / 4) / 3)
    assert check.top3 == pytest.approx(2 / 3)
    assert check.distance == pytest.approx((0 + 1 + 3) / 3)
    assert check.chance == pytest.approx(sum(1 / rank for rank in range(1, 17)) / 16)


def test_the_demo_has_sixteen_sources_and_runs_by_default_settings(tmp_path: pytest.TempPathFactory) -> None:
    assert len(PRESIDENTS) == 16
    assert demo_config(tmp_path).training.batch_size % 2 == 0  # type: ignore[arg-type]
