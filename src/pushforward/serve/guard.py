"""Who may ask: the address by which the page was reached, the page that asks, and a token.

On a loopback address the Host must be that address or localhost: a page of another site whose name was made to point
here ("DNS rebinding") sends its own name. On any other address every request needs the token, by `?token=` (once: a
cookie follows), or as `Authorization: Bearer`. A request that a page sends must come from this one (Origin).
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
COOKIE = "pushforward-token"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """An ASGI application around another one.

    token: None on a loopback address.
    """

    app: App
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        hosts = sum(name.lower() == b"host" for name, _ in scope["headers"])

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        refused = self.refusal(scope, headers) if hosts == 1 else (400, "one Host header is needed")
        if refused is not None:
            return await _refuse(scope, guarded, *refused)
        if (
            self.token is not None
            and scope["type"] == "http"
            and scope["path"] == "/"
            and _query(scope)
        ):
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return await _answer(
                guarded, 303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            )
        await self.app(scope, receive, guarded)

    def refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """(status, why), or None for what may go on."""
        try:
            here = urlsplit(f"//{headers['host']}")
            name, _ = here.hostname or "", here.port
        except ValueError:
            return 400, "the Host header cannot be read"
        if self.token is None and not is_loopback(name):
            return 421, "this server is for this machine: open it as 127.0.0.1 or localhost"
        origin = headers.get("origin")
        asks = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        own = (None, f"http://{headers['host']}", f"https://{headers['host']}")
        if asks and origin not in own:
            return 403, "a page of another site may not ask"
        if asks and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "a page of another site may not ask"
        if self.token is not None and not self._knows(scope, headers):
            return 401, "a token is needed: open the address that the server has printed"
        return None

    def _knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        given = [*_query(scope), headers.get("authorization", "").removeprefix("Bearer ")]
        try:
            jar = SimpleCookie(headers.get("cookie", ""))
            given += [jar[COOKIE].value] if COOKIE in jar else []
        except CookieError:
            pass
        assert self.token is not None
        return any(secrets.compare_digest(each.encode(), self.token.encode()) for each in given)


def _query(scope: Scope) -> list[str]:
    text = scope.get("query_string", b"").decode("latin-1")
    return parse_qs(text, max_num_fields=20).get("token", []) if text.count("&") < 20 else []


async def _refuse(scope: Scope, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why[:100]})
        return
    await _answer(
        send, status, why.encode() + b"\n", [(b"content-type", b"text/plain; charset=utf-8")]
    )


async def _answer(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
