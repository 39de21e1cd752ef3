"""The routes: the page and its files, what there is, drawings live and as files."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from pushforward.core.errors import InputError
from pushforward.serve import limits
from pushforward.serve.desk import Desk, FullError, Task
from pushforward.serve.guard import Guard
from pushforward.serve.outbox import Outbox
from pushforward.serve.settings import Message, Settings, Start, refusals

TYPES = {
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
}  # fmt: skip
FORMS = {"npz": "application/octet-stream", "png": "image/png"}


class Quiet:
    """A sink for jobs whose progress nobody watches."""

    def text(self, value: dict[str, Any]) -> None: ...

    def frame(self, content: bytes) -> None: ...


def page_files() -> dict[str, tuple[bytes, str, str]]:
    """(content, type, tag) of the files of the page, by name, read once: no request leads to the disk."""
    found = {}
    for file in resources.files("pushforward.serve").joinpath("page").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in TYPES:
            content = file.read_bytes()
            found[file.name] = content, TYPES[kind], f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return found


def make_app(desk: Desk, token: str | None = None) -> Guard:
    """The application, which opens and closes the desk with itself. token: asked of everybody, see `guard`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await desk.open()
        yield
        await desk.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    files = page_files()
    clients: set[WebSocket] = set()

    def page_file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        content, kind, tag = files[name]
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return Response(content, media_type=kind, headers={"etag": tag})

    @app.get("/")
    async def index(request: Request) -> Response:
        return page_file("index.html", request)

    @app.get("/page/{name}")
    async def file(name: str, request: Request) -> Response:
        return page_file(name, request)

    @app.get("/api/catalogue")
    async def catalogue() -> Response:
        await _ready(desk)
        return JSONResponse(desk.catalogue)

    @app.get("/api/status")
    async def status() -> Response:
        return JSONResponse(
            {"ready": desk.ready.is_set(), "jobs": desk.length, "clients": len(clients)}
        )

    @app.post("/api/draw")
    async def draw(request: Request, form: Literal["npz", "png"] = "npz") -> Response:
        try:
            settings = Settings.model_validate_json(await read_body(request))
            await _ready(desk)
            task = desk.take(settings, Quiet(), form=form)
        except ValidationError as error:
            return JSONResponse({"refused": refusals(error)}, 422)
        except InputError as error:
            return JSONResponse({"error": str(error)}, 422)
        except FullError as error:
            return JSONResponse({"error": str(error)}, 429, {"retry-after": "5"})
        try:
            while not task.ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(task.ended.wait(), 0.2)
                if await request.is_disconnected():
                    return Response(status_code=499)
        finally:
            desk.cancel(task)
        if task.last["type"] != "done":
            return JSONResponse({"error": task.last.get("error", "cancelled")}, 422)
        name = f"attachment; filename=pushforward-{settings.seed}.{form}"
        return Response(task.file, media_type=FORMS[form], headers={"content-disposition": name})

    @app.websocket("/api/live")
    async def live(socket: WebSocket) -> None:
        if len(clients) >= limits.CLIENTS:
            await socket.close(1013, "too many pages are open")
            return
        clients.add(socket)
        try:
            await socket.accept()
            await Client(socket, desk).serve()
        finally:
            clients.discard(socket)

    return Guard(app, token)


async def _ready(desk: Desk) -> None:
    """Wait until the worker has loaded everything."""
    try:
        await asyncio.wait_for(desk.ready.wait(), 120)
    except TimeoutError:
        raise HTTPException(429, "the models are still being loaded") from None


async def read_body(request: Request) -> bytes:
    """The body of a request, if it is JSON, small enough, and comes in time."""
    if (
        request.headers.get("content-type", "").partition(";")[0].strip().lower()
        != "application/json"
    ):
        raise HTTPException(415, "settings are application/json")
    length = request.headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > limits.BODY:
        raise HTTPException(413, f"at most {limits.BODY} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.PATIENCE):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limits.BODY:
                    raise HTTPException(413, f"at most {limits.BODY} bytes")
    except TimeoutError:
        raise HTTPException(408, "the body came too slowly", {"connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    return b"".join(parts)


class Client:
    """One page: at most one drawing at a time, a new one ends the one before."""

    def __init__(self, socket: WebSocket, desk: Desk) -> None:
        self.socket, self.desk = socket, desk
        self.outbox = Outbox()
        self.task: Task | None = None

    async def serve(self) -> None:
        sender = asyncio.create_task(self._send())
        greeting = asyncio.create_task(self._greet())
        reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait((sender, reader), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self.task is not None:
                self.desk.cancel(self.task)
            for each in (sender, greeting, reader):
                each.cancel()
            await asyncio.gather(sender, greeting, reader, return_exceptions=True)
            with suppress(RuntimeError, WebSocketDisconnect):
                await self.socket.close()

    async def _greet(self) -> None:
        await self.desk.ready.wait()
        self.outbox.text({"type": "catalogue", "catalogue": self.desk.catalogue})

    async def _send(self) -> None:
        with suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            while True:
                message = await self.outbox.next()
                async with asyncio.timeout(limits.SEND):
                    if isinstance(message, bytes):
                        await self.socket.send_bytes(message)
                    else:
                        await self.socket.send_text(message)

    async def _read(self) -> None:
        second, count = 0, 0
        with suppress(RuntimeError, WebSocketDisconnect, KeyError):
            while True:
                text = await self.socket.receive_text()
                now = int(time.monotonic())
                second, count = now, count + 1 if now == second else 1
                if count > limits.RATE:
                    await self.socket.close(1008, "too many messages")
                    return
                self._handle(text)

    def _handle(self, text: str) -> None:
        try:
            asked = Message.validate_json(text)
        except ValidationError as error:
            self.outbox.text({"type": "refused", "refused": refusals(error)})
            return
        before = self.task
        if not isinstance(asked, Start):
            if before is not None and before.tag == asked.job:
                self.desk.cancel(before)
            return
        if before is not None:
            self.desk.cancel(before)
            self.outbox.clear()
        try:
            self.task = self.desk.take(asked.settings, self.outbox, asked.job)
        except (InputError, FullError) as error:
            self.outbox.text({"type": "error", "job": asked.job, "error": str(error)})
