"""The prompts of a probe, as tokens."""

from __future__ import annotations

from dataclasses import dataclass

from dist_attr.config import ProbeConfig
from dist_attr.corpus import Tokenizer, encode, user_message
from dist_attr.errors import ConfigError, QueryError
from dist_attr.probing.passages import Passage
from dist_attr.readout import EncodedQuery, Query, encode_query

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """What the model reads.

    Attributes:
        prefix: tokens that other readings may begin with too; may be none.
        shared: how many of its first tokens the prefixes of other passages have in common with it.
        tail: at least two tokens after it.
        scored: how many of the last tokens are the completion's, less than there are in the tail.
    """

    prefix: Tokens
    shared: int
    tail: Tokens
    scored: int

    @classmethod
    def alone(cls, query: EncodedQuery) -> Reading:
        """A query without anything before it."""
        return cls((), 0, query.tokens, len(query.completion))


@dataclass(frozen=True)
class Prompted:
    """A query, ready to be put after passages.

    Attributes:
        number: of the query, for errors.
        plain: prompt and completion without a passage.
        before: the template before the passage.
        after: the template behind it, with the prompt; may be empty.
    """

    number: int
    plain: EncodedQuery
    before: Tokens
    after: Tokens


class Prompts:
    """The template, and how queries and passages are put into it.

    Args:
        tokenizer: of the model.
        config: template and window.
        context: tokens that the model reads at once.

    Attributes:
        window: tokens of a passage.

    Raises:
        ConfigError: the window leaves no room for a completion, or there is no chat template to use.
    """

    def __init__(self, tokenizer: Tokenizer, config: ProbeConfig, context: int) -> None:
        self.window = config.window or max(1, context // 2)
        self._tokenizer, self._config, self._context = tokenizer, config, context
        before, after = self._around("")
        if (needed := len(before) + self.window + len(after)) > context:
            raise ConfigError(
                f"a window of {self.window} tokens and the template's {len(before) + len(after)} leave no room for a "
                f"query in the model's context of {context} tokens; take a window of less than "
                f"{self.window - needed + context} tokens, or a shorter template"
            )

    def of(self, query: Query, number: int) -> Prompted:
        """The tokens of a query. Raises QueryError as `encode_query` does, and where the query has a baseline."""
        if query.baseline is not None:
            raise QueryError(
                f"query {number}: in-context probing does not compare with a baseline; leave it out, or probe it as "
                "the completion of a query of its own"
            )
        plain = encode_query(query, self._tokenizer, self._context, number)
        if self._config.chat:
            asked = query.model_copy(update={"prompt": "".join(user_message(self._tokenizer, query.prompt))})
            plain = encode_query(asked, self._tokenizer, self._context, number)
        return Prompted(number, plain, *self._around(query.prompt))

    def after(self, passage: Passage, query: Prompted) -> Reading:
        """A query after a passage.

        Raises:
            QueryError: together they do not fit the model's context.
        """
        before = (*query.before, *passage.tokens)
        completion = query.plain.completion
        # The last token is predicted, not read.
        if len(before) + len(query.after) + len(completion) > self._context + 1:
            raise QueryError(
                f"query {query.number}: the passage ({len(passage.tokens)} tokens), the template with the prompt "
                f"({len(query.before) + len(query.after)}) and the completion ({len(completion)}) do not fit the "
                f"model's context of {self._context} tokens; shorten the prompt from its beginning, or take a smaller "
                f"window (--window) than {self.window} tokens"
            )
        cut = len(before) - (not query.after)  # the completion's first token is predicted from one that is read
        return Reading(before[:cut], len(query.before), (*before[cut:], *query.after, *completion), len(completion))

    def _around(self, prompt: str) -> tuple[Tokens, Tokens]:
        """The tokens before a passage and behind it."""
        first, middle, last = self._config.pieces
        rest = f"{middle}{prompt}{last}"
        if self._config.chat:
            first, rest = user_message(self._tokenizer, first, rest)
        return tuple(encode(self._tokenizer, first)), tuple(encode(self._tokenizer, rest))
