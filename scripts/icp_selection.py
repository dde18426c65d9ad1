"""Choosing what to train on: does a model gain from what influence, or in-context probing, says is good for it?

After the third experiment of Jiao et al., On the Feasibility of In-Context Probing for Data Attribution (2024).
Candidates are short pieces of three domains (scripts/icp_material.py). Each is scored for its use to some queries of
one domain: by the trajectory simulator, each candidate a source of one fine-tuning on them all, read out as a
counterfactual; by the gradient dot product of that fine-tuning; by in-context probing before it, as a mean over the
queries and as the golden score; and by BM25. The model is then fine-tuned on the best by each, on the worst, and on
some drawn at random, and judged by what it loses less on OTHER queries of the domain.

Which candidates are of the right domain any of these may find out; `--within` has candidates of that domain alone, and
asks whether a method knows more. Whatever was computed is a file in OUT: an interrupted run goes on there.

Example: python -m scripts.icp_selection --out runs/icp_selection --figure icp_selection.svg
         python -m scripts.icp_selection --out runs/icp_selection_within --within
         python -m scripts.icp_selection --out runs/try --quick
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from scripts import one_thread
from scripts.fidelity import progress_bars
from scripts.icp_figures import draw_gains
from scripts.icp_material import DOMAINS, QUICK, Material, ModelName, Protocol, base_model, fine_tuning, material
from scripts.report import Report, Table

if TYPE_CHECKING:
    from dist_attr.corpus import Document, Tokenizer
    from dist_attr.readout import EncodedQuery, Query

Floats = NDArray[np.float64]
INFLUENCE, GRADIENT, PROBING, GOLDEN, BM25 = (
    "influence",
    "gradient dot product",
    "probing, mean",
    "probing, golden score",
    "BM25",
)
RANDOM = "random"
ROW = 64  # tokens of a row to train on
LEVERS = {"curvature_share": 0.25, "curvature_weight": 0.4}
console = Console()


@dataclass(frozen=True)
class Choice:
    """Some candidates to fine-tune on."""

    method: str
    end: str  # "best", "worst"; of the random ones "any"
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, {self.end}, {self.seed}"


@dataclass(frozen=True, eq=False)
class Bench:
    """What is chosen from, what for, and where results are kept."""

    protocol: Protocol
    texts: Material
    target: str
    within: bool
    base: Path
    folder: Path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        from dist_attr.corpus import load_tokenizer

        return load_tokenizer(str(self.base), [])

    @cached_property
    def candidates(self) -> list[Document]:
        """All that may be chosen."""
        every = self.texts.candidates
        return [one for one in every if one.metadata["domain"] == self.target] if self.within else every

    def encoded(self, queries: list[Query]) -> list[EncodedQuery]:
        """As tokens."""
        from dist_attr.readout import encode_query

        return [encode_query(query, self.tokenizer, self.protocol.context) for query in queries]

    def kept(self, name: str, compute: Callable[[], Floats]) -> Floats:
        """An array from its file, or computed and put there."""
        file = self.folder / f"{name}.npy"
        if not file.exists():
            partial = file.with_suffix(".tmp.npy")
            np.save(partial, compute())
            partial.replace(file)
        found: Floats = np.load(file)
        return found

    def scores(self, method: str) -> Floats:
        """Of each candidate for the queries asked, (candidates,)."""
        return self.kept(method, lambda: self._scores(method))

    def _scores(self, method: str) -> Floats:
        asked = self.texts.asked[self.target]
        if method in (PROBING, GOLDEN):
            from dist_attr.probing import golden_score

            probed = self.kept("probes", lambda: self._probes(asked))
            return golden_score(probed) if method == GOLDEN else np.asarray(probed.mean(axis=0))
        if method == BM25:
            from dist_attr.probing.lexical import LexicalIndex

            index = LexicalIndex(document.text for document in self.candidates)
            found = [index.scores(f"{query.prompt} {query.completion}") for query in asked]
            return np.asarray(np.mean(found, axis=0), np.float64)
        from dist_attr.corpus import pack
        from scripts.dial_simulations import gradient_scores, simulated_scores

        corpus = pack(self.candidates, self.tokenizer, ROW)
        run = replace(fine_tuning(self.protocol, self.base, corpus, 1, seed=0), queries=self.encoded(asked))
        if method == GRADIENT:
            return np.asarray(gradient_scores(run, 1)["linear"].mean(axis=0))
        return np.asarray(simulated_scores(run, "trajectory", dict(LEVERS))["counterfactual"].mean(axis=0))

    def _probes(self, asked: list[Query]) -> Floats:
        """Of each query and candidate, (queries, candidates), nats."""
        from dist_attr.config import ProbeConfig
        from dist_attr.corpus import encode
        from dist_attr.models import load_model
        from dist_attr.probing import Passage, Prober

        prober = Prober(load_model(str(self.base)).requires_grad_(False), self.tokenizer, ProbeConfig())
        passages = [Passage(d.source, d.id, 0, 1, tuple(encode(self.tokenizer, d.text))) for d in self.candidates]
        return np.stack([probe.scores for probe in prober.probe(asked, [passages] * len(asked))])

    def chosen(self, choice: Choice) -> list[int]:
        """Indices of candidates."""
        if choice.method == RANDOM:
            order = np.random.default_rng(choice.seed).permutation(len(self.candidates))
        else:
            order = np.argsort(self.scores(choice.method), kind="stable")
            order = order[::-1] if choice.end == "best" else order
        found: list[int] = order[: self.protocol.chosen].tolist()
        return found

    def losses(self, choice: Choice | None) -> Floats:
        """Of the queries judged by, after that fine-tuning or before any: nats for a token, (queries,)."""
        return self.kept(f"loss {choice or 'before'}", lambda: self._losses(choice))

    def _losses(self, choice: Choice | None) -> Floats:
        from dist_attr.corpus import pack
        from dist_attr.evaluation import completion_logprobs
        from dist_attr.models import load_model

        judged = self.encoded(self.texts.judged[self.target])
        if choice is None:
            model = load_model(str(self.base))
        else:
            corpus = pack([self.candidates[i] for i in self.chosen(choice)], self.tokenizer, ROW)
            run = fine_tuning(self.protocol, self.base, corpus, self.protocol.epochs, choice.seed)
            model = run.train([1.0] * len(corpus.sources))
        lengths = np.array([len(query.completion) for query in judged])
        return np.asarray(-completion_logprobs(model, judged) / lengths)


METHODS = (INFLUENCE, GRADIENT, PROBING, GOLDEN, BM25)


def ways() -> list[tuple[str, str]]:
    """Methods and ends."""
    return [*((method, end) for end in ("best", "worst") for method in METHODS), (RANDOM, "any")]


def gains(bench: Bench, advance: Callable[[], Any]) -> list[dict[str, Any]]:
    """What each way gains on the queries judged by, nats for a token, and how much more than chance does."""
    before, found = bench.losses(None), {}
    for method, end in ways():
        after = []
        for seed in range(bench.protocol.seeds):
            after.append(bench.losses(Choice(method, end, seed)))
            advance()
        found[method, end] = before - np.mean(after, axis=0)
    domains = np.array([document.metadata["domain"] for document in bench.candidates])
    rows = []
    for (method, end), gain in found.items():
        own = [domains[bench.chosen(Choice(method, end, seed))] == bench.target for seed in range(bench.protocol.seeds)]
        row = {"method": method, "end": end, "of the domain": float(np.mean(own))}
        row |= {"gain": _mean(gain), "more than random": _mean(gain - found[RANDOM, "any"])}
        rows.append(row | ({"more than worst": _mean(gain - found[method, "worst"])} if end == "best" else {}))
    return rows


def _mean(values: Floats) -> list[float]:
    """The mean over queries, and its 95 % interval if there are queries enough for one."""
    from dist_attr.probing.intervals import interval

    ends = interval(lambda drawn: values[drawn].mean(axis=-1), len(values), 0, seed=0)
    return [float(values.mean()), *(ends or ())]


def table_of(bench: Bench, rows: list[dict[str, Any]]) -> Table:
    """What `gains` found."""
    measured = ("gain", "more than random", "more than worst")
    return Table(
        title="Gain on held-out queries in nats a token [95 % interval]",
        columns=["chosen by", "", "of the domain", *measured],
        rows=[
            [
                row["method"],
                row["end"],
                f"{row['of the domain']:.2f}",
                *(_cell(row[name]) if name in row else "" for name in measured),
            ]
            for row in rows
        ],
        note=f"{bench.protocol.chosen} of {len(bench.candidates)} candidates, for {bench.target}; "
        f"{bench.protocol.seeds} seeds.",
    )


def _cell(figure: list[float]) -> str:
    return f"{figure[0]:+.4f}" + (f" [{figure[1]:+.4f}, {figure[2]:+.4f}]" if len(figure) == 3 else "")


def claim(file: Path, experiment: dict[str, Any]) -> None:
    """Say in the folder what is computed there; what is in it is of that experiment alone."""
    if not file.exists():
        file.write_text(json.dumps(experiment, indent=1), encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != experiment:
        raise typer.BadParameter(
            f"{file} is of an experiment with other settings; name another folder", param_hint="--out"
        )


def main(
    out: Annotated[Path, typer.Option(help="folder of the model and of all that is computed")],
    model: Annotated[ModelName, typer.Option(help="which model is fine-tuned")] = "small-gpt",
    target: Annotated[str, typer.Option(help=f"one of {', '.join(DOMAINS)}")] = DOMAINS[1],
    within: Annotated[bool, typer.Option("--within", help="candidates of the target's domain alone")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="a try of seconds; measures nothing")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG or PNG file to draw")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Score the candidates, fine-tune on those chosen, and print what that gains.

    Example: python -m scripts.icp_selection --out runs/icp_selection
    """
    import torch

    torch.set_num_threads(1)
    if target not in DOMAINS:
        raise typer.BadParameter(f"{target!r} is no domain; there are {', '.join(DOMAINS)}", param_hint="--target")
    protocol = replace(QUICK if quick else Protocol(), model=model)
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "experiment.json", {"protocol": asdict(protocol), "target": target, "within": within})
    texts = material(protocol)
    with progress_bars() as bars:
        bar = bars.add_task("the model", total=1)
        base = base_model(protocol, texts, out / "base", lambda n, of: bars.update(bar, completed=n, total=of))
        bars.update(bar, completed=1, total=1)
        bench = Bench(protocol, texts, target, within, base, out)
        for method in bars.track(METHODS, description="scoring"):
            bench.scores(method)
        bar = bars.add_task("fine-tuning", total=len(ways()) * protocol.seeds)
        rows = gains(bench, lambda: bars.update(bar, advance=1))
    report = Report.of({"gains": table_of(bench, rows)}, seed=0)
    report.show(console)
    if figure is not None:
        draw_gains(rows, [*METHODS, RANDOM], target, figure)
    if json_file is not None:
        report.write(json_file)


if __name__ == "__main__":
    one_thread.run(main, "scripts.icp_selection")
