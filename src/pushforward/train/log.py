"""The log of a run, a function of the run alone; its speed in another file; progress on the console."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import explain


class JSONLines:
    """A file with one JSON object a line. Its length is part of a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise explain(self.path, error) from error

    def read(self) -> list[dict[str, Any]]:
        """The entries, without a last line that was cut off; none if there is no file."""
        try:
            lines = self.path.read_text().splitlines(keepends=True) if self.path.is_file() else []
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.path}: {error}") from error

    def sync(self) -> int:
        """fsync; returns the length in bytes."""
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise explain(self.path, error) from error

    def truncate(self, size: int) -> None:
        """Remove everything after the first `size` bytes."""
        have = self.path.stat().st_size if self.path.is_file() else 0
        if have < size:
            raise CheckpointError(
                f"{self.path} has {have} bytes, and had {size} when the checkpoint was written: it was cut or replaced"
            )
        try:
            os.truncate(self.path, size)
        except OSError as error:
            raise explain(self.path, error) from error


class Reporter:
    """Progress of a run: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, steps: int, console: Console | None = None, quiet: bool = False) -> None:
        self.steps, self.quiet = steps, quiet
        self.console = console or Console(highlight=False)
        self.bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=steps, note="")

    def __enter__(self) -> Reporter:
        if self.bar is not None:
            self.bar.start()
        self.began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def entry(self, entry: dict[str, Any], speed: float) -> None:
        note = f"loss {entry['loss']:.4f}  {speed:.0f} samples/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=entry["step"], note=note)
        elif not self.quiet:
            self.say(f"step {entry['step']}/{self.steps}  {note}")

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)
