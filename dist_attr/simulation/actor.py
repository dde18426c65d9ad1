"""One Ray actor: a worker of the training run and the owner of a shard of the sources."""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import dataclass

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dist_attr.config import RunConfig, SimulationConfig
from dist_attr.corpus import PackedCorpus
from dist_attr.errors import DivergenceError, SimulationError
from dist_attr.influence import (
    Batch,
    Levers,
    ParameterSpace,
    Simulator,
    SourceState,
    TrainingStep,
    TrainState,
    make_simulator,
    self_check,
)
from dist_attr.models import build_model, model_fingerprint, save_model
from dist_attr.simulation.checkpoint import Checkpoint, read_state, write_state
from dist_attr.simulation.placement import Budget, Placement, place, too_little_memory
from dist_attr.simulation.probe import PassCost, Probe, pass_sizes, probe, rows_per_actor
from dist_attr.simulation.recipe import global_batch, source_weights, training_step
from dist_attr.simulation.reports import ActorReport, ModelReport
from dist_attr.store import Space, StoreWriter


@dataclass(frozen=True)
class Task:
    """What every actor is given. Arrays reach it through Ray's shared memory, without a copy."""

    run: RunConfig
    corpus: PackedCorpus
    schedule: NDArray[np.int64]
    vocabulary: int
    end_of_text: int

    @property
    def first_simulated(self) -> int | None:
        """The step that the simulation begins with; none without one."""
        if self.run.simulation.method == "none":
            return None
        return self.run.training.steps - (self.run.simulation.window or self.run.training.steps)


