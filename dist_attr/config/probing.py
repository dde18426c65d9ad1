"""How documents are put into the prompt, and which."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from dist_attr.config.base import Settings

DOCUMENT, PROMPT = "{document}", "{prompt}"
TEMPLATE = f"These examples may be helpful to answer the question:\n\n{DOCUMENT}\n\n{PROMPT}"

ChoiceName = Literal["bm25", "random"]


class ProbeConfig(Settings):
    """In-context probing: which documents of each source go into the prompt, and how."""

    documents: int = Field(3, ge=1, le=64, description="of each source")
    choose: ChoiceName = Field("bm25", description="those most like the query by BM25, or the same random ones for all")
    seed: int = Field(0, ge=0, description="of the random choice")
    window: int | None = Field(
        None, ge=1, description="tokens of a document in the prompt at once; by default half of the model's context"
    )
    template: str = Field(
        TEMPLATE,
        max_length=100_000,
        description="holds {document} and after it {prompt}, each once; other braces mean themselves",
    )
    chat: bool = Field(False, description="the filled template is a user's message in the model's own chat template")

    @field_validator("template")
    @classmethod
    def _has_its_fields(cls, template: str) -> str:
        for field in (DOCUMENT, PROMPT):
            if (times := template.count(field)) != 1:
                raise ValueError(f"a template holds {field} once, and {template!r} holds it {times} times")
        if template.index(PROMPT) < template.index(DOCUMENT):
            raise ValueError(f"{DOCUMENT} stands before {PROMPT}: what follows a document shares the work done for it")
        return template

    @property
    def pieces(self) -> tuple[str, str, str]:
        """The template before the document, between document and prompt, and after the prompt."""
        before, _, rest = self.template.partition(DOCUMENT)
        between, _, after = rest.partition(PROMPT)
        return before, between, after
