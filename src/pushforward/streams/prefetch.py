"""Batches computed during the step before."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from pushforward.core.errors import InputError
from pushforward.data.batch import Batch
from pushforward.streams.stream import Divisible, Part, Stream


class Prefetch:
    """A stream whose next batches are prepared in the background: the same batches, sooner.

    `at(step)` is that of the stream for any order of steps; the `depth` batches after it are started meanwhile, and
    those that a jump skips are dropped. Drawing and pairing mostly run outside of Python's lock, so that threads are
    enough and batches need not be copied between processes. An error belongs to its step: it is raised unchanged when
    that step is asked for, and never otherwise.

    stream: pure, as streams are, and safe to use from several threads. depth: batches started ahead. workers: threads
    that compute them. After a fork, the child starts threads of its own.
    """

    def __init__(self, stream: Stream, depth: int = 2, workers: int = 1) -> None:
        for name, value in (("depth", depth), ("workers", workers)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        self.stream, self.depth, self.workers = stream, depth, workers
        self.batch_size = stream.batch_size
        self._start()

    def _start(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._pool = ThreadPoolExecutor(self.workers, "pushforward-ahead")
        self._begun: dict[int, Future[Batch]] = {}

    def at(self, step: int) -> Batch:
        if self._process != os.getpid():
            self._start()
        with self._lock:
            wanted = range(step, step + self.depth + 1)
            for other in self._begun.keys() - wanted:
                self._begun.pop(other).cancel()
            for number in wanted:
                if number not in self._begun:
                    self._begun[number] = self._pool.submit(self.stream.at, number)
            future = self._begun.pop(step)
        return future.result()

    def part(self, rows: slice) -> Prefetch:
        inner = (
            self.stream.part(rows)
            if isinstance(self.stream, Divisible)
            else Part(self.stream, rows)
        )
        return Prefetch(inner, self.depth, self.workers)

    def close(self) -> None:
        """Drop the batches that were started and end the threads; a running one is finished first. No `at` after it."""
        if self._process == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
