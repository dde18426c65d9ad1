"""DeepSpeed's own configuration: what the run fixes, what a user may add, and what would make the simulation wrong."""

from __future__ import annotations

from typing import Any

from dist_attr.config import TrainingConfig
from dist_attr.errors import ConfigError

# They change where tensors lie, when they move and what is logged, not what a training step does.
ALLOWED = {
    "activation_checkpointing", "aio", "bf16", "comms_logger", "csv_monitor", "disable_allgather", "dump_state",
    "flops_profiler", "gradient_accumulation_steps", "gradient_clipping", "gradient_predivide_factor",
    "memory_breakdown", "prescale_gradients", "steps_per_print", "tensorboard", "train_batch_size",
    "train_micro_batch_size_per_gpu", "wall_clock_breakdown", "wandb", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "zero_optimization",
}  # fmt: skip
INSTEAD = {
    "optimizer": "set training.optimizer, learning_rate, betas, eps and weight_decay, which the simulation repeats",
    "scheduler": "set training.schedule and warmup_steps, which the simulation repeats",
    "fp16": "its loss scaling skips steps; use training.precision: bf16",
    "amp": "use training.precision: bf16",
    "torch_autocast": "use training.precision: bf16",
}
# Of an allowed section, what would change a training step: the only value accepted, and why.
REQUIRED: dict[str, dict[str, tuple[Any, str]]] = {
    "zero_optimization": {
        "zero_quantized_weights": (False, "it changes the weights"),
        "zero_quantized_gradients": (False, "it changes the gradients"),
        "zero_quantized_nontrainable_weights": (False, "it changes the frozen weights"),
        "zenflow": (None, "it updates with old gradients"),
        "compute_grad_norm": (True, "clipping needs the norm"),
    },
    "bf16": {
        "bf16_master_weights_and_grads": (False, "the parameters that are compared are the float32 master copy"),
        "bf16_optimizer_states": (False, "the simulation keeps them in float32"),
    },
}


def deepspeed_settings(training: TrainingConfig, workers: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given.

    Raises:
        ConfigError: a key of `training.deepspeed` contradicts the run's settings, or is not known to leave the
            training step as the simulation has it.
    """
    fixed: dict[str, Any] = {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // (workers * training.accumulation_steps),
        "gradient_accumulation_steps": training.accumulation_steps,
        # Always stated: DeepSpeed's own default is to clip at 1.
        "gradient_clipping": training.gradient_clipping,
        # The linear layer that ZeRO 3 puts in place of torch's in the whole process has no forward derivative.
        "zero_optimization": {"stage": training.zero_stage, "memory_efficient_linear": False},
        "bf16": {"enabled": training.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        # The update rule is ours, on whichever device DeepSpeed keeps the optimizer's state.
        "zero_force_ds_cpu_optimizer": False,
    }
    given = {"steps_per_print": 10**9, **training.deepspeed}
    for key in given:
        if key not in ALLOWED:
            why = INSTEAD.get(key, "it is not known to leave the training step as the simulation has it; remove it")
            raise ConfigError(f"training.deepspeed: {key} is refused: {why}")
    for section, required in REQUIRED.items():
        values = given.get(section, "auto")
        if values != "auto" and not isinstance(values, dict):
            raise ConfigError(f"training.deepspeed: {section} is {values!r}; it has to be a mapping")
        for key, (accepted, why) in required.items():
            if values != "auto" and values.get(key, accepted) != accepted:
                raise ConfigError(f"training.deepspeed: {section}.{key} is refused: {why}")
    return _merged(given, fixed, "")


def _merged(given: dict[str, Any], fixed: dict[str, Any], prefix: str) -> dict[str, Any]:
    merged = dict(given)
    for key, value in fixed.items():
        present = given.get(key, "auto")
        if isinstance(value, dict):
            merged[key] = _merged({} if present == "auto" else present, value, f"{prefix}{key}.")
        elif present not in ("auto", value):
            raise ConfigError(
                f"training.deepspeed: {prefix}{key} is {present!r}, but the run's own settings make it {value!r}; "
                "leave it out, or change the settings under training"
            )
        else:
            merged[key] = value
    return merged
