"""How good the scores are: ground truth by retraining, its agreement with predictions, and baselines.

Design decisions:
- The ground truth is plain torch: nothing of the simulation or the readout that it judges takes part in it. Each
  retraining is a Ray task of its own.
- What is predicted is the change of log p(completion | prompt); a subset's prediction is the sum over its sources.
- An LDS is never given without its interval, which covers other subsets and other queries; against a mean over runs it
  stands beside the ceiling that the noise of that mean leaves.
"""

from dist_attr.evaluation.baselines import gradient_dot
from dist_attr.evaluation.evaluate import evaluate
from dist_attr.evaluation.fidelity import (
    Estimate,
    calibration_slope,
    drop_subsets,
    lds,
    lds_by_number,
    noise_ceiling,
    pearson,
    predicted_change,
)
from dist_attr.evaluation.ground_truth import Retraining, retrained_outputs
from dist_attr.evaluation.kept import Kept
from dist_attr.evaluation.result import Compared, PatchResult, RetrainingResult, write_result
from dist_attr.evaluation.retraining import completion_logprob, completion_logprobs, make_optimizer, retrain
from dist_attr.evaluation.tail_patch import Patching, Ranked
from dist_attr.evaluation.tasks import Workers

__all__ = [
    "Compared",
    "Estimate",
    "Kept",
    "PatchResult",
    "Patching",
    "Ranked",
    "Retraining",
    "RetrainingResult",
    "Workers",
    "calibration_slope",
    "completion_logprob",
    "completion_logprobs",
    "drop_subsets",
    "evaluate",
    "gradient_dot",
    "lds",
    "lds_by_number",
    "make_optimizer",
    "noise_ceiling",
    "pearson",
    "predicted_change",
    "retrain",
    "retrained_outputs",
    "write_result",
]
