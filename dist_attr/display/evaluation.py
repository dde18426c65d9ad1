"""An evaluation in words, as tables, and as one HTML file that needs nothing else."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dist_attr.display.page import render
from dist_attr.display.plots import Plot, Series, plot
from dist_attr.evaluation import Estimate, PatchResult, RetrainingResult

Result = RetrainingResult | PatchResult
Rows = list[tuple[str, ...]]


def show_evaluation(result: Result, folder: str, console: Console | None = None) -> None:
    """The figures and what they mean; `folder` is where the rest lies."""
    console = console or Console()
    header, *rows = figures(result)
    table = Table(*header, box=None, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    for sentence in in_words(result):
        console.print(Text(sentence, "dim"))
    console.print(Text(f"{folder}/evaluation.html", "bold"), soft_wrap=True)


def evaluation_page(result: Result) -> str:
    """The page with plots."""
    patch = isinstance(result, PatchResult)
    return render(
        "evaluation.html.j2",
        title="Does one more step on a source do what its score says?"
        if patch
        else "Do the scores predict retraining?",
        figures=figures(result),
        words=in_words(result),
        plots=_patch_plots(result) if isinstance(result, PatchResult) else _retraining_plots(result),
        queries=_by_query(result),
        facts=_named(result),
    )


def in_words(result: Result) -> list[str]:
    """What the figures mean, for who has never seen one, and what they do not say."""
    if isinstance(result, PatchResult):
        return [
            f"The finished model took one step of training on each of {len(result.sources)} sources, by itself. A "
            "figure is how much that changed log p(completion | prompt), in nats, mean over "
            f"{len(result.queries)} queries: of the {result.asked.top} sources that score highest for a query, of any "
            f"source, and of the {result.asked.top} that score lowest. Scores that mean something put the first above "
            "the second, and that above the third.",
            "This is what a source still does to the finished model. It is not what the model would be without the "
            "source; --protocol leave-source-out measures that.",
        ]
    size, number = result.size, len(result.dropped)
    sources = "one source" if size == 1 else f"{size} of {len(result.sources)} sources"
    runs = f", the same {number} choices in each of {result.asked.runs} runs" if result.ceiling is not None else ""
    said = [
        f"The model was trained again {result.models} times, without {sources} each time{runs}. The rank correlation, "
        "in this use called the linear datamodeling score (LDS), compares the change of log p(completion | prompt) "
        f"that the scores predicted with the one that came, mean over {len(result.queries)} queries: 1 is the right "
        "order every time, 0 is chance. The slope is how large a change came for each that was predicted; 1 is right.",
    ]
    if result.ceiling is None:
        said.append(
            "The truth is this run: same initial weights, same order of batches. It has no noise, and a perfect "
            f"prediction reaches 1. Trained again with all sources, the model is {result.repeated:.1g} nats off the "
            "stored one. With another seed the same sources may well change other answers."
        )
    else:
        said.append(
            "The truth is any such run: the mean over runs with fresh seeds, of initial weights and of the order of "
            f"batches. A mean over few runs is noisy, and no prediction can do better than {result.ceiling:.2f} on "
            "average (noise ceiling, from how well halves of the runs agree)."
        )
    return [
        *said,
        "Intervals cover other subsets and other queries of the same kind. They say nothing of other models.",
    ]


def figures(result: Result) -> Rows:
    """A header, and a row for each readout."""
    if isinstance(result, PatchResult):
        number = result.asked.top
        header = ("readout", f"top {number}", "any", f"bottom {number}", "top less bottom", "rank correlation")
        return [
            header,
            *(
                (
                    name,
                    *(f"{value.value:+.3g}" for value in (found.top, result.anyone, found.bottom)),
                    _nats(found.gap),
                    _plain(found.correlation),
                )
                for name, found in result.readouts.items()
            ),
        ]
    ceiling = "1" if result.ceiling is None else f"{result.ceiling:.2f}"
    rank = "LDS" if result.asked.protocol == "lds" else "rank correlation"
    return [
        ("readout", rank, "at most", "Pearson", "slope"),
        *(
            (name, _plain(found.correlation), ceiling, _plain(found.pearson), _plain(found.slope))
            for name, found in result.readouts.items()
        ),
    ]


def _plain(value: Estimate) -> str:
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _nats(value: Estimate) -> str:
    return f"{value.value:+.3g} [{value.low:+.3g}, {value.high:+.3g}]"


def _by_query(result: Result) -> Rows:
    """A header, and a row for each query with its rank correlations."""
    columns = [found.correlation.per_query for found in result.readouts.values()]
    rows: Rows = [("query", "prompt", "completion", *result.readouts)]
    for number, query in enumerate(result.queries):
        rows.append((str(number), query.prompt, query.completion, *(f"{values[number]:.3f}" for values in columns)))
    return rows


def _named(result: Result) -> dict[str, str]:
    manifest = result.store.manifest
    return {
        "store": f"{manifest.identity}, {manifest.run.simulation.method} simulation, {manifest.encoding.codec}",
        "corpus": manifest.corpus,
        "protocol": result.name,
        "seed": f"{result.asked.seed} of what is drawn, {manifest.run.training.seed} of the run",
    }


def _retraining_plots(result: RetrainingResult) -> list[Plot]:
    plots = []
    for readout, found in result.readouts.items():
        dots = [
            (float(change[query]), float(true[query]), f"query {query}: {_without(result, row)}")
            for row, (change, true) in enumerate(zip(found.predicted, result.true, strict=True))
            for query in range(len(result.queries))
        ]
        plots.append(
            plot(
                f"True against predicted change, {readout} readout",
                ("predicted change of log p, nats", "true change, nats"),
                [Series(readout, dots=dots)],
                said=f"each dot is a query and a retrained model; slope {found.slope.value:.2f}, 1 on the line",
                diagonal=True,
            )
        )
    rank = "LDS" if result.asked.protocol == "lds" else "rank correlation"
    plots.append(_query_plot(result, f"{rank} by query"))
    plots.append(
        plot(
            f"{rank} by number of retrained models",
            (f"subsets{' of each run' if result.ceiling is not None else ''}", rank),
            [
                Series(
                    readout,
                    line=[(number, mean) for number, mean, _, _ in found.by_number],
                    spans=[(number, low, high) for number, _, low, high in found.by_number],
                )
                for readout, found in result.readouts.items()
            ],
            said="strokes are where 95 % of choices of so many subsets lie",
            levels=[1.0 if result.ceiling is None else result.ceiling],
        )
    )
    return plots


def _patch_plots(result: PatchResult) -> list[Plot]:
    plots = []
    for readout, found in result.readouts.items():
        dots = [
            (float(found.scores[query, row]), float(result.change[row, query]), f"query {query}: {name}")
            for row, name in enumerate(result.sources)
            for query in range(len(result.queries))
        ]
        plots.append(
            plot(
                f"Change by a step against score, {readout} readout",
                ("score, nats per unit source weight", "change of log p by one step, nats"),
                [Series(readout, dots=dots)],
                said="each dot is a query and a source",
                levels=[0.0],
            )
        )
    return [*plots, _query_plot(result, "Rank correlation by query")]


def _query_plot(result: Result, title: str) -> Plot:
    """Queries from the lowest to the highest, by the first readout."""
    columns = {readout: found.correlation.per_query.tolist() for readout, found in result.readouts.items()}
    first = next(iter(columns.values()))
    order = sorted(range(len(first)), key=lambda number: first[number])
    series = [
        Series(readout, dots=[(place, values[query], f"query {query}") for place, query in enumerate(order, start=1)])
        for readout, values in columns.items()
    ]
    return plot(
        title, ("queries, in order", "rank correlation"), series, said="a dot for each query and readout", levels=[0.0]
    )


def _without(result: RetrainingResult, row: int) -> str:
    names = [name for name, gone in zip(result.sources, result.dropped[row].tolist(), strict=True) if gone]
    return "without " + ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
