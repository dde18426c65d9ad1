"""What a query costs: dist_attr's readout against what takes backward passes, on one model and one query.

The query has 128 tokens, of which 64 are the completion. Only what is done for a query is timed: tangents, gradients,
features of sources, factors and indexes are made before. Weights and sources are random, which changes no time. Where
two ways should give the same scores, the run stops unless they do: a source's vector times the query's gradient is the
linear readout along it, for the whole completion and for each token.

TRAK is timed at one checkpoint and counted `--checkpoints` times, and `--timed` dimensions of its random projection
count for all `--dimensions`: each is the same work once more. Libraries that are not installed are left out:
`pip install -e '.[rivals]'` has them all (see scripts/query_libraries.py).

Seconds are the processor's, in one thread; rounds take turns, and the best of each counts. They are given in forward
passes of the same query, and as multiples of the linear readout.

Example: python -m scripts.query_cost --json docs/results/data/query_cost.json
         python -m scripts.query_cost --model gpt-1M --timed 4096
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dist_attr.config import ModelConfig
from scripts import one_thread
from scripts.readout_speed import MODELS
from scripts.report import Report, Table

if TYPE_CHECKING:
    from torch import Tensor

    from scripts.query_rivals import Case, Work

TINY = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
}
CHOICES = {**MODELS, "tiny": (ModelConfig(config=TINY), 256)}
LIBRARIES = {"trak": "traker", "bergson": "bergson", "kronfluence": "kronfluence"}  # modules and their packages
NOISE = 0.1  # of two times: where it rises by less with more sources, it does not depend on them
TOLERANCE = 1e-3  # of the largest score: what float32 leaves of scores that are the same


def works(case: Case, sources: tuple[int, ...], rank: int, trak: tuple[int, int, int], folder: Path) -> list[Work]:
    """All that are installed."""
    from scripts import query_libraries, query_rivals

    found = [*query_rivals.readouts(case, rank), *query_rivals.backward_passes(case)]
    if find_spec("trak") is not None:
        found += query_rivals.trak(case, *trak)
    if find_spec("bergson") is not None:
        found += query_libraries.bergson(case, sources, folder)
    if find_spec("kronfluence") is not None:
        found += query_libraries.kronfluence(case, folder)
    return found


def check(name: str, scores: Tensor | None, linear: Tensor) -> float:
    """How far scores are from the linear readout's (sources, tokens), relative to its largest; 0 without scores.

    Raises:
        SystemExit: too far.
    """
    if scores is None:
        return 0.0
    expected = linear if scores.ndim == 2 else linear.sum(1)
    off = float((scores - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise SystemExit(f"{name}: its scores are {off:.1e} from those of the linear readout, more than {TOLERANCE}")
    return off


def measure(case: Case, found: list[Work], sources: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    """For each way and number of sources the seconds of a query; first of all those of a forward pass.

    The turn before the first round, with the least number of sources, warms up and compares scores.
    """
    import torch

    from dist_attr.influence import directional_logprobs

    at, forward = case.at, list[float]()
    seconds: dict[tuple[str, int], list[float]] = {(work.name, number): [] for work in found for number in sources}
    off = {work.name: 0.0 for work in found}
    for turn in range(rounds + 1):
        started = time.process_time()
        with torch.no_grad():
            at.logprobs(at.theta)
        forward.append(time.process_time() - started)
        for number in sources if turn else sources[:1]:
            linear = directional_logprobs(at, case.parts(number)).scores[:, 0] if turn == 0 else None
            for work in found:
                started = time.process_time()
                scores = work.do(number)
                if linear is None:
                    seconds[work.name, number].append(work.times * (time.process_time() - started))
                else:
                    off[work.name] = max(off[work.name], check(work.name, scores, linear))
    best = {work.name: [min(seconds[work.name, number]) for number in sources] for work in found}
    for work in found:
        if work.beside:
            best[work.name] = [own + other for own, other in zip(best[work.name], best[work.beside], strict=True)]
    return [
        {"name": "a forward pass", "tokens": True, "off": 0.0, "seconds": [min(forward[1:])] * len(sources)},
        *({"name": w.name, "tokens": w.tokens, "off": off[w.name], "seconds": best[w.name]} for w in found),
    ]


def break_even(ours: list[float], theirs: list[float], sources: tuple[int, ...]) -> float:
    """The number of sources up to which the first is cheaper, by straight lines through both ends.

    Args:
        ours: seconds with each number of sources.
        theirs: the same.
        sources: the numbers.
    """
    rises = [costs[-1] - costs[0] if costs[-1] > (1 + NOISE) * costs[0] else 0.0 for costs in (ours, theirs)]
    rise = (rises[0] - rises[1]) / (sources[-1] - sources[0])
    ahead = theirs[0] - ours[0]
    if rise <= 0:
        return math.inf if ahead > 0 else 0.0
    return max(0.0, sources[0] + ahead / rise)


def digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def table_of(model: str, parameters: int, rows: list[dict[str, Any]], sources: tuple[int, ...]) -> Table:
    """A row for each way but the forward pass, which is the unit."""
    forward, linear, cells = rows[0]["seconds"][0], rows[1]["seconds"], list[list[str]]()
    for row in rows[1:]:
        pairs = zip(row["seconds"], linear, strict=True)
        times = [f"{digits(value / forward)} ({digits(value / ours)} ×)" for value, ours in pairs]
        upto = break_even(linear, row["seconds"], sources)
        edge = "" if row is rows[1] else "any number" if math.isinf(upto) else f"{upto:,.0f}"
        off = f"{row['off']:.0e}" if row["off"] else ""
        cells.append([row["name"], "every token" if row["tokens"] else "one", *times, edge, off])
    return Table(
        title=f"{model}: a query in forward passes of it (in linear readouts)",
        columns=[
            "",
            "scores",
            *(f"{number} sources" for number in sources),
            "linear is cheaper up to, sources",
            "differs by",
        ],
        rows=cells,
        note=f"{parameters:,} parameters; a forward pass takes {1e3 * forward:.1f} ms. *Differs by*: scores that "
        "should be the linear readout's, as a share of its largest.",
    )


def main(
    model: Annotated[
        list[str] | None, typer.Option(help=f"one of {'; '.join(CHOICES)}; by default all but tiny")
    ] = None,
    sources: Annotated[list[int] | None, typer.Option(help="two or more numbers; 16 and 64 by default")] = None,
    length: Annotated[int, typer.Option(min=4, help="tokens of the query")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="of the readout basis")] = 16,
    checkpoints: Annotated[int, typer.Option(min=1, help="of TRAK")] = 10,
    dimensions: Annotated[int, typer.Option(min=4, help="that TRAK projects to")] = 4096,
    timed: Annotated[int, typer.Option(min=4, help="of these that are timed")] = 64,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the tables, as a report")] = None,
) -> None:
    """Measure and print. Example: python -m scripts.query_cost --model gpt-1M"""
    import torch

    from scripts.query_rivals import Case

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the libraries' own reports
    numbers = tuple(sorted(set(sources or (16, 64))))
    if len(numbers) < 2:
        raise typer.BadParameter("give --sources twice or more: a break-even needs two numbers")
    tables = dict[str, Table]()
    for name in model or MODELS:
        case = Case.of(*CHOICES[name], length)
        with tempfile.TemporaryDirectory() as folder:
            found = works(case, numbers, rank, (checkpoints, dimensions, min(timed, dimensions)), Path(folder))
            rows = measure(case, found, numbers, rounds)
        tables[name] = table_of(name, case.at.space.size, rows, numbers)
        report = Report.of(tables, seed=0, libraries=[name for module, name in LIBRARIES.items() if find_spec(module)])
        Console(width=140).print(tables[name].rich())
        if json_file is not None:
            report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.query_cost")
