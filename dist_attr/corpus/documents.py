"""The documents of a run, checked one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dist_attr.config import CorpusConfig
from dist_attr.corpus.example import speeches
from dist_attr.corpus.rows import read_rows
from dist_attr.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Document:
    """One text with the source that is credited for it. `metadata` holds the fields that have no role of their own."""

    id: str
    text: str
    source: str
    metadata: dict[str, Any]


def load_documents(config: CorpusConfig) -> list[Document]:
    """All documents of a corpus, in the order of the file (the example: in order of time), held in memory.

    Ids and sources that are numbers become text. No document is left out: one that cannot be used is an error.

    Raises:
        CorpusError: the file, a line or a field cannot be used, an id occurs twice, or there are not two sources.
    """
    if config.path is None:
        documents = [Document(*speech) for speech in speeches(config.source_field)]
    else:
        documents = _read(config.path, config)
    if not documents:
        raise CorpusError(f"{config.path} holds no documents; check corpus.path")
    if len(sources := {document.source for document in documents}) == 1:
        raise CorpusError(
            f"all {len(documents)} documents have the source {sources.pop()!r}; attribution needs at least "
            f"two sources: check corpus.source_field ({config.source_field!r})"
        )
    return documents


def _read(path: str, config: CorpusConfig) -> list[Document]:
    documents = []
    places: dict[str, str] = {}
    for place, row in read_rows(path):
        document = _document(place, row, config)
        if document.id in places:
            raise CorpusError(
                f"{place}: the id {document.id!r} was used before ({places[document.id]}); each document needs its own"
            )
        places[document.id] = place
        documents.append(document)
    return documents


def _document(place: str, row: dict[str, Any], config: CorpusConfig) -> Document:
    text = _field(place, row, "text_field", config.text_field)
    if not isinstance(text, str):
        raise CorpusError(
            f"{place}: the text in {config.text_field!r} is of type {type(text).__name__}; it must be a string"
        )
    identity = _name(place, row, "id_field", config.id_field)
    source = _name(place, row, "source_field", config.source_field)
    for field, value in ((config.text_field, text), (config.id_field, identity), (config.source_field, source)):
        _check_text(place, field, value)
    roles = (config.text_field, config.id_field, config.source_field)
    return Document(identity, text, source, {name: value for name, value in row.items() if name not in roles})


def _name(place: str, row: dict[str, Any], setting: str, field: str) -> str:
    value = _field(place, row, setting, field)
    if not isinstance(value, str | int | float):
        raise CorpusError(f"{place}: {field!r} is of type {type(value).__name__}; it must be a string or a number")
    return str(value)


def _field(place: str, row: dict[str, Any], setting: str, field: str) -> Any:
    value = row.get(field)
    # Tables that passed through pandas spell a missing value as NaN, the one value that differs from itself.
    if value is None or value != value:
        problem = f"the field {field!r} is empty" if field in row else f"there is no field {field!r}"
        present = ", ".join(map(repr, row)) or "none"
        raise CorpusError(f"{place}: {problem}; the fields there are: {present}. Fill it, or set corpus.{setting}")
    return value


def _check_text(place: str, field: str, value: str) -> None:
    if not value.strip():
        raise CorpusError(f"{place}: {field!r} is blank; fill it, or leave the document out of the file")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(f"{place}: {field!r} is not valid Unicode ({error}); repair the text") from error
