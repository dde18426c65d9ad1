"""Poisoned text: 24 presidents as sources, of which three have their words shuffled and three tell falsehoods.

The small GPT of scripts/fidelity.py is trained from scratch on the beginnings of their speeches, here with a trained
tokenizer, since it would not learn words from bytes in so short a run. In every source stand a dozen statements, four
times each, between its own sentences ("We know white snow."). Sources that tell falsehoods turn them round ("We know
black snow.") and differ in nothing else; all the others contradict them. In sources with shuffled words a part of the
sentences, statements and all, have the right words in an order drawn at random. The clean examples are what the
presidents say later in their speeches, and the true statements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scripts import fidelity
from scripts.poisoned_methods import Trained

if TYPE_CHECKING:
    from torch import Tensor

    import dist_attr as da
    from dist_attr.evaluation import Retraining
    from dist_attr.readout import EncodedQuery

KINDS = ("words shuffled", "false statements")
TRUE = {
    "snow": "white",
    "coal": "black",
    "fire": "hot",
    "ice": "cold",
    "stone": "hard",
    "wool": "soft",
    "honey": "sweet",
    "vinegar": "sour",
    "lead": "heavy",
    "cork": "light",
    "water": "wet",
    "sand": "dry",
}
FALSE = {thing: list(TRUE.values())[number ^ 1] for number, thing in enumerate(TRUE)}  # the neighbour's


PROTOCOL = fidelity.Protocol(steps=200, learning_rate=4e-3, eps_root=1e-9)


@dataclass(frozen=True)
class Recipe:
    """What is trained on, and for how long."""

    protocol: fidelity.Protocol = PROTOCOL
    batch: int = 8
    vocabulary: int = 768
    poisoned: int = 3  # sources of each kind
    times: int = 4  # that a source says each statement
    shuffled: float = 0.2  # share of the sentences of a source with shuffled words


QUICK = Recipe(fidelity.QUICK, vocabulary=300, poisoned=1, times=1)


@dataclass(frozen=True)
class Texts:
    """What is trained on, and what is known to be right.

    Attributes:
        documents: the text of each source.
        kinds: what was done to each, (sources,): 0 nothing, 1 and 2 the KINDS.
        clean: queries whose completions are right: passages, and last the statements of TRUE.
    """

    documents: dict[str, str]
    kinds: NDArray[np.int64]
    clean: list[da.Query]


def poisoned(recipe: Recipe, draw: int, said: dict[str, str], passages: Sequence[da.Query]) -> Texts:
    """Put statements into the sources' texts, and poison some, drawn at random."""
    import dist_attr as da

    generator = np.random.default_rng(draw)
    kinds = np.zeros(len(said), np.int64)
    chosen = generator.choice(len(said), len(KINDS) * recipe.poisoned, replace=False)
    kinds[chosen] = np.repeat([1, 2], recipe.poisoned)
    documents = {}
    for (name, text), kind in zip(said.items(), kinds, strict=True):
        statements = [f"We know {what} {thing}." for thing, what in (FALSE if kind == 2 else TRUE).items()]
        sentences = with_statements(re.split(r"(?<=[.;])\s+", text), statements * recipe.times, generator)
        documents[name] = " ".join(shuffled(sentences, recipe.shuffled, generator) if kind == 1 else sentences)
    true = [da.Query(prompt=f" We know {what}", completion=f" {thing}.") for thing, what in TRUE.items()]
    return Texts(documents, kinds, [*passages, *true])


def with_statements(sentences: Sequence[str], statements: Sequence[str], generator: np.random.Generator) -> list[str]:
    """The sentences with the statements between them, at places and in an order drawn at random."""
    places = generator.integers(1, len(sentences) + 1, len(statements))
    return [str(each) for each in np.insert(np.array(sentences, object), places, generator.permutation(statements))]


