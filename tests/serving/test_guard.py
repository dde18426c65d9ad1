"""What stands before the routes, before a real server: bodies that are too slow or too large, keys, defects."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from dist_attr.errors import ConfigError
from dist_attr.serving import guard
from dist_attr.serving.guard import Guard, read_keys
from dist_attr.serving.metrics import IngressMetrics
from dist_attr.serving.problems import answer_with_problems

KEY = "a-key-of-some-length"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    monkeypatch.setenv(guard.KEYS, f" {KEY} ,other-key-of-some-length")
    api, metrics = FastAPI(), IngressMetrics()
    answer_with_problems(api)
    api.add_middleware(Guard, keys=read_keys(None), most_bytes=1000, metrics=metrics)

    @api.post("/v1/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @api.post("/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError("of the inside")

    @api.get("/counted")
    async def counted() -> str:
        return metrics.text()

    config = uvicorn.Config(api, port=0, log_level="critical")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    running.should_exit = True
    thread.join(10)


def sent(server: str, head: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back over a bare connection."""
    host, _, port = server.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        lines = (
            f"POST /v1/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n{head}\r\n\r\n"
        )
        connection.sendall(lines.encode())
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = b""
        # A server that has not read all of a body resets the connection after its answer.
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(4096):
                answer += piece
    return answer


def test_a_body_that_arrives_in_pieces_is_whole(server: str) -> None:
    assert sent(server, "content-length: 9", b"abc", b"def", b"ghi", pause=0.05).endswith(b"9")


def test_a_client_that_is_too_slow_is_told_so(server: str) -> None:
    answer = sent(server, "content-length: 100", b"abc")
    assert b"408" in answer.splitlines()[0] and b"did not arrive within" in answer


@pytest.mark.parametrize("head", ["content-length: 5000", "transfer-encoding: chunked"])
def test_a_body_that_is_too_large_is_not_read(head: str, server: str) -> None:
    parts = [b"x" * 900] if head.startswith("content") else [b"384\r\n" + b"x" * 900 + b"\r\n"] * 2
    answer = sent(server, head, *parts)
    assert b"413" in answer.splitlines()[0] and b"more than 1,000 bytes" in answer


def test_a_defect_is_a_problem_that_tells_nothing_of_the_inside(server: str) -> None:
    answer = httpx.post(f"http://{server}/v1/defect", headers={"authorization": f"bearer {KEY}"})
    assert answer.status_code == 500 and answer.headers["content-type"] == "application/problem+json"
    assert "ZeroDivisionError" in answer.text and "of the inside" not in answer.text


def test_only_routes_that_exist_are_counted_by_name(server: str) -> None:
    for path in ("/v1/echo", "/one", "/two"):
        httpx.post(f"http://{server}{path}", headers={"authorization": f"Bearer {KEY}"})
    httpx.post(f"http://{server}/v1/echo")
    text = httpx.get(f"http://{server}/counted").json()
    assert 'route="/v1/echo",status="200"} 1.0' in text
    assert 'route="other",status="404"} 2.0' in text and 'route="other",status="401"} 1.0' in text
    assert "/one" not in text


def test_keys_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with pytest.raises(ConfigError, match="cannot be read: FileNotFoundError"):
        read_keys(str(file))
    file.write_text("\n  \n")
    with pytest.raises(ConfigError, match="holds none"):
        read_keys(str(file))
    file.write_text("short\n")
    with pytest.raises(ConfigError, match="fewer than 16 characters") as refused:
        read_keys(str(file))
    assert "short" not in str(refused.value)
    file.write_text(f"{KEY}\n\nother-key-of-some-length\n")
    assert len(read_keys(str(file))) == 2 and KEY.encode() not in b"".join(read_keys(str(file)))
