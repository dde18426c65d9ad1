"""Does the service answer many users at once, all of them, and rightly?

Deploys a store on a Ray of this machine, with several numbers of shards one after another. From a second process, over
loopback, users ask without a pause: a query, a batch of them, counterfactuals, differences from a baseline, scores of
tokens, and scores from the readout basis if the store is calibrated. What they should be told is reckoned beforehand,
in this process, with `da.Attributor`. Queries are pieces of the built-in example's speeches.

Prints and saves requests, wrong answers, lost requests (neither an answer nor a 429 with Retry-After), latency,
throughput, and the memory of all processes of the service (PSS: what processes share is counted once) when each kind of
request was asked once, in the middle, and at the end. Exits with 1 if an answer was wrong or a request lost.

Example: python -m scripts.load runs/demo/influence.zarr --json docs/results/data/load.json
         python -m scripts.load runs/demo/influence.zarr --shards 2 --minutes 0.1 --clients 4
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer
from rich.console import Console

from scripts.report import Report, Table

if TYPE_CHECKING:
    import dist_attr as da
    from dist_attr.config import ServiceConfig

BATCH = 8  # queries
RAYS_OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
Case = dict[str, Any]


def make_plan(store: da.InfluenceStore, number: int) -> dict[str, list[Case]]:
    """For each kind of request some bodies, each with what has to be answered."""
    import dist_attr as da
    from dist_attr.corpus.example import speeches
    from dist_attr.readout import sample_queries
    from dist_attr.store import open_basis

    exact = da.Attributor(store)
    queries = sample_queries([text for _, text, _, _ in speeches("president")], number, exact.fits)
    against = [
        query.model_copy(update={"baseline": other.completion})
        for query, other in zip(queries, queries[1:] + queries[:1], strict=True)
    ]
    comparable = [query for query in against if query.against is not None and exact.fits(query.against)]
    identity = store.manifest.identity

    def cases(attributor: da.Attributor, groups: list[list[da.Query]], **options: Any) -> list[Case]:
        return [
            {
                "body": {"queries": [query.model_dump(exclude_none=True) for query in group], **options},
                "expected": {
                    "identity": identity,
                    "results": expected(attributor, group, options.get("readout", "linear"), "tokens" in options),
                },
            }
            for group in groups
        ]

    alone = [[query] for query in queries]
    plan = {
        "single": cases(exact, alone),
        "batch": cases(exact, [queries[start : start + BATCH] for start in range(0, len(queries), BATCH)]),
        "counterfactual": cases(exact, alone, readout="counterfactual"),
        "baseline": cases(exact, [[query] for query in comparable]),
        "tokens": cases(exact, alone, tokens=True),
    }
    if (basis := open_basis(store)) is not None:
        plan["rank"] = cases(da.Attributor(store, rank=basis.manifest.rank), alone, rank=basis.manifest.rank)
    return plan


def expected(attributor: da.Attributor, queries: list[da.Query], readout: Any, tokens: bool) -> list[Case]:
    """For each query its log-probability, and by source the score and, if asked for, the scores of tokens."""
    found = attributor.attribute(queries, readout)
    return [
        {
            "logprob": float(found.token_logprobs[query].sum()),
            "scores": dict(zip(found.sources, found.scores[query].tolist(), strict=True)),
            "token_scores": dict(zip(found.sources, found.token_scores[query].tolist(), strict=True))
            if tokens
            else None,
        }
        for query in range(len(queries))
    ]


def memory() -> dict[str, float]:
    """MB of the service's processes by their names, and of all of them together as `total`."""
    found: dict[str, float] = defaultdict(float)
    for process in psutil.Process().children(recursive=True):
        try:
            # Ray names its workers ray::Class.method, by what they do just now.
            title = (process.cmdline() or [""])[0].split(" ")[0].split(".")[0]
            if title.startswith("ray::") and title not in RAYS_OWN:
                found[title.removeprefix("ray::")] += process.memory_full_info().pss / 1e6
        except psutil.NoSuchProcess:
            continue
    return {**found, "total": sum(found.values())}


