"""Requests that mean harm, or are broken: each gets a 4xx, and the server goes on as before."""

from __future__ import annotations

import base64
import json
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from talk import ask, opened, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pushforward.serve import limits


def raw(served, content: bytes, timeout: float = 20) -> int:
    """The status of the answer to these bytes; 400 where the connection is closed without one."""
    here = urlsplit(served.url)
    with socket.create_connection((here.hostname, here.port), timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(content)
        answer = b""
        with suppress(ConnectionResetError):
            while b"\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
    return int(answer.split()[1]) if answer else 400


def request(line: str, *headers: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    lines = [
        f"{line} HTTP/1.1",
        *([f"Host: {host}"] if host else []),
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"


def post(
    body: bytes, *headers: str, line: str = "POST /api/draw", host: str = "127.0.0.1"
) -> bytes:
    return request(line, JSON, f"Content-Length: {len(body)}", *headers, body=body, host=host)


def settings(**values: object) -> bytes:
    return post(json.dumps(values).encode())


DEEP = b'{"components":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
RAW = {
    "a file of the library": request("GET /page/../start.py"),
    "a file of the library, escaped": request("GET /page/%2e%2e/start.py"),
    "a file above": request("GET /page/..%2f..%2f..%2fpyproject.toml"),
    "a file of the system": request("GET /page/%2fetc%2fpasswd"),
    "a file of the system, by its path": request("GET /etc/passwd"),
    "a path with two slashes": request("GET //etc/passwd"),
    "a null byte in a name": request("GET /page/style.css%00"),
    "a name in a name": request("GET /page/style.css/x"),
    "a name of Windows": request("GET /page/..%5c..%5cwin.ini"),
    "a source file": request("GET /page/index.py"),
    "a path of 9000 letters": request("GET /" + "a" * 9000),
    "a head of 200 kB": request("GET /", "X: " + "a" * 200_000),
    "an unknown method": request("FETCH /"),
    "PUT": request("PUT /api/draw", "Content-Length: 0"),
    "DELETE": request("DELETE /page/style.css"),
    "TRACE": request("TRACE /"),
    "OPTIONS, as other sites ask first": request("OPTIONS /api/draw", "Origin: http://evil.example"),
    "CONNECT": request("CONNECT evil.example:443"),
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n",
    "a version that is none": b"GET / HTTP/x\r\nHost: 127.0.0.1\r\n\r\n",
    "another host": request("GET /", host="evil.example"),
    "a host that looks like ours": request("GET /", host="127.0.0.1.evil.example"),
    "a host with a user": request("GET /", host="localhost@evil.example"),
    "a host that cannot be read": request("GET /", host="[::1"),
    "a host with a port that is none": request("GET /", host="127.0.0.1:http"),
    "no host": request("GET /", host=""),
    "two hosts": request("GET /", "Host: evil.example"),
    "another origin": post(b"{}", "Origin: http://evil.example"),
    "no origin that can be named": post(b"{}", "Origin: null"),
    "another port's origin": post(b"{}", "Origin: http://127.0.0.1:1"),
    "a page of another site": post(b"{}", "Sec-Fetch-Site: cross-site"),
    "text": request("POST /api/draw", "Content-Type: text/plain", "Content-Length: 2", body=b"{}"),
    "a form": request(
        "POST /api/draw", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 2", body=b"{}"
    ),
    "no type": request("POST /api/draw", "Content-Length: 2", body=b"{}"),
    "no body": post(b""),
    "half a body of JSON": post(b'{"seed": '),
    "a list": post(b"[]"),
    "null": post(b"null"),
    "a text": post(b'"moons"'),
    "100 000 brackets": post(DEEP),
    "100 000 objects": post(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "not UTF-8": post(b'{"prompt": "\xff\xfe"}'),
    "half a surrogate": post(b'{"prompt": "\\ud800"}'),
    "a number with 100 000 digits": post(b'{"seed": ' + b"9" * 100_000 + b"}"),
    "NaN": post(b'{"guidance": NaN}'),
    "Infinity": post(b'{"mix": Infinity}'),
    "a number beyond any": post(b'{"guidance": 1e999}'),
    "a body that is larger than allowed": post(b" " * (limits.BODY + 1)),
    "a body that says it is large": request("POST /api/draw", JSON, "Content-Length: 99999999999"),
    "a length that is none": request("POST /api/draw", JSON, "Content-Length: x", body=b"{}"),
    "a length below zero": request("POST /api/draw", JSON, "Content-Length: -1", body=b"{}"),
    "two lengths": request("POST /api/draw", JSON, "Content-Length: 2", "Content-Length: 3", body=b"{}1"),
    "chunks without end": request(
        "POST /api/draw", JSON, "Transfer-Encoding: chunked",
        body=(b"100000\r\n" + b" " * 0x100000 + b"\r\n") * 5 + b"0\r\n\r\n",
    ),
    "a chunk whose length is none": request(
        "POST /api/draw", JSON, "Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n0\r\n\r\n"
    ),
    "another coding of the body": request("POST /api/draw", JSON, "Transfer-Encoding: gzip", body=b"{}"),
    "a file of another kind": post(b"{}", line="POST /api/draw?form=exe"),
    "a file by a path": post(b"{}", line="POST /api/draw?form=../../x"),
    "a run by a path": settings(subject="../../../etc/passwd"),
    "a run by a whole path": settings(subject="run:/etc/passwd"),
    "a run with a name of 10 000 letters": settings(subject="x" * 10_000),
    "code for a solver": settings(solver="__import__('os').system('id')"),
    "a path that is none": settings(path={"name": "condot"}),
    "no samples": settings(num=0),
    "10^9 samples": settings(num=10**9),
    "half a sample": settings(num=1.5),
    "true samples": settings(num=True),
    "a number as a text": settings(num="5"),
    "10^6 calls": settings(calls=10**6),
    "a seed below zero": settings(seed=-1),
    "a seed beyond 64 bits": settings(seed=2**70),
    "guidance without bounds": settings(guidance=1e9),
    "a name that is none": settings(device="cuda"),
    "a prompt of 10 000 letters": settings(subject="run:scenes", prompt="a" * 10_000),
    "13 Gaussians": settings(subject="own", components=[{"x": 0.0, "y": 0.0}] * 13),
    "a Gaussian without width": settings(subject="own", components=[{"x": 0.0, "y": 0.0, "std": 0.0}]),
    "no Gaussians": settings(subject="own"),
    "4000 pictures": settings(subject="run:marks", num=4000),
    "a picture that is no base64": settings(subject="run:marks", num=1, picture="%%%%"),
    "a picture of another size": settings(
        subject="run:marks", num=1, picture=base64.b64encode(b"x" * 65).decode()
    ),
    "a picture for a law": settings(picture=base64.b64encode(b"x" * 64).decode()),
    "a mask without a picture": settings(
        subject="run:marks", num=1, mask=base64.b64encode(b"x" * 64).decode()
    ),
    "a hint for what takes none": settings(
        subject="run:marks", num=1, control=base64.b64encode(b"x" * 64).decode()
    ),
}  # fmt: skip


def snapshot(*folders: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for f in folders for p in (f, *sorted(f.rglob("*")))}


@pytest.fixture
def unchanged(served, runs):
    """Nothing is written, nothing waits, and the same is drawn afterwards."""

    def drawn() -> bytes:
        about = {"subject": "pair", "num": 20, "calls": 4, "curve": False}
        return httpx.post(served.url + "api/draw?form=png", json=about, timeout=60).content

    before = snapshot(served.folder, runs[0].parent), drawn()
    yield
    assert (snapshot(served.folder, runs[0].parent), drawn()) == before
    assert httpx.get(served.url + "api/status").json() == {"ready": True, "jobs": 0, "clients": 0}


def test_sixty_hostile_requests_are_refused_and_change_nothing(served, unchanged):
    assert len(RAW) >= 60
    statuses = {name: raw(served, content) for name, content in RAW.items()}
    assert {name: s for name, s in statuses.items() if not 400 <= s < 500} == {}


def test_messages_that_are_none_are_refused_on_the_websocket(served, unchanged):
    texts = [
        "", "{", "[]", "1", "\x00", '{"type": "stop"}', '{"type": "start"}', "[" * 100_000,
        '{"type": "cancel", "job": -1}', '{"type": "start", "job": 1.5, "settings": {}}',
        '{"type": "start", "job": 1, "settings": {"num": -1}}',
    ]  # fmt: skip
    with opened(served.live) as connection:
        for text in texts:
            connection.send(text)
            assert until(connection, "refused")[0]["refused"]
        connection.send('{"type": "cancel", "job": 17}')  # nothing to cancel: nothing is said
        ask(connection, subject="pair", num=10, calls=2, curve=False)
        until(connection, "done")


def talk_on(connection, messages) -> None:
    for message in messages:
        connection.send(message)
    while True:
        connection.recv(20)


@pytest.mark.parametrize(
    ("messages", "code"),
    [([b"\x00" * 50], 1000), (["x" * (limits.BODY + 1)], 1009), (["{}"] * 2000, 1008)],
    ids=["bytes", "too large", "too many"],
)
def test_a_client_that_talks_otherwise_is_let_go(served, unchanged, messages, code):
    with opened(served.live) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            talk_on(connection, messages)
        assert closed.value.rcvd is None or closed.value.rcvd.code == code


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)  # fmt: skip
def test_another_sites_page_gets_no_websocket(served, unchanged, headers):
    with pytest.raises(InvalidStatus) as refused, opened(served.live, additional_headers=headers):
        pass
    assert 400 <= refused.value.response.status_code < 500


def test_our_own_page_gets_one(served):
    with opened(served.live, origin=served.url.rstrip("/")) as connection:
        assert until(connection, "catalogue")[0]["catalogue"]["subjects"]
