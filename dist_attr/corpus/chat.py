"""Messages as a chat model's own template has them."""

from __future__ import annotations

from dist_attr.corpus.tokenizer import Tokenizer
from dist_attr.errors import ConfigError

_MARK = "\ue000"  # for private use, so that it is in no text but by accident


def user_message(tokenizer: Tokenizer, before: str, after: str = "") -> tuple[str, str]:
    """A user's message up to the point where the model answers, split in the middle of the message.

    Args:
        tokenizer: of a chat model.
        before: the message's text before the split.
        after: the rest of it.

    Raises:
        ConfigError: the tokenizer has no chat template, or one that does not take a message as it is.
    """
    if not tokenizer.chat_template:
        raise ConfigError("the model's tokenizer has no chat template; leave chat out for a model that is not a chat's")
    mark = _MARK
    while mark in before + after:
        mark += _MARK
    try:
        filled = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{before}{mark}{after}"}], add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program, and may raise whatever it likes
        raise ConfigError(f"the tokenizer's chat template does not take a user's message: {error}") from error
    if filled.count(mark) != 1:
        raise ConfigError("the tokenizer's chat template changes or repeats a user's message; leave chat out")
    first, _, rest = filled.partition(mark)
    return first, rest
