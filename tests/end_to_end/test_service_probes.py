"""In-context probing by the service: laws 8 and 9, what is refused, and what dies or changes meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest

import dist_attr as da
from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.corpus import Document, corpus_fingerprint
from dist_attr.errors import QueryError
from dist_attr.probing import (
    CompareOptions,
    Passages,
    Probe,
    Prober,
    Question,
    agreement,
    by_source,
    comparison,
    golden_score,
    measure,
)
from dist_attr.serving import deploy, stop
from tests.end_to_end.conftest import free_port
from tests.end_to_end.test_service_faults import processes
from tests.stores import make_store

NAMES = ("ant", "bee", "cat", "dog")
TEXTS = [f"{name} {word} " * repeat for name in NAMES for word, repeat in (("runs", 2), ("sleeps", 5), ("é", 3))]
DOCUMENTS = [Document(f"d{number}", text, NAMES[number // 3], {}) for number, text in enumerate(TEXTS)]
QUERIES = [
    da.Query(prompt="the cat", completion=" runs"),
    da.Query(prompt="", completion="bee é"),
    da.Query(prompt="a dog", completion=" sleeps"),
]
PROBING = ProbeConfig(template="{document}\n{prompt}", window=24, documents=2)
MOST = 40
Choice = Literal["bm25", "random"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    return make_store(tmp_path_factory.mktemp("probes"), NAMES, context=64, documents=DOCUMENTS)


@pytest.fixture(scope="module")
def corpus(store: da.InfluenceStore) -> Path:
    assert store.manifest.run.corpus.path is not None
    return Path(store.manifest.run.corpus.path)


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each process of the service in which a backward pass is an error."""
    return tmp_path_factory.mktemp("witnesses")


@pytest.fixture(scope="module")
def endpoint(cluster: None, store: da.InfluenceStore, witnesses: Path) -> Iterator[str]:
    """A service of the store with two shards, in which nothing can go backward."""
    hooks = Path(__file__).parents[1] / "hooks"
    disabled = {"PYTHONPATH": f"{hooks}{os.pathsep}{hooks.parents[1]}", "NO_BACKWARD_WITNESS": str(witnesses)}
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dist_attr.serving.deployment.ENVIRONMENT", {"OMP_WAIT_POLICY": "PASSIVE", **disabled})
        deploy(ServiceConfig(store=store.url, cpus=0.5, surge=False, probing=PROBING, most_probes=MOST), port=port)
    yield f"http://127.0.0.1:{port}"
    stop()


@pytest.fixture(scope="module")
def client(endpoint: str) -> Iterator[da.Client]:
    with da.Client(endpoint, retries=30) as opened:
        opened.ready()
        yield opened


@pytest.fixture(scope="module")
def local(store: da.InfluenceStore) -> Any:
    """The library: probes of queries, and BM25 of the sources."""
    prober = Prober.of(store, PROBING)
    passages = Passages.of(store, prober.tokenizer, prober.window)

    def probe(queries: list[da.Query], **changes: Any) -> list[Probe]:
        config = PROBING.model_copy(update=changes)
        return prober.probe(queries, [passages.choose(query, config) for query in queries])

    def bm25(queries: list[da.Query]) -> Any:
        return np.stack([passages.bm25(query) for query in queries])

    return probe, bm25


