"""Descent from a finished model: an actor that trains nothing, and what all of them have to agree on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dist_attr.config import DescentConfig
from dist_attr.corpus import batch_schedule
from dist_attr.errors import CorpusError, SimulationError
from dist_attr.influence import Batch, CheckpointSimulator, Curvature, TrainState, estimate_curvature
from dist_attr.models import model_fingerprint, save_model
from dist_attr.simulation.actor import SimulationActor
from dist_attr.simulation.checkpoint import Checkpoint, read_state, write_state
from dist_attr.simulation.recipe import global_batch, source_weights, training_step
from dist_attr.simulation.reports import ActorReport
from dist_attr.store import Descent, StoreWriter

DAMPING = 0.01  # of λmax: directions that curve less are hardly known from the documents


def descent_schedule(sequences: int, settings: DescentConfig, seed: int) -> NDArray[np.int64]:
    """Indices of the sequences in the batch of each step, (steps, sequences in a batch).

    Raises:
        CorpusError: a batch has more sequences than the corpus.
    """
    size = settings.batch_size or sequences
    if size > sequences:
        raise CorpusError(
            f"simulation.descent.batch_size is {size}, but the corpus packs into only {sequences} sequences; "
            "leave it out to use all of them in every step"
        )
    if size == sequences:
        return np.tile(np.arange(sequences), (settings.steps, 1))
    return batch_schedule(sequences, size, settings.steps, seed)


def agree(settings: DescentConfig, measured: Sequence[Curvature]) -> Descent:
    """Rate and damping as they are set, else from the widest of the curvatures that the actors measured.

    Raises:
        SimulationError: the curvature is needed and there is none.
    """
    if settings.rate is not None and settings.damping is not None:
        return Descent(steps=settings.steps, rate=settings.rate, damping=settings.damping)
    widest = Curvature(max(c.largest for c in measured), min(c.smallest for c in measured))
    if widest.largest <= 0 and widest.smallest >= 0:
        raise SimulationError(
            "the loss on these documents has no curvature along the parameters that carry tangents; "
            "choose others with model.include, and see that training.source_weights are not all 0"
        )
    damping = settings.damping
    if damping is None:
        damping = DAMPING * max(0.0, widest.largest) + max(0.0, -widest.smallest)
    return Descent(
        steps=settings.steps,
        rate=settings.rate or widest.rate(damping),
        damping=damping,
        largest=widest.largest,
        smallest=widest.smallest,
    )


class DescentActor(SimulationActor):
    """Worker of a run without training. It has no partners: from the same model, each descends for its own sources.

    The driver leads it as it leads a worker of a training run, but for `measure` and `descend` before the first step.
    """

    def join(self, address: str, checkpoints: str, checkpoint: Checkpoint | None) -> int:
        """Take up the model, and a checkpoint at a URL, if there is one."""
        del address
        self._checkpoints, self._checkpoint = checkpoints, checkpoint
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._step = training_step(self._model.to(device), self._training)
        self._theta = self._step.space.read(self._model)
        names = [source.name for source in self._task.corpus.sources]
        self._weights = source_weights(names, self._training.source_weights).to(self._theta)
        self._rows: NDArray[np.int64] | None = None
        return 0  # nothing is chosen by it

    @property
    def _descent(self) -> DescentConfig:
        settings = self._task.run.simulation.descent
        assert settings is not None
        return settings

    def measure(self) -> list[Curvature]:
        """The curvature on this actor's share of the batches that the descent will take.

        What is found on a batch does not depend on who measures it, so that any number of actors finds the same.
        """
        schedule = self._task.schedule
        if self._descent.batch_size is None:  # all the documents are one batch, again and again
            schedule = schedule[:1]
        return [
            estimate_curvature(
                self._step,
                self._theta,
                self._weights,
                self._batch_of(rows),
                sequences_per_pass=self._descent.sequences_per_pass,
            )
            for rows in schedule[self._rank :: self._workers]
        ]

    def descend(self, descent: Descent) -> None:
        """Put the replicas in place, where a checkpoint has them if there is one."""
        self._replicas = CheckpointSimulator(
            self._step,
            self._theta,
            self._weights,
            self._sources,
            rate=descent.rate,
            damping=descent.damping,
            epsilon=self._descent.epsilon,
            replicas_per_pass=self._descent.replicas_per_pass,
            sequences_per_pass=self._descent.sequences_per_pass,
        )
        if (checkpoint := self._checkpoint) is not None:
            self._done = checkpoint.step
            states = [read_state(self._checkpoints, checkpoint, f"source-{source}") for source in self._sources]
            self._replicas.resume(TrainState(self._theta, ()), [state.to(self._theta.device) for state in states])

    def save_checkpoint(self, url: str) -> dict[str, str]:
        """Write the replicas into the folder at a URL; sha256 by file."""
        _, states = self._replicas.snapshot()
        return dict(
            write_state(url, f"source-{source}", state) for source, state in zip(self._sources, states, strict=True)
        )

    def advance(self, steps: int) -> ActorReport:
        """The next steps of the descent."""
        for step in range(self._done, self._done + steps):
            self._replicas.advance(self._batch_of(self._task.schedule[step]), step)
            self._done = step + 1
        return ActorReport(failed=self._failed)

    @property
    def _failed(self) -> dict[int, str]:
        return {source: str(divergence) for source, divergence in self._replicas.diverged.items()}

    def _batch_of(self, rows: NDArray[np.int64]) -> Batch:
        """The same object for the same sequences, as the simulator wishes; it goes to the device part by part."""
        if self._rows is None or not np.array_equal(rows, self._rows):
            self._rows, self._held = rows, global_batch(self._task.corpus, rows)
        return self._held

    def write(self, store: str) -> dict[int, str]:
        """Write the tangents of this actor's sources; those that diverged are not, and why is returned."""
        writer, failed = StoreWriter(store), self._failed
        for source, tangent in zip(self._sources, self._replicas.tangents(), strict=True):
            if source not in failed:
                writer.write(source, tangent.to("cpu", torch.float32).numpy(), self._done)
        return failed

    def save(self, url: str) -> str | None:
        """Save the model, which is what it was, in float32; its fingerprint. All actors are asked, rank 0 does it."""
        if self._rank > 0:
            return None
        save_model(self._model, url)
        return model_fingerprint(self._model)
