"""What a training step and a pass of the simulation cost, measured on the real model, batch and device.

Design decisions:
- Measured, not derived: kernels, allocators and vmap differ too much between models and devices for a formula.
- Memory is what the process gets from its system: on a CPU its resident set, since blocks of many sizes that come and
  go leave holes in the heap (up to 1.7 times of what tensors hold); on a GPU what the caching allocator reserves.
- The first round of a pass, which pays for cold memory and kernels, measures memory; the fastest round after it, time.
"""

from __future__ import annotations

import ctypes
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import psutil
import torch
from torch import Tensor

from dist_attr.config import SimulationConfig
from dist_attr.influence import Batch, Levers, Simulator, TrainingStep, TrainState, make_simulator

GAIN = 0.05  # a larger pass that spares less of the time per source is not worth its memory
LONG_SECONDS = 3.0  # a pass that long has little left to gain from a larger one


@dataclass(frozen=True)
class PassCost:
    """What one pass of the simulation costs.

    Attributes:
        sources: rows computed together: sources, or replicas of a trajectory, one of which is the run itself.
        seconds: of the pass, mean over the steps of a stride.
        bytes: peak memory besides the sources' own states.
    """

    sources: int
    seconds: float
    bytes: int

    @property
    def seconds_each(self) -> float:
        """Of one source and step."""
        return self.seconds / self.sources


@dataclass(frozen=True)
class Probe:
    """What was measured on one actor.

    Attributes:
        step_seconds: of a plain training step on the whole global batch: gradient, clipping, update.
        source_bytes: state of one source: parameters and optimizer slots, of each of its replicas.
        passes: passes of growing size, as long as they got faster for each source and fitted; may be empty.
        needed_bytes: what the first pass that did not fit would have needed, if there was one.
    """

    step_seconds: float
    source_bytes: int
    passes: tuple[PassCost, ...]
    needed_bytes: int | None = None

    @property
    def best(self) -> PassCost:
        """The smallest pass that is about as fast for each source as any; there has to be one."""
        fastest = min(cost.seconds_each for cost in self.passes)
        return next(cost for cost in self.passes if cost.seconds_each * (1 - GAIN) <= fastest)


def probe(
    training_step: TrainingStep,
    start: TrainState,
    weights: Tensor,
    batch: Batch,
    settings: SimulationConfig,
    sizes: Sequence[int],
    limit: float = math.inf,
) -> Probe:
    """Measure a plain step and passes of the simulation; takes about ten plain steps and twice the passes' time.

    Args:
        training_step: Φ of the run.
        start: any state of it (P,), where the measurement is to take place; it is not changed.
        weights: the run's source weights (S,).
        batch: a global batch, which lies there too.
        settings: which simulation.
        sizes: of the passes to try, ascending; the first is measured in any case that allows it.
        limit: bytes that a pass and the states of its sources may take.
    """
    device = start.theta.device
    training_step(start, weights, batch, 0)
    step_seconds = _fastest(lambda: training_step(start, weights, batch, 0), device)
    row_bytes = sum(tensor.nbytes for tensor in (start.theta, *start.slots))
    source_bytes = row_bytes * (2 if settings.central else 1)
    make = partial(pass_simulator, training_step, start, weights, batch, settings)
    passes: list[PassCost] = []
    for size in sizes:
        expected = (passes[-1].bytes / passes[-1].sources + row_bytes) * size if passes else row_bytes
        cost = None if expected > limit else _pass_cost(make, batch, size, settings.stride, device, row_bytes)
        if cost is None or cost.bytes + size * row_bytes > limit:
            needed = expected if cost is None else cost.bytes + size * row_bytes
            return Probe(step_seconds, source_bytes, tuple(passes), math.ceil(needed))
        gained = not passes or cost.seconds_each < (1 - GAIN) * min(other.seconds_each for other in passes)
        passes.append(cost)
        if not gained or cost.seconds > LONG_SECONDS:
            break
    return Probe(step_seconds, source_bytes, tuple(passes))


def rows_per_actor(settings: SimulationConfig, sources: int, workers: int) -> int:
    """The most rows that one of some actors simulates: its sources, or its replicas and the run itself."""
    own = math.ceil(sources / workers)
    return 1 + own * (2 if settings.central else 1) if settings.method == "trajectory" else own


def pass_sizes(rows: int) -> list[int]:
    """1, 2, 4, ... and all the rows that an actor has."""
    return [2**power for power in range(rows.bit_length()) if 2**power < rows] + [max(rows, 1)]


def pass_simulator(
    training_step: TrainingStep,
    start: TrainState,
    weights: Tensor,
    batch: Batch,
    settings: SimulationConfig,
    size: int,
) -> Simulator:
    """A simulator whose every step is one pass of this size; its sources are one that the batch holds."""
    assert settings.method == "trajectory" or settings.method == "tangent"
    replicas = settings.method == "trajectory"
    return make_simulator(
        settings.method,
        training_step,
        start,
        weights,
        [min(batch.present)] * (size - 1 if replicas else size),
        levers=Levers(settings.horizon, settings.stride, settings.curvature_share, settings.curvature_weight),
        sources_per_pass=size,
    )


def _pass_cost(
    make: Callable[[int], Simulator], batch: Batch, size: int, steps: int, device: torch.device, row_bytes: int
) -> PassCost | None:
    """Cost of a pass; none when the device runs out of memory."""
    try:
        with peak_memory(device) as peak:
            simulator = make(size)

            def stride() -> None:
                for step in range(steps):
                    simulator.advance(batch, step)

            stride()
        seconds = _fastest(stride, device) / steps
    except torch.OutOfMemoryError:
        return None
    return PassCost(size, seconds, max(0, peak() - size * row_bytes))


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the work, or of the faster of two rounds if it is short, since others may use the machine."""
    seconds: list[float] = []
    while not seconds or (len(seconds) < 2 and seconds[0] < 1.0):
        _wait_for(device)
        started = time.perf_counter()
        work()
        _wait_for(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """What the work inside takes at most, in bytes of a device's memory, above what is in use when it begins."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        yield lambda: torch.cuda.max_memory_reserved(device) - before
        return
    process, done, samples = psutil.Process(), threading.Event(), []
    # What is free inside the heap goes back first: taken again it would not be seen.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)
    before = process.memory_info().rss

    def sample() -> None:
        while not done.wait(1e-3):
            samples.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield lambda: max(samples) - before
    finally:
        done.set()
        sampler.join()
        samples.append(process.memory_info().rss)
