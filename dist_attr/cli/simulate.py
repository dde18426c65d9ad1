"""`dist-attr simulate`: train a model, or take a finished one, and simulate the influence of every source."""

from __future__ import annotations

from typing import Annotated

import typer


def simulate(
    run: Annotated[str, typer.Argument(help="the run's YAML file, a path or any fsspec URL", metavar="RUN.yaml")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a finished or interrupted run at the same output")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="progress as JSON lines on standard output, instead of a bar")
    ] = False,
    events: Annotated[
        str | None, typer.Option("--tensorboard", help="also write event files into this folder", metavar="FOLDER")
    ] = None,
) -> None:
    """Train a model under DeepSpeed and simulate the influence of every source beside it, or from a finished model.

    Interrupted, it continues from its last checkpoint when it is started again with the same settings.

    The output folder then holds run.yaml (resolved, runs again), model/ (transformers' own format) and influence.zarr.

    Example: [bold]dist-attr simulate run.yaml[/]

    Example: [bold]dist-attr simulate run.yaml --tensorboard runs/events[/]
    """
    import json
    from contextlib import ExitStack
    from dataclasses import asdict

    from dist_attr.cli.interruption import interruptible
    from dist_attr.cli.output import results_alone
    from dist_attr.config import RunConfig
    from dist_attr.display import run_progress, tensorboard
    from dist_attr.simulation import StrideReport
    from dist_attr.simulation import simulate as run_simulation

    config = RunConfig.load(run)
    again = "started again with the same settings, the run goes on from its last checkpoint, if there is one"
    if not config.cluster.checkpoint_minutes:
        again = "nothing is kept, as cluster.checkpoint_minutes is 0"
    with interruptible(again), results_alone() as out, ExitStack() as stack:
        shown = [] if as_json else [stack.enter_context(run_progress(config))]
        if events is not None:
            shown.append(stack.enter_context(tensorboard(events)))

        def report(stride: StrideReport) -> None:
            if as_json:
                print(json.dumps(asdict(stride)), file=out, flush=True)
            for show in shown:
                show(stride)

        store = run_simulation(config, overwrite=overwrite, progress=report)
    if as_json:
        print(json.dumps({"output": config.output, "store": None if store is None else store.url}))
    else:
        typer.echo(f"{config.output}/model" if store is None else store.url)