def assert_probed(results: list[Any], right: list[Probe], names: tuple[str, ...] = NAMES) -> None:
    assert len(results) == len(right)
    for result, probe in zip(results, right, strict=True):
        np.testing.assert_allclose(result.token_logprobs, probe.logprobs, rtol=1e-4, atol=1e-5)
        assert result.logprob == pytest.approx(probe.logprobs.sum(), rel=1e-4)
        sources = {source.source: source for source in result.sources}
        assert [s.mean for s in result.sources] == sorted((s.mean for s in result.sources), reverse=True)
        for source in by_source(probe, names):
            served = sources.pop(source.source)
            for name in ("mean", "median", "best", "documents"):
                assert getattr(served, name) == pytest.approx(getattr(source, name), rel=1e-3, abs=2e-5)
        assert not sources
        documents = {(each.document, each.window): each for each in result.documents}
        assert [d.score for d in result.documents] == sorted((d.score for d in result.documents), reverse=True)
        for passage, scores in zip(probe.passages, probe.token_scores, strict=True):
            if passage.source not in names:
                continue
            shown = documents.pop((passage.document, passage.window))
            assert (shown.source, shown.windows) == (passage.source, passage.windows)
            assert shown.length == len(passage.tokens)
            assert shown.score == pytest.approx(scores.sum(), rel=1e-3, abs=2e-5)
            if shown.token_scores is not None:
                np.testing.assert_allclose(shown.token_scores, scores, rtol=1e-3, atol=2e-5)
            text = TEXTS[int(passage.document[1:])]
            assert shown.excerpt and shown.excerpt in text
        assert not documents


@pytest.mark.parametrize("choose", ["bm25", "random"])
def test_law_8_served_probes_equal_local_ones(choose: Choice, client: da.Client, local: Any) -> None:
    answer = client.probe(QUERIES, choose=choose, seed=3, tokens=True)
    right = local[0](QUERIES, choose=choose, seed=3)
    assert min(np.abs(probe.scores).max() for probe in right) > 1e-2
    assert_probed(answer.results, right)
    assert all(document.token_scores for result in answer.results for document in result.documents)
    facts = answer.probing
    assert (facts.documents, facts.choose, facts.seed, facts.window) == (2, choose, 3, 24)
    if choose == "random":
        golden = golden_score(np.stack([probe.scores for probe in right]))
        wanted = {(p.document, p.window): share for p, share in zip(right[0].passages, golden, strict=True)}
        assert {(g.document, g.window): g.share for g in answer.golden} == wanted
        assert all(g.queries == len(QUERIES) for g in answer.golden)


