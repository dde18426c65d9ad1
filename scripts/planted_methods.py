"""What the methods say of queries that ask for one answer rather than another: (queries, sources), larger is likelier.

Design decisions:
- Every method ranks the sources by a difference, the answer's score minus that of its baseline; BM25 alone has no word
  for the other answer, and searches for the prompt with the planted one.
- Gradients are those at the trained model, the sources' summed over all tokens as often as they were trained on. The
  cosine has the sources' gradients at length 1.
- In-context probing tries the three passages of each source that are most like the query by BM25, and takes the best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import dist_attr as da
from dist_attr.config import ProbeConfig, ReadoutName

if TYPE_CHECKING:
    from dist_attr.corpus import PackedCorpus
    from dist_attr.probing import Passages, Prober

Floats = NDArray[np.float64]
MARGIN = "margin"
console = Console()


@dataclass(frozen=True)
class Scorer:
    """Every method, on one store and its model."""

    store: da.InfluenceStore
    attributor: da.Attributor
    passages: Passages
    prober: Prober
    corpus: PackedCorpus

    @classmethod
    def of(cls, store: da.InfluenceStore) -> Scorer:
        """With the store's own documents, in passages that are long enough for a fact and what stands beside it."""
        from dist_attr.corpus import load_documents, pack
        from dist_attr.probing import Passages, Prober

        attributor = da.Attributor(store)
        engine, run = attributor.engine, store.manifest.run
        prober = Prober(engine.module, engine.tokenizer, ProbeConfig(window=40, template="{document}\n\n{prompt}"))
        corpus = pack(load_documents(run.corpus), engine.tokenizer, run.training.sequence_length)
        if [source.name for source in corpus.sources] != attributor.sources:
            raise AssertionError("the sources of the documents are those of the store, in their order")
        return cls(store, attributor, Passages.of(store, engine.tokenizer, prober.window), prober, corpus)

    def readout(self, queries: Sequence[da.Query], name: ReadoutName) -> Floats:
        """Influence, as a trajectory gives it, (queries, sources); so all methods."""
        return self.attributor.attribute(queries, name).scores.astype(np.float64)

    def gradient(self, queries: Sequence[da.Query], *, unit_sources: bool) -> Floats:
        """What the gradient at the trained model says."""
        from dist_attr.evaluation import gradient_dot

        model, training = self.attributor.engine.module, self.store.manifest.run.training
        completions, baselines = self.attributor.engine.encode_all(queries)
        both = [*completions, *(baseline for baseline in baselines if baseline)]
        model.requires_grad_(True)
        try:
            found = gradient_dot(model, self.corpus, training, both, unit_sources=unit_sources)
        finally:
            model.requires_grad_(False)
        own: Floats = found[: len(queries)] - found[len(queries) :]
        return own

    def probing(self, queries: Sequence[da.Query]) -> Floats:
        """The passage of a source that turns the model most towards the answer, of those most like the query."""
        chosen = [self.passages.choose(query, self.prober.config) for query in queries]
        own_answers = [query.model_copy(update={"baseline": None}) for query in queries]
        others = [query.against for query in queries if query.against]
        probes = zip(self.prober.probe(own_answers, chosen), self.prober.probe(others, chosen), strict=True)
        sources = np.array(self.attributor.sources)
        rows = []
        for own, other in probes:
            of = np.array([passage.source for passage in own.passages])
            rows.append([(own.scores - other.scores)[of == source].max() for source in sources])
        return np.array(rows)

    def bm25(self, queries: Sequence[da.Query]) -> Floats:
        """Words in common with the prompt and the planted answer."""
        return np.stack([self.passages.bm25(query) for query in queries])

    def margin(self, queries: Sequence[da.Query]) -> Floats:
        """No method: by how much the trained model prefers the planted answer, (queries,) nats."""
        from dist_attr.evaluation import completion_logprobs

        completions, baselines = self.attributor.engine.encode_all(queries)
        model = self.attributor.engine.module
        others = completion_logprobs(model, [baseline for baseline in baselines if baseline])
        return np.asarray(completion_logprobs(model, completions) - others)


METHODS: dict[str, Callable[[Scorer, Sequence[da.Query]], Floats]] = {
    "influence, linear": lambda scorer, queries: scorer.readout(queries, "linear"),
    "influence, counterfactual": lambda scorer, queries: scorer.readout(queries, "counterfactual"),
    "gradient dot product": lambda scorer, queries: scorer.gradient(queries, unit_sources=False),
    "gradient cosine": lambda scorer, queries: scorer.gradient(queries, unit_sources=True),
    "in-context probing": Scorer.probing,
    "BM25": Scorer.bm25,
}


def measured(store: da.InfluenceStore, queries: Sequence[da.Query]) -> dict[str, Floats]:
    """Scores (queries, sources) of every method, and the margin (queries,); kept beside the store."""
    from dist_attr.evaluation import Kept
    from dist_attr.evaluation.kept import digest

    kept, scorer = Kept(store.place.beside("scores")), None
    found: dict[str, Floats] = {}
    for name, method in {**METHODS, MARGIN: Scorer.margin}.items():
        place = digest(store.manifest.identity, name, [query.model_dump() for query in queries])
        values = kept.get(place)
        if values is None:
            console.print(f"scoring: {name}")
            scorer = scorer or Scorer.of(store)
            kept.put(place, values := method(scorer, queries))
        found[name] = values
    return found
