"""`dist-attr verify`: is every tangent of a store what was written?"""

from __future__ import annotations

from typing import Annotated

import typer


def verify(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    as_json: Annotated[bool, typer.Option("--json", help="what was found as JSON")] = False,
) -> None:
    """Read a whole store and check every source's tangent, and the readout basis, against its checksum.

    Exit code 1 if one is damaged.

    Example: [bold]dist-attr verify runs/demo/influence.zarr[/]
    """
    import json
    import shlex
    import time

    from dist_attr.cli.interruption import interruptible
    from dist_attr.display import rows_progress
    from dist_attr.errors import DamagedError
    from dist_attr.store import open_basis, open_store

    with interruptible("nothing was changed; started again, it checks all sources"):
        started, opened = time.monotonic(), open_store(store)
        row_bytes = opened.codec.bytes(opened.manifest.space.size)
        with rows_progress("checking", len(opened.sources), row_bytes) as progress:
            damaged = opened.verify(progress)
        damaged_basis = None
        try:
            if (basis := open_basis(opened)) is not None:
                basis.verify()
        except DamagedError as error:
            damaged_basis = str(error)
        seconds = time.monotonic() - started
    if as_json:
        facts = {"url": store, "sources": len(opened.sources), "damaged": damaged, "damaged_basis": damaged_basis}
        typer.echo(json.dumps({**facts, "seconds": seconds, "bytes": row_bytes * len(opened.sources)}, indent=2))
    elif not damaged:
        typer.echo(f"all {len(opened.sources)} sources of {store} are what was written")
    else:
        for why in damaged.values():
            typer.echo(why)
        typer.echo(f"{len(damaged)} of {len(opened.sources)} sources are damaged; simulate again to have them back")
        if whole := [name for name in opened.sources if name not in damaged]:
            chosen = " ".join(f"--source {shlex.quote(name)}" for name in whole)
            typer.echo(f"to keep the others: dist-attr copy {shlex.quote(store)} TARGET {chosen}")
    if damaged_basis is not None and not as_json:
        typer.echo(f"{damaged_basis}; the tangents do not depend on it: dist-attr calibrate makes another")
    if damaged or damaged_basis is not None:
        raise typer.Exit(1)
