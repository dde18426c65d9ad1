"""The experiment on real text: its queries, and that what is finished is not done again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import dist_attr as da
from dist_attr.config import ProbeConfig
from dist_attr.corpus import Document
from dist_attr.errors import DistAttrError
from dist_attr.probing import Question
from scripts import icp_text
from tests.stores import make_store

SOURCES = ["ant", "bee", "cow"]
WORDS = ["state", "union", "fear", "peace", "war", "people"]
NAME = "random, 16 tokens"


def test_the_other_domain_is_sentences_of_documentation() -> None:
    queries = icp_text.documentation(40)
    assert len({query.completion for query in queries}) == 40
    for query in queries:
        assert 60 <= len(query.completion) - 1 <= 110 and query.completion.startswith(" ")
        assert icp_text.PROMPT // 2 <= len(query.prompt) <= icp_text.PROMPT
    assert icp_text.documentation(40) == queries


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> icp_text.Bench:
    draw = np.random.default_rng(0)
    documents = [
        Document(f"{source} {n}", " ".join(draw.choice(WORDS, 9)), source, {}) for source in SOURCES for n in range(3)
    ]
    store = make_store(tmp_path_factory.mktemp("text"), SOURCES, context=160, documents=documents)
    probing = ProbeConfig(documents=2, choose="random", window=16)
    return icp_text.Bench(store, [da.Query(prompt="the", completion=f" {word}") for word in WORDS], {NAME: probing})


def test_a_finished_comparison_is_kept(bench: icp_text.Bench, tmp_path: Path) -> None:
    questions = [
        Question(id=f"{group} {n}", group=group, prompt=query.prompt, completion=query.completion)
        for group in (icp_text.SAME, icp_text.OTHER)
        for n, query in enumerate(bench.spoken)
    ]
    found = icp_text.compared(bench, questions, NAME, tmp_path / "out")
    assert set(icp_text.figures(found)) == {icp_text.SAME, icp_text.OTHER}
    same, other = (icp_text.figures(found)[group]["per query"] for group in (icp_text.SAME, icp_text.OTHER))
    assert same == other, "they are the same queries"
    icp_text.draw({NAME: found}, figure := tmp_path / "figure.svg")
    assert NAME in figure.read_text(encoding="utf-8")

    model = Path(bench.store.url).parent / "model"
    shutil.move(model, tmp_path / "model")
    try:
        assert icp_text.compared(bench, questions, NAME, tmp_path / "out") == found
        with pytest.raises(DistAttrError):  # other questions have to be measured, and there is nothing to do it with
            icp_text.compared(bench, questions[:4], NAME, tmp_path / "out")
    finally:
        shutil.move(tmp_path / "model", model)
