"""`dist-attr merge`: stores of one run as one store."""

from __future__ import annotations

from typing import Annotated

import typer


def merge(
    stores: Annotated[list[str], typer.Argument(help="two or more finished stores of one run", metavar="STORE STORE")],
    target: Annotated[str, typer.Argument(help="where to, a path or any fsspec URL", metavar="TARGET")],
    model: Annotated[bool, typer.Option("--model/--no-model", help="copy the model beside the first too")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="what was merged as JSON")] = False,
) -> None:
    """Write the sources of several stores of one run into one store; each of them stays as it is.

    Started again, an interrupted merge goes on.

    Example: [bold]dist-attr merge runs/a/influence.zarr runs/b/influence.zarr runs/all/influence.zarr[/]
    """
    import json
    import time

    from dist_attr.cli.interruption import interruptible
    from dist_attr.display import rows_progress
    from dist_attr.store import Place, merge_stores, open_store

    if len(stores) < 2:
        raise typer.BadParameter("give two or more stores, and then the place of the new one")
    opened = [open_store(store) for store in stores]
    names = {record.name for store in opened for record in store.records}
    row_bytes = opened[0].codec.bytes(opened[0].manifest.space.size)
    with interruptible(f"{target} is unfinished; the same command goes on"):
        started = time.monotonic()
        with rows_progress("merging", len(names), row_bytes) as progress:
            merge_stores(opened, Place(target), model=model, progress=progress)
        seconds = time.monotonic() - started
    if as_json:
        made = open_store(target)
        facts = {"url": target, "identity": made.manifest.identity, "sources": made.sources, "seconds": seconds}
        typer.echo(json.dumps({**facts, "bytes": made.stored_bytes}, indent=2))
    else:
        typer.echo(target)
