"""Queries, and the tokens they are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from dist_attr.config import Settings
from dist_attr.corpus import Tokenizer, encode, end_of_text_id
from dist_attr.errors import QueryError


class Query(Settings):
    """A prompt and a completion; the completion's tokens are scored. The prompt may be empty.

    With a baseline, scores are of the completion rather than the baseline: what a source did to the difference of their
    log-probabilities.
    """

    prompt: str = Field("", description="what the model was given", max_length=1_000_000)
    completion: str = Field(description="what the model said; its tokens are scored", max_length=1_000_000)
    baseline: str | None = Field(
        None, description="another completion of the same prompt, to compare with", max_length=1_000_000
    )

    @property
    def against(self) -> Query | None:
        """The baseline as a query of its own."""
        return None if self.baseline is None else Query(prompt=self.prompt, completion=self.baseline)


@dataclass(frozen=True)
class EncodedQuery:
    """Token ids, of which those from `start` on are the completion's."""

    tokens: tuple[int, ...]
    start: int

    @property
    def completion(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.tokens[self.start :]


def encode_query(
    query: Query, tokenizer: Tokenizer, context: int, number: int = 0, what: str = "completion"
) -> EncodedQuery:
    """The tokens of a query.

    Args:
        query: what is asked.
        tokenizer: of the model.
        context: how many tokens the model reads at once; the last token of a query is predicted, not read.
        number: of the query, for the error.
        what: the completion is called in the error.

    Raises:
        QueryError: the completion is empty, the text is not Unicode, or the query is longer than the context.
    """
    try:
        query.prompt.encode(), query.completion.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"query {number}: the text is not valid Unicode: {error}") from error
    completion = encode(tokenizer, query.completion)
    if not completion:
        raise QueryError(f"query {number}: the {what} is empty, there is nothing to score")
    prompt = encode(tokenizer, query.prompt) or [end_of_text_id(tokenizer)]
    if len(prompt) + len(completion) > context + 1:
        raise QueryError(
            f"query {number}: prompt ({len(prompt)} tokens) and {what} ({len(completion)} tokens) do not fit the "
            f"model's context of {context} tokens; shorten the prompt from its beginning, or split the {what}"
        )
    return EncodedQuery((*prompt, *completion), len(prompt))


def encode_queries(
    queries: Sequence[Query], tokenizer: Tokenizer, context: int
) -> tuple[list[EncodedQuery], list[EncodedQuery | None]]:
    """The tokens of some queries, and of their baselines; none where there is none. Raises as `encode_query` does."""
    encoded = [encode_query(query, tokenizer, context, i) for i, query in enumerate(queries)]
    baselines = [
        None if query.against is None else encode_query(query.against, tokenizer, context, i, "baseline")
        for i, query in enumerate(queries)
    ]
    return encoded, baselines
