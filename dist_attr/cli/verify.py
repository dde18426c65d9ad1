"""`dist-attr verify`: is every tangent of a store what was written?"""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    as_json: Annotated[bool, typer.Option("--json", help="what was found as JSON")] = False,
) -> None:
    """Read a whole store and check every source's tangent against its checksum; exit code 1 if one is damaged.

    Example: [bold]dist-attr verify runs/demo/influence.zarr[/]
    """
    import json
    import shlex
    import time

    from dist_attr.cli.interruption import interruptible
    from dist_attr.display import rows_progress
    from dist_attr.store import open_store

    with interruptible("nothing was changed; started again, it checks all sources"):
        started, opened = time.monotonic(), open_store(store)
        row_bytes = opened.codec.bytes(opened.manifest.space.size)
        with rows_progress("checking", len(opened.sources), row_bytes) as progress:
            damaged = opened.verify(progress)
        seconds = time.monotonic() - started
    if as_json:
        facts = {"url": store, "sources": len(opened.sources), "damaged": damaged, "seconds": seconds}
        typer.echo(json.dumps({**facts, "bytes": row_bytes * len(opened.sources)}, indent=2))
    elif not damaged:
        typer.echo(f"all {len(opened.sources)} sources of {store} are what was written")
    else:
        for why in damaged.values():
            typer.echo(why)
        typer.echo(f"{len(damaged)} of {len(opened.sources)} sources are damaged; simulate again to have them back")
        if whole := [name for name in opened.sources if name not in damaged]:
            chosen = " ".join(f"--source {shlex.quote(name)}" for name in whole)
            typer.echo(f"to keep the others: dist-attr copy {shlex.quote(store)} TARGET {chosen}")
    if damaged:
        raise typer.Exit(1)
