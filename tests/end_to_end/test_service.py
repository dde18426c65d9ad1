"""The service over HTTP: laws 8 and 9, and requests that are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.errors import ConfigError, QueryError
from dist_attr.serving import application, deploy
from tests.end_to_end.conftest import SOURCES, free_port

QUERIES = [
    da.Query(prompt="the cat", completion=" ran and the dog"),
    da.Query(prompt="", completion="emu"),
    da.Query(prompt="bee 7 é", completion=" ant é"),
    da.Query(prompt="and the", completion=" bee"),
]


def ask(endpoint: str, queries: list[da.Query], **options: Any) -> Any:
    with da.Client(endpoint, retries=1) as client:
        return client.attribute(queries, **options)


def assert_equal(answer: Any, local: da.Attribution) -> None:
    for query, result in enumerate(answer.results):
        served = {source.source: source for source in result.sources}
        assert set(served) == set(SOURCES)
        assert result.tokens == local.tokens[query]
        np.testing.assert_allclose(result.token_logprobs, local.token_logprobs[query], rtol=1e-4, atol=1e-5)
        for row, name in enumerate(local.sources):
            np.testing.assert_allclose(served[name].score, local.scores[query, row], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(served[name].token_scores, local.token_scores[query][row], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("readout", ["linear", "counterfactual"])
def test_law_8_served_equals_local(readout: Any, endpoint: str, attributor: da.Attributor) -> None:
    answer = ask(endpoint, QUERIES, readout=readout, tokens=True)
    local = attributor.attribute(QUERIES, readout=readout)
    assert np.abs(local.scores).max() > 1e-3
    assert_equal(answer, local)


def test_law_8_under_concurrent_load(endpoint: str, attributor: da.Attributor) -> None:
    local = attributor.attribute(QUERIES)
    with da.Client(endpoint) as client, ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: client.attribute(QUERIES, tokens=True), range(32)):
            assert_equal(answer, local)


def test_sources_are_ranked_and_cut(endpoint: str) -> None:
    whole = ask(endpoint, QUERIES[:1]).results[0].sources
    assert [s.score for s in whole] == sorted((s.score for s in whole), reverse=True)
    assert all(source.token_scores is None for source in whole)
    top = ask(endpoint, QUERIES[:1], top=2).results[0].sources
    strongest = sorted(whole, key=lambda s: -abs(s.score))[:2]
    assert {s.source for s in top} == {s.source for s in strongest}


def test_a_rank_is_refused(endpoint: str) -> None:
    with pytest.raises(QueryError, match="the store has no readout basis"):
        ask(endpoint, QUERIES[:1], rank=2)


def test_a_single_query_stands_by_itself(endpoint: str) -> None:
    answer = httpx.post(f"{endpoint}/v1/attributions", json={"prompt": "the cat", "completion": " ran"}, timeout=60)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == 1


def test_the_answer_names_its_store(endpoint: str, store: da.InfluenceStore) -> None:
    manifest = store.manifest
    assert manifest.model is not None
    answer = ask(endpoint, QUERIES[:1])
    assert answer.readout == "linear"
    assert (answer.store.identity, answer.store.model) == (manifest.identity, manifest.model.weights)


def test_health_sources_and_openapi(endpoint: str) -> None:
    assert httpx.get(f"{endpoint}/healthz").json()["status"] == "ok"
    assert httpx.get(f"{endpoint}/readyz").json() == {"status": "ok", "shards": 2}
    listed = httpx.get(f"{endpoint}/v1/sources").json()["sources"]
    assert [source["source"] for source in listed] == list(SOURCES)
    assert "/v1/attributions" in httpx.get(f"{endpoint}/openapi.json").json()["paths"]
    assert httpx.get(f"{endpoint}/docs").status_code == 200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"queries": [{"completion": ""}]}, "query 0: the completion is empty"),
        ({"prompt": "the " * 30, "completion": "cat"}, "do not fit the model's context of 32 tokens"),
        ({"queries": []}, "at least 1 item"),
        ({"queries": [{"completion": "x"}], "readout": "magic"}, "linear"),
        ({"queries": [{"completion": "x"}], "tpo": 3}, "tpo"),
        ({"completion": "x", "top": 0}, "top"),
        ([], "dictionary"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(body: Any, detail: str, endpoint: str) -> None:
    answer = httpx.post(f"{endpoint}/v1/attributions", json=body, timeout=60)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]


def test_json_that_is_none_is_refused(endpoint: str) -> None:
    answer = httpx.post(
        f"{endpoint}/v1/attributions", content=b"{not json", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


def test_the_query_command_asks_the_service(endpoint: str, store: da.InfluenceStore) -> None:
    command = [sys.executable, "-m", "dist_attr", "query", "--prompt", "the cat", "--completion", " ran", "--json"]
    served = subprocess.run([*command, "--endpoint", endpoint], capture_output=True, text=True, check=True)
    local = subprocess.run([*command, store.url], capture_output=True, text=True, check=True)
    scores = [
        {s["source"]: s["score"] for s in json.loads(run.stdout)["results"][0]["sources"]} for run in (served, local)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3, abs=1e-4)


def test_a_refusal_of_the_service_is_the_clients_error(endpoint: str) -> None:
    with pytest.raises(QueryError, match="do not fit"):
        ask(endpoint, [da.Query(prompt="a" * 60, completion="b")])
    with pytest.raises(QueryError, match="no service answers"):
        ask(f"http://127.0.0.1:{free_port()}", QUERIES)
    with pytest.raises(QueryError, match="elsewhere/v1/attributions: Not Found; the API is described at /docs"):
        ask(f"{endpoint}/elsewhere", QUERIES)


def test_a_service_elsewhere_and_too_many_shards_are_refused(endpoint: str, store: da.InfluenceStore) -> None:
    with pytest.raises(ConfigError, match=f"this cluster serves at 127.0.0.1:{endpoint.rpartition(':')[2]} already"):
        deploy(ServiceConfig(store=store.url), port=free_port())
    with pytest.raises(ConfigError, match="between 1 and 5 shards"):
        deploy(ServiceConfig(store=store.url, shards=6), port=free_port())
    with pytest.raises(ConfigError, match="the shards need 400"):
        deploy(ServiceConfig(store=store.url, cpus=200), port=int(endpoint.rpartition(":")[2]))


@pytest.mark.parametrize("shards", [1, 3])
def test_laws_8_and_9_any_number_of_shards_and_no_backward_pass(
    shards: int,
    endpoint: str,
    store: da.InfluenceStore,
    attributor: da.Attributor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks = Path(__file__).parents[1] / "hooks"
    disabled = {"PYTHONPATH": f"{hooks}{os.pathsep}{hooks.parents[1]}", "NO_BACKWARD_WITNESS": str(tmp_path)}
    for room in ("deployment", "lasting"):
        monkeypatch.setattr(f"dist_attr.serving.{room}.ENVIRONMENT", {"OMP_WAIT_POLICY": "PASSIVE", **disabled})
    handle = serve.run(
        application(ServiceConfig(store=store.url, shards=shards)),
        name=f"no_backward_{shards}",
        route_prefix=f"/no{shards}",
    )
    assert handle is not None
    answer = ask(f"{endpoint}/no{shards}", QUERIES, tokens=True)
    assert_equal(answer, attributor.attribute(QUERIES))
    assert len(list(tmp_path.iterdir())) >= shards, "the hook was not in the shards"
    serve.delete(f"no_backward_{shards}")


def test_law_9_the_hook_does_disable_backward(tmp_path: Path) -> None:
    hooks = Path(__file__).parents[1] / "hooks"
    program = "import torch; x = torch.ones(1, requires_grad=True); (x * x).sum().backward()"
    environment = {**os.environ, "PYTHONPATH": str(hooks), "NO_BACKWARD_WITNESS": str(tmp_path)}
    for way in (program, program.replace("(x * x).sum().backward()", "torch.func.grad(lambda y: (y * y).sum())(x)")):
        run = subprocess.run([sys.executable, "-c", way], env=environment, capture_output=True, text=True, check=False)
        assert "a backward pass was started" in run.stderr
