"""`dist-attr copy`: a store at another place, in another codec, with some of its sources."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def copy(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    target: Annotated[str, typer.Argument(help="where to, a path or any fsspec URL", metavar="TARGET")],
    codec: Annotated[
        Literal["float32", "bfloat16", "int8", "int4"] | None,
        typer.Option(help="what a number becomes", show_default="the store's own"),
    ] = None,
    block_size: Annotated[
        Literal[16, 32, 64, 128, 256] | None,
        typer.Option(help="numbers that share a scale, of int8 and int4", show_default="the store's own"),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="only this source; may be given several times", show_default="all")
    ] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="copy the model beside the store too")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="what was copied as JSON")] = False,
) -> None:
    """Copy a finished store to another place, and into another codec; every source's tangent is checked on the way.

    Started again, an interrupted copy goes on. Credentials come from the environment, a profile, the machine's role or
    fsspec's configuration (FSSPEC_S3_ENDPOINT_URL ...), never from the command line.

    Example: [bold]dist-attr copy runs/demo/influence.zarr s3://bucket/demo/influence.zarr[/]

    Example: [bold]dist-attr copy influence.zarr small.zarr --codec int4 --block-size 64 --source ant --source bee[/]
    """
    import json
    import time

    from dist_attr.cli.interruption import interruptible
    from dist_attr.config import StoreConfig
    from dist_attr.display import rows_progress
    from dist_attr.store import Codec, Place, copy_store, open_store

    opened = open_store(store)
    own = opened.manifest.encoding
    encoding = StoreConfig(codec=codec or own.codec, block_size=block_size or own.block_size)
    coded = Codec.of(encoding)
    if block_size is not None and not coded.levels:
        raise typer.BadParameter(f"--block-size belongs to int8 and int4; {encoding.codec} has no scales")
    if own.codec != "float32" and encoding != own:
        typer.echo(f"what {own.codec} lost does not come back in {encoding.codec}; errors add up", err=True)
    if Place(f"{store.rstrip('/')}/basis").exists():
        typer.echo(f"the readout basis is not copied; dist-attr calibrate {target} makes one", err=True)
    rows = len(set(source)) if source else len(opened.records)
    row_bytes = coded.bytes(opened.manifest.space.size)
    with interruptible(f"{target} is unfinished; the same command goes on"):
        started = time.monotonic()
        with rows_progress("copying", rows, row_bytes) as progress:
            copy_store(opened, Place(target), encoding=encoding, sources=source or None, model=model, progress=progress)
        seconds = time.monotonic() - started
    if as_json:
        made = open_store(target)
        facts = {"url": target, "identity": made.manifest.identity, "sources": made.sources, "seconds": seconds}
        typer.echo(json.dumps({**facts, "bytes": made.stored_bytes, **encoding.model_dump()}, indent=2))
    else:
        typer.echo(target)
