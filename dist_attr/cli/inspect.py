"""`dist-attr inspect`: what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    as_json: Annotated[bool, typer.Option("--json", help="the manifest and the sources table as JSON")] = False,
) -> None:
    """Show what an influence store holds: its sources, its model, how it was made.

    Example: [bold]dist-attr inspect runs/demo/influence.zarr[/]
    """
    import json

    from dist_attr.display import show_store
    from dist_attr.store import open_store

    opened = open_store(store)
    if as_json:
        sources = [record.model_dump(mode="json") for record in opened.records]
        facts = {"url": store, "bytes": opened.stored_bytes, **opened.manifest.model_dump(mode="json")}
        typer.echo(json.dumps({**facts, "sources": sources}, indent=2))
    else:
        show_store(opened)