def test_a_part_of_the_sources_and_one_query_by_itself(endpoint: str, client: da.Client, local: Any) -> None:
    names = ("bee", "dog")
    right = local[0](QUERIES[:1], documents=1)
    assert_probed(client.probe(QUERIES[0], documents=1, sources=["dog", "bee"]).results, right, names)
    body = {**QUERIES[0].model_dump(exclude={"baseline"}), "documents": 1, "sources": list(names)}
    answer = httpx.post(f"{endpoint}/v1/probes", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    assert {source["source"] for source in result["sources"]} == set(names)
    assert all(document["token_scores"] is None for document in result["documents"])


def assert_compared(answer: Any, attribution: da.Attribution, probes: list[Probe], bm25: Any, statistic: str) -> None:
    for number, result in enumerate(answer.results):
        scores = {source.source: source.score for source in result.attribution.sources}
        np.testing.assert_allclose([scores[n] for n in NAMES], attribution.scores[number], rtol=1e-3, atol=1e-4)
        assert result.attribution.tokens == result.probe.tokens
        np.testing.assert_allclose(result.attribution.token_logprobs, result.probe.token_logprobs, atol=1e-5)
    assert_probed([result.probe for result in answer.results], probes)
    figures = np.array([[getattr(source, statistic) for source in by_source(probe, NAMES)] for probe in probes])
    lengths = np.array(
        [[np.mean([len(p.tokens) for p in probe.passages if p.source == name]) for name in NAMES] for probe in probes]
    )
    assert (lengths != lengths[0]).any(), "a mean over all queries would do as well"
    right = agreement(attribution.scores, figures, covariates={"bm25": bm25, "tokens": lengths})
    assert answer.agreement.per_query == right.per_query
    assert answer.agreement.overall.spearman == right.overall.spearman


@pytest.mark.parametrize("statistic", ["mean", "best"])
def test_law_8_a_served_comparison_equals_the_local_one(
    statistic: Literal["mean", "best"], client: da.Client, endpoint: str, store: da.InfluenceStore, local: Any
) -> None:
    probe, bm25 = local
    attribution = da.Attributor(store).attribute(QUERIES)
    answer = client.compare(QUERIES, statistic=statistic)
    assert_compared(answer, attribution, probe(QUERIES), bm25(QUERIES), statistic)
    assert (answer.store.identity, answer.statistic) == (store.manifest.identity, statistic)

    async def ask() -> Any:
        async with da.AsyncClient(endpoint) as other:
            return await other.probe(QUERIES), await other.compare(QUERIES, statistic=statistic)

    probed, compared = asyncio.run(ask())
    assert compared == answer
    assert_probed(probed.results, probe(QUERIES))


def test_a_served_comparison_has_the_figures_of_the_command(client: da.Client, store: da.InfluenceStore) -> None:
    questions = [Question(id=str(number), **query.model_dump()) for number, query in enumerate(QUERIES)]
    measured = measure(store, questions, CompareOptions(probe=PROBING))
    assert (measured.stacked("tokens") != measured.rows[0].tokens).any()
    served, wanted = client.compare(QUERIES), comparison(store, measured, seed=0, command="")
    assert served.agreement == wanted.agreement
    assert client.compare(QUERIES, statistic="best").agreement.overall == wanted.summaries["best"]


def test_a_comparison_of_some_sources(client: da.Client) -> None:
    whole = client.compare(QUERIES)
    part = client.compare(QUERIES, sources=["dog", "ant", "bee"], top=2)
    assert part.agreement.sources == 3
    for all_of_them, some in zip(whole.results, part.results, strict=True):
        scores = {s.source: s.score for s in all_of_them.attribution.sources if s.source != "cat"}
        strongest = sorted(scores, key=lambda name: -abs(scores[name]))[:2]
        assert {s.source for s in some.attribution.sources} == set(strongest)
        assert {s.source for s in some.probe.sources} == set(scores)


def test_law_8_under_concurrent_load_with_attributions(client: da.Client, store: da.InfluenceStore, local: Any) -> None:
    probe, bm25 = local
    attribution, right = da.Attributor(store).attribute(QUERIES), probe(QUERIES)

    def ask(number: int) -> None:
        if number % 3 == 0:
            assert_probed(client.probe(QUERIES).results, right)
        elif number % 3 == 1:
            assert_compared(client.compare(QUERIES), attribution, right, bm25(QUERIES), "mean")
        else:
            for result, scores in zip(client.attribute(QUERIES).results, attribution.scores, strict=True):
                served = {source.source: source.score for source in result.sources}
                np.testing.assert_allclose([served[name] for name in NAMES], scores, rtol=1e-3, atol=1e-4)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(24)))


def test_probing_changes_no_attribution(client: da.Client) -> None:
    before = [client.attribute(query, tokens=True) for query in QUERIES]
    client.probe(QUERIES)
    client.compare(QUERIES)
    assert [client.attribute(query, tokens=True) for query in QUERIES] == before


def test_law_9_the_prober_cannot_go_backward_and_answers(client: da.Client, witnesses: Path) -> None:
    client.probe(QUERIES[0])
    [prober] = processes("ray::ProbingActor")
    assert any(str(prober) in witness.name for witness in witnesses.iterdir()), "the hook was not in the prober"


