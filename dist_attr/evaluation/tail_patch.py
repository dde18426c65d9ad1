"""What one more step of training on a source does to a query: the tail-patch test.

Source: Chang et al., Scalable Influence and Fact Tracing for Large Language Model Pretraining (2024). There, the
finished model takes a single training step on one retrieved example, and the test is how much likelier the query's
answer is then, averaged over the highest-ranked examples of a query and over queries. Here sources are ranked:

- A step on a source is one step of plain gradient descent from the finished model, at the run's learning rate and with
  its clipping, on the mean loss of the source's own tokens in up to a batch of sequences that hold it, drawn at random.
  It has no optimizer state: that of the run is not kept.
- What counts is the change of log p(completion | prompt), in nats.
- The mean over the highest-ranked sources of each query stands beside that over the lowest-ranked, and beside the mean
  over all, which is what sources chosen at random would have on average.

It needs no retraining and no training run, and it says less: what a source does to the model at its end, not what the
model owes to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import nn

from dist_attr.config import ReadoutName, TrainingConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.evaluation.fidelity import Estimate, Floats, lds
from dist_attr.evaluation.kept import Kept, digest
from dist_attr.evaluation.retraining import completion_logprobs, train_on_batch
from dist_attr.evaluation.tasks import Done, Workers, gathered
from dist_attr.models import model_fingerprint
from dist_attr.readout import EncodedQuery


@dataclass(frozen=True, eq=False)
class Patching:
    """What it takes to patch a model and to ask it.

    Attributes:
        model: the finished one; its trainable parameters are those that take the step.
        training: the run's, for learning rate, clipping, batch size and seed.
        corpus: what holds the sources.
        queries: whose completions' log-probabilities are the outputs.
    """

    model: nn.Module
    training: TrainingConfig
    corpus: PackedCorpus
    queries: Sequence[EncodedQuery]

    def outputs(self, source: int) -> Floats:
        """log p(completion | prompt) of each query after one step on a source of the corpus, (queries,) in nats."""
        model, size = deepcopy(self.model), self.training.batch_size
        own = (self.corpus.token_sources[:, 1:] == source).sum(axis=1)
        draw = np.random.default_rng((self.training.seed, source))
        rows = np.sort(draw.permutation(np.flatnonzero(own))[:size])
        tokens, sources = (
            torch.from_numpy(values[rows]).long() for values in (self.corpus.tokens, self.corpus.token_sources)
        )
        weights = torch.zeros(len(self.corpus.sources) + 1, device=next(model.parameters()).device)
        # The loss is a mean over the targets of all sources in these rows; this makes it one over the source's own.
        weights[source] = float((sources[:, 1:] >= 0).sum() / own[rows].sum())
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=self.training.learning_rate)
        train_on_batch(model, optimizer, tokens, sources, weights, self.training.gradient_clipping)
        return completion_logprobs(model, self.queries)

    @property
    def fingerprint(self) -> str:
        """Of all that decides the outputs but the source."""
        training = self.training.model_dump(mode="json", include={"batch_size", "seed", "learning_rate"})
        return digest(
            "tail-patch",
            {**training, "clipping": self.training.gradient_clipping},
            [name for name, parameter in self.model.named_parameters() if parameter.requires_grad],
            model_fingerprint(self.model),
            self.corpus.tokens,
            self.corpus.token_sources,
            [[list(query.tokens), query.start] for query in self.queries],
            torch.__version__,
        )


@dataclass(frozen=True, eq=False)
class Ranked:
    """What a readout's ranking is worth.

    Attributes:
        scores: (queries, sources).
        top: change by a step on one of the highest-ranked sources, mean of these, nats.
        bottom: the same of the lowest-ranked.
        gap: what the highest-ranked change more than the lowest-ranked, nats.
        correlation: Spearman's over sources, of scores and changes.
    """

    scores: Floats
    top: Estimate
    bottom: Estimate
    gap: Estimate
    correlation: Estimate


def patched_changes(
    patching: Patching,
    sources: Sequence[int],
    *,
    workers: Workers | None = None,
    kept: Kept | None = None,
    on_done: Done = lambda *_: None,
) -> Floats:
    """What a step on each of some sources of the corpus does to each query, (sources, queries) in nats."""
    fingerprint = patching.fingerprint
    names = [digest(fingerprint, source) for source in sources]
    calls = [(source,) for source in sources]
    outputs = gathered(_outputs, patching, calls, names=names, kept=kept, workers=workers, on_done=on_done)
    return np.array(outputs) - completion_logprobs(patching.model, patching.queries)


def ranked(change: Floats, scores: Mapping[ReadoutName, Floats], top: int, seed: int) -> dict[ReadoutName, Ranked]:
    """Judge each readout's scores (queries, sources) by the changes (sources, queries)."""
    found = {}
    for readout, values in scores.items():
        order = np.argsort(values, axis=1, kind="stable")
        first, last = (
            np.take_along_axis(change.T, order[:, some], axis=1).mean(axis=1)
            for some in (slice(-top, None), slice(top))
        )
        found[readout] = Ranked(
            values,
            mean_of_queries(first, seed),
            mean_of_queries(last, seed),
            mean_of_queries(first - last, seed),
            lds(values.T, change, seed=seed),
        )
    return found


def mean_of_queries(per_query: Floats, seed: int) -> Estimate:
    """A mean and its 95 % percentile bootstrap over queries, of which there are two or more."""
    drawn = bootstrap((per_query,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed))
    interval = drawn.confidence_interval
    return Estimate(float(per_query.mean()), float(interval.low), float(interval.high), per_query)


def _outputs(patching: Patching, source: int) -> Floats:
    torch.set_num_threads(1)
    return patching.outputs(source)


def patching_of(
    module: nn.Module,
    trained: Sequence[str],
    training: TrainingConfig,
    corpus: PackedCorpus,
    queries: Sequence[EncodedQuery],
) -> Patching:
    """With a copy of a model in which the parameters of these names are trainable, and no others."""
    model = deepcopy(module).cpu()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in set(trained))
    return Patching(model, training, corpus, queries)
