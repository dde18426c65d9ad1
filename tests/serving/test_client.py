"""What the clients make of a service, and of a server that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

import dist_attr as da
from dist_attr.errors import ConfigError, QueryError
from dist_attr.serving.exchange import Service, Tries, backoff
from dist_attr.serving.schemas import MOST_QUERIES
from tests.serving.conftest import QUERIES, SCORES, Call, scores
from tests.serving.misbehaving import Script, Seen, lines, refuse, say, served, stream, whole


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_query_or_many_and_their_options(script: Script, call: Call) -> None:
    script.behaviours = [whole()]
    assert scores(call(script.endpoint + "/", "attribute", QUERIES[0]).results) == SCORES[:1]
    answer = call(script.endpoint, "attribute", iter(QUERIES), readout="counterfactual", top=4, tokens=True)
    assert scores(answer.results) == SCORES and answer.store.identity == "one"
    asked = script.seen[1]
    assert (asked.method, asked.path, asked.headers["accept"]) == ("POST", "/v1/attributions", "application/json")
    assert {name: asked.body[name] for name in ("readout", "top", "tokens", "timeout")} == {
        "readout": "counterfactual",
        "top": 4,
        "tokens": True,
        "timeout": 300.0,
    }
    assert "rank" not in asked.body


def test_a_baseline_is_sent(script: Script, call: Call) -> None:
    script.behaviours = [whole()]
    call(script.endpoint, "attribute", da.Query(completion="a", baseline="b"))
    assert script.seen[0].body["queries"] == [{"prompt": "", "completion": "a", "baseline": "b"}]


@pytest.mark.parametrize(("method", "behaviour"), [("attribute", whole()), ("stream", stream())])
def test_more_queries_than_a_request_takes(method: str, behaviour: Any, script: Script, call: Call) -> None:
    script.behaviours = [behaviour]
    queries = [da.Query(completion="x" * (1 + i % 5)) for i in range(2 * MOST_QUERIES + 1)]
    queries += [da.Query(completion="é" * 20_000), da.Query(completion="y" * 20_000), da.Query(completion="z")]
    found = call(script.endpoint, method, queries)
    found = found if method == "stream" else found.results
    assert scores(found) == [float(len(query.completion)) for query in queries]
    assert [len(seen.body["queries"]) for seen in script.seen] == [MOST_QUERIES, MOST_QUERIES, 1, 1, 2]


def test_what_is_not_valid_is_not_sent(script: Script, call: Call) -> None:
    with pytest.raises(QueryError, match="without a rank"):
        call(script.endpoint, "attribute", QUERIES, readout="counterfactual", rank=2)
    with pytest.raises(QueryError, match=r"top: .*greater than or equal to 1"):
        call(script.endpoint, "stream", QUERIES, top=0)
    with pytest.raises(QueryError, match="max_tokens"):
        call(script.endpoint, "complete", "the", max_tokens=0)
    with pytest.raises(QueryError, match="no query"):
        call(script.endpoint, "attribute", [])
    assert not script.seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"endpoint": "127.0.0.1:8000"}, "must be a URL such as"),
        ({"endpoint": "ftp://host"}, "must be a URL such as"),
        ({"endpoint": "http://user:secret@host"}, "without a user"),
        ({"endpoint": "http://[::1"}, "no URL"),
        ({"key": "two words"}, "ASCII without spaces"),
        ({"key": ""}, "the key is empty"),
        ({"timeout": 0}, "above 0"),
        ({"retries": -1}, "0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    for kind in (da.Client, da.AsyncClient):
        with pytest.raises(ConfigError, match=message) as raised:
            kind(**{"endpoint": "http://127.0.0.1:1", **arguments})
        assert "secret" not in str(raised.value)


def test_the_key_comes_from_the_argument_or_the_environment(
    script: Script, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.behaviours = [whole()]
    call(script.endpoint, "attribute", QUERIES)
    monkeypatch.setenv("DIST_ATTR_KEY", "from-the-environment\n")
    call(script.endpoint, "attribute", QUERIES)
    call(script.endpoint, "attribute", QUERIES, client={"key": "given"})
    sent = [seen.headers.get("authorization") for seen in script.seen]
    assert sent == [None, "Bearer from-the-environment", "Bearer given"]


@pytest.mark.parametrize("method", ["attribute", "stream"])
def test_429_is_asked_again_after_what_it_says(method: str, script: Script, call: Call) -> None:
    script.behaviours = [refuse(429, "busy", {"retry-after": "1"}), whole() if method == "attribute" else stream()]
    found = call(script.endpoint, method, QUERIES)
    assert scores(found if method == "stream" else found.results) == SCORES
    first, second = script.seen
    assert second.when - first.when >= 1.0
    assert first.body == second.body
    assert first.headers["x-request-id"] == second.headers["x-request-id"]


def test_503_twice_then_an_answer(script: Script, call: Call) -> None:
    script.behaviours = [refuse(503, "starting"), refuse(503), whole()]
    assert scores(call(script.endpoint, "attribute", QUERIES).results) == SCORES
    assert len(script.seen) == 3


def test_a_connection_that_breaks_is_tried_again(script: Script, call: Call) -> None:
    async def cut(seen: Seen) -> Any:
        found = await stream(lambda _: [b'{"store"', ConnectionAbortedError()])(seen)
        found.headers["content-type"] = "application/json"
        return found

    script.behaviours = [cut, whole()]
    assert scores(call(script.endpoint, "attribute", QUERIES).results) == SCORES


def test_a_service_that_is_not_there_yet(call: Call) -> None:
    port, script, stop = closed_port(), Script([whole()]), threading.Event()

    def serve() -> None:
        with served(script, port):
            stop.wait(30)

    later = threading.Timer(0.3, serve)
    later.start()
    try:
        answer = call(f"http://127.0.0.1:{port}", "attribute", QUERIES, client={"retries": 9})
    finally:
        stop.set()
        later.join()
    assert scores(answer.results) == SCORES


def test_retries_are_used_up(script: Script, call: Call) -> None:
    script.behaviours = [refuse(503, "no shard answers")]
    with pytest.raises(QueryError, match=r"no shard answers \(request of-the-service\) \(tried 3 times\)"):
        call(script.endpoint, "attribute", QUERIES, client={"retries": 2})
    assert len(script.seen) == 3
    endpoint = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(QueryError, match=rf"no service answers at {endpoint}/readyz: .*tried 2 times.*running\?"):
        call(endpoint, "ready", client={"retries": 1})


def test_what_cannot_be_waited_for_is_not(script: Script, call: Call) -> None:
    script.behaviours = [refuse(429, "busy", {"retry-after": "3600"})]
    with pytest.raises(QueryError, match="busy"):
        call(script.endpoint, "attribute", QUERIES, client={"timeout": 5})
    assert len(script.seen) == 1


@pytest.mark.parametrize("method", ["attribute", "stream"])
def test_a_slow_answer_runs_into_the_timeout(method: str, script: Script, call: Call) -> None:
    async def slow(seen: Seen) -> Any:
        await asyncio.sleep(2)
        return await whole()(seen)

    script.behaviours = [slow]
    with pytest.raises(QueryError, match=r"gave no answer within 0\.3 seconds; ask less, or wait longer"):
        call(script.endpoint, method, QUERIES, client={"timeout": 0.3})
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("status", "detail", "message"),
    [
        (401, "a key is needed", r"a key is needed; give the client a key, or set DIST_ATTR_KEY \(request of-the-ser"),
        (422, "query 0: the completion is empty", r"^query 0: the completion is empty \(request of-the-service\)$"),
        (404, "", r"/v1/attributions answered 404: upstream is away \(request [0-9a-f]{32}\)$"),
        (500, "", r"/v1/attributions answered 500: upstream is away"),
        (302, "", r"/v1/attributions answered 302"),
    ],
)
@pytest.mark.parametrize("method", ["attribute", "stream"])
def test_a_refusal_is_final(method: str, status: int, detail: str, message: str, script: Script, call: Call) -> None:
    script.behaviours = [refuse(status, detail)]
    with pytest.raises(QueryError, match=message) as raised:
        call(script.endpoint, method, QUERIES, client={"key": "hidden-key"})
    assert len(script.seen) == 1
    assert "hidden-key" not in str(raised.value)


@pytest.mark.parametrize("garbage", [b"<html>welcome</html>", b"{}", b'{"results": []}', b"", b"\xff\xfe", b"null"])
def test_what_is_not_this_service_is_named(garbage: bytes, script: Script, call: Call) -> None:
    script.behaviours = [say(garbage)]
    methods: dict[str, list[Any]] = {
        "attribute": [QUERIES],
        "complete": ["the"],
        "sources": [],
        "store": [],
        "ready": [],
    }
    for method, arguments in methods.items():
        if (method, garbage) == ("ready", b"{}"):
            continue  # all that it says has a default
        with pytest.raises(QueryError, match=f"what answers at {script.endpoint}/.* is not a dist_attr service"):
            call(script.endpoint, method, *arguments)
    with pytest.raises(QueryError, match=f"{script.endpoint}/v1/attributions"):
        call(script.endpoint, "stream", QUERIES)


def test_what_is_not_http_is_named(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            connection.recv(2**16)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(QueryError, match="no service answers at"):
            call(f"http://127.0.0.1:{listener.getsockname()[1]}", "sources", client={"retries": 0})
        thread.join()


def test_an_answer_that_lacks_results_is_refused(script: Script, call: Call) -> None:
    script.behaviours = [whole(lost=1)]
    with pytest.raises(QueryError, match="answered 2 of 3 queries"):
        call(script.endpoint, "attribute", QUERIES)


@pytest.mark.parametrize("method", ["attribute", "stream"])
def test_parts_from_two_stores_are_no_answer(method: str, script: Script, call: Call) -> None:
    kinds = [whole("one"), whole("two")] if method == "attribute" else [stream(), stream(lambda s: lines(s, "two"))]
    script.behaviours = kinds
    with pytest.raises(QueryError, match="changed its store"):
        call(script.endpoint, method, QUERIES * MOST_QUERIES)


def test_the_pause_before_the_next_try() -> None:
    def pause(status: int, after: str | None = None) -> float | None:
        tries = Tries(Service("http://127.0.0.1:1", None, timeout=100, retries=1), "/readyz")
        told = [] if after is None else [(b"retry-after", after.encode("latin-1"))]
        return tries.pause(httpx.Response(status, headers=told))

    assert pause(200) is None
    assert pause(429, "7") == 7.0
    assert pause(503, "0") == 0.0
    assert pause(503, format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) == pytest.approx(
        60, abs=5
    )
    assert pause(503, "Mon, 02 Jan 2006 15:04:05 GMT") == 0.0
    assert pause(503, "Mon, 02 Jan 2006 15:04:05 -0000") == 0.0
    for nonsense in ("soon", "-1", "1e3", "²", ""):
        assert 0.0 < (pause(429, nonsense) or 0.0) <= 0.25
    for made in range(1, 20):
        assert min(0.25 * 2 ** (made - 1), 30) / 2 <= backoff(made) <= 30
