"""How good the scores are: ground truth by retraining, its agreement with predictions, and baselines.

Design decisions:
- The ground truth is plain torch: nothing of the simulation or the readout that it judges takes part in it.
- What is predicted is the change of log p(completion | prompt); a subset's prediction is the sum over its sources.
- An LDS is never given without its interval, which covers other subsets and other queries; against a mean over runs it
  stands beside the ceiling that the noise of that mean leaves.
"""

from dist_attr.evaluation.baselines import gradient_dot
from dist_attr.evaluation.fidelity import LDS, drop_subsets, lds, noise_ceiling, predicted_change
from dist_attr.evaluation.ground_truth import Retraining, retrained_outputs
from dist_attr.evaluation.retraining import completion_logprob, completion_logprobs, make_optimizer, retrain

__all__ = [
    "LDS",
    "Retraining",
    "completion_logprob",
    "completion_logprobs",
    "drop_subsets",
    "gradient_dot",
    "lds",
    "make_optimizer",
    "noise_ceiling",
    "predicted_change",
    "retrain",
    "retrained_outputs",
]
