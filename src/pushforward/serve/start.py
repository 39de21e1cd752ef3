"""The server on an address, until it is stopped."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pushforward.core.errors import Error, InputError
from pushforward.serve import limits
from pushforward.serve.app import make_app
from pushforward.serve.desk import Desk
from pushforward.serve.guard import is_loopback
from pushforward.serve.settings import Settings


class Impatient(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole request head has come within `limits.PATIENCE` seconds."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waits = self.loop.call_later(limits.PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._waits.cancel()  # from here on another protocol has the connection, with pings of its own
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._waits.cancel()
        super().connection_lost(exc)


def serve(
    folders: Sequence[Path],
    host: str,
    port: int,
    device: str = "auto",
    *,
    check: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serve until Ctrl-C. check: draw once, say how long it took, and stop.

    Raises InputError where the address cannot be had, and Error with the reason where a run cannot be loaded.
    """
    listening = listen(host, port)
    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    desk = Desk(folders, device)
    config = configured(make_app(desk, token))
    server = uvicorn.Server(config)

    def give_up() -> None:
        server.should_exit = True

    desk.on_failure = give_up
    say(address(host, listening.getsockname()[1], token) + "  (Ctrl-C stops it)")
    with listening:
        asyncio.run(_run(server, desk, listening, check, say))
    if desk.failed is not None:
        raise Error(desk.failed)


def configured(app: Any) -> uvicorn.Config:
    """uvicorn with our bounds."""
    return uvicorn.Config(
        app, http=Impatient, ws="websockets-sansio", ws_max_size=limits.BODY, ws_max_queue=8,
        ws_per_message_deflate=False, log_level="warning", access_log=False, server_header=False,
        limit_concurrency=2 * limits.CLIENTS, timeout_graceful_shutdown=2, proxy_headers=False,
        h11_max_incomplete_event_size=32 << 10,
    )  # fmt: skip


async def _run(
    server: uvicorn.Server,
    desk: Desk,
    listening: socket.socket,
    check: bool,
    say: Callable[[str], None],
) -> None:
    serving = asyncio.create_task(server.serve([listening]))
    if check:
        checking = asyncio.create_task(_drawn(desk))
        await asyncio.wait((serving, checking), return_when=asyncio.FIRST_COMPLETED)
        if checking.done():
            say(checking.result())
        checking.cancel()
        server.should_exit = True
    await serving


async def _drawn(desk: Desk) -> str:
    """Draw once; how long it took, in words."""
    from pushforward.serve.app import Quiet

    clock = asyncio.get_running_loop().time
    began = clock()
    await desk.ready.wait()
    ready = clock() - began
    task = desk.take(Settings(curve=False), Quiet())
    await task.ended.wait()
    if task.last["type"] != "done":
        raise Error(f"nothing was drawn: {task.last.get('error')}")
    return f"ready after {ready:.1f} s, first drawing after {clock() - began:.1f} s"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; InputError where the address is taken, or is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except OSError as error:
        found.close()
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; another --port may be free, 0 is any"
        ) from error
    return found


def address(host: str, port: int, token: str | None) -> str:
    """What is opened in a browser."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
