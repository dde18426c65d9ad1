"""`dist-attr inspect`: what a store holds."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    as_json: Annotated[bool, typer.Option("--json", help="the manifest and the sources table as JSON")] = False,
) -> None:
    """Show what an influence store holds: its sources, its model, how it was made, what it would take in another codec.

    Of an unfinished store: which sources are there, and which are missing.

    Example: [bold]dist-attr inspect runs/demo/influence.zarr[/]
    """
    import json

    from dist_attr.display import bytes_in_each_codec, show_store
    from dist_attr.store import Place, UnfinishedStore, store_at

    found = store_at(Place(store))
    if as_json:
        facts = {
            "url": store,
            "bytes": found.stored_bytes,
            "bytes_in_each_codec": bytes_in_each_codec(found),
            "missing": found.missing if isinstance(found, UnfinishedStore) else [],
            **found.manifest.model_dump(mode="json"),
            "sources": [record.model_dump(mode="json") for record in found.records],
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        show_store(found)
