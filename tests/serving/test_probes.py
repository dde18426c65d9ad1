"""What the service says of probes before any prober is asked, and how much it lets in."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import dist_attr as da
from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.errors import BusyError, ConfigError, CorpusError, QueryError
from dist_attr.serving.admission import Admission
from dist_attr.serving.deployment import _checked
from dist_attr.serving.metrics import ReadoutMetrics
from dist_attr.serving.probe_answers import golden_scores
from dist_attr.serving.probe_schemas import ProbedDocument, ProbedQuery, ProbeRequest
from dist_attr.serving.probes import Probes, gpus_of_prober
from dist_attr.serving.problems import problem_of
from tests.stores import make_store

NAMES = ["ant", "bee", "cat"]
QUERIES = [da.Query(completion="a"), da.Query(completion="b")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    return make_store(tmp_path_factory.mktemp("probes"), NAMES)


def asked(store: da.InfluenceStore, config: dict[str, Any], **options: Any) -> Any:
    """What becomes of a request."""

    async def probe() -> Any:
        service = ServiceConfig.model_validate({"store": store.url, **config})
        probes = Probes(service, store, 0.0, ReadoutMetrics(), lambda _: nullcontext())
        loop = asyncio.get_running_loop()
        request = ProbeRequest(queries=QUERIES, **options)
        return await probes.probe(request.queries, request, loop.time() + 5)

    return asyncio.run(probe())


def test_a_service_without_probing_says_so(store: da.InfluenceStore) -> None:
    with pytest.raises(ConfigError, match="this service does not probe"):
        asked(store, {"probing": None})


def test_an_unknown_source_is_refused(store: da.InfluenceStore) -> None:
    with pytest.raises(QueryError, match="there is no source 'dog' in the store"):
        asked(store, {}, sources=["ant", "dog"])


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ({}, {}, "2 queries x 3 sources x 3 documents are 18 probes; the service takes 5"),
        ({"probing": {"documents": 7}}, {}, "2 queries x 3 sources x 7 documents are 42 probes"),
        ({}, {"documents": 2, "sources": ["bee", "cat", "bee"]}, "2 queries x 2 sources x 2 documents are 8 probes"),
    ],
)
def test_too_much_work_is_refused(
    config: dict[str, Any], options: dict[str, Any], said: str, store: da.InfluenceStore
) -> None:
    with pytest.raises(QueryError, match=f"^{said}.*ask with fewer documents, name some sources, or split the queries"):
        asked(store, {"most_probes": 5, **config}, **options)


def test_the_template_of_a_config_file_is_checked_where_it_stands() -> None:
    with pytest.raises(ValueError, match=r"a template holds \{prompt\} once"):
        ServiceConfig.model_validate({"store": "s", "probing": {"template": "{document}"}})


@pytest.mark.parametrize(("gpus", "part"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (4.0, 1.0)])
def test_the_prober_takes_part_of_the_first_shards_gpus(gpus: float, part: float) -> None:
    assert gpus_of_prober(ServiceConfig(store="s"), gpus) == part
    assert gpus_of_prober(ServiceConfig(store="s", probing=None), gpus) == 0


@pytest.mark.parametrize("error", [CorpusError("other documents"), ConfigError("no probing")])
def test_what_only_an_operator_can_mend_is_a_conflict(error: Exception) -> None:
    problem, headers = problem_of(error, "of-a-request")
    assert (problem.status, problem.title, problem.detail, headers) == (409, "Conflict", str(error), {})


def test_only_so_much_is_let_in_and_one_request_always() -> None:
    admission = Admission(10, "probes")
    said = "25 probes are being answered, and 10 are let in at once"
    with admission.let_in(25):
        assert admission.admitted == 25
        with pytest.raises(BusyError, match=said) as refused, admission.let_in(1):
            pytest.fail("it was let in")
        assert pickle.loads(pickle.dumps(refused.value)).retry_after >= 1  # as it comes from another process
    assert admission.admitted == 0
    with admission.let_in(6), admission.let_in(4):
        assert admission.admitted == 10


def test_what_fails_is_let_out_too() -> None:
    admission = Admission(1, "probes")
    with pytest.raises(QueryError), admission.let_in(1):
        raise QueryError("no")
    assert admission.admitted == 0


def test_golden_scores_are_shares_of_the_queries_that_had_the_document() -> None:
    def probed(**scores: float) -> ProbedQuery:
        documents = [
            ProbedDocument(source="ant", document=name, window=0, windows=1, length=1, score=score, excerpt="")
            for name, score in scores.items()
        ]
        return ProbedQuery(tokens=["a"], token_logprobs=[-1.0], logprob=-1.0, sources=[], documents=documents)

    golden = golden_scores([probed(one=1.0, two=-1.0), probed(one=-0.5, three=2.0), probed(one=0.1)])
    assert [(g.document, g.queries, round(g.share, 3)) for g in golden] == [
        ("three", 1, 1.0),
        ("one", 3, 0.667),
        ("two", 1, 0.0),
    ]


def test_a_corpus_beside_the_working_directory_becomes_absolute(
    store: da.InfluenceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _checked(ServiceConfig(store=store.url, corpus="mine.jsonl")).corpus == str(tmp_path / "mine.jsonl")
    assert _checked(ServiceConfig(store=store.url)).corpus == store.manifest.run.corpus.path
    assert _checked(ServiceConfig(store=store.url, probing=ProbeConfig(), corpus="s3://b/c")).corpus == "s3://b/c"
