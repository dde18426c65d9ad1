"""Where an actor's simulation lies: what its device has, and where the states go that do not fit.

Design decisions:
- Passes are computed on the actor's device in any case; only the states of sources that wait for their pass are parked:
  of a GPU in pinned host memory if that has room, else in a file.
- The file is mapped: rows are read and written pass by pass, and the system's page cache does the rest. It has no name,
  so that however a process ends nothing is left; its room is taken at once, so that a full disk is an error and not
  a signal.
- The result is the same bit for bit, wherever the states lie.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from dist_attr.config import SimulationConfig
from dist_attr.errors import SimulationError
from dist_attr.influence import Stack, beside_the_run, mapped_zeros
from dist_attr.simulation.probe import PassCost

GIB = 2**30
RESERVE = 0.1  # of what is free: for what nobody has counted
HOST = "host memory"


@dataclass(frozen=True)
class Placement:
    """Where an actor's simulation lies.

    Attributes:
        state_bytes: states of all its sources, and of the run where it has a row of its own.
        pass_bytes: what a pass takes beside them.
        parked: where the states lie if not beside the run: "host memory", or a folder.
    """

    state_bytes: int
    pass_bytes: int
    parked: str | None = None

    @property
    def device_bytes(self) -> int:
        """What the simulation takes of the memory that `simulation.memory_gib` bounds."""
        return self.pass_bytes + (0 if self.parked else self.state_bytes)

    @property
    def stack(self) -> Stack:
        """What makes the stacks of states there."""
        if self.parked is None:
            return beside_the_run
        return _pinned if self.parked == HOST else _in_a_file(self.parked)


@dataclass(frozen=True)
class Budget:
    """What the simulation of one actor may take, in bytes.

    Attributes:
        device: memory of its device, the machine's own for a CPU.
        host: memory of the machine, for what a GPU has no room for.
        actors: how many share the machine, and its disk.
    """

    device: int
    host: int
    actors: int

    @classmethod
    def of(cls, device: torch.device, settings: SimulationConfig, actors: int, promised: int = 0) -> Budget:
        """What there is now, before any simulation, and `promised` to the training run's first step."""
        host = round((1 - RESERVE) * free_host_memory() / actors)
        free = torch.cuda.mem_get_info(device)[0] * (1 - RESERVE) if device.type == "cuda" else host
        if settings.memory_gib is not None:
            return cls(round(settings.memory_gib * GIB), host, actors)
        return cls(max(0, round(free) - promised), host, actors)


def free_host_memory() -> int:
    """Bytes that this machine has, or the container (cgroup version 2) that this process is in."""
    free: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        counted = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counted["inactive_file"])
    except (OSError, ValueError, KeyError):  # no such container, or one without a limit
        return free
    return max(0, min(free, limit - used))


def place(
    settings: SimulationConfig, device: torch.device, budget: Budget, cost: PassCost, rows: int, row_bytes: int
) -> Placement:
    """Where the states of an actor's rows lie. Raises SimulationError when there is no room for them or for a pass."""
    state = rows * row_bytes
    if cost.bytes + state <= budget.device:
        return Placement(state, cost.bytes)
    cuda = device.type == "cuda"
    # Rows on their way from and to a GPU; of a CPU they are the file's own pages.
    passed = cost.bytes + (2 * cost.sources * row_bytes if cuda else 0)
    if passed > budget.device:
        raise too_little_memory(passed, budget, cost.sources)
    if cuda and state <= budget.host:
        return Placement(state, passed, HOST)
    folder = settings.parking or tempfile.gettempdir()
    try:
        free = shutil.disk_usage(folder).free // budget.actors
    except OSError as error:
        raise SimulationError(f"simulation.parking: the folder {folder} cannot be used: {error}") from error
    if _held_in_memory(folder):
        raise SimulationError(
            f"the states of the sources of one actor take {state / GIB:.3g} GiB, more than fits into memory, and the "
            f"folder {folder} is itself held in memory; set simulation.parking to a folder on a disk"
        )
    if state > free:
        raise SimulationError(
            f"the states of the sources of one actor take {state / GIB:.3g} GiB; its share of the memory is "
            f"{budget.device / GIB:.3g} GiB, and of the disk of {folder} {free / GIB:.3g} GiB. Set simulation.parking "
            "to a folder with more room, spread the run over more nodes, or train fewer parameters (model.lora)"
        )
    return Placement(state, passed, folder)


def _held_in_memory(folder: str) -> bool:
    mounts = {mount.mountpoint: mount.fstype for mount in psutil.disk_partitions(all=True)}
    path = Path(folder).resolve()
    mount = next((str(place) for place in (path, *path.parents) if str(place) in mounts), "")
    return mounts.get(mount) in ("tmpfs", "ramfs")


def too_little_memory(needed: float, budget: Budget, sources: int) -> SimulationError:
    """The error of an actor on which not even one pass fits."""
    return SimulationError(
        f"a pass of the simulation over {sources} source(s) needs {needed / GIB:.3g} GiB, and an actor has "
        f"{budget.device / GIB:.3g} GiB for it (simulation.memory_gib, or what is free). Raise simulation.memory_gib "
        "if there is more, lower simulation.sources_per_pass, training.batch_size or training.sequence_length, or run "
        "fewer actors on a machine (cluster.workers)"
    )


def _pinned(rows: int, vector: Tensor) -> Tensor:
    return torch.zeros(rows, len(vector), dtype=vector.dtype, pin_memory=True)


def _in_a_file(folder: str) -> Stack:
    def stack(rows: int, vector: Tensor) -> Tensor:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, max(1, rows * vector.nbytes))
                return mapped_zeros(rows, vector, file.fileno())
        except OSError as error:
            raise SimulationError(
                f"the states of the sources cannot be parked in {folder}: {error}; "
                "set simulation.parking to another folder"
            ) from error

    return stack