class SimulationActor:
    """Worker `rank` of the run; it owns every source whose index is `rank` modulo the number of workers."""

    def __init__(self, rank: int, task: Task) -> None:
        torch.manual_seed(task.run.training.seed)
        self._rank, self._task = rank, task
        self._workers = task.run.cluster.workers
        self._training = task.run.training
        self._sources = list(range(len(task.corpus.sources)))[rank :: self._workers]
        self._simulator: Simulator | None = None
        self._done = 0

    def address(self) -> str:
        """Where the workers meet, for rank 0 to say."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def build(self) -> ModelReport:
        """Build the model, alone and before any communication, so that an error is everybody's."""
        self._model = self._new_model()
        step = training_step(self._model, self._training)
        if self._rank == 0 and self._task.first_simulated is not None:
            self._check_derivatives(step)
        total = sum(parameter.numel() for parameter in self._model.parameters())
        return ModelReport(
            model_fingerprint(self._model),
            self._model.config.model_type,  # type: ignore[union-attr, arg-type]
            Space(names=step.space.names, shapes=step.space.shapes, coverage=step.space.size / total),
        )

    def _check_derivatives(self, step: TrainingStep) -> None:
        """Refuse to go on with a model whose derivatives do not agree with each other."""
        batch = global_batch(self._task.corpus, self._task.schedule[0])
        weights = torch.ones(len(self._task.corpus.sources))
        result = self_check(step, step.space.read(self._model), weights, batch, int(batch.sources[0].max()))
        if not (result.gradient < 5e-3 and result.readout < 1e-3):
            raise SimulationError(
                "self-check: the derivatives of this model do not agree with each other (relative errors: of the "
                f"gradient's derivative {result.gradient:.1e}, of the readout {result.readout:.1e}); "
                "the scores would be noise. Try another model type or an unmodified transformers"
            )

    def join(self, address: str, checkpoints: str, checkpoint: Checkpoint | None) -> int:
        """Meet the other workers and start DeepSpeed's engine; continue from a checkpoint at a URL, if there is one.

        Returns:
            Bytes that the simulation of this actor may take.
        """
        cuda = torch.cuda.is_available()
        if not cuda:
            os.environ["DS_ACCELERATOR"] = "cpu"
        # DeepSpeed reads these even when the process group exists.
        os.environ.update(RANK=str(self._rank), LOCAL_RANK="0", WORLD_SIZE=str(self._workers))
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=address, rank=self._rank, world_size=self._workers
        )
        from dist_attr.simulation.engine import Trainer

        space = ParameterSpace.of(self._model)
        start = space.read(self._model)
        state = None if checkpoint is None else read_state(checkpoints, checkpoint, "run").state
        if state is not None:
            space.write(self._model, state.theta)
        self._trainer = Trainer(self._model, self._training, self._rank, self._workers)
        self._start = start.to(self._trainer.device)
        names = [source.name for source in self._task.corpus.sources]
        self._weights = source_weights(names, self._training.source_weights).to(self._start)
        if checkpoint is not None and state is not None:
            self._trainer.restore(state, self._batch(0), checkpoint.step)
            self._done = checkpoint.step
        nodes = [""] * self._workers
        torch.distributed.all_gather_object(nodes, ray.get_runtime_context().get_node_id())
        # Of the first step's gradient and optimizer state nothing is there yet.
        training = self._start.nbytes * (1 + len(self._own_step().optimizer.slots))
        actors = Counter(nodes)[nodes[self._rank]]
        self._budget = Budget.of(self._trainer.device, self._task.run.simulation, actors, training)
        return self._budget.device

    def probe(self, settings: SimulationConfig, sources_per_pass: int | None) -> Probe:
        """Measure passes of this size, or of growing sizes, on this actor. Nothing is simulated yet."""
        step = self._own_step()
        rows = rows_per_actor(settings, len(self._task.corpus.sources), self._workers)
        sizes = pass_sizes(rows) if sources_per_pass is None else [min(sources_per_pass, max(1, rows))]
        limit = self._budget.device
        measured = probe(step, step.initial(self._start), self._weights, self._batch(0), settings, sizes, limit)
        if not measured.passes:
            raise too_little_memory(measured.needed_bytes or 0, self._budget, sizes[0])
        return measured

    def settle(
        self,
        settings: SimulationConfig,
        cost: PassCost,
        source_bytes: int,
        checkpoints: str,
        checkpoint: Checkpoint | None,
    ) -> Placement:
        """Find room for a simulation in passes of this cost; take it from where a checkpoint at a URL has it."""
        self._settings, self._per_pass = settings, cost.sources
        self._placement = self._find_room(settings, cost, source_bytes)
        if checkpoint is not None and checkpoint.step > (self._task.first_simulated or 0):
            self._continue(checkpoints, checkpoint)
        return self._placement

    def _find_room(self, settings: SimulationConfig, cost: PassCost, source_bytes: int) -> Placement:
        rows = rows_per_actor(settings, len(self._sources), 1)
        row_bytes = source_bytes // (2 if settings.central else 1)
        return place(settings, self._trainer.device, self._budget, cost, rows, row_bytes)

    def _own_step(self) -> TrainingStep:
        return training_step(self._trainer.whole, self._training)

    def _continue(self, checkpoints: str, checkpoint: Checkpoint) -> None:
        """Take the simulation from where a checkpoint has it."""
        # Another number of workers than before has no state of its own for each: all begin with the first one's.
        own = self._rank if checkpoint.workers == self._workers else 0
        device = self._trainer.device
        run = read_state(checkpoints, checkpoint, f"unperturbed-{own}").state.to(device)
        self._simulator = self._new_simulator(run)
        self._simulator.resume(
            run, (read_state(checkpoints, checkpoint, f"source-{source}") for source in self._sources)
        )

    def save_checkpoint(self, url: str) -> dict[str, str]:
        """Write all that this actor has to continue from into the folder at a URL; sha256 by file."""
        state = self._trainer.state()
        states = {"run": SourceState(state)} if self._rank == 0 else {}
        if self._simulator is not None:
            run, sources = self._simulator.snapshot()
            states[f"unperturbed-{self._rank}"] = SourceState(run)
            states.update({f"source-{i}": source for i, source in zip(self._sources, sources, strict=True)})
        return dict(write_state(url, name, state) for name, state in states.items())

    def advance(self, steps: int) -> ActorReport:
        """The next steps of the run and of the simulation beside it."""
        loss, drift, source_steps = 0.0, 0.0, 0
        for step in range(self._done, self._done + steps):
            if step == self._task.first_simulated:
                self._simulator = self._new_simulator(self._trainer.state())
            batch = self._batch(step)
            loss = self._trainer.step(batch, self._weights, step)
            if not np.isfinite(loss):
                raise SimulationError(
                    f"the training loss is {loss} at step {step}; lower training.learning_rate, "
                    "warm up with training.warmup_steps, or clip with training.gradient_clipping"
                )
            if self._simulator is not None:
                source_steps += self._simulator.advance(batch, step)
                if (step + 1) % self._task.run.simulation.check_every == 0 or step + 1 == self._training.steps:
                    drift = max(drift, self._check_drift(self._simulator, step))
            self._done = step + 1
        return ActorReport(loss, drift, source_steps)

    def _batch(self, step: int) -> Batch:
        return global_batch(self._task.corpus, self._task.schedule[step]).to(self._trainer.device)

    def _new_simulator(self, start: TrainState) -> Simulator:
        settings = self._settings
        assert settings.method == "trajectory" or settings.method == "tangent"
        return make_simulator(
            settings.method,
            self._own_step(),
            start,
            self._weights,
            self._sources,
            epsilon=settings.epsilon,
            central=settings.central,
            sources_per_pass=self._per_pass,
            stack=self._placement.stack,
            levers=Levers(settings.horizon, settings.stride, settings.curvature_share, settings.curvature_weight),
        )

    def _check_drift(self, simulator: Simulator, step: int) -> float:
        """How far the simulation's own run is from DeepSpeed's, relative to the way the parameters have come."""
        real, simulated = self._trainer.parameters(), simulator.parameters
        drift = _relative(simulated - real, real - self._start)
        if not drift <= self._task.run.drift_tolerance:
            raise SimulationError(
                f"the simulation left the training run: after step {step} its parameters differ from DeepSpeed's by "
                f"{drift:.2e} of the way trained so far, more than simulation.drift_tolerance "
                f"({self._task.run.drift_tolerance:g}); the influence would not be this run's"
            )
        return drift

    def write(self, store: str) -> dict[int, str]:
        """Write the tangents of this actor's sources; those that diverged are not, and why is returned."""
        assert self._simulator is not None
        writer, failed = StoreWriter(store), {}
        for number, source in enumerate(self._sources):
            try:
                writer.write(source, self._simulator.tangent(number).to("cpu", torch.float32).numpy(), self._done)
            except DivergenceError as error:
                failed[source] = str(error)
        return failed

    def save(self, url: str) -> str | None:
        """Save the trained model in float32; its fingerprint. All actors are asked, rank 0 does it."""
        theta = self._trainer.parameters()
        if self._rank > 0:
            return None
        model = self._new_model()
        ParameterSpace.of(model).write(model, theta)
        save_model(model, url)
        return model_fingerprint(model)

    def _new_model(self) -> nn.Module:
        return build_model(
            self._task.run.model,
            vocabulary=self._task.vocabulary,
            end_of_text=self._task.end_of_text,
            sequence_length=self._training.sequence_length,
            seed=self._training.seed,
        )


def _relative(difference: Tensor, way: Tensor) -> float:
    return float(difference.norm() / way.norm().clamp_min(1e-12))
