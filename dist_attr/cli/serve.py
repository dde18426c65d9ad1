"""`dist-attr serve`: answer queries over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def serve(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    shards: Annotated[int, typer.Option(min=1, help="readout shards, each with its part of the sources")] = 2,
    hold: Annotated[
        Literal["sources", "basis", "both"] | None,
        typer.Option(help="what shards keep in memory", show_default="both, if the store is calibrated"),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="where the run's documents are now, for in-context probing", show_default="where the run read them"
        ),
    ] = None,
    probing: Annotated[
        bool, typer.Option(help="answer probes too; costs memory from the first one on: model and documents")
    ] = True,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="bf16: the linear readout only")] = "fp32",
    replicas: Annotated[int, typer.Option(min=1, help="copies of all shards")] = 1,
    most_replicas: Annotated[
        int | None, typer.Option(min=1, help="start more copies under load, up to so many", show_default="none")
    ] = None,
    ingresses: Annotated[int, typer.Option(min=1, help="processes that speak HTTP")] = 1,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="longest time for an answer, seconds")] = 60.0,
    keys_file: Annotated[
        str | None, typer.Option(help="bearer keys, one a line", show_default="DIST_ATTR_KEYS, or none", metavar="FILE")
    ] = None,
    surge: Annotated[
        bool, typer.Option(help="at a change of store start the new shards before the old ones stop")
    ] = True,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
    detach: Annotated[
        bool, typer.Option("--detach", help="leave the service running, on the cluster that RAY_ADDRESS names")
    ] = False,
) -> None:
    """Serve a store over HTTP until Ctrl-C: a page at /, the API at /docs.

    Where the cluster that RAY_ADDRESS names serves already, it changes to this store without a pause.

    Example: [bold]dist-attr serve runs/demo/influence.zarr --shards 2[/]

    Example: [bold]RAY_ADDRESS=auto dist-attr serve s3://bucket/new/influence.zarr --shards 8 --detach[/]
    """
    import os
    import signal
    import threading
    from pathlib import Path

    from pydantic import ValidationError
    from rich.console import Console

    from dist_attr.config import ProbeConfig, ServiceConfig
    from dist_attr.errors import ConfigError
    from dist_attr.serving import deploy, stop

    if detach and "RAY_ADDRESS" not in os.environ:
        raise typer.BadParameter("--detach needs a cluster that goes on running; name it with RAY_ADDRESS")
    try:
        config = ServiceConfig(
            store=store,
            corpus=corpus,
            probing=ProbeConfig() if probing else None,
            shards=shards,
            hold=hold,
            precision=precision,
            replicas=replicas,
            most_replicas=most_replicas,
            ingresses=ingresses,
            timeout=timeout,
            keys_file=None if keys_file is None else str(Path(keys_file).absolute()),
            surge=surge,
        )
    except ValidationError as error:
        raise ConfigError("; ".join(str(item["msg"]) for item in error.errors(include_url=False))) from error
    console = Console(stderr=True)
    with console.status("starting the service"):
        deploy(config, host=host, port=port)
    where = f"serving {store} at http://{host}:{port} (page at /, API at /docs)"
    if detach:
        console.print(where)
        return
    console.print(f"{where}, Ctrl-C stops")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    with console.status("stopping"):
        stop()
