"""From signed scores of single answers to what is said of a source: shares, net effects, and how far they are known.

Pure numpy. What the figures mean, and what they do not, stands in docs/audits.md. In short, of Q answers with weights u
and effects e (queries, sources), the score times the source's weight in the run, in nats:

- positive share: Σ_q u max(e, 0) of the source, over the same of all sources. The shares add up to 1.
- net effect: Σ_q u e / Σ_q u, in nats per answer.

Design decisions:
- Answers are a sample of what could have been asked: the bootstrap draws them with replacement, weight and all.
- What is known of scores is a predictive distribution of the true effects. With a correlation r between predicted and
  true changes and a slope β, a true effect is β e + β σ_q √(1/r² − 1) η, where σ_q is the standard deviation of the
  answer's effects over sources and η is standard normal. η belongs to the source and not to the answer: what the
  simulation got wrong about a source it may have got wrong for all answers, and more answers then do not mend it. That
  is the worst case, and it is taken since the manifest does not say more.
- r itself is uncertain: Fisher's z is drawn with the width of r's own interval.
- Noise in the effects shrinks the positive share of a strong source, and the draws say so. The interval is the draws'
  and the value's together, so that the figure that is printed never lies outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_attr.store import MeasuredFidelity

Floats = NDArray[np.float64]

LEVEL = 95.0  # per cent
FEWEST = 10  # answers that an interval can be taken from
WEAKEST, STRONGEST = 0.05, 0.999  # correlations that are reckoned with
QUANTILE = 1.959964


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of each source, with 95 % intervals, (sources,) each.

    A share is nan where there is no influence to share, and so are intervals where there are too few answers.

    Attributes:
        value: from the scores as they are.
        low: lower end, for other answers of the same kind.
        high: upper end.
        fidelity_low: the same, the fidelity of the scores included; none where it was not measured.
        fidelity_high: likewise.
    """

    value: Floats
    low: Floats
    high: Floats
    fidelity_low: Floats | None
    fidelity_high: Floats | None

    @property
    def widest(self) -> tuple[Floats, Floats]:
        """The ends of the interval that covers all that is known to be uncertain."""
        if self.fidelity_low is None or self.fidelity_high is None:
            return self.low, self.high
        return np.minimum(self.low, self.fidelity_low), np.maximum(self.high, self.fidelity_high)


@dataclass(frozen=True, eq=False)
class Shares:
    """What the effects of sources on some answers come to.

    Attributes:
        positive: share of positive influence.
        net: effect, nats per answer.
        distinct: (sources,), whether the net effect can be told from 0.
    """

    positive: Figure
    net: Figure
    distinct: NDArray[np.bool_]


def positive_share(effects: Floats, weights: Floats) -> Floats:
    """Share of positive influence: (queries, sources), (queries,) -> (sources,). nan where nothing is positive."""
    return _normalised(weights @ np.maximum(effects, 0))


def net_effect(effects: Floats, weights: Floats) -> Floats:
    """Nats per answer: (queries, sources), (queries,) -> (sources,)."""
    found: Floats = weights @ effects / weights.sum()
    return found


