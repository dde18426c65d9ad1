"""What may be asked of an evaluation, and the subsets it comes down to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dist_attr.config import EvaluationConfig
from dist_attr.errors import ConfigError
from dist_attr.evaluation.evaluate import subsets_of

ALL = np.ones(6, np.bool_)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"truth": "any such run", "runs": 3}, "needs 4 runs or more, not 3"),
        ({"runs": 5}, "runs belongs to the truth of any such run"),
        ({"protocol": "leave-source-out", "drop": 2}, "drop belongs to lds; leave it out with leave-source-out"),
        ({"protocol": "tail-patch", "truth": "any such run"}, "truth belongs to lds and leave-source-out"),
        ({"top": 2}, "top belongs to tail-patch"),
        ({"drop": 2.5}, "a number of sources, or a share of them below 1, not 2.5"),
        ({"drop": 0}, "drop: Input should be greater than 0"),
        ({"subsets": 2}, "subsets: Input should be greater than or equal to 3"),
        ({"protocol": "loo"}, "protocol: Input should be 'lds', 'leave-source-out' or 'tail-patch'"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig.parse(values)


@pytest.mark.parametrize(
    ("values", "subsets", "dropped"),
    [
        ({}, 15, 2),
        ({"drop": 3}, 20, 3),
        ({"drop": 0.5, "subsets": 8}, 8, 3),
        ({"drop": 0.01}, 6, 1),
        ({"protocol": "leave-source-out"}, 6, 1),
        ({"protocol": "leave-source-out", "subsets": 4}, 4, 1),
    ],
)
def test_subsets(values: dict[str, Any], subsets: int, dropped: int) -> None:
    found = subsets_of(EvaluationConfig.parse(values), ALL)
    assert found.shape == (subsets, 6)
    assert (found.sum(axis=1) == dropped).all()
    assert len({row.tobytes() for row in found}) == subsets


def test_more_subsets_contain_the_fewer_that_were_retrained_before() -> None:
    few, many = (subsets_of(EvaluationConfig(subsets=number), ALL) for number in (5, 11))
    assert {row.tobytes() for row in few} < {row.tobytes() for row in many}


def test_a_source_that_weighed_nothing_is_not_dropped() -> None:
    droppable = np.array([True, True, False, True, True])
    found = subsets_of(EvaluationConfig(drop=0.5), droppable)
    assert (found.sum(axis=1) == 2).all() and len(found) == 6 and not found[:, 2].any()


@pytest.mark.parametrize(
    ("values", "sources", "message"),
    [
        ({"subsets": 16}, 6, "15 different ways to drop 2 of 6 sources, and --subsets asks for 16"),
        ({"protocol": "leave-source-out", "subsets": 7}, 6, "6 different ways to drop 1 of 6"),
        ({"drop": 6}, 6, "leaves none of the 6 sources to train on"),
        ({"drop": 9}, 6, "leaves none of the 6 sources to train on"),
        ({"protocol": "leave-source-out"}, 2, "needs 3 subsets or more, and 2 sources have 2"),
    ],
)
def test_subsets_that_do_not_exist_are_refused(values: dict[str, Any], sources: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        subsets_of(EvaluationConfig.parse(values), np.ones(sources, np.bool_))
