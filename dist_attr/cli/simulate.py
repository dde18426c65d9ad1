"""`dist-attr simulate`: train a model and simulate the influence of every source."""

from __future__ import annotations

from typing import Annotated

import typer


def simulate(
    run: Annotated[str, typer.Argument(help="the run's YAML file, a path or any fsspec URL", metavar="RUN.yaml")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a finished run at the same output")] = False,
) -> None:
    """Train a model under DeepSpeed and simulate the influence of every source beside it.

    The output folder then holds run.yaml (resolved, runs again), model/ (transformers' own format) and influence.zarr.

    Example: [bold]dist-attr simulate run.yaml[/]
    """
    from dist_attr.config import RunConfig
    from dist_attr.display import run_progress
    from dist_attr.simulation import simulate as run_simulation

    config = RunConfig.load(run)
    with run_progress(config) as progress:
        store = run_simulation(config, overwrite=overwrite, progress=progress)
    typer.echo(f"{config.output}/model" if store is None else store.url)
