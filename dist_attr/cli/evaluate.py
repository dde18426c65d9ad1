"""`dist-attr evaluate`: how well the scores of a finished run predict retraining."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def evaluate(
    run: Annotated[str, typer.Argument(help="the finished run's YAML file, a path or any URL", metavar="RUN.yaml")],
    protocol: Annotated[
        Literal["lds", "leave-source-out", "tail-patch"],
        typer.Option(help="retrain without several sources, or each alone; or one more step on each"),
    ] = "lds",
    truth: Annotated[
        Literal["this-run", "any-such-run"] | None,
        typer.Option(help="retrain with the run's own seed, or with fresh ones", show_default="this-run"),
    ] = None,
    runs: Annotated[
        int | None, typer.Option(help="any-such-run: how many fresh seeds, 4 or more", show_default="4")
    ] = None,
    drop: Annotated[
        float | None,
        typer.Option(help="lds: sources that a model goes without; below 1, the share of them", show_default="2"),
    ] = None,
    subsets: Annotated[
        int | None,
        typer.Option(help="lds: how many; leave-source-out: so many sources", show_default="40, or all; all"),
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="tail-patch: sources from either end of a ranking", show_default="3")
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="JSONL or Parquet with prompt and completion, to judge with", metavar="FILE")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="how many queries are drawn from the documents", show_default="32")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="another store of this run than that in its output, or a moved one", metavar="STORE"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of what is drawn", show_default="0")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="trainings side by side", show_default="the run's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the figures as JSON")] = False,
) -> None:
    """Retrain without sources, and say how well the scores predicted what that does to the model's answers.

    The figures go into the store, and from then on stand beside its scores. A folder beside the store gets them as
    tables and as a page with plots. Interrupted, the same command goes on from what is retrained.

    Example: [bold]dist-attr evaluate run.yaml --protocol leave-source-out[/]

    Example: [bold]dist-attr evaluate run.yaml --protocol lds --drop 0.5 --truth any-such-run --runs 5[/]
    """
    import json

    from dist_attr.cli.interruption import interruptible
    from dist_attr.cli.output import results_alone
    from dist_attr.config import EvaluationConfig, RunConfig
    from dist_attr.display import steps_progress
    from dist_attr.display.evaluation import evaluation_page, show_evaluation
    from dist_attr.errors import ConfigError
    from dist_attr.evaluation import evaluate as judge
    from dist_attr.evaluation import write_result
    from dist_attr.readout import Query, read_queries

    if queries is not None and count is not None:
        raise ConfigError("--queries says which queries; --count is for those that are drawn. Give one of them")
    values = {"runs": runs, "drop": drop, "subsets": subsets, "top": top, "count": count, "seed": seed}
    given: dict[str, object] = {name: value for name, value in values.items() if value is not None}
    if truth is not None:
        given["truth"] = truth.replace("-", " ")
    asked = EvaluationConfig.parse({"protocol": protocol, **given}, "the evaluation")
    with (
        interruptible("what is retrained is kept; the same command goes on from there"),
        results_alone(),
        steps_progress("reading the run") as progress,
    ):
        result = judge(
            RunConfig.load(run),
            asked,
            queries=None if queries is None else read_queries(queries, Query),
            store=store,
            workers=workers,
            progress=progress,
        )
        folder = write_result(result, evaluation_page(result))
    if as_json:
        typer.echo(json.dumps({**result.facts(), "folder": folder}, indent=2))
    else:
        show_evaluation(result, folder)
