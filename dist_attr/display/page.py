"""An answer as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dist_attr.display.fidelity import fidelity_in_words

if TYPE_CHECKING:
    from dist_attr.serving.schemas import AttributionRequest, AttributionResponse


def write_page(
    path: Path, request: AttributionRequest, answer: AttributionResponse, facts: Mapping[str, str] | None = None
) -> None:
    """Write the answer with ranked sources and coloured tokens; `facts` are named lines below it."""
    page = render(
        "answer.html.j2",
        answer=answer,
        queries=list(zip(request.queries, answer.results, strict=True)),
        facts=facts or {},
        fidelity=fidelity_in_words(answer.fidelity.measured),
    )
    path.write_text(page, encoding="utf-8")


def render(template: str, filters: Mapping[str, Callable[..., str]] | None = None, /, **values: Any) -> str:
    """A template of this room with these filters and values, every text of which is escaped."""
    environment = Environment(
        loader=PackageLoader("dist_attr.display"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(**values)
