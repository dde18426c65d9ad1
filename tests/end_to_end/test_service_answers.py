"""What the service answers besides exact scores: a basis, baselines, the model's own answers, streams, counts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks as conformance

import dist_attr as da
from dist_attr.config import ServiceConfig
from dist_attr.readout import ReadoutEngine, Sampling, generate
from dist_attr.serving import deploy, stop
from dist_attr.store import MeasuredFidelity, record_fidelity
from tests.end_to_end.conftest import free_port
from tests.readout.test_basis import queries
from tests.stores import make_store

SOURCES, RANK = 11, 7  # neither is a multiple of the shards
KEY = "0123456789abcdef-a-key"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
QUERIES = [*queries(5, seed=9), da.Query(prompt="the state", completion=" é", baseline=" of fear")]
MEASURED = MeasuredFidelity(
    truth="this run", readout="linear", dropped=1, retrained=11, queries=6, correlation=0.9, interval=(0.8, 0.95)
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    folder = tmp_path_factory.mktemp("served")
    store = make_store(folder, [f"s{n}" for n in range(SOURCES)], context=48, codec="int8", directions=4)
    da.calibrate(store, queries(40, seed=1), rank=RANK)
    return record_fidelity(store, [MEASURED])


@pytest.fixture(scope="module")
def service(
    cluster: None, store: da.InfluenceStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"another-key-that-is-long\n{KEY}\n")
    port = free_port()
    config = ServiceConfig(
        store=store.url, shards=2, cpus=0.5, ingresses=2, keys_file=str(keys), most_tokens=2000, most_bytes=100_000
    )
    deploy(config, port=port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=AUTHORIZED, timeout=60) as client:
        yield client
    stop()


def asked(service: httpx.Client, **request: Any) -> dict[str, Any]:
    answer = service.post("/v1/attributions", json={"tokens": True, **request})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def dumped(some: list[da.Query]) -> list[dict[str, Any]]:
    return [query.model_dump() for query in some]


@pytest.mark.parametrize("rank", [None, 1, 4, RANK])
def test_law_8_of_a_basis_and_baselines(rank: int | None, service: httpx.Client, store: da.InfluenceStore) -> None:
    local = da.Attributor(store, rank=rank).attribute(QUERIES)
    found = asked(service, queries=dumped(QUERIES), rank=rank)
    assert found["rank"] == rank
    for i, result in enumerate(found["results"]):
        served = {source["source"]: source for source in result["sources"]}
        assert list(served) == [store.sources[row] for row in np.argsort(-local.scores[i], kind="stable")]
        for row, name in enumerate(store.sources):
            assert served[name]["score"] == pytest.approx(local.scores[i, row], rel=1e-3, abs=1e-4)
            np.testing.assert_allclose(served[name]["token_scores"], local.token_scores[i][row], rtol=1e-3, atol=1e-4)
            error = None if local.errors is None else pytest.approx(local.errors[i, row], rel=1e-3)
            assert served[name]["error"] == error
            of_tokens = None if local.token_errors is None else pytest.approx(local.token_errors[i][row], rel=1e-3)
            assert served[name]["token_errors"] == of_tokens
    baselines = [result["baseline_logprob"] for result in found["results"]]
    assert baselines[:5] == [None] * 5
    assert baselines[5] == pytest.approx(local.baseline_logprobs[5], rel=1e-4)


def test_a_baseline_is_the_difference_of_two_answers(service: httpx.Client) -> None:
    prompt, one, other = "the state", " é", " of fear"
    both = asked(service, queries=[{"prompt": prompt, "completion": one, "baseline": other}])["results"][0]
    apart = asked(service, queries=[{"prompt": prompt, "completion": c} for c in (one, other)])["results"]
    scores = [{source["source"]: source["score"] for source in result["sources"]} for result in apart]
    for source in both["sources"]:
        name = source["source"]
        assert source["score"] == pytest.approx(scores[0][name] - scores[1][name], rel=1e-3, abs=1e-4)
    assert both["baseline_logprob"] == pytest.approx(apart[1]["logprob"], rel=1e-4)
    # The short form has room for it too.
    single = service.post("/v1/attributions", json={"prompt": prompt, "completion": one, "baseline": other})
    assert single.json()["results"][0]["baseline_logprob"] == pytest.approx(both["baseline_logprob"], rel=1e-4)


def test_fidelity_travels_with_the_answer(service: httpx.Client, store: da.InfluenceStore) -> None:
    exact = asked(service, queries=dumped(QUERIES[:1]))["fidelity"]
    assert exact["measured"] == [json.loads(MEASURED.model_dump_json())]
    assert (exact["codec"], exact["coverage"], exact["precision"], exact["basis"]) == ("int8", 1.0, "fp32", None)
    basis = asked(service, queries=dumped(QUERIES[:1]), rank=3)["fidelity"]["basis"]
    assert basis["rank"] == RANK and 0.9 < basis["energy"] <= 1
    facts = service.get("/v1/store").json()
    assert facts["basis"] == basis and facts["exact"] and facts["shards"] == 2
    assert (facts["sources"], facts["parameters"]) == (SOURCES, store.manifest.space.size)
    assert facts["store"]["identity"] == store.manifest.identity
    assert str(store.place.url) not in service.get("/v1/store").text


def test_a_stream_has_every_result_and_says_that_it_is_whole(service: httpx.Client) -> None:
    many = queries(70, seed=3)
    whole = asked(service, queries=dumped(many), top=3)
    body = {"queries": dumped(many), "tokens": True, "top": 3}
    with service.stream("POST", "/v1/attributions", json=body, headers={"accept": "application/x-ndjson"}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert lines[0]["facts"]["store"] == whole["store"] and lines[-1] == {"done": 70}
    assert [line["index"] for line in lines[1:-1]] == list(range(70))
    for line, result in zip(lines[1:-1], whole["results"], strict=True):
        assert line["result"]["tokens"] == result["tokens"]
        scores = [[source["score"] for source in found["sources"]] for found in (line["result"], result)]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_the_model_answers_and_the_answer_is_attributed(service: httpx.Client, store: da.InfluenceStore) -> None:
    request = {"prompt": "the state", "max_tokens": 6, "tokens": True}
    found = service.post("/v1/completions", json=request).json()
    query, ended = generate(ReadoutEngine(store), "the state", Sampling(6))
    choice = found["choices"][0]
    assert choice["finish_reason"] == ("stop" if ended else "length")
    assert found["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    result = found["attribution"]["results"][0]
    assert result["tokens"] == choice["logprobs"]["tokens"]
    # The very tokens that were generated are scored, even where their text is no valid UTF-8.
    attributor = da.Attributor(store)
    local = attributor.engine.read([query], attributor.rows)[0]
    served = {source["source"]: source["token_scores"] for source in result["sources"]}
    for row, name in enumerate(store.sources):
        np.testing.assert_allclose(served[name], local.scores[row], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result["token_logprobs"], local.logprobs, rtol=1e-4, atol=1e-5)


def test_answers_are_drawn_from_a_seed(service: httpx.Client) -> None:
    def drawn(seed: int) -> str:
        request = {"prompt": "the", "max_tokens": 12, "temperature": 1.0, "seed": seed, "top": 1}
        return str(service.post("/v1/completions", json=request).json()["choices"][0]["logprobs"]["tokens"])

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ({"completion": "x", "rank": RANK + 1}, 422, f"the basis has {RANK} directions; ask for fewer"),
        ({"completion": "x", "rank": 2, "readout": "counterfactual"}, 422, "without a rank"),
        ({"completion": "x", "baseline": ""}, 422, "the baseline is empty"),
        ({"queries": [{"prompt": "a" * 40, "completion": "b"}] * 50}, 422, "the service takes 2,000 in a request"),
        ({"completion": "x" * 200_000}, 413, "more than 100,000 bytes"),
        ({"completion": "x", "timeout": 1e-9}, 504, "took longer than the request's timeout"),
    ],
)
def test_what_is_too_much_is_refused(body: Any, status: int, detail: str, service: httpx.Client) -> None:
    answer = service.post("/v1/attributions", json=body, headers={"x-request-id": "mine-1"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert detail in answer.json()["detail"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"prompt": "a" * 45, "max_tokens": 10}, "do not fit the model's context of 48 tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "stream": True}, "stream"),
        ({"prompt": "\ud800", "max_tokens": 3}, ""),
    ],
)
def test_a_completion_that_cannot_be(body: Any, detail: str, service: httpx.Client) -> None:
    content = json.dumps(body).encode()
    answer = service.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and detail in answer.json()["detail"]


def test_a_request_id_is_made(service: httpx.Client) -> None:
    made = [service.get("/v1/elsewhere") for _ in range(2)]
    assert [answer.json()["request_id"] for answer in made] == [answer.headers["x-request-id"] for answer in made]
    assert made[0].headers["x-request-id"] != made[1].headers["x-request-id"]


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic " + KEY, "Bearer", f"Bearer {KEY}x"])
@pytest.mark.parametrize("path", ["/v1/store", "/v1/sources", "/metrics", "/v1/elsewhere"])
def test_without_a_key_nothing_is_told(given: str | None, path: str, service: httpx.Client) -> None:
    headers = {} if given is None else {"authorization": given}
    answer = httpx.get(f"{service.base_url}{path}", headers=headers)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert KEY not in answer.text


def test_probes_need_no_key(service: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(f"{service.base_url}{path}", timeout=30).status_code == 200


def test_metrics_count_every_process(service: httpx.Client) -> None:
    def counted() -> dict[tuple[str, str], float]:
        families = text_string_to_metric_families(service.get("/metrics").text)
        found: dict[tuple[str, str], float] = {}
        for family in families:
            for sample in family.samples:
                key = (sample.name, sample.labels.get("route", sample.labels.get("stage", "")))
                found[key] = found.get(key, 0) + sample.value
                assert sample.labels["process"]
        return found

    before = counted()
    for _ in range(6):  # over both ingresses
        asked(service, queries=dumped(QUERIES[:2]))
    after = counted()
    key = ("dist_attr_requests_total", "/v1/attributions")
    assert after[key] - before[key] == 6
    key = ("dist_attr_stage_seconds_count", "queue")
    assert after[key] - before[key] == 12
    assert 1 <= after["dist_attr_batch_queries_count", ""] - before["dist_attr_batch_queries_count", ""] <= 12
    assert math.isfinite(after["dist_attr_stage_seconds_sum", "read"])


def test_a_service_of_the_basis_alone(service: httpx.Client, store: da.InfluenceStore, tmp_path: Path) -> None:
    from ray import serve

    from dist_attr.serving import application

    config = ServiceConfig(store=store.url, shards=2, cpus=0.25, hold="basis", precision="bf16")
    serve.run(application(config), name="basis_alone", route_prefix="/basis")
    place = f"{service.base_url}/basis/v1/attributions".replace("//basis", "/basis")
    refused = httpx.post(place, json={"completion": "x"}, timeout=60)
    assert refused.status_code == 422 and f"ask with a rank of at most {RANK}" in refused.json()["detail"]
    answer = httpx.post(place, json={"queries": dumped(QUERIES), "rank": RANK}, timeout=60).json()
    error = answer["fidelity"]["precision_error"]
    assert answer["fidelity"]["precision"] == "bf16" and 1e-4 < error < 0.1
    local = da.Attributor(store, rank=RANK).attribute(QUERIES)
    served = np.array(
        [[{s["source"]: s["score"] for s in r["sources"]}[n] for n in store.sources] for r in answer["results"]]
    )
    apart = np.linalg.norm(served - local.scores) / np.linalg.norm(local.scores)
    assert 1e-5 < apart < 5 * error
    serve.delete("basis_alone")


@pytest.fixture(scope="module")
def described(service: httpx.Client) -> Any:
    return schemathesis.openapi.from_url(f"{service.base_url}/openapi.json")


def foreseen(context: Any, response: Any, case: Any) -> None:
    """Not a defect: whatever is sent, what is answered was thought of."""
    assert response.status_code != 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"][0] == "application/problem+json"


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_whatever_is_sent_the_answer_is_as_described(mode: GenerationMode, described: Any) -> None:
    checks = [
        foreseen,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_schema_conformance,
    ]
    operations = [operation.ok() for operation in described.get_all_operations()]
    assert len(operations) >= 7
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # there is nothing to send that is wrong

        @given(operation.as_strategy(generation_mode=mode))
        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def answered(case: Any) -> None:
            case.call_and_validate(headers=AUTHORIZED, timeout=90, checks=checks)

        answered()
