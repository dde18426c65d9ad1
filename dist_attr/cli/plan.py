"""`dist-attr plan`: what a run will cost, before it does."""

from __future__ import annotations

from typing import Annotated

import typer


def plan(
    run: Annotated[str, typer.Argument(help="the run's YAML file, a path or any fsspec URL", metavar="RUN.yaml")],
    as_json: Annotated[bool, typer.Option("--json", help="the estimates as JSON")] = False,
) -> None:
    """Estimate time, memory, store size and query latency of a run, and of alternatives to it.

    A minute or so of measuring on the machines the run would use, as many actors as it would have. Nothing is written.

    Example: [bold]dist-attr plan run.yaml[/]
    """
    import json
    from dataclasses import asdict

    from rich.console import Console

    from dist_attr.config import RunConfig
    from dist_attr.display import show_plan
    from dist_attr.simulation import plan as make_plan

    with Console(stderr=True).status("reading the documents") as status:
        estimates = make_plan(RunConfig.load(run), on_stage=status.update)
    if as_json:
        typer.echo(json.dumps([asdict(estimate) for estimate in estimates], indent=2))
    else:
        show_plan(estimates)
