"""`dist-attr compare`: does in-context probing tell what influence tells?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def compare(
    context: typer.Context,
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    queries: Annotated[
        str,
        typer.Option(
            help="JSONL or Parquet with prompt, completion and, if you like, id and group", metavar="FILE.jsonl"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the page and the tables", metavar="FOLDER")],
    group: Annotated[
        list[str] | None, typer.Option(help="only queries of this group; may be given again", show_default="all")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, max=64, help="of each source, each in a prompt of its own")] = 3,
    choose: Annotated[
        Literal["bm25", "random"], typer.Option(help="documents like the query, or the same random ones for all")
    ] = "bm25",
    seed: Annotated[int, typer.Option(min=0, help="of the random choice, and of the intervals")] = 0,
    window: Annotated[
        int | None,
        typer.Option(min=1, help="tokens of a document in a prompt at once", show_default="half of the context"),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="holds {document} and after it {prompt}", show_default="the published one")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="through the model's own chat template")] = False,
    corpus: Annotated[
        str | None,
        typer.Option(help="where the run's documents are now", metavar="PATH", show_default="where they were"),
    ] = None,
    readout: Annotated[
        Literal["linear", "central-difference", "counterfactual"],
        typer.Option(help="of influence; see dist-attr query"),
    ] = "linear",
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="influence from so many directions of the store's basis", show_default="exact"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a finished comparison in the folder")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print comparison.json instead of a table")] = False,
) -> None:
    """Score queries by influence and by in-context probing, and measure how far the two agree.

    Probing needs no simulation: it puts documents of each source into the prompt. Whether that tells the same story is
    measured here, query by query and for all together, against chance and against words in common.

    FOLDER gets comparison.html, comparison.json, scores.parquet and documents.parquet. After Ctrl-C the same command
    goes on where it was.

    Examples:
    [bold]dist-attr compare runs/mine/influence.zarr --queries questions.jsonl --out runs/mine/compared[/]
    [bold]dist-attr compare runs/mine/influence.zarr --queries q.jsonl --out far --group elsewhere --choose random[/]
    [bold]dist-attr compare runs/mine/influence.zarr --queries q.jsonl --out big --documents 8 --window 128 --rank 64[/]
    """
    import shutil

    import pyarrow.parquet as pq

    from dist_attr.cli.again import command_line
    from dist_attr.cli.interruption import interruptible
    from dist_attr.config import ProbeConfig
    from dist_attr.display import show_comparison, steps_progress, write_comparison
    from dist_attr.errors import ConfigError
    from dist_attr.probing import (
        CompareOptions,
        comparison,
        documents_table,
        finished_in,
        measure,
        read_questions,
        scores_table,
    )
    from dist_attr.store import open_store

    if (out / "comparison.json").exists() and not overwrite:
        raise ConfigError(f"{out} holds a finished comparison; give another --out, or --overwrite to replace it")
    given = {"documents": documents, "choose": choose, "seed": seed, "window": window, "chat": chat}
    probe = ProbeConfig.parse({**given, **({} if template is None else {"template": template})}, "the probe")
    options = CompareOptions(probe=probe, readout=readout, rank=rank)
    opened, questions = open_store(store), read_questions(queries, group or ())
    unfinished = finished_in(out, opened, questions, options)
    with (
        interruptible("started again with the same settings, it goes on from the last finished queries"),
        steps_progress("reading the store") as progress,
    ):
        measured = measure(opened, questions, options, corpus=corpus, folder=unfinished, progress=progress)
    found = comparison(opened, measured, seed=seed, command=command_line(context))
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(scores_table(measured), out / "scores.parquet")
    pq.write_table(documents_table(measured), out / "documents.parquet")
    write_comparison(out / "comparison.html", found)
    (out / "comparison.json").write_text(found.model_dump_json(indent=2), encoding="utf-8")
    shutil.rmtree(unfinished, ignore_errors=True)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        show_comparison(found)
        typer.echo(f"the page is {out / 'comparison.html'}")
