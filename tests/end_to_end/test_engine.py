"""Law 4 on DeepSpeed's engine itself: every ZeRO stage takes the steps of the functional training step.

Each number of workers is one group of processes that goes through all its cases; what they saw comes back as a file.
"""

from __future__ import annotations

import json
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from dist_attr.config import TrainingConfig
from dist_attr.errors import ConfigError
from dist_attr.influence import TrainState
from dist_attr.simulation.deepspeed_settings import deepspeed_settings
from tests.runs import LENGTH, small_batches, small_model

STEPS, BREAK = 6, 3
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
COMMON: dict[str, Any] = {
    "steps": STEPS,
    "batch_size": 8,
    "sequence_length": LENGTH,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "no_decay": ["bias"],
    "gradient_clipping": 0.5,
}
CASES: dict[str, dict[str, Any]] = {
    **{f"stage {stage}": {"zero_stage": stage} for stage in range(4)},
    **{f"stage {stage}, 2 micro-batches": {"zero_stage": stage, "accumulation_steps": 2} for stage in range(4)},
    **{f"stage {stage}, bf16": {"zero_stage": stage, "precision": "bf16"} for stage in (1, 2, 3)},
    "stage 2, off-load": {"zero_stage": 2, "deepspeed": {"zero_optimization": OFFLOAD}},
    "stage 3, off-load": {
        "zero_stage": 3,
        "deepspeed": {"zero_optimization": {**OFFLOAD, "offload_param": {"device": "cpu"}}},
    },
    "stage 0, torch's AdamW": {"eps_root": 0.0},
    "stage 2, torch's Adam": {"zero_stage": 2, "eps_root": 0.0, "optimizer": "adam"},
    "stage 1, Nesterov": {"zero_stage": 1, "optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "stage 0, SGD": {"optimizer": "sgd"},
    "stage 3, adapters": {"zero_stage": 3, "no_decay": ["lora_B"], "lora": {"rank": 2}},
    "stage 2, one block": {"zero_stage": 2, "include": [r"h\.1\."]},
}
WORKERS = (1, 2)


def worker(rank: int, workers: int, port: int, report: str) -> None:
    os.environ.update(DS_ACCELERATOR="cpu", RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(workers))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=100),
    )
    seen = {name: go_through(dict(case), rank, workers) for name, case in CASES.items()}
    if rank == 0:
        Path(report).write_text(json.dumps(seen), encoding="utf-8")


def go_through(case: dict[str, Any], rank: int, workers: int) -> dict[str, Any]:
    """Train beside the functional step; then again from the middle, restored."""
    from dist_attr.simulation.engine import Trainer
    from dist_attr.simulation.recipe import training_step

    trained: dict[str, Any] = {key: case.pop(key) for key in ("lora", "include") if key in case}
    training = TrainingConfig(**{**COMMON, **case})
    batches = small_batches(STEPS, 8)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0])

    def trainer(theta: Tensor | None = None) -> Trainer:
        model = small_model("gpt2", trained=trained)
        if theta is not None:
            training_step(model, training).space.write(model, theta)
        return Trainer(model, training, rank, workers)

    whole = trainer()
    step = training_step(whole.whole, training)
    start = whole.parameters()
    simulated, middle = step.initial(start), step.initial(start)
    for number, batch in enumerate(batches):
        if number == BREAK:
            middle = whole.state()
        whole.step(batch, weights, number)
        simulated = step(simulated, weights, batch, number)
    end = whole.state()
    restored = trainer(middle.theta)
    restored.restore(middle, batches[0], BREAK)
    at_once = restored.state()
    for number in range(BREAK, STEPS):
        restored.step(batches[number], weights, number)
    return {
        "parameters": float((simulated.theta - end.theta).norm() / (end.theta - start).norm()),
        "slots": [float((a - b).norm() / b.norm()) for a, b in zip(simulated.slots, end.slots, strict=True)],
        "moved": float((end.theta - start).norm() / start.norm()),
        "restored": equal(at_once, middle),
        "continued": equal(restored.state(), end),
    }


def equal(one: TrainState, other: TrainState) -> bool:
    """Bit for bit."""
    pairs = zip((one.theta, *one.slots), (other.theta, *other.slots), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module", params=WORKERS)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    report = tmp_path_factory.mktemp("engine") / "seen.json"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(worker, (request.param, port, str(report)), nprocs=request.param)
    result: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return result


@pytest.mark.parametrize("case", CASES)
def test_law_4_the_engine_takes_the_steps_of_the_functional_step(case: str, seen: dict[str, Any]) -> None:
    tolerance = 2e-2 if "bf16" in case else 1e-3 if "torch" in case else 1e-5
    assert seen[case]["parameters"] < tolerance
    assert all(difference < tolerance for difference in seen[case]["slots"])
    assert seen[case]["moved"] > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_law_5_restored_from_its_state_it_goes_on_bit_for_bit(case: str, seen: dict[str, Any]) -> None:
    assert seen[case]["restored"] and seen[case]["continued"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": {"type": "AdamW"}}, "optimizer is refused: set training.optimizer"),
        ({"fp16": {"enabled": True}}, "fp16 is refused: its loss scaling"),
        ({"curriculum_learning": {"enabled": True}}, "curriculum_learning is refused"),
        ({"gradient_clipping": 3.0}, r"gradient_clipping is 3.0, but the run's own settings make it 0.5"),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage is 2, but"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "zero_quantized_gradients is refused"),
        ({"zero_optimization": {"compute_grad_norm": False}}, "compute_grad_norm is refused: clipping"),
        ({"zero_optimization": 2}, "zero_optimization is 2; it has to be a mapping"),
        ({"bf16": {"bf16_master_weights_and_grads": True}}, "bf16_master_weights_and_grads is refused"),
        ({"communication_data_type": "fp16"}, "communication_data_type is refused"),
    ],
)
def test_what_would_make_the_simulation_wrong_is_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        deepspeed_settings(TrainingConfig(**COMMON, deepspeed=settings), workers=2)


def test_a_users_own_configuration_is_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "deepspeed.json"
    own = {"train_batch_size": "auto", "gradient_clipping": 0.5, "zero_optimization": {"reduce_bucket_size": 1000}}
    file.write_text(json.dumps(own), encoding="utf-8")
    training = TrainingConfig.model_validate({**COMMON, "deepspeed": str(file), "zero_stage": 2})
    settings = deepspeed_settings(training, workers=2)
    assert settings["zero_optimization"] == {
        "reduce_bucket_size": 1000,
        "memory_efficient_linear": False,
        "stage": 2,
    }
    assert (settings["train_batch_size"], settings["train_micro_batch_size_per_gpu"]) == (8, 4)
    with pytest.raises(ValueError, match="cannot read DeepSpeed's configuration"):
        TrainingConfig.model_validate({**COMMON, "deepspeed": str(tmp_path / "none.json")})