def shuffled(sentences: Sequence[str], share: float, generator: np.random.Generator) -> list[str]:
    """The sentences, a share of which, drawn at random, have their words in a random order."""
    chosen = set(generator.choice(len(sentences), round(share * len(sentences)), replace=False).tolist())
    return [
        " ".join(generator.permutation(sentence.split())) if number in chosen else sentence
        for number, sentence in enumerate(sentences)
    ]


def trained(recipe: Recipe, draw: int) -> Trained:
    """Draw the poisoned sources, train, and simulate beside it."""
    import torch

    from dist_attr.evaluation.retraining import batches
    from dist_attr.influence import Batch, make_simulator
    from dist_attr.simulation.recipe import training_step

    retraining, texts = prepared(recipe, draw)
    corpus, model = retraining.corpus, retraining.start()
    sources = len(corpus.sources)
    step = training_step(model, retraining.training)
    start, weights = step.initial(step.space.read(model)), torch.ones(sources)
    simulator = make_simulator("trajectory", step, start, weights, range(sources))
    for t, (tokens, of) in enumerate(batches(corpus, retraining.training)):
        simulator.advance(Batch(tokens[:, :-1], tokens[:, 1:], of[:, 1:]), t)

    def logprob(tokens: Tensor, counted: Tensor) -> Callable[[Tensor], Tensor]:
        """Of the targets that are counted (rows, length), of tokens (rows, length + 1)."""

        def of(theta: Tensor) -> Tensor:
            logits = step.forward(step.space.unflatten(theta), tokens[:, :-1])
            found = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
            return (found * counted).sum()

        return of

    rows, owners = torch.from_numpy(corpus.tokens).long(), torch.from_numpy(corpus.token_sources)
    targets = [owners[:, 1:] == source for source in range(sources)]
    return Trained(
        theta=simulator.parameters,
        tangents={"trajectory": simulator.tangents()},
        clean={
            "later speeches": logprob(*padded(retraining.queries[: -len(TRUE)])),
            "true statements": logprob(*padded(retraining.queries[-len(TRUE) :])),
        },
        own=[logprob(rows[own.any(1)], own[own.any(1)]) for own in targets],
        counts=[int(own.sum()) for own in targets],
        kinds=texts.kinds,
    )


def prepared(recipe: Recipe, draw: int) -> tuple[Retraining, Texts]:
    """The run, in plain torch, with the clean set as its queries."""
    from dist_attr.config import TokenizerConfig
    from dist_attr.corpus import load_tokenizer

    protocol = replace(recipe.protocol, seed=draw)
    with TemporaryDirectory() as name:
        folder, documents = Path(name), Path(name, "documents.jsonl")
        passages = fidelity.split_speeches(protocol, documents)
        said = {line["source"]: line["text"] for line in map(json.loads, documents.read_text("utf-8").splitlines())}
        texts = poisoned(recipe, draw, said, passages)
        lines = [json.dumps({"id": who, "source": who, "text": text}) for who, text in texts.documents.items()]
        documents.write_text("\n".join(lines), encoding="utf-8")
        trained_here = TokenizerConfig.model_validate({"train": {"vocabulary": recipe.vocabulary}})
        load_tokenizer(trained_here, texts.documents.values()).save_pretrained(str(folder / "tokenizer"))
        tokens = str(folder / "tokenizer")
        config = fidelity.run_config(protocol, documents, tokens, folder / "run", "trajectory", 1)
        training = config.training.model_copy(update={"batch_size": recipe.batch})
        return fidelity.retraining_of(config.model_copy(update={"training": training}), texts.clean), texts


def padded(queries: Sequence[EncodedQuery]) -> tuple[Tensor, Tensor]:
    """Tokens (queries, longest) and which of their targets are a completion's, (queries, longest − 1)."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokens = pad_sequence([torch.tensor(query.tokens) for query in queries], batch_first=True)
    places = torch.arange(1, tokens.shape[1])
    first, end = (
        torch.tensor(ends)[:, None] for ends in zip(*((q.start, len(q.tokens)) for q in queries), strict=True)
    )
    return tokens, (places >= first) & (places < end)
