"""Where the states of sources lie: the decision, the stacks, and that the result is the same bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import torch

from dist_attr.config import SimulationConfig
from dist_attr.errors import SimulationError
from dist_attr.influence import Levers, Simulator, Stack, beside_the_run, make_simulator
from dist_attr.simulation.placement import HOST, Budget, Placement, free_host_memory, place
from dist_attr.simulation.probe import PassCost
from tests.runs import SOURCES, Run, small_run

CPU, CUDA, MB = torch.device("cpu"), torch.device("cuda"), 2**20
METHODS: dict[str, dict[str, Any]] = {
    "trajectory": {"method": "trajectory"},
    "central": {"method": "trajectory", "central": True, "levers": Levers(curvature_share=0.5)},
    "tangent": {"method": "tangent"},
    "levers": {"method": "tangent", "levers": Levers(horizon=2, stride=2, curvature_share=0.5)},
}


def simulator(run: Run, stack: Stack, method: Literal["trajectory", "tangent"], **settings: Any) -> Simulator:
    weights = torch.ones(SOURCES, dtype=torch.float64)
    return make_simulator(
        method, run.step, run.start, weights, [3, 0, 2, 1], sources_per_pass=3, stack=stack, **settings
    )


@pytest.mark.parametrize("method", METHODS)
def test_parked_states_give_the_same_bit_for_bit(method: str, tmp_path: Path) -> None:
    run = small_run()
    parked = Placement(1, 1, str(tmp_path)).stack
    beside, before, after = (simulator(run, stack, **METHODS[method]) for stack in (beside_the_run, parked, parked))
    for number, batch in enumerate(run.batches):
        beside.advance(batch, number)
        if number < 3:
            before.advance(batch, number)
    after.resume(*before.snapshot())
    for number, batch in enumerate(run.batches[3:], start=3):
        after.advance(batch, number)
    assert torch.equal(after.tangents(), beside.tangents())
    assert torch.equal(after.parameters, beside.parameters)
    for number in range(SOURCES):
        assert torch.equal(after.tangent(number), beside.tangents()[number])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_states_of_a_gpu_parked_on_the_host_give_the_same(method: str) -> None:
    run = small_run()
    run.model.to(CUDA)
    run = replace(run, theta=run.theta.to(CUDA), batches=[batch.to(CUDA) for batch in run.batches])
    weights = torch.ones(SOURCES, dtype=torch.float64, device=CUDA)
    settings = {**METHODS[method], "sources_per_pass": 3}
    beside, parked = (
        make_simulator(
            training_step=run.step, start=run.start, weights=weights, sources=[3, 0, 2, 1], stack=stack, **settings
        )
        for stack in (beside_the_run, Placement(1, 1, HOST).stack)
    )
    for number, batch in enumerate(run.batches):
        beside.advance(batch, number)
        parked.advance(batch, number)
    assert torch.equal(parked.tangents().cpu(), beside.tangents().cpu())
    assert parked.parameters.device.type == "cuda"


def test_a_parked_file_has_no_name_and_its_room_is_taken_at_once(tmp_path: Path) -> None:
    stack = Placement(1, 1, str(tmp_path)).stack(3, torch.zeros(MB))
    assert list(tmp_path.iterdir()) == []
    (mapped,) = [part for part in psutil.Process().memory_maps(grouped=True) if str(tmp_path) in part.path]
    assert mapped.size == stack.nbytes == 12 * MB
    assert stack.shape == (3, MB) and not stack.any()
    stack[1] = 1.0
    assert stack.sum() == MB
    del stack
    assert not [part for part in psutil.Process().memory_maps(grouped=True) if str(tmp_path) in part.path]


def test_rows_that_were_never_written_take_no_memory() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    stack = beside_the_run(1024, torch.zeros(MB))
    assert not stack[:4].any() and process.memory_info().rss - before < 64 * MB
    stack[7:39] = 1.0
    assert 120 * MB < process.memory_info().rss - before < 200 * MB


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(SimulationError, match=r"cannot be parked in .*missing: .*set simulation.parking"):
        Placement(1, 1, str(folder)).stack(1, torch.zeros(1))
    with pytest.raises(SimulationError, match=r"simulation.parking: the folder .*missing cannot be used"):
        place(SimulationConfig(parking=str(folder)), CPU, Budget(100, 100, 1), PassCost(1, 1.0, 10), 10, 20)


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="a folder of Linux that is held in memory")
def test_a_folder_that_is_held_in_memory_is_refused() -> None:
    settings = SimulationConfig(parking="/dev/shm")
    with pytest.raises(SimulationError, match=r"folder /dev/shm is itself held in memory; set simulation.parking"):
        place(settings, CPU, Budget(100, 100, 1), PassCost(1, 1.0, 10), 10, 20)


def test_states_stay_beside_the_run_as_long_as_they_fit(tmp_path: Path) -> None:
    settings, cost, folder = SimulationConfig(parking=str(tmp_path)), PassCost(2, 1.0, 10), str(tmp_path)
    assert place(settings, CPU, Budget(210, 0, 1), cost, 10, 20) == Placement(200, 10)
    assert place(settings, CPU, Budget(209, 0, 1), cost, 10, 20) == Placement(200, 10, folder)
    assert place(settings, CUDA, Budget(209, 200, 1), cost, 10, 20) == Placement(200, 90, HOST)
    assert place(settings, CUDA, Budget(209, 199, 1), cost, 10, 20) == Placement(200, 90, folder)
    assert Placement(200, 10).device_bytes == 210 and Placement(200, 10, folder).device_bytes == 10


def test_what_has_no_room_is_refused_with_what_it_needs() -> None:
    cost = PassCost(4, 1.0, 2**30)
    with pytest.raises(SimulationError, match=r"over 4 source\(s\) needs 1 GiB, and an actor has 0.5 GiB"):
        place(SimulationConfig(), CPU, Budget(2**29, 0, 1), cost, 10, 2**30)
    with pytest.raises(SimulationError, match=r"one actor take 1e\+06 GiB.*Set simulation.parking"):
        place(SimulationConfig(), CPU, Budget(2**30, 0, 1), cost, 10**6, 2**30)


def test_the_budget_is_what_is_set_or_a_share_of_what_is_free() -> None:
    assert Budget.of(CPU, SimulationConfig(memory_gib=0.5), actors=3).device == 2**29
    free = free_host_memory()
    assert 0 < free <= psutil.virtual_memory().total
    shared = Budget.of(CPU, SimulationConfig(), actors=2)
    assert shared.device == shared.host == pytest.approx(0.45 * free, rel=0.1)
    assert Budget.of(CPU, SimulationConfig(), actors=2, promised=MB).device < shared.host
