"""Clients that open, ask, cancel and vanish leave nothing behind."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from talk import ask, opened, until
from websockets.sync.client import connect

DRAWINGS = (
    {"subject": "spirals", "num": 1000, "calls": 20, "curve": False}, {"subject": "8gaussians", "num": 1000},
    {"subject": "run:marks", "solver": "auto", "num": 32, "calls": 20, "curve": False},
    {"subject": "pair", "solver": "dopri5"},
    {"subject": "run:scenes", "solver": "auto", "num": 16, "calls": 20, "prompt": "a red circle", "curve": False},
)  # fmt: skip


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def resident(pid: int) -> int:
    """Bytes of memory of a process and its children."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(resident, children(pid)))


def held(pid: int) -> dict[str, object]:
    """Processes, and threads and open files of each."""
    everything = [pid, *children(pid)]
    return {
        "processes": everything,
        "threads": [len(list(Path(f"/proc/{p}/task").iterdir())) for p in everything],
        "files": [len(list(Path(f"/proc/{p}/fd").iterdir())) for p in everything],
    }


def idle(served, wanted: dict[str, object] | None = None) -> dict[str, object]:
    """Once all is quiet: what the server holds. wanted: what it should come to, within some seconds."""
    alone = {"connection": "close"}
    for _ in range(600):
        status = httpx.get(served.url + "api/status", headers=alone).json()
        if status["jobs"] == status["clients"] == 0:
            break
        time.sleep(0.1)
    assert status == {"ready": True, "jobs": 0, "clients": 0}
    for _ in range(100):
        now = held(served.pid)
        if now == wanted:
            break
        time.sleep(0.02 if wanted is None else 0.1)
    return now


def vanish(connection: socket.socket) -> None:
    """Reset, without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def vanishing(served, count: int, start: int = 0) -> Iterator[None]:
    """So many clients, eight at a time, each in another state when it goes."""
    here = urlsplit(served.url)
    address = (here.hostname, here.port)
    for first in range(start, start + count, 8):
        open_now = []
        for i in range(first, min(first + 8, start + count)):
            if i % 8 == 5:  # in the middle of a request's head
                plain = socket.create_connection(address)
                plain.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX")
                open_now.append(plain)
            elif i % 8 == 6:  # in the middle of a body
                plain = socket.create_connection(address)
                plain.sendall(
                    b"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 1000\r\n\r\n{"
                )
                open_now.append(plain)
            elif i % 8 == 7:  # while its file is drawn
                body = json.dumps({"subject": "spirals", "num": 4000, "calls": 200}).encode()
                plain = socket.create_connection(address)
                plain.sendall(
                    b"POST /api/draw HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body
                )
                open_now.append(plain)
            else:
                client = connect(served.live, max_size=None, proxy=None).__enter__()
                ask(client, job=i, **DRAWINGS[i % len(DRAWINGS)])
                if i % 8 < 2:
                    client.send(json.dumps({"type": "cancel", "job": i}))
                if i % 8 == 2:
                    until(client, "started", "error", job=i, timeout=60)
                open_now.append(client.socket)
        yield
        for each in open_now:
            vanish(each)


def warm(served) -> None:
    """Each drawing once to its end, and a few clients that vanish."""
    for drawing in DRAWINGS:
        with opened(served.live) as client:
            ask(client, **drawing)
            until(client, "done", "error", timeout=120)
    for _ in vanishing(served, 24):
        pass


def test_forty_clients_leave_no_process_thread_or_file(served):
    warm(served)
    before = idle(served)
    for _ in vanishing(served, 40):
        assert (
            httpx.get(served.url, headers={"connection": "close"}).status_code == 200
        )  # the page is there all the while
    assert idle(served, before) == before


@pytest.mark.slow
def test_two_hundred_clients_leave_nothing_and_at_most_a_tenth_more_memory(served):
    warm(served)
    before, memory = idle(served), resident(served.pid)
    for _ in vanishing(served, 200):
        pass
    assert idle(served, before) == before
    assert resident(served.pid) <= 1.1 * memory


def test_a_client_that_reads_nothing_stops_nobody(served):
    slow = connect(served.live, max_size=None, proxy=None, max_queue=1).__enter__()
    slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ask(slow, subject="8gaussians", num=4000, calls=200)
    with opened(served.live) as other:
        ask(other, subject="pair", num=10, calls=4, curve=False)
        until(other, "done", timeout=120)
    vanish(slow.socket)
    assert idle(served)
