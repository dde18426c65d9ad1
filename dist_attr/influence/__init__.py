"""The mathematics of influence: pure torch, no distributed code, no storage, no model library.

Design decisions:
- A model is a function `forward(parameters by name, inputs) -> logits`; its trainable parameters are one vector of
  length P.
- The training step Φ is a pure function, so that it can be repeated with other source weights (`trajectory`) and
  differentiated (`tangent`). The very same code is what DeepSpeed's own step is checked against.
- Everything after the gradient and its clipping is elementwise, so it is done block by block in the cache.
- The readout needs forward passes only.
"""

from dist_attr.influence.basis import ReadoutBasis
from dist_attr.influence.checkpoint import CheckpointSimulator, Divergence
from dist_attr.influence.curvature import Curvature, estimate_curvature
from dist_attr.influence.large_batch import gradient_in_parts
from dist_attr.influence.levers import Levers
from dist_attr.influence.loss import Batch, token_losses, weighted_loss
from dist_attr.influence.optimizers import SGD, Adam, Optimizer
from dist_attr.influence.parameters import Forward, ParameterSpace, module_forward
from dist_attr.influence.readout import (
    Scores,
    Sequences,
    central_difference_logprobs,
    counterfactual_logprobs,
    directional_logprobs,
)
from dist_attr.influence.schedule import LearningRate
from dist_attr.influence.self_check import SelfCheck, self_check
from dist_attr.influence.simulator import Simulator, make_simulator
from dist_attr.influence.stacks import Stack, beside_the_run, mapped_zeros
from dist_attr.influence.tangent import TangentSimulator
from dist_attr.influence.training_step import SourceState, TrainingStep, TrainState
from dist_attr.influence.trajectory import TrajectorySimulator

__all__ = [
    "SGD",
    "Adam",
    "Batch",
    "CheckpointSimulator",
    "Curvature",
    "Divergence",
    "Forward",
    "LearningRate",
    "Levers",
    "Optimizer",
    "ParameterSpace",
    "ReadoutBasis",
    "Scores",
    "SelfCheck",
    "Sequences",
    "Simulator",
    "SourceState",
    "Stack",
    "TangentSimulator",
    "TrainState",
    "TrainingStep",
    "TrajectorySimulator",
    "beside_the_run",
    "central_difference_logprobs",
    "counterfactual_logprobs",
    "directional_logprobs",
    "estimate_curvature",
    "gradient_in_parts",
    "make_simulator",
    "mapped_zeros",
    "module_forward",
    "self_check",
    "token_losses",
    "weighted_loss",
]
