"""`dist-attr calibrate`: find the readout basis of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dist_attr.store import InfluenceStore


def calibrate(
    store: Annotated[str, typer.Argument(help="the store, a path or any fsspec URL", metavar="STORE")],
    queries: Annotated[
        str | None,
        typer.Option(help="JSONL or Parquet with prompt and completion, like what will be asked", metavar="FILE"),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="the run's documents, to draw queries from", metavar="PATH", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=8, help="how many queries are drawn from the documents")] = 64,
    rank: Annotated[int | None, typer.Option(min=1, help="how many directions", show_default=False)] = None,
    energy: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="or the share of the scores' sum of squares to keep", show_default="0.99"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="what was found as JSON")] = False,
) -> None:
    """Find the few directions that reproduce most scores, and store them with their error.

    A query with --rank then costs as many readouts as there are directions, instead of one for each source, and its
    scores have error bars. The store must be finished and writable; a basis that it has is replaced.

    Without --queries they are pieces of the documents: the built-in example's, or those of --corpus.

    Example: [bold]dist-attr calibrate runs/mine/influence.zarr --corpus documents.jsonl --energy 0.99[/]

    Example: [bold]dist-attr calibrate runs/mine/influence.zarr --queries questions.jsonl --rank 64[/]
    """
    import json
    import math

    from dist_attr.cli.interruption import interruptible
    from dist_attr.display import steps_progress
    from dist_attr.readout import calibrate as find_basis
    from dist_attr.readout import read_queries, sample_queries
    from dist_attr.store import open_store

    if rank is not None and energy is not None:
        raise typer.BadParameter("give either a --rank or an --energy")
    if queries is not None and corpus is not None:
        raise typer.BadParameter("give either --queries or a --corpus")
    opened = open_store(store)
    given = None if queries is None else read_queries(queries)
    texts = [] if given is not None else _texts(opened, corpus)
    with (
        interruptible("started again, it calibrates from the beginning"),
        steps_progress("reading the store") as progress,
    ):
        basis = find_basis(
            opened,
            given if given is not None else lambda attributor: sample_queries(texts, count, attributor.fits),
            rank=rank,
            energy=0.99 if rank is None and energy is None else energy,
            progress=progress,
        )
    sources = len(opened.sources)
    # A score vector's length, taken as 1 in the residual, is √S times the root mean square of its scores.
    error = float(basis.residual[-1].median()) * math.sqrt(sources)
    used = count if given is None else len(given)
    if as_json:
        facts = {"url": store, "rank": basis.rank, "sources": sources, "queries": used, "energy": basis.energy}
        typer.echo(json.dumps({**facts, "median_relative_error": error}, indent=2))
    else:
        typer.echo(
            f"{basis.rank} directions for {sources} sources keep {basis.energy:.2%} of the scores of {used} queries; "
            f"a source's standard error is {error:.1%} of the root mean square of a query's scores (median)"
        )


def _texts(store: InfluenceStore, path: str | None) -> list[str]:
    """The documents of the run. No path that the store names is followed: the user names it."""
    from dist_attr.corpus import corpus_fingerprint, load_documents
    from dist_attr.errors import CorpusError

    config = store.manifest.run.corpus
    if path is not None:
        config = config.model_copy(update={"path": path, "example": None})
    elif config.example is None:
        raise typer.BadParameter("give --queries, or a --corpus to draw them from; a path in the store is not followed")
    documents = load_documents(config)
    if corpus_fingerprint(documents) != store.manifest.corpus:
        named = path or f"the built-in example {config.example!r}"
        raise CorpusError(f"{named} does not hold the documents that {store.url} was made from; give --queries instead")
    return [document.text for document in documents]
