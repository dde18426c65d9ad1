"""`dist-attr serve`: answer queries over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer


def serve(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    shards: Annotated[int, typer.Option(min=1, help="readout shards, each with its part of the sources")] = 2,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 8000,
) -> None:
    """Serve a store over HTTP until Ctrl-C: POST /v1/attributions, GET /v1/sources, GET /healthz, docs at /docs.

    Example: [bold]dist-attr serve runs/demo/influence.zarr --shards 2[/]
    """
    import signal
    import threading

    from rich.console import Console

    from dist_attr.serving import deploy, stop

    console = Console(stderr=True)
    with console.status("starting the service"):
        deploy(store, shards=shards, host=host, port=port)
    console.print(f"serving {store} at http://{host}:{port} (API at /docs), Ctrl-C stops")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    with console.status("stopping"):
        stop()
