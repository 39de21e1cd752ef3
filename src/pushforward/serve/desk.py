"""The queue of jobs and the process that does them, one after another."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pushforward.core.errors import Error
from pushforward.serve import limits, pipe
from pushforward.serve.settings import Settings, check


class FullError(Error):
    """So many jobs wait already that no further one is taken."""


class Sink(Protocol):
    """Who is told of a job."""

    def text(self, value: dict[str, Any]) -> None: ...

    def frame(self, content: bytes) -> None: ...


@dataclass
class Task:
    """A job on its way. form: of a file, None for a drawing. ended: its last message. file: its content."""

    number: int
    tag: int
    settings: Settings
    sink: Sink
    form: str | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    last: dict[str, Any] = field(default_factory=dict)
    file: bytes = b""
    cancelled: bool = False

    def tell(self, value: dict[str, Any]) -> None:
        self.sink.text({"job": self.tag, **value})

    def end(self, value: dict[str, Any]) -> None:
        self.last = value
        self.tell(value)
        self.ended.set()


class Desk:
    """Takes jobs, tells each its place, and keeps one worker process alive.

    A worker that does not stop within `limits.STOP` seconds of being asked to is killed, and another one started; so is
    one that has ended by itself, whose job is then told so. One that cannot start ends the desk: `failed` says why.
    """

    def __init__(self, folders: Sequence[Path], device: str = "auto") -> None:
        # -P: a file torch.py in the folder that the server is started in is not what is imported.
        words = ("-P", "-m", "pushforward.serve.worker", device, *map(str, folders))
        self._command = (sys.executable, *words)
        self._numbers = itertools.count(1)
        self._waiting: deque[Task] = deque()
        self._current: Task | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._killer: asyncio.TimerHandle | None = None
        self.ready = asyncio.Event()
        self.catalogue: dict[str, Any] = {}
        self.failed: str | None = None
        self.on_failure: Callable[[], None] = lambda: None

    async def open(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """End the worker: its input ends, and if it does not follow it is killed."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._killer is not None:
            self._killer.cancel()
        await self._stop()

    @property
    def length(self) -> int:
        """Jobs that wait or are done now."""
        return len(self._waiting) + (self._current is not None)

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def take(self, settings: Settings, sink: Sink, tag: int = 0, form: str | None = None) -> Task:
        """Put a job into the queue. InputError for what the subject does not have; FullError if too many wait."""
        if not self.ready.is_set():
            raise FullError("the models are still being loaded: try again in a few seconds")
        check(settings, self.catalogue)
        if len(self._waiting) >= limits.QUEUE:
            raise FullError(f"{len(self._waiting)} drawings wait already: try again later")
        task = Task(next(self._numbers), tag, settings, sink, form)
        self._waiting.append(task)
        self._next()
        self._tell_places()
        return task

    def cancel(self, task: Task) -> None:
        """End a job, whether it waits or is being done."""
        if task.ended.is_set() or task.cancelled:
            return
        task.cancelled = True
        if task in self._waiting:
            self._waiting.remove(task)
            task.end({"type": "cancelled"})
            self._tell_places()
            return
        self._write(task.number, {"do": "cancel"})
        loop = asyncio.get_running_loop()
        self._killer = loop.call_later(limits.STOP, self._kill, task)

    def _kill(self, task: Task) -> None:
        if self._current is task and self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _tell_places(self) -> None:
        for place, task in enumerate(self._waiting, 1):
            task.tell({"type": "waiting", "place": place, "of": len(self._waiting)})

    def _next(self) -> None:
        """Give the worker its next job, if it has none."""
        if self._current is not None or not self._waiting or not self.ready.is_set():
            return
        task = self._current = self._waiting.popleft()
        asked = {"settings": task.settings.model_dump_json(), "tag": task.tag}
        do = {"do": "draw"} if task.form is None else {"do": "file", "form": task.form}
        self._write(task.number, asked | do)
        task.tell({"type": "started"})

    def _write(self, number: int, value: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(pipe.packed_json(number, value))

    async def _keep(self) -> None:
        """Start the worker, hand on what it sends, and start it again when it ends."""
        while True:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 20,
            )
            out = self._process.stdout
            assert out is not None
            with suppress(asyncio.IncompleteReadError):
                while True:
                    size, kind, number = pipe.HEAD.unpack(await out.readexactly(pipe.HEAD.size))
                    self._receive(kind, number, await out.readexactly(size - 5))
            code = await self._process.wait()
            started, self._current, task = self.ready.is_set(), None, self._current
            self.ready.clear()
            if task is not None:
                why = f"the process that draws ended (code {code}) and is started again"
                task.end(
                    {"type": "cancelled"} if task.cancelled else {"type": "error", "error": why}
                )
            if not started:
                self.failed = self.failed or f"the process that draws could not start (code {code})"
                self.on_failure()
                return

    def _receive(self, kind: int, number: int, content: bytes) -> None:
        if number == 0:
            message = json.loads(content)
            if message["type"] == "failed":
                self.failed = message["error"]
                return
            self.catalogue = message["catalogue"]
            self.ready.set()
            self._next()
            return
        task = self._current
        if task is None or task.number != number:
            return
        if kind == pipe.FRAME:
            if not task.cancelled:
                task.sink.frame(content)
        elif kind == pipe.FILE:
            task.file = content
        else:
            message = json.loads(content)
            if message["type"] not in ("done", "cancelled", "error"):
                if not task.cancelled:
                    task.tell(message)
                return
            self._current = None
            if self._killer is not None:
                self._killer.cancel()
                self._killer = None
            task.end({"type": "cancelled"} if task.cancelled else message)
            self._next()
            self._tell_places()

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 3)
        except TimeoutError:
            process.kill()
            await process.wait()
