"""What the commands print: progress, tables, and an answer whose tokens are coloured by their scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dist_attr.display.fidelity import fidelity_in_words

if TYPE_CHECKING:
    from dist_attr.config import RunConfig
    from dist_attr.serving.schemas import AttributionRequest, AttributionResponse
    from dist_attr.simulation import SimulationReport, StrideReport

STEPS_SECONDS = 3600.0  # that the ETA of steps is taken from: some are minutes long
LOG_SECONDS = 30.0  # between two lines of a log


@contextmanager
def run_progress(config: RunConfig) -> Iterator[Callable[[StrideReport], None]]:
    """A bar with ETA for a run, on standard error; yields what to call after each stride."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        speed_estimate_period=STEPS_SECONDS,
    )
    method = config.simulation.method
    logged = _in_a_log(bar)
    with bar:
        task = bar.add_task(
            "training" if method == "none" else method,
            total=config.steps,
            state="starting the actors" + (", measuring" if method == "checkpoint" else ""),
        )

        def report(stride: StrideReport) -> None:
            if stride.simulation is not None and not bar.tasks[0].completed:
                bar.console.print(Text(simulation_line(stride.simulation), "dim"))
                bar.update(task, description=stride.simulation.method)
            state = [] if stride.loss is None else [f"loss {stride.loss:.3f}"]
            if speed := stride.replica_steps_per_second:
                state.append(f"{speed:,.0f} source-steps/s" if speed >= 10 else f"{speed:.2g} source-steps/s")
            if stride.failed:
                state.append(f"{stride.failed} failed")
            bar.update(task, completed=stride.step, state=" · ".join(state))
            logged()

        yield report


@contextmanager
def steps_progress(doing: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with ETA on standard error; yields what to call with what is done, how much of it and of how much."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        speed_estimate_period=STEPS_SECONDS,
    )
    logged = _in_a_log(bar)
    with bar:
        task = bar.add_task(doing, total=None)

        def report(what: str, done: int, of: int) -> None:
            if bar.tasks[0].description != what:
                # What is done already took no time, and says nothing of the rest.
                bar.reset(task, description=what, total=of, completed=done)
            bar.update(task, completed=done)
            logged()

        yield report


def _in_a_log(bar: Progress) -> Callable[[], None]:
    """What to call now and then: where a bar cannot move, as in the log of a job, it is printed every so often."""
    last = time.monotonic()

    def logged() -> None:
        nonlocal last
        if not bar.console.is_terminal and time.monotonic() - last >= LOG_SECONDS:
            last = time.monotonic()
            bar.console.print(bar.get_renderable())

    return logged


def simulation_line(report: SimulationReport) -> str:
    """What a simulation takes, in words."""
    source, memory, parked = map(size_in_words, (report.source_bytes, report.memory_bytes, report.parked_bytes))
    facts = [
        report.reason or report.method,
        f"{report.sources_per_pass} source{'s' * (report.sources_per_pass > 1)} a pass",
        f"{1e3 * report.source_step_seconds:.3g} ms a source and step",
        f"{source} a source",
        f"{memory} an actor" + ("" if report.parked is None else f", and {parked} in {report.parked}"),
    ]
    return " · ".join(facts)


def size_in_words(size: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{size / 2**30:.2f} GiB" if size > 2**29 else f"{size / 2**20:.1f} MiB"


def show_answer(answer: AttributionResponse, request: AttributionRequest, console: Console | None = None) -> None:
    """For each query the ranked sources, and the completion coloured by what each source did to its tokens."""
    console = console or Console()
    for query, result in zip(request.queries, answer.results, strict=True):
        console.print(Text.assemble((query.prompt, "dim"), (query.completion, "bold")))
        against = ""
        if result.baseline_logprob is not None:
            console.print(Text.assemble(("rather than", "dim"), str(query.baseline)))
            against = f", of the baseline {result.baseline_logprob:.2f}; scores are of the difference, colours are not"
        basis = "" if answer.rank is None else f", {answer.rank} directions of its basis (± standard error)"
        console.print(
            f"log p(completion | prompt) = {result.logprob:.2f} nats{against} · {answer.readout} readout of a "
            f"{answer.store.method} store{basis}\n[dim]score in nats per unit source weight: "
            "[green]positive made it likelier[/], [red]negative less likely[/]\n"
            f"fidelity: {fidelity_in_words(answer.fidelity.measured)}[/]"
        )
        largest = max((abs(v) for source in result.sources for v in source.token_scores or ()), default=1.0) or 1.0
        table = Table("source", "score", "tokens", box=None, padding=(0, 1))
        table.columns[1].justify = "right"
        for source in result.sources:
            colour = "green" if source.score > 0 else "red"
            heat = heat_map(result.tokens, source.token_scores or (), largest)
            table.add_row(Text(source.source), f"[{colour}]{source.score:+.3f}[/]" + _error(source.error), heat)
        console.print(table)


def _error(error: float | None) -> str:
    return "" if error is None else f" [dim]± {error:.3f}[/]"


def heat_map(tokens: Sequence[str], scores: Sequence[float], largest: float) -> Text:
    """Tokens on green (proponent) or red (opponent), the stronger the brighter."""
    text = Text()
    for token, score in zip(tokens, scores, strict=True):
        strength = round(60 + 150 * min(1.0, abs(score) / largest))
        background = f"rgb(0,{strength},0)" if score > 0 else f"rgb({strength},0,0)"
        shown = abs(score) > 0.05 * largest
        text.append(token.replace("\n", "⏎"), style=f"white on {background}" if shown else "")
    return text
