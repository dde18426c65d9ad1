"""`dist-attr rm`: remove a store, and nothing else."""

from __future__ import annotations

from typing import Annotated

import typer


def rm(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="what was removed as JSON; needs --yes")] = False,
) -> None:
    """Remove a store, finished, unfinished or damaged, after showing it and asking.

    The model beside it stays, and so does whatever else lies in its folder. What is no influence store is refused.

    Example: [bold]dist-attr rm runs/old/influence.zarr[/]
    """
    import json

    from rich.filesize import decimal

    from dist_attr.cli.interruption import interruptible
    from dist_attr.errors import StoreError
    from dist_attr.store import InfluenceStore, Place, parts_of, remove_store, store_at

    if as_json and not yes:
        raise typer.BadParameter("--json asks nothing: it needs --yes")
    place = Place(store)
    size, identity, sources = sum(parts_of(place).values()), None, None
    try:
        found = store_at(place)
        identity, sources = found.manifest.identity, len(found.records)
        state = "finished" if isinstance(found, InfluenceStore) else "unfinished"
    except StoreError as error:  # a damaged store is removed too
        state = str(error)
    if not yes:
        what = "" if sources is None else f"{sources} sources, identity {identity}, "
        typer.echo(f"{store}: {what}{decimal(size)}, {state}")
        typer.confirm("Remove it? The model beside it stays.", abort=True)
    with interruptible(f"a part of {store} is removed; the same command removes the rest"):
        remove_store(place)
    if as_json:
        facts = {"url": store, "identity": identity, "sources": sources, "bytes": size, "state": state}
        typer.echo(json.dumps(facts, indent=2))
    else:
        typer.echo(f"removed {store}, {decimal(size)}")
