"""The template: what it must hold, and what its other characters mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dist_attr.config import ProbeConfig

TEXT = st.text(st.characters(codec="utf-8"), max_size=30).filter(lambda text: "{" not in text)


@given(before=TEXT, between=TEXT, after=TEXT)
def test_a_template_is_its_pieces(before: str, between: str, after: str) -> None:
    config = ProbeConfig(template=f"{before}{{document}}{between}{{prompt}}{after}")
    assert config.pieces == (before, between, after)


def test_other_braces_mean_themselves() -> None:
    config = ProbeConfig(template='{"text": "{document}", "{x}": "{prompt}"}')
    assert config.pieces == ('{"text": "', '", "{x}": "', '"}')


def test_the_default_is_the_papers() -> None:
    before, between, after = ProbeConfig().pieces
    assert before == "These examples may be helpful to answer the question:\n\n" and (between, after) == ("\n\n", "")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"template": "{prompt}"}, r"holds \{document\} once, .* 0 times"),
        ({"template": "{document}"}, r"holds \{prompt\} once, .* 0 times"),
        ({"template": "{document}{document}{prompt}"}, r"holds \{document\} once, .* 2 times"),
        ({"template": "{prompt}{document}"}, r"\{document\} stands before \{prompt\}"),
        ({"documents": 0}, "documents"),
        ({"documents": 65}, "documents"),
        ({"choose": "best"}, "choose"),
        ({"window": 0}, "window"),
        ({"seed": -1}, "seed"),
        ({"k": 3}, "k"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ProbeConfig.model_validate(values)
