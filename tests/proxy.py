"""A TCP proxy that counts what a server sends, slows it down, or keeps its answers to itself."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress

PIECE = 2**16
WRITES = re.compile(rb"(?:PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class Proxy:
    """Stands before an endpoint on the loopback interface, on a port of its own, until `close`.

    Attributes:
        endpoint: its URL.
        delay: seconds before each piece of at most 64 KiB that the server sends is handed on.
        silent: it takes what it is sent, and hands no answer on.
        sent: bytes that the server sent, of all connections.
        busiest: the most connections that had an answer held back by the delay at a time.
        written: what the requests that write were about, path and query.
    """

    def __init__(self, endpoint: str) -> None:
        self.delay, self.silent = 0.0, False
        self.sent = self.busiest = self._delayed = 0
        self.written: list[str] = []
        self._port, self._lock = int(endpoint.rpartition(":")[2]), threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    def reset(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self.sent = self.busiest = 0

    def close(self) -> None:
        """End it and all its connections."""
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                with self._lock:
                    self._sockets += [client, server]
                self._start(self._hand_on, client, server)
                self._start(self._answer, server, client)

    def _hand_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(PIECE):
                self.written += [path.decode() for path in WRITES.findall(data)]
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(PIECE):
                with self._lock:
                    self.sent += len(data)
                    self._delayed += 1
                    self.busiest = max(self.busiest, self._delayed)
                time.sleep(self.delay)
                with self._lock:
                    self._delayed -= 1
                if not self.silent:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _start(target: object, *arguments: socket.socket) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]
