"""The users of scripts/load.py: they ask a service all the time, and check each answer.

A process of its own, since locust replaces the blocking parts of Python's library by gevent's. Each request ends as
one of

- right: the whole answer, each number as it was reckoned beforehand, to 1e-3 of it and 1e-4.
- wrong: an answer that is anything else.
- busy: 429 with a Retry-After, after which the user waits that long.
- lost: all the rest: other errors, no answer in time, a connection that broke.

Example: python -m scripts.load_users plan.json http://127.0.0.1:8000 --clients 64 --seconds 600 --json found.json
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

RELATIVE, ABSOLUTE = 1e-3, 1e-4
OUTCOMES = ("right", "wrong", "busy", "lost")
SHOWN = 20  # errors that are kept


@dataclass
class Tally:
    """How requests ended.

    Attributes:
        outcomes: by kind of request and outcome how many.
        latencies: by kind, seconds of each that was answered.
        queries: in all answers that were right.
        errors: what was wrong with the first ones.
    """

    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    queries: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, kind: str, outcome: str, seconds: float, queries: int, why: str | None) -> None:
        """One request has ended."""
        self.outcomes[kind][outcome] += 1
        if outcome in ("right", "wrong"):
            self.latencies[kind].append(seconds)
        if outcome == "right":
            self.queries += queries
        elif why is not None and len(self.errors) < SHOWN:
            self.errors.append(f"{kind}: {why}")

    def figures(self, seconds: float) -> dict[str, Any]:
        """Of all requests, and of each kind."""
        everything = Counter[str]()
        for outcomes in self.outcomes.values():
            everything.update(outcomes)
        answered = [value for values in self.latencies.values() for value in values]
        return {
            "seconds": seconds,
            **_counts(everything),
            **_percentiles(answered),
            "requests_per_second": len(answered) / seconds,
            "queries_per_second": self.queries / seconds,
            "kinds": {
                kind: {**_counts(outcomes), **_percentiles(self.latencies[kind])}
                for kind, outcomes in sorted(self.outcomes.items())
            },
            "errors": self.errors,
        }


def _counts(outcomes: Counter[str]) -> dict[str, int]:
    return {"requests": outcomes.total(), **{name: outcomes[name] for name in OUTCOMES}}


def _percentiles(latencies: list[float]) -> dict[str, float | None]:
    found = np.percentile(latencies, (50, 99)).tolist() if latencies else (None, None)
    return {"p50_seconds": found[0], "p99_seconds": found[1]}


def difference(answer: Any, expected: dict[str, Any]) -> str | None:
    """What is wrong with an answer, if anything is: see `scripts.load.expected` for what it is compared with."""
    try:
        if answer["store"]["identity"] != expected["identity"]:
            return f"it is of the store {answer['store']['identity']}"
        results, wanted = answer["results"], expected["results"]
        if len(results) != len(wanted):
            return f"{len(results)} results for {len(wanted)} queries"
        for number, (result, right) in enumerate(zip(results, wanted, strict=True)):
            found = {source["source"]: source for source in result["sources"]}
            if len(found) != len(result["sources"]) or set(found) != set(right["scores"]):
                return f"query {number}: its sources are not those of the store"
            names = list(right["scores"])
            pairs = [
                ("logprob", [result["logprob"]], [right["logprob"]]),
                ("scores", [found[name]["score"] for name in names], [right["scores"][name] for name in names]),
            ]
            if right["token_scores"] is not None:
                scores = [found[name]["token_scores"] for name in names]
                pairs.append(("token scores", scores, [right["token_scores"][name] for name in names]))
            for what, is_, should in pairs:
                if np.shape(is_) != np.shape(should):
                    return f"query {number}: {what} of shape {np.shape(is_)}, not {np.shape(should)}"
                if not np.allclose(is_, should, rtol=RELATIVE, atol=ABSOLUTE):
                    return f"query {number}: {what} are off by {np.abs(np.subtract(is_, should)).max():.2g}"
    except (KeyError, TypeError, ValueError) as error:
        return f"it is no answer: {error!r}"
    return None


def main(
    plan: Annotated[Path, typer.Argument(help="JSON: for each kind of request what to ask and what to expect")],
    endpoint: Annotated[str, typer.Argument()],
    clients: Annotated[int, typer.Option(min=1)],
    seconds: Annotated[float, typer.Option(min=0, help="after which no user asks again")],
    patience: Annotated[float, typer.Option(min=1, help="seconds a user waits for an answer")],
    out: Annotated[Path, typer.Option("--json")],
) -> None:
    """Let the users ask."""
    import gevent
    import locust
    from locust.env import Environment

    cases: dict[str, list[dict[str, Any]]] = json.loads(plan.read_text("utf-8"))
    tally, draw = Tally(), random.Random(0)

    class Asker(locust.FastHttpUser):
        """Asks again as soon as it is answered."""

        host = endpoint
        wait_time = locust.constant(0)
        network_timeout = connection_timeout = patience

        @locust.task
        def ask(self) -> None:
            kind = draw.choice(list(cases))
            case = draw.choice(cases[kind])
            started = time.monotonic()
            with self.client.post("/v1/attributions", json=case["body"], name=kind, catch_response=True) as response:
                taken = time.monotonic() - started
                wait = (response.headers or {}).get("retry-after") if response.status_code == 429 else None
                if response.status_code == 200:
                    try:
                        why = difference(json.loads(response.content), case["expected"])
                    except ValueError as error:
                        why = f"it is no JSON: {error}"
                    outcome = "right" if why is None else "wrong"
                elif wait is not None:
                    outcome, why = "busy", None
                else:
                    said = response.error if response.status_code == 0 else response.text[:300]
                    outcome, why = "lost", f"{response.status_code}: {said}"
                tally.count(kind, outcome, taken, len(case["body"]["queries"]), why)
                response.success()
            if wait is not None:
                gevent.sleep(float(wait))

    # The requests that are under way at the end are waited for, and count.
    environment = Environment(user_classes=[Asker], stop_timeout=2 * patience)
    runner = environment.create_local_runner()
    started = time.monotonic()
    runner.start(clients, spawn_rate=clients)
    gevent.sleep(seconds)
    runner.stop()
    figures = tally.figures(time.monotonic() - started)
    failures = [str(failure["msg"]) for failure in runner.exceptions.values()]
    out.write_text(json.dumps({**figures, "failures": failures}, indent=1), encoding="utf-8")
    if failures:
        raise SystemExit(f"the users themselves failed: {failures[0]}")


if __name__ == "__main__":
    typer.run(main)
