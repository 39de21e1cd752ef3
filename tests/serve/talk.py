"""Servers in processes of their own, and a client of the websocket, as the page is one."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

HEAD = struct.Struct("<BBHIIIffIHH")


def start(*words: str, folder: Path | None = None) -> tuple[subprocess.Popen[str], str]:
    """A server as the command line starts it, and the address that it prints."""
    command = [sys.executable, "-m", "pushforward", "serve", "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, f"the server printed no address, code {process.poll()}"
    return process, found[0]


def stop(process: subprocess.Popen[str]) -> int:
    process.terminate()
    try:
        return process.wait(20)
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def opened(url: str, **options: Any) -> Iterator[ClientConnection]:
    with connect(url, max_size=None, proxy=None, **options) as socket:
        yield socket


def ask(socket: ClientConnection, job: int = 1, **settings: Any) -> None:
    socket.send(json.dumps({"type": "start", "job": job, "settings": settings}))


def until(
    socket: ClientConnection, *kinds: str, job: int = 1, timeout: float = 60
) -> tuple[dict[str, Any], list[dict[str, Any]], list[bytes]]:
    """(the message of one of these kinds, all messages before it, all frames)."""
    texts: list[dict[str, Any]] = []
    frames: list[bytes] = []
    while True:
        message = socket.recv(timeout)
        if isinstance(message, bytes):
            frames.append(message)
            continue
        value = json.loads(message)
        if value["type"] in kinds and value.get("job", job) == job:
            return value, texts, frames
        texts.append(value)


def head(frame: bytes) -> dict[str, Any]:
    names = ("kind", "channels", "_", "job", "step", "steps", "t", "scale", "n", "width", "height")
    return dict(zip(names, HEAD.unpack(frame[: HEAD.size]), strict=True))


def points(frame: bytes) -> np.ndarray:
    """(n, 2) of a frame of points."""
    values = np.frombuffer(frame, "<i2", offset=HEAD.size).reshape(-1, 2)
    return values * head(frame)["scale"] / 32767
