"""`dist-attr query`: which sources made this completion likelier."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from dist_attr.serving.schemas import AttributionRequest, AttributionResponse


def query(
    completion: Annotated[str, typer.Option(help="what the model said; its tokens are scored")],
    store: Annotated[
        str | None, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE", show_default=False)
    ] = None,
    prompt: Annotated[str, typer.Option(help="what the model was given")] = "",
    baseline: Annotated[
        str | None,
        typer.Option(help="another completion; scores are then of what was said rather than that", show_default=False),
    ] = None,
    readout: Annotated[
        Literal["linear", "central-difference", "counterfactual"],
        typer.Option(help="derivative by source weight (two ways), or what the answer would lose without the source"),
    ] = "linear",
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="read out so many directions of the store's basis only", show_default="exact"),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="show so many sources only", show_default="all")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="ask a running service instead of reading a store", metavar="URL")
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option(help="environment variable with the service's key", metavar="NAME", show_default="DIST_ATTR_KEY"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the answer as JSON, as the service gives it")] = False,
) -> None:
    """Score the sources of a store for one completion, token by token.

    With --rank the scores are reckoned from a few directions and have standard errors; see dist-attr calibrate.

    Examples:
    [bold]dist-attr query runs/demo/influence.zarr --prompt "The state of" --completion " the Union"[/]
    [bold]dist-attr query runs/demo/influence.zarr --prompt "I will" --completion " veto" --baseline " sign"[/]
    [bold]dist-attr query --endpoint http://127.0.0.1:8000 --completion " the Union" --top 5[/]
    """
    if (store is None) == (endpoint is None):
        raise typer.BadParameter("give either a STORE or an --endpoint")
    from dist_attr.display import show_answer
    from dist_attr.serving.batches import valid
    from dist_attr.serving.schemas import AttributionRequest

    asked = {"prompt": prompt, "completion": completion, "baseline": baseline}
    options = {"readout": readout, "rank": rank, "top": top, "tokens": True}
    request = valid(AttributionRequest, {"queries": [asked], **options})
    answer = _ask(endpoint, key_env, request) if endpoint is not None else _read(str(store), request)
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
    else:
        show_answer(answer, request)


def _read(store: str, request: AttributionRequest) -> AttributionResponse:
    from dist_attr.serving.answers import read_locally
    from dist_attr.store import open_store

    return read_locally(open_store(store), request)


def _ask(endpoint: str, key_env: str | None, request: AttributionRequest) -> AttributionResponse:
    from dist_attr.errors import ConfigError
    from dist_attr.serving.client import Client

    if key_env is not None and key_env not in os.environ:
        raise ConfigError(f"--key-env names {key_env}, and there is no such environment variable; set it to the key")
    with Client(endpoint, key=None if key_env is None else os.environ[key_env].strip()) as client:
        return client.attribute(
            request.queries, readout=request.readout, rank=request.rank, top=request.top, tokens=request.tokens
        )
