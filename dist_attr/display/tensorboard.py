"""The progress of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

    from dist_attr.simulation import StrideReport

SCALARS = ("loss", "drift", "replica_steps_per_second")


@contextmanager
def tensorboard(folder: str) -> Iterator[Callable[[StrideReport], None]]:
    """Event files in a folder, one point of each scalar per stride; yields what to call after each stride.

    A run that continues from a checkpoint replaces the points it had written beyond it.
    """
    from tensorboardX import SummaryWriter

    writer: SummaryWriter | None = None

    def report(stride: StrideReport) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(folder, purge_step=stride.step)
        for name in SCALARS:
            if (value := getattr(stride, name)) is not None:  # the loss of a run that trains nothing
                writer.add_scalar(f"run/{name}", value, stride.step)
        writer.flush()

    try:
        yield report
    finally:
        if writer is not None:
            writer.close()
