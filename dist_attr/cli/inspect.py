"""`dist-attr inspect`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dist_attr.store import InfluenceStore


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
    from dist_attr.store import InfluenceStore, Place, UnfinishedStore, store_at

    found = store_at(Place(store))
    if as_json:
        facts = {
            "url": store,
            "bytes": found.stored_bytes,
            "bytes_in_each_codec": bytes_in_each_codec(found),
            "missing": found.missing if isinstance(found, UnfinishedStore) else [],
            "basis": _basis(found) if isinstance(found, InfluenceStore) else None,
            **found.manifest.model_dump(mode="json"),
            "sources": [record.model_dump(mode="json") for record in found.records],
        }
        typer.echo(json.dumps(facts, indent=2))
    else:
        show_store(found)


def _basis(store: InfluenceStore) -> dict[str, Any] | None:
    """A basis's manifest, or what is wrong with it."""
    from dist_attr.errors import DamagedError
    from dist_attr.store import open_basis

    try:
        basis = open_basis(store)
    except DamagedError as error:
        return {"damaged": str(error)}
    return None if basis is None else {"rank": basis.manifest.rank, **basis.manifest.model_dump(mode="json")}
