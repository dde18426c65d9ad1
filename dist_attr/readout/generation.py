"""What the model itself answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dist_attr.corpus import encode, end_of_text_id
from dist_attr.errors import QueryError
from dist_attr.readout.engine import ReadoutEngine
from dist_attr.readout.query import EncodedQuery


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_tokens: length of the answer, unless the model ends it before.
        temperature: 0 takes the likeliest token each time.
        top_p: the likeliest tokens that together have this probability are drawn from.
        seed: of the draw; none: another each time.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@torch.no_grad()
def generate(engine: ReadoutEngine, prompt: str, sampling: Sampling) -> tuple[EncodedQuery, bool]:
    """An answer of at least one token, and whether the model ended it itself. The end-of-text token is left out.

    Raises:
        QueryError: prompt and answer do not fit the model's context, or the prompt is not Unicode.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"the prompt is not valid Unicode: {error}") from error
    end = end_of_text_id(engine.tokenizer)
    given = encode(engine.tokenizer, prompt) or [end]
    if len(given) + sampling.max_tokens > engine.context + 1:
        raise QueryError(
            f"prompt ({len(given)} tokens) and max_tokens ({sampling.max_tokens}) do not fit the model's context of "
            f"{engine.context} tokens; ask for fewer tokens, or shorten the prompt from its beginning"
        )
    tokens = torch.tensor([given], device=engine.device)
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    with torch.random.fork_rng(devices=[engine.device] if engine.device.type == "cuda" else []):
        torch.seed() if sampling.seed is None else torch.manual_seed(sampling.seed)
        found = engine.module.generate(  # type: ignore[operator]
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=sampling.max_tokens,
            min_new_tokens=1,  # an answer without tokens could not be attributed
            eos_token_id=end,
            pad_token_id=end,
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
        )[0].tolist()
    ended = found[-1] == end and len(found) > len(given) + 1
    return EncodedQuery(tuple(found[:-1] if ended else found), len(given)), ended
