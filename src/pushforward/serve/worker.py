"""The process that computes: jobs come by standard input, frames leave by standard output.

    python -m pushforward.serve.worker DEVICE FOLDER ...

A thread reads; the main thread draws one job after another. When the input ends, so does the process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from pushforward.core.errors import Error
from pushforward.runtime.device import find_device
from pushforward.serve import curve, files, limits, pictures, pipe, plane
from pushforward.serve.curve import References
from pushforward.serve.job import Job, StoppedError
from pushforward.serve.settings import Settings
from pushforward.serve.subjects import Runs, Subject, catalogue, of_law

# Results that are kept for downloads.
KEPT = 3


class Worker:
    """One at a time: what is cancelled ends at the next call of its field."""

    def __init__(self, runs: Runs, out: BinaryIO) -> None:
        self.runs, self.out = runs, out
        self.waiting: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
        self.cancelled: set[int] = set()
        self.references = References()
        self.results: OrderedDict[str, Tensor] = OrderedDict()

    def send(self, kind: int, job: int, content: bytes) -> None:
        self.out.write(pipe.packed(kind, job, content))
        self.out.flush()

    def listen(self, source: BinaryIO) -> None:
        """Read until the input ends, and then leave: nobody is there to draw for."""
        while (message := pipe.read(source)) is not None:
            _, job, content = message
            asked = json.loads(content)
            if asked["do"] == "cancel":
                self.cancelled.add(job)
            else:
                self.waiting.put((job, asked))
        os._exit(0)

    def work(self) -> None:
        while True:
            number, asked = self.waiting.get()
            end = self.one(number, asked)
            self.cancelled.discard(number)
            self.send(pipe.JSON, number, pipe.text(end))

    def one(self, number: int, asked: dict[str, Any]) -> dict[str, Any]:
        """Draw; returns the last message of the job."""
        job = Job(
            asked["tag"], Settings.model_validate_json(asked["settings"]),
            lambda kind, content: self.send(kind, number, content),
            lambda: number in self.cancelled, time.monotonic() + limits.WORK,
        )  # fmt: skip
        try:
            if asked["do"] == "file":
                self.send(pipe.FILE, number, self.file(job, asked["form"]))
                return {"type": "done"}
            return {"type": "done", **self.draw(job)}
        except StoppedError as error:
            cancelled = number in self.cancelled
            return {"type": "cancelled"} if cancelled else {"type": "error", "error": str(error)}
        except Error as error:
            return {"type": "error", "error": str(error)}
        except (MemoryError, RuntimeError) as error:
            from pushforward.train.memory import out_of_memory

            if not out_of_memory(error):
                raise
            return {"type": "error", "error": "out of memory: ask for fewer samples"}

    def subject(self, settings: Settings) -> Subject:
        return of_law(settings) or self.runs[settings.subject]

    def draw(self, job: Job) -> dict[str, Any]:
        subject = self.subject(job.settings)
        if subject.kind == "pictures":
            x, about = pictures.draw(job, subject)
            self.keep(job.settings, x)
            return about
        x, about = plane.draw(job, subject)
        self.keep(job.settings, x)
        job.send(pipe.JSON, pipe.text({"type": "drawn", **about}))
        if job.settings.curve:
            curve.draw(job, subject, self.references)
        return about

    def keep(self, settings: Settings, x: Tensor) -> None:
        self.results[settings.model_dump_json()] = x
        while len(self.results) > KEPT:
            self.results.popitem(last=False)

    def file(self, job: Job, form: str) -> bytes:
        """The samples of these settings as a file: those that were drawn last, or drawn again."""
        key = job.settings.model_dump_json()
        subject = self.subject(job.settings)
        if key not in self.results:
            self.draw(job)
        return files.file(form, self.results[key], subject, job.settings)


def main(device: str, folders: list[str]) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the server, which ends this process
    # The pipe is ours alone: whatever prints goes to standard error.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        place = find_device(device)
        runs = Runs([Path(folder) for folder in folders], place)
        ready = {"type": "ready", "catalogue": catalogue(runs, place)}
    except Error as error:
        out.write(pipe.packed_json(0, {"type": "failed", "error": str(error)}))
        out.flush()
        raise SystemExit(1) from None
    worker = Worker(runs, out)
    worker.send(pipe.JSON, 0, pipe.text(ready))
    threading.Thread(target=worker.listen, args=(sys.stdin.buffer,), daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
