"""Whether a readout can be trusted on this very model, device and precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dist_attr.config import PrecisionName
from dist_attr.errors import StoreError
from dist_attr.readout.attribution import Along
from dist_attr.readout.engine import HALF, ReadoutEngine
from dist_attr.readout.generation import Sampling, generate
from dist_attr.readout.query import EncodedQuery
from dist_attr.readout.rows import Rows

PROBES, TOKENS = 4, 48
# As a share of the scores' size. Differences bend by 0.01 % on the demo's model, by up to 1.3 % on random weights and
# large random tangents; a wrong derivative is off by all of it.
AGREE = 0.05


def check_readout(engine: ReadoutEngine, rows: Rows) -> None:
    """Compare the linear readout with central differences, along the first two directions; in fp32.

    Raises:
        StoreError: they do not agree, so that scores would be noise.
    """
    some, probes = rows.first(2), _probes(engine)
    linear, difference = (_scores(engine.read(probes, some, readout)) for readout in ("linear", "central-difference"))
    if (apart := _relative(difference, linear)) > AGREE:
        raise StoreError(
            f"on this device the derivatives of the store's model are wrong: they differ from central differences by "
            f"{apart:.1%}; scores would be noise. Try another version of torch or transformers, or another device"
        )


def compute_in(engine: ReadoutEngine, precision: PrecisionName, rows: Rows) -> float | None:
    """Set the precision of a readout in fp32, and say what it costs.

    Returns:
        Of bf16 the root mean square error of token scores relative to their own root mean square, on texts that the
        model draws itself, along the first 8 directions; none of fp32.
    """
    if precision != HALF:
        return None
    some, probes = rows.first(8), _probes(engine)
    exact = _scores(engine.read(probes, some))
    engine.lower_precision()
    return _relative(_scores(engine.read(probes, some)), exact)


def _probes(engine: ReadoutEngine) -> list[EncodedQuery]:
    length = min(TOKENS, engine.context // 2)
    return [generate(engine, "", Sampling(length, temperature=1.0, seed=seed))[0] for seed in range(PROBES)]


def _scores(read: list[Along]) -> NDArray[np.float64]:
    return np.concatenate([of_query.scores.ravel() for of_query in read]).astype(np.float64)


def _relative(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found - exact)) / max(float(np.linalg.norm(exact)), 1e-30)
