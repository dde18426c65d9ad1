"""Learning-rate schedules, as transformers defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRate:
    """The learning rate of each step: linear warm-up from 0, then constant, or linear or half a cosine down to 0."""

    peak: float
    shape: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    steps: int = 1

    def __call__(self, step: int) -> float:
        """The rate of step 0, 1, ..., steps − 1."""
        if step < self.warmup_steps:
            return self.peak * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        factor = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[self.shape]
        return self.peak * max(0.0, factor)
