"""What scripts/icp_selection.py works with: texts of three domains, and a model that knows them all a little.

Domains: State of the Union speeches before 1860, those since 1980, and the docstrings of Python's standard library.
The first half of each is what the small GPT is trained on. The second half is cut into pieces, and by chance each is a
candidate, a query that candidates are chosen by, or a query that the choice is judged by: a domain's pieces are of the
same authors, yet none is seen twice.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dist_attr.config import CorpusConfig, ModelConfig, TrainingConfig
from dist_attr.corpus import Document, load_documents
from dist_attr.readout import Query

if TYPE_CHECKING:
    from torch import nn

    from dist_attr.corpus import PackedCorpus, Tokenizer

ModelName = Literal["small-gpt", "smollm2"]
DOMAINS = ("speeches before 1860", "speeches since 1980", "docstrings")
LETTERS = 7  # of a word in a piece, at most and on average: lines of dashes and the like take many tokens
SMALL = {"model_type": "gpt2", "n_layer": 4, "n_embd": 128, "n_head": 4, "activation_function": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Protocol:
    """How much of everything."""

    model: ModelName = "small-gpt"
    words: int = 40  # of a piece
    words_each: int = 60_000  # of a domain
    candidates_each: int = 80  # of a domain
    asked: int = 16  # queries that candidates are chosen by
    judged: int = 64  # queries that the choice is judged by
    chosen: int = 24  # candidates that the model is fine-tuned on
    epochs: int = 4  # of that
    seeds: int = 4
    learning_rate: float = 5e-5  # at 5e-4 each fine-tuning does harm
    base_steps: int = 600  # of the small GPT's training

    @property
    def context(self) -> int:
        """Tokens that hold a template, a candidate and a query."""
        return 320


QUICK = Protocol(
    words=12, words_each=3000, candidates_each=6, asked=3, judged=8, chosen=4, epochs=1, seeds=2, base_steps=4
)


@dataclass(frozen=True)
class Material:
    """Texts.

    Attributes:
        pretraining: of the small GPT.
        candidates: one document for each, which is its source; the domain is in its metadata.
        asked: by domain, queries that candidates are chosen by.
        judged: by domain, queries that the choice is judged by.
    """

    pretraining: list[Document]
    candidates: list[Document]
    asked: dict[str, list[Query]]
    judged: dict[str, list[Query]]


def material(protocol: Protocol) -> Material:
    """The texts, always the same for a protocol (and, of the docstrings, a version of Python)."""
    found = Material([], [], {}, {})
    draw = np.random.default_rng(0)
    for domain, words in domain_words().items():
        words = words[: protocol.words_each]
        half = len(words) // 2
        found.pretraining.append(Document(domain, " ".join(words[:half]), domain, {}))
        pieces = [words[i : i + protocol.words] for i in range(half, len(words) - protocol.words, protocol.words)]
        pieces = [
            pieces[i] for i in draw.permutation(len(pieces)) if sum(map(len, pieces[i])) <= LETTERS * protocol.words
        ]
        queries = [_query(piece) for piece in pieces[: protocol.asked + protocol.judged]]
        found.asked[domain], found.judged[domain] = queries[: protocol.asked], queries[protocol.asked :]
        for number, piece in enumerate(pieces[len(queries) :][: protocol.candidates_each]):
            name = f"{domain} {number}"
            found.candidates.append(Document(name, " ".join(piece), name, {"domain": domain}))
    return found


def _query(words: list[str]) -> Query:
    """The first third of a piece, and what follows."""
    cut = len(words) // 3
    return Query(prompt=" ".join(words[:cut]), completion=" " + " ".join(words[cut:]))


def domain_words() -> dict[str, list[str]]:
    """All words of each domain."""
    speeches = load_documents(CorpusConfig.model_validate({"example": "sotu"}))
    old = [speech.text for speech in speeches if int(speech.metadata["year"]) < 1860]
    new = [speech.text for speech in speeches if int(speech.metadata["year"]) >= 1980]
    return {domain: " ".join(texts).split() for domain, texts in zip(DOMAINS, (old, new, docstrings()), strict=True)}


def docstrings() -> list[str]:
    """Those of the modules, classes and functions of the standard library, in the modules' order."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    documented = (node for node in nodes if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    return [text for node in documented if (text := ast.get_docstring(node))]


def base_model(protocol: Protocol, texts: Material, folder: Path, advance: Callable[[int, int], Any]) -> Path:
    """The folder of the model that is fine-tuned, with its tokenizer; trained or converted where it is not there yet.

    Args:
        protocol: which model.
        texts: what the small GPT is trained on.
        folder: for it.
        advance: called with steps done and their number.
    """
    if protocol.model == "smollm2":
        from scripts.smollm2 import export_model

        return export_model(folder)
    if (folder / "config.json").exists():
        return folder
    from dist_attr.config import TokenizerConfig
    from dist_attr.corpus import end_of_text_id, load_tokenizer, pack
    from dist_attr.models import build_model, save_model

    trained_on = [document.text for document in texts.pretraining]
    tokenizer = load_tokenizer(TokenizerConfig.model_validate({"train": {"vocabulary": 2048}}), trained_on)
    training = TrainingConfig(
        steps=protocol.base_steps,
        batch_size=8,
        sequence_length=protocol.context,
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=protocol.base_steps // 20,
        weight_decay=0.1,
    )
    model = build_model(
        ModelConfig(config=SMALL),
        vocabulary=len(tokenizer),
        end_of_text=end_of_text_id(tokenizer),
        sequence_length=protocol.context,
        seed=0,
    )
    train(model, pack(texts.pretraining, tokenizer, protocol.context), training, advance)
    tokenizer.save_pretrained(str(folder))
    save_model(model, str(folder))
    return folder


def train(model: nn.Module, corpus: PackedCorpus, training: TrainingConfig, advance: Callable[[int, int], Any]) -> None:
    """Train in place, in plain torch, all sources alike."""
    import torch

    from dist_attr.evaluation.retraining import batches, make_optimizer, train_on_batch
    from dist_attr.simulation.recipe import learning_rate

    optimizer, rate = make_optimizer(model, training), learning_rate(training)
    weights = torch.tensor([1.0] * len(corpus.sources) + [0.0])
    for step, (tokens, sources) in enumerate(batches(corpus, training)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        train_on_batch(model, optimizer, tokens, sources, weights, training.gradient_clipping)
        advance(step + 1, training.steps)


def fine_tuning(protocol: Protocol, base: Path, corpus: PackedCorpus, epochs: int, seed: int) -> Any:
    """A `Retraining` that fine-tunes the base on a corpus, and asks nothing yet."""
    from dist_attr.corpus import end_of_text_id, load_tokenizer
    from dist_attr.evaluation import Retraining

    tokenizer: Tokenizer = load_tokenizer(str(base), [])
    batch = min(8, len(corpus.tokens))
    steps = max(1, epochs * len(corpus.tokens) // batch)
    training = TrainingConfig(
        steps=steps,
        batch_size=batch,
        sequence_length=corpus.tokens.shape[1] - 1,
        learning_rate=protocol.learning_rate,
        schedule="cosine",
        warmup_steps=steps // 10,
        seed=seed,
    )
    settings: dict[str, Any] = {"path": str(base)}
    if protocol.model == "smollm2":
        targets = [f"layers.{layer}.self_attn.{part}_proj" for layer in range(26, 30) for part in "qv"]
        settings["lora"] = {"rank": 4, "alpha": 8, "targets": targets}
    return Retraining(
        ModelConfig.model_validate(settings), training, corpus, len(tokenizer), end_of_text_id(tokenizer), []
    )