def loaded(config: ServiceConfig, plan: dict[str, list[Case]], clients: int, minutes: float) -> dict[str, Any]:
    """What the users of one service found, on a Ray of its own."""
    import ray
    from ray import serve

    import dist_attr as da
    from dist_attr.serving import deploy

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    endpoint, seconds = f"http://127.0.0.1:{port}", 60 * minutes
    deploy(config, port=port)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "plan.json"), Path(folder, "found.json")
        file.write_text(json.dumps(plan), encoding="utf-8")
        with da.Client(endpoint) as client:
            client.ready()
            for kind in plan:
                body = plan[kind][0]["body"]
                options = {name: value for name, value in body.items() if name != "queries"}
                client.attribute([da.Query(**query) for query in body["queries"]], **options)
        at_start = memory()
        command = [sys.executable, "-m", "scripts.load_users", str(file), endpoint, "--json", str(out)]
        command += [f"--clients={clients}", f"--seconds={seconds}", f"--patience={config.timeout + 30}"]
        users = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(seconds / 2)
        in_the_middle = memory()
        said, _ = users.communicate()
        if users.returncode:
            raise SystemExit(f"the users stopped with exit code {users.returncode}:\n{said}")
        figures: dict[str, Any] = json.loads(out.read_text("utf-8"))
    memories = {"start": at_start, "middle": in_the_middle, "end": memory()}
    serve.shutdown()
    ray.shutdown()
    return {"shards": config.shards, "clients": clients, **figures, "memory_mb": memories}


def table_of(found: list[dict[str, Any]]) -> Table:
    """A row for each number of shards, and for each kind of request there."""
    rows = []
    for run in found:
        for kind, figures in {"all": run, **run["kinds"]}.items():
            times = [figures[name] for name in ("p50_seconds", "p99_seconds")]
            whole = kind == "all"
            rows.append(
                [
                    str(run["shards"]) if whole else "",
                    kind,
                    *(f"{figures[name]:,}" for name in ("requests", "right", "wrong", "busy", "lost")),
                    *("" if seconds is None else f"{seconds:.1f} s" for seconds in times),
                    f"{run['requests_per_second']:.1f}" if whole else "",
                    " / ".join(f"{at['total'] / 1e3:.1f}" for at in run["memory_mb"].values()) if whole else "",
                ]
            )
    counts = ["requests", "right", "wrong", "busy", "lost"]
    return Table(
        title="Requests to the service, and its memory",
        columns=["shards", "kind", *counts, "p50", "p99", "requests a second", "GB at start / middle / end"],
        rows=rows,
        note=f"{found[0]['clients']} users. Busy: told to come again later.",
    )


def main(
    store: Annotated[str, typer.Argument(help="a finished store, with its model beside it")],
    shards: Annotated[list[int], typer.Option(min=1, help="one after another")] = [1, 2, 4],  # noqa: B006
    clients: Annotated[int, typer.Option(min=1, help="users that ask at the same time")] = 64,
    minutes: Annotated[float, typer.Option(min=0, help="for each number of shards")] = 10.0,
    queries: Annotated[int, typer.Option(min=BATCH, help="different ones")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the table, as a report")] = None,
) -> None:
    """Load it, and print what came of it."""
    import dist_attr as da
    from dist_attr.config import ServiceConfig

    if "RAY_ADDRESS" in os.environ:
        raise SystemExit("the memory of other machines is not seen from here; unset RAY_ADDRESS")
    opened = da.open_store(store)
    plan, found = make_plan(opened, queries), list[dict[str, Any]]()
    for number in shards:
        # The shards may be more than there are processors.
        config = ServiceConfig(store=store, shards=number, cpus=min(1.0, (psutil.cpu_count() or 1) / number))
        found.append(loaded(config, plan, clients, minutes))
        report = Report.of({"requests": table_of(found)}, seed=0)
        if json_file is not None:
            report.write(json_file)
    console = Console(width=140)
    report.show(console)
    for run in found:
        for error in run["errors"]:
            console.print(f"{run['shards']} shards: {error}", markup=False, style="red")
    if any(run["wrong"] or run["lost"] or not run["right"] for run in found):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