@pytest.mark.parametrize("route", ["probes", "comparisons"])
@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"sources": ["ant", "cow"]}, "there is no source 'cow' in the store; GET /v1/sources lists them"),
        ({"documents": 11}, f"1 queries x 4 sources x 11 documents are 44 probes; the service takes {MOST}"),
        ({"documents": 65}, "documents: Input should be less than or equal to 64"),
        ({"choose": "nearest"}, "choose: Input should be 'bm25' or 'random'"),
        ({"sources": []}, "sources: List should have at least 1 item"),
        ({"corpus": "/etc/passwd"}, "corpus: Extra inputs are not permitted"),
        ({"template": "{document}{prompt}"}, "template: Extra inputs are not permitted"),
        ({"completion": ""}, "query 0: the completion is empty"),
        ({"prompt": "the " * 9}, "query 0: the passage (24 tokens)"),
        ({"baseline": " sleeps"}, "does not compare with a baseline"),
    ],
)
def test_what_cannot_be_probed_is_refused_with_a_reason(
    change: dict[str, Any], detail: str, route: str, endpoint: str, client: da.Client
) -> None:
    client.probe(QUERIES[0])  # so that the prober is there to say what it does not take
    body = {"prompt": "the cat", "completion": " runs", **change}
    answer = httpx.post(f"{endpoint}/v1/{route}", json=body, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert detail in answer.json()["detail"]


def test_a_comparison_of_one_source_is_refused(client: da.Client) -> None:
    with pytest.raises(QueryError, match="a comparison ranks sources; name two at least"):
        client.compare(QUERIES, sources=["ant"])


def test_an_answer_that_takes_too_long_is_none(endpoint: str, client: da.Client, local: Any) -> None:
    body = {**QUERIES[0].model_dump(), "timeout": 1e-3}
    answer = httpx.post(f"{endpoint}/v1/probes", json=body, timeout=60)
    assert answer.status_code == 504 and "the request's timeout" in answer.json()["detail"]
    assert_probed(client.probe(QUERIES).results, local[0](QUERIES))


def test_a_prober_that_is_killed_comes_back_and_never_answers_wrongly(
    endpoint: str, client: da.Client, local: Any
) -> None:
    right = local[0](QUERIES)
    client.probe(QUERIES)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(client.probe, QUERIES) for _ in range(12)]
        [before] = processes("ray::ProbingActor")
        os.kill(before, signal.SIGKILL)
        for each in asked:
            assert_probed(each.result().results, right)
    assert_probed(client.probe(QUERIES).results, right)
    assert processes("ray::ProbingActor") != [before]
    counted = httpx.get(f"{endpoint}/metrics", timeout=30).text
    deaths = [line for line in counted.splitlines() if line.startswith("dist_attr_prober_deaths_total")]
    assert sum(float(line.rpartition(" ")[2]) for line in deaths) >= 1
    assert 'stage="probe"' in counted and "dist_attr_probes_total" in counted


@pytest.mark.parametrize("way", ["changed", "missing"])
def test_other_documents_are_not_probed_and_attributions_go_on(
    way: str, endpoint: str, client: da.Client, store: da.InfluenceStore, corpus: Path, local: Any
) -> None:
    before, content = client.attribute(QUERIES), corpus.read_text("utf-8")
    client.probe(QUERIES)  # of the documents that it has read
    changed = content.replace("sleeps", "dreams")
    if way == "changed":
        corpus.write_text(changed, "utf-8")
    else:
        corpus.unlink()
    try:
        client.probe(QUERIES)
        os.kill(processes("ray::ProbingActor")[0], signal.SIGKILL)
        for route in ("probes", "comparisons"):
            answer = ask_until_answered(f"{endpoint}/v1/{route}")
            assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
            detail = answer.json()["detail"]
            assert store.manifest.corpus[:12] in detail and str(corpus) in detail and "name the place" in detail
            if way == "changed":
                others = [Document(d.id, d.text.replace("sleeps", "dreams"), d.source, {}) for d in DOCUMENTS]
                assert corpus_fingerprint(others)[:12] in detail
        assert client.store().probing.refused == detail  # type: ignore[union-attr]
        assert client.attribute(QUERIES) == before
        assert httpx.get(f"{endpoint}/readyz", timeout=30).status_code == 200
    finally:
        corpus.write_text(content, "utf-8")
    until = time.monotonic() + 60
    while (answer := ask_until_answered(f"{endpoint}/v1/probes")).status_code == 409:
        assert time.monotonic() < until, "the documents are back, and it does not look"
        time.sleep(1)
    assert_probed(client.probe(QUERIES).results, local[0](QUERIES))
    assert client.store().probing.refused is None  # type: ignore[union-attr]


def ask_until_answered(url: str) -> httpx.Response:
    """Past answers that say when to come again."""
    until = time.monotonic() + 90
    while True:
        answer = httpx.post(url, json=QUERIES[0].model_dump(), timeout=90)
        if answer.status_code != 503:
            return answer
        assert int(answer.headers["retry-after"]) >= 1 and time.monotonic() < until
        time.sleep(1)