def shares(
    effects: Floats,
    weights: Floats,
    *,
    errors: Floats | None = None,
    fidelity: MeasuredFidelity | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Shares:
    """Shares and net effects with their intervals.

    Args:
        effects: (queries, sources), nats.
        weights: of the queries, (queries,), positive.
        errors: standard errors of the effects by what a readout basis leaves out, (queries, sources); both intervals
            have them.
        fidelity: what retraining said of such scores.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: shapes differ, there is nothing, a weight is not positive, or a value is not finite.
    """
    _check(effects, weights, errors)
    if len(effects) < FEWEST:
        return _without_intervals(effects, weights)
    draw = np.random.default_rng(seed)
    values = _both(effects, weights)
    intervals = _intervals(values, _draws(effects, weights, errors, None, resamples, draw))
    wide: list[tuple[Floats, Floats]] | list[tuple[None, None]] = [(None, None)] * 2
    if fidelity is not None:
        wide = _intervals(values, _draws(effects, weights, errors, fidelity, resamples, draw))
    positive, net = (
        Figure(value, low, high, low_too, high_too)
        for value, (low, high), (low_too, high_too) in zip(values, intervals, wide, strict=True)
    )
    low, high = net.widest
    return Shares(positive, net, (low > 0) | (high < 0))


def _without_intervals(effects: Floats, weights: Floats) -> Shares:
    """Drawing from a handful of answers would say that they are all there can be."""
    unknown = np.full(effects.shape[1], np.nan)
    positive, net = (Figure(value, unknown, unknown, None, None) for value in _both(effects, weights))
    return Shares(positive, net, np.zeros(effects.shape[1], np.bool_))


def _draws(
    effects: Floats,
    weights: Floats,
    errors: Floats | None,
    fidelity: MeasuredFidelity | None,
    resamples: int,
    draw: np.random.Generator,
) -> list[tuple[Floats, Floats]]:
    """Both figures of answers drawn with replacement, and of effects drawn as far as these are uncertain."""
    number, sources = effects.shape
    spread, positive, found = effects.std(axis=1, keepdims=True), np.maximum(effects, 0), []
    for _ in range(resamples):
        some = weights * np.bincount(draw.integers(number, size=number), minlength=number)
        drawn = effects
        if errors is not None:
            # What a basis leaves out of a source it may leave out of its score in all answers.
            drawn = drawn + errors * draw.standard_normal(sources)
        if fidelity is not None:
            drawn = _true(drawn, spread, fidelity, draw)
        above = positive if drawn is effects else np.maximum(drawn, 0)
        found.append((_normalised(some @ above), some @ drawn / some.sum()))
    return found


def _true(effects: Floats, spread: Floats, fidelity: MeasuredFidelity, draw: np.random.Generator) -> Floats:
    """True effects, drawn for what is predicted; spread is σ_q, (queries, 1)."""
    correlation = float(np.tanh(np.arctanh(_usable(fidelity.correlation)) + _width(fidelity) * draw.standard_normal()))
    # A truth that is itself noisy correlates less with whatever is predicted than the truth without noise would.
    correlation = _usable(correlation / (fidelity.ceiling or 1.0))
    slope = 1.0 if fidelity.slope is None else fidelity.slope
    noise = spread * np.sqrt(1 / correlation**2 - 1) * draw.standard_normal(effects.shape[1])
    true: Floats = slope * (effects + noise)
    return true


def _usable(correlation: float) -> float:
    return min(max(correlation, WEAKEST), STRONGEST)


def _width(fidelity: MeasuredFidelity) -> float:
    """Standard deviation of Fisher's z of the correlation, from its interval."""
    if fidelity.interval is None:
        return 0.0
    low, high = (np.arctanh(np.clip(end, -STRONGEST, STRONGEST)) for end in fidelity.interval)
    return float(high - low) / (2 * QUANTILE)


def _both(effects: Floats, weights: Floats) -> tuple[Floats, Floats]:
    return positive_share(effects, weights), net_effect(effects, weights)


def _intervals(values: tuple[Floats, Floats], draws: list[tuple[Floats, Floats]]) -> list[tuple[Floats, Floats]]:
    """Ends of the percentile interval of each figure's draws, and of its value."""
    outside = (100 - LEVEL) / 2
    found = []
    for value, drawn in zip(values, zip(*draws, strict=True), strict=True):
        stacked = np.stack(drawn)
        # A draw in which nothing is positive has no shares, and says nothing of them.
        stacked = stacked[np.isfinite(stacked).all(axis=1)]
        if not len(stacked):
            found.append((value, value))
            continue
        low, high = np.percentile(stacked, [outside, 100 - outside], axis=0)
        found.append((np.fmin(low, value), np.fmax(high, value)))
    return found


def _normalised(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.full_like(values, np.nan)


def _check(effects: Floats, weights: Floats, errors: Floats | None) -> None:
    if effects.ndim != 2 or not effects.size or weights.shape != effects.shape[:1]:
        raise ValueError(
            f"need effects (queries, sources) and weights (queries,), not {effects.shape}, {weights.shape}"
        )
    if errors is not None and errors.shape != effects.shape:
        raise ValueError(f"need errors like the effects {effects.shape}, not {errors.shape}")
    if not (np.isfinite(effects).all() and np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("effects must be finite, and weights finite and positive")


def fidelity_of(measured: tuple[MeasuredFidelity, ...], readout: str, truth: str) -> MeasuredFidelity | None:
    """What retraining said of the scores of a readout, against a truth; with the fewest sources dropped at a time.

    Central differences are the linear readout by other means.
    """
    same = "linear" if readout == "central-difference" else readout
    found = [each for each in measured if each.readout == same and each.truth == truth]
    return min(found, key=lambda each: each.dropped, default=None)
