"""`dist-attr audit`: which sources many answers rest on."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def audit(
    context: typer.Context,
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    queries: Annotated[
        str,
        typer.Option(
            help="JSONL or Parquet at any URL, with prompt, completion and, if you like, id, group and weight",
            metavar="FILE",
        ),
    ],
    out: Annotated[str, typer.Option(help="folder for the scores and the result, any URL", metavar="URL")],
    readout: Annotated[
        Literal["linear", "central-difference", "counterfactual"], typer.Option(help="see dist-attr query")
    ] = "linear",
    rank: Annotated[
        int | None, typer.Option(min=1, help="so many directions of the store's basis", show_default="exact")
    ] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="of the linear readout")] = "fp32",
    tokens: Annotated[bool, typer.Option("--tokens", help="scores of single tokens too")] = False,
    shapley: Annotated[
        int,
        typer.Option(
            min=0,
            help="Shapley values, from so many sets of sources at most that are removed for each query: exact if these "
            "are all there are, 2^sources - 1",
            show_default="none",
        ),
    ] = 0,
    probe: Annotated[
        bool, typer.Option("--probe", help="in-context probing too, with the sources' documents; see dist-attr compare")
    ] = False,
    documents: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="of each source, each in a prompt of its own; of --probe", show_default="3"),
    ] = None,
    choose: Annotated[
        Literal["bm25", "random"] | None,
        typer.Option(help="documents like the query, or the same random ones for all; of --probe", show_default="bm25"),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="tokens of a document in a prompt at once; of --probe",
            show_default="half of what the template leaves",
        ),
    ] = None,
    truth: Annotated[
        Literal["this-run", "any-such-run"], typer.Option(help="whose measured fidelity the intervals cover")
    ] = "this-run",
    part: Annotated[int, typer.Option(min=1, help="queries that are read out and kept together")] = 64,
    resamples: Annotated[int, typer.Option(min=100, help="of the bootstrap")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of the bootstrap, sets of sources and random documents")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="readout engines side by side, each on a CPU or GPU")] = 2,
    corpus: Annotated[
        str | None,
        typer.Option(help="where the run's documents are now", metavar="PATH", show_default="where they were"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print audit.json instead of a table")] = False,
) -> None:
    """Attribute many answers to the sources, and say what share each source has in them, with intervals.

    The folder gets report.html for people, and for programs audit.json, scores/ (Parquet, by group), shares.parquet,
    sources.parquet and viewer.jsonl. After Ctrl-C, or when anything died, the same command goes on where it was.
    RAY_ADDRESS names a cluster; without it Ray starts here.

    Examples:
    [bold]dist-attr audit runs/mine/influence.zarr --queries answers.jsonl --out runs/mine/audit[/]
    [bold]dist-attr audit s3://mine/influence.zarr --queries s3://mine/log.parquet --out s3://mine/audit --workers 8[/]
    [bold]dist-attr audit runs/mine/influence.zarr --queries answers.jsonl --out few --tokens --shapley 500[/]
    [bold]dist-attr audit runs/mine/influence.zarr --queries answers.jsonl --out read --probe --documents 5[/]
    """
    from dist_attr.auditing import audit as judge
    from dist_attr.cli.again import command_line
    from dist_attr.cli.interruption import interruptible
    from dist_attr.cli.output import results_alone
    from dist_attr.config import AuditConfig
    from dist_attr.display import steps_progress
    from dist_attr.display.audit import show_audit
    from dist_attr.display.report import write_report
    from dist_attr.errors import ConfigError

    asked = {"documents": documents, "choose": choose, "window": window}
    chosen = {name: value for name, value in asked.items() if value is not None}
    if chosen and not probe:
        raise ConfigError(f"{', '.join(f'--{name}' for name in chosen)}: only with --probe, which reads documents")
    given = {
        "readout": readout,
        "rank": rank,
        "precision": precision,
        "tokens": tokens,
        "shapley": shapley,
        "probe": {"seed": seed, **chosen} if probe else None,
        "truth": truth.replace("-", " "),
        "part": part,
        "resamples": resamples,
        "seed": seed,
    }
    config = AuditConfig.parse(given, "the audit")
    with (
        interruptible("what is read out is kept; the same command goes on from there"),
        results_alone(),
        steps_progress("reading the store") as progress,
    ):
        found = judge(
            store,
            queries,
            out,
            config,
            workers=workers,
            corpus=corpus,
            command=command_line(context),
            progress=progress,
        )
    report = write_report(out)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_audit(found, report)
