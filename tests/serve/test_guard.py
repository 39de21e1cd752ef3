"""Hosts, origins and tokens, and patience with slow senders: the application in this process, without a worker."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from talk import opened
from websockets.exceptions import InvalidStatus

from pushforward.core.errors import InputError
from pushforward.serve import limits, start
from pushforward.serve.app import make_app
from pushforward.serve.desk import Desk
from pushforward.serve.guard import is_loopback

TOKEN = "a-long-token-of-this-test"


class Idle(Desk):
    """A desk that is ready and has no worker."""

    async def open(self) -> None:
        self.catalogue = {"subjects": {}}
        self.ready.set()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
        ("192.168.1.2", False), ("example.org", False), ("127.0.0.1.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_this_machine_alone(host, loopback):
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "localhost:1", "[::1]:8000"])
def test_the_page_is_there_under_every_name_of_this_machine(host):
    with TestClient(make_app(Idle([])), base_url="http://127.0.0.1") as client:
        answer = client.get("/", headers={"host": host})
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_without_the_token_there_is_nothing():
    with TestClient(make_app(Idle([]), TOKEN), base_url="http://192.168.1.2") as client:
        for path in (
            "/",
            "/page/main.js",
            "/api/status",
            "/?token=",
            "/?token=wrong",
            f"/?tokens={TOKEN}",
        ):
            assert client.get(path).status_code == 401
        assert client.post("/api/draw", json={}).status_code == 401
        bad = {"authorization": f"Bearer {TOKEN[:-1]}", "cookie": "pushforward-token=x"}
        assert client.get("/api/status", headers=bad).status_code == 401
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("ws://192.168.1.2/api/live"),
        ):
            pass


def test_the_token_opens_the_page_and_stays_in_a_cookie_of_this_site():
    with TestClient(make_app(Idle([]), TOKEN), base_url="http://192.168.1.2") as client:
        first = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (first.status_code, first.headers["location"]) == (303, "/")
        assert "HttpOnly; SameSite=Strict" in first.headers["set-cookie"]
        assert TOKEN not in client.get("/").text
        assert client.get("/api/status").json()["ready"]
        client.cookies.clear()
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/api/status", headers=bearer).status_code == 200


def test_an_address_of_another_machine_or_one_that_is_taken_is_refused():
    with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.5"):
        start.listen("203.0.113.5", 0)
    with start.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port}.*another --port"):
            start.listen("127.0.0.1", port)


def test_the_address_that_is_printed_has_the_token_if_there_is_one():
    assert start.address("127.0.0.1", 8000, None) == "http://127.0.0.1:8000/"
    assert start.address("::", 80, "x") == "http://[::]:80/?token=x"


@contextmanager
def running(token: str | None = None) -> Iterator[tuple[str, int]]:
    """The application by uvicorn, in a thread."""
    listening = start.listen("127.0.0.1", 0)
    config = start.configured(make_app(Idle([]), token))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield listening.getsockname()[:2]
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        assert not thread.is_alive()


def test_the_websocket_needs_the_token_too():
    with running(TOKEN) as (host, port):
        url = f"ws://{host}:{port}/api/live"
        with pytest.raises(InvalidStatus, match="403"), opened(url):
            pass
        for headers in (
            {"Cookie": f"pushforward-token={TOKEN}"},
            {"Authorization": f"Bearer {TOKEN}"},
        ):
            with opened(url, additional_headers=headers) as connection:
                assert "catalogue" in connection.recv(5)


def answer_to(address: Any, content: bytes) -> bytes:
    """All that comes back until the server closes the connection; TimeoutError if it never does."""
    with socket.create_connection(address, 15) as connection:
        connection.sendall(content)
        found = b""
        while part := connection.recv(4096):
            found += part
        return found


def test_slow_heads_and_bodies_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.3)
    with running() as address:
        assert answer_to(address, b"") == b""
        assert answer_to(address, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\n") == b""
        slow = answer_to(
            address,
            b"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{",
        )
        assert slow.startswith(b"HTTP/1.1 408")


def test_a_websocket_outlives_the_patience_with_heads(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.3)
    with running() as (host, port), opened(f"ws://{host}:{port}/api/live") as connection:
        assert "catalogue" in connection.recv(5)
        time.sleep(0.6)
        connection.send("{")
        assert "refused" in connection.recv(5)
