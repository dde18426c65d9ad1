"""How far scores can be trusted, in words."""

from __future__ import annotations

from collections.abc import Sequence

from dist_attr.store import MeasuredFidelity


def fidelity_in_words(measured: Sequence[MeasuredFidelity]) -> str:
    """What retraining said, figure by figure, or that nobody has asked it."""
    return "; ".join(map(_words, measured)) or "not measured on this model: nobody has compared them with retraining"


def _words(found: MeasuredFidelity) -> str:
    said = f"rank correlation with {found.retrained} retrained models {found.correlation:.2f}"
    if found.interval is not None:
        said += f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    dropped = f"{found.dropped} source{'s' * (found.dropped > 1)} dropped"
    said += f" ({found.truth}, {dropped}, {found.readout} readout, {found.queries} queries)"
    if found.slope is not None:
        said += f", slope {found.slope:.2f}"
    if found.ceiling is not None:
        said += f", at most {found.ceiling:.2f} by its noise"
    return said
