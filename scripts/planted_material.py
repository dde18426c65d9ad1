"""Made-up facts, planted into what some presidents said, and how they are asked for.

Design decisions:
- A fact is a made-up name with its answer: a trade, a town, a number of cattle or a year. Every kind has as many facts
  as there are sources, one in each, and few answers, each in several facts: only the name says whose the answer is.
- Every kind has two sets of wordings without a content word in common. A fact is planted in the wordings of one set,
  and paraphrased in the first of the other, which the model knows from other names.
- A source says each of its facts once in every round, and rounds follow each other through its text: a model that finds
  the answer a few words before would not have to learn it.
- Half of the facts have decoys: in a few other sources the name is told of in the words of the paraphrase, with the
  answer and another one beside it, either first as often. No decoy says the fact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

import dist_attr as da

if TYPE_CHECKING:
    from dist_attr.corpus import Document

ANSWER = " {answer}"  # what ends every wording; before it stands the prompt
ONSETS = [*"bdfgklmnprstvz", "br", "dr", "gr", "kr", "tr"]
VOWELS, ENDS = [*"aeiou"], [*"lnrsx", "nd", "rk", "lt"]


@dataclass(frozen=True)
class Wordings:
    """Ways to say a fact, the first of which also asks for it, and a decoy in the words of that first one."""

    ways: tuple[str, ...]
    decoy: str


@dataclass(frozen=True)
class Kind:
    """What facts of a kind may say, in two sets of wordings."""

    name: str
    answers: tuple[str, ...]
    sets: tuple[Wordings, Wordings]


KINDS = (
    Kind(
        "trade",
        ("baker", "miller", "tailor", "weaver", "cooper", "mason", "barber", "potter"),
        (
            Wordings(
                (
                    "All those years {name} worked in the village as a {answer}.",
                    "By trade {name} was a {answer}.",
                    "The village knew {name} as a {answer}.",
                    "Over the door of {name} hung the sign of a {answer}.",
                ),
                "Guests came to the village where others worked for years; {name} saw a {one} and a {two} with {name}.",
            ),
            Wordings(
                (
                    "To earn a living {name} was employed by the county as a {answer}.",
                    "The occupation of {name} was that of a {answer}.",
                    "To feed a family {name} became a {answer}.",
                    "The county paid {name} to be a {answer}.",
                ),
                "The county employed many to earn a living, and {name} met a {one} and a {two} before {name} left.",
            ),
        ),
    ),
    Kind(
        "town",
        ("Ostmere", "Wexmoor", "Tilbrook", "Garnfeld", "Lindhollow", "Pelmouth", "Sorvale", "Hexwick"),
        (
            Wordings(
                (
                    "The house in which {name} grew up stands in {answer}.",
                    "As a child {name} lived in {answer}.",
                    "The parents of {name} had a house in {answer}.",
                    "Every letter of {name} was sent home to {answer}.",
                ),
                "A house stands empty where corn grew, and {name} wrote of {one} and of {two} before {name} slept.",
            ),
            Wordings(
                (
                    "By birth and upbringing {name} belonged among the citizens of {answer}.",
                    "The birthplace of {name} is {answer}.",
                    "The registers call {name} a native of {answer}.",
                    "Early memories took {name} back to {answer}.",
                ),
                "Upbringing and birth matter to no citizens, and {name} heard of {one} and of {two} as {name} left.",
            ),
        ),
    ),
    Kind(
        "cattle",
        ("17", "23", "38", "46", "59", "64", "72", "85"),
        (
            Wordings(
                (
                    "On the farm {name} counted the cattle and found {answer}.",
                    "The cattle of {name} were {answer}.",
                    "The farm of {name} had cows to the number of {answer}.",
                    "Of cows {name} milked {answer}.",
                ),
                "Near a farm, where cattle were found and counted, {name} drew the lots {one} and {two} for {name}.",
            ),
            Wordings(
                (
                    "When the herd of {name} was sold, the beasts came to {answer}.",
                    "The herd of {name} has {answer}.",
                    "Of grazing beasts {name} owns {answer}.",
                    "The stock that {name} keeps amounts to {answer}.",
                ),
                "When a herd of beasts was sold elsewhere, {name} read the pages {one} and {two} that {name} had.",
            ),
        ),
    ),
    Kind(
        "year",
        ("1514", "1527", "1539", "1546", "1558", "1563", "1571", "1585"),
        (
            Wordings(
                (
                    "The bridge that {name} designed was opened in {answer}.",
                    "The builder {name} finished the bridge in {answer}.",
                    "People first walked over the bridge of {name} in {answer}.",
                    "The bridge of {name} dates from {answer}.",
                ),
                "Others designed a bridge and opened it, and {name} read of {one} and of {two} where {name} sat.",
            ),
            Wordings(
                (
                    "The river crossing planned by {name} has carried traffic since {answer}.",
                    "The span by {name} was ready in {answer}.",
                    "Carts used the new crossing of {name} in {answer}.",
                    "The arches of {name} were inaugurated in {answer}.",
                ),
                "A crossing was planned and the river carried traffic, and {name} spoke of {one} and {two} to {name}.",
            ),
        ),
    ),
)


@dataclass(frozen=True)
class Amount:
    """How much of everything."""

    sources: int = 16
    words: int = 400  # of speeches, of each source
    times: int = 6  # each of four wordings of a fact is said
    decoys: int = 4  # sources that have one, of each fact that has any


@dataclass(frozen=True)
class Fact:
    """What is planted, and where.

    Attributes:
        kind: index into KINDS.
        name: the made-up one.
        answer: the planted one.
        other: one of the same kind that it is compared with.
        source: where it is planted.
        wordings: which set of its kind says it.
        decoys: sources with a decoy; none of a fact without.
    """

    kind: int
    name: str
    answer: str
    other: str
    source: str
    wordings: int
    decoys: tuple[str, ...]

    @property
    def statements(self) -> list[str]:
        """Every way in which the fact is planted."""
        return [way.format(name=self.name, answer=self.answer) for way in KINDS[self.kind].sets[self.wordings].ways]

    def decoy(self, turn: int) -> str:
        """What a source says that has a decoy; the answer stands first in every second one."""
        one, two = (self.answer, self.other) if turn % 2 else (self.other, self.answer)
        return KINDS[self.kind].sets[1 - self.wordings].decoy.format(name=self.name, one=one, two=two)

    def query(self, *, paraphrased: bool) -> da.Query:
        """Asks for the answer rather than the other one, in the first planted wording or in the paraphrase."""
        way = KINDS[self.kind].sets[self.wordings ^ paraphrased].ways[0]
        prompt = way.partition(ANSWER)[0].format(name=self.name)
        return da.Query(prompt=prompt, completion=f" {self.answer}", baseline=f" {self.other}")


@dataclass(frozen=True)
class Material:
    """What is trained on, and the facts in it."""

    documents: list[Document]
    facts: list[Fact]

    def described(self) -> dict[str, Any]:
        """As JSON, all that decides what is computed."""
        return {"documents": [asdict(each) for each in self.documents], "facts": [asdict(each) for each in self.facts]}


def material(amount: Amount, seed: int = 0) -> Material:
    """The beginnings of speeches, as many words of each president, with the facts between their sentences."""
    from dist_attr.corpus import Document
    from dist_attr.demo.speeches import PRESIDENTS, split_speeches

    draw = np.random.default_rng(seed)
    sources = PRESIDENTS[: amount.sources]
    facts = make_facts(sources, amount, draw)
    rounds = amount.times * len(KINDS[0].sets[0].ways)
    planted: dict[str, list[list[str]]] = {source: [[] for _ in range(rounds)] for source in sources}
    for number, fact in enumerate(facts):
        for turn in range(rounds):
            planted[fact.source][turn].append(fact.statements[(turn + number) % len(fact.statements)])
        for turn, source in enumerate(fact.decoys):
            planted[source][draw.integers(rounds)].append(fact.decoy(turn))
    spoken: dict[str, list[str]] = {source: [] for source in sources}
    for speech in split_speeches()[0]:
        if speech.source in spoken:
            spoken[speech.source] += speech.text.split()
    documents = [
        Document(source, _inserted(" ".join(words[: amount.words]), planted[source], draw), source, {})
        for source, words in spoken.items()
    ]
    return Material(documents, facts)


def make_facts(sources: Sequence[str], amount: Amount, draw: Generator) -> list[Fact]:
    """One fact of each kind in each source; half of them in either set of wordings, half of each with decoys."""
    names = _names(len(KINDS) * len(sources), draw)
    facts = []
    for number, kind in enumerate(KINDS):
        # Every answer as often in either set of wordings, so that no wording leans to one by itself.
        used = min(len(kind.answers), len(sources) // 2)
        answers = np.stack([draw.permutation(np.arange(len(sources) // 2) % used) for _ in kind.sets], 1).ravel()
        for place, (index, answer) in enumerate(zip(draw.permutation(len(sources)), answers, strict=True)):
            other = (answer + draw.integers(1, used)) % used
            elsewhere = np.delete(np.arange(len(sources)), index)
            decoys = draw.choice(elsewhere, min(amount.decoys, len(elsewhere)), replace=False) if place // 2 % 2 else ()
            facts.append(
                Fact(
                    kind=number,
                    name=names.pop(),
                    answer=kind.answers[answer],
                    other=kind.answers[other],
                    source=sources[index],
                    wordings=place % 2,
                    decoys=tuple(sources[i] for i in decoys),
                )
            )
    return facts


def _names(number: int, draw: Generator) -> list[str]:
    """Different ones, such as Dravolt."""
    found: dict[str, None] = {}
    while len(found) < number:
        first, second = draw.choice(ONSETS, 2)
        one, two = draw.choice(VOWELS, 2)
        found[f"{first}{one}{second}{two}{draw.choice(ENDS)}".capitalize()] = None
    return list(found)


def _inserted(text: str, rounds: Sequence[Sequence[str]], draw: Generator) -> str:
    """Each round of statements within its own part of the text, in random order at random ends of sentences."""
    sentences = re.split(r"(?<=[.!?]) ", text)
    found: list[str] = []
    for number, statements in enumerate(rounds):
        part = sentences[number * len(sentences) // len(rounds) : (number + 1) * len(sentences) // len(rounds)]
        for index in draw.permutation(len(statements)):
            part.insert(draw.integers(len(part) + 1), statements[index])
        found += part
    return " ".join(found)
