"""The clients and the query command against the real service."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from ray import serve

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.errors import QueryError
from dist_attr.serving import application
from dist_attr.serving.schemas import MOST_QUERIES
from tests.end_to_end.conftest import SOURCES
from tests.end_to_end.test_service import QUERIES, assert_equal

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[da.Client]:
    with da.Client(endpoint) as opened:
        opened.ready()
        yield opened


@pytest.fixture(scope="module")
def guarded(endpoint: str, store: da.InfluenceStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Another service, that wants a key and lets two queries in at once."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(KEY + "\n")
    config = ServiceConfig(store=store.url, shards=1, most_waiting=2, keys_file=str(keys))
    serve.run(application(config), name="guarded", route_prefix="/guarded")
    yield f"{endpoint}/guarded"
    serve.delete("guarded")


def compared(results: list[Any]) -> list[dict[str, Any]]:
    return [result.model_dump() for result in results]


def test_law_8_for_every_way_to_ask(client: da.Client, endpoint: str, attributor: da.Attributor) -> None:
    local = attributor.attribute(QUERIES)
    answer = client.attribute(QUERIES, tokens=True)
    assert_equal(answer, local)
    assert_equal(answer.model_copy(update={"results": list(client.stream(QUERIES, tokens=True))}), local)

    async def ask() -> tuple[Any, list[Any]]:
        async with da.AsyncClient(endpoint) as other:
            whole = await other.attribute(QUERIES, tokens=True)
            return whole, [result async for result in other.stream(QUERIES, tokens=True)]

    whole, streamed = asyncio.run(ask())
    assert_equal(whole, local)
    assert_equal(whole.model_copy(update={"results": streamed}), local)


def test_more_queries_than_a_request_takes(client: da.Client, attributor: da.Attributor) -> None:
    queries = [QUERIES[i % len(QUERIES)] for i in range(MOST_QUERIES + 3)]
    local = attributor.attribute(QUERIES).scores
    for results in (client.attribute(queries).results, list(client.stream(queries))):
        assert len(results) == len(queries)
        for number, result in enumerate(results):
            served = {source.source: source.score for source in result.sources}
            wanted = local[number % len(QUERIES)]
            np.testing.assert_allclose([served[name] for name in attributor.sources], wanted, rtol=1e-3, atol=1e-4)


def test_a_baseline_gives_differences(client: da.Client, attributor: da.Attributor) -> None:
    completion, baseline = (da.Query(prompt="the", completion=text) for text in (" cat", " dog ran"))
    own, other = attributor.attribute([completion, baseline]).scores
    query = completion.model_copy(update={"baseline": baseline.completion})
    result = client.attribute(query).results[0]
    served = {source.source: source.score for source in result.sources}
    np.testing.assert_allclose([served[name] for name in attributor.sources], own - other, rtol=1e-3, atol=1e-4)
    assert result.baseline_logprob == pytest.approx(attributor.attribute([baseline]).token_logprobs[0].sum(), rel=1e-4)


def test_the_model_answers(client: da.Client, endpoint: str) -> None:
    answer = client.complete("the cat", max_tokens=5, top=2)
    assert answer.usage.completion_tokens <= 5
    again = client.attribute(da.Query(prompt="the cat", completion=answer.choices[0].text), top=2)
    assert [s.source for s in again.results[0].sources] == [s.source for s in answer.attribution.results[0].sources]

    async def ask() -> Any:
        async with da.AsyncClient(endpoint) as other:
            return await other.complete("the cat", max_tokens=5, top=2)

    assert asyncio.run(ask()).choices == answer.choices


def test_what_is_served(client: da.Client, endpoint: str, store: da.InfluenceStore) -> None:
    assert [source.source for source in client.sources().sources] == list(SOURCES)
    assert client.store().store.identity == store.manifest.identity
    assert client.ready().shards == 2

    async def ask() -> tuple[Any, ...]:
        async with da.AsyncClient(endpoint) as other:
            return await other.sources(), await other.store(), await other.ready()

    assert asyncio.run(ask()) == (client.sources(), client.store(), client.ready())


@pytest.mark.parametrize("method", ["attribute", "stream"])
def test_a_refusal_gives_its_reason_and_the_request(method: str, client: da.Client) -> None:
    with pytest.raises(QueryError, match=r"query 1: the completion is empty.*\(request [0-9a-f]{32}\)"):
        list(getattr(client, method)([QUERIES[0], da.Query(completion="")]))
    with pytest.raises(QueryError, match="the store has no readout basis"):
        list(getattr(client, method)(QUERIES, rank=2))


def test_the_key_is_asked_for(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIST_ATTR_KEY", raising=False)
    for key in (None, "another"):
        with da.Client(guarded, key=key) as client, pytest.raises(QueryError, match="or set DIST_ATTR_KEY"):
            client.store()
    with da.Client(guarded, key=KEY) as client:
        assert client.store().shards == 1
    monkeypatch.setenv("DIST_ATTR_KEY", KEY)
    with da.Client(guarded) as client:
        assert client.attribute(QUERIES[0]).results


def test_a_busy_service_answers_everybody_in_the_end(guarded: str, attributor: da.Attributor) -> None:
    local = attributor.attribute(QUERIES[:1])

    def ask(_: int) -> Any:
        with da.Client(guarded, key=KEY, retries=100) as client:
            return client.attribute(QUERIES[0], tokens=True)

    with ThreadPoolExecutor(12) as pool:
        for answer in pool.map(ask, range(24)):
            assert_equal(answer, local)


def query(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dist_attr", "query", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={"PATH": "/usr/bin:/bin", **environment}
    )


def test_the_command_compares_two_completions_here_and_there(endpoint: str, store: da.InfluenceStore) -> None:
    asked = ["--prompt", "the", "--completion", " cat", "--baseline", " dog"]
    runs = [query(*asked, "--json", *place) for place in (["--endpoint", endpoint], [store.url])]
    results = [json.loads(run.stdout)["results"][0] for run in runs]
    served, local = [{source["source"]: source["score"] for source in result["sources"]} for result in results]
    assert served == pytest.approx(local, rel=1e-3, abs=1e-4)
    assert results[0]["baseline_logprob"] == pytest.approx(results[1]["baseline_logprob"], rel=1e-4)
    shown = " ".join(query(*asked, store.url).stdout.split())
    assert "rather than dog" in shown and "scores are of the difference" in shown


def test_the_command_finds_its_key(guarded: str) -> None:
    asked = ["--completion", "cat", "--endpoint", guarded]
    refused = query(*asked)
    assert refused.returncode == 1 and refused.stderr.startswith("error:") and "DIST_ATTR_KEY" in refused.stderr
    assert query(*asked, DIST_ATTR_KEY=KEY).returncode == 0
    assert query(*asked, "--key-env", "MINE", MINE=KEY).returncode == 0
    missing = query(*asked, "--key-env", "MINE", DIST_ATTR_KEY=KEY)
    assert missing.returncode == 1 and "--key-env names MINE" in missing.stderr
