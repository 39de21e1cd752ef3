"""Progress on the console: bars with the time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pushforward.core.progress import watched

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# Seconds until the first line in a log, and between two of them.
FIRST, EVERY = 3.0, 20.0


@contextmanager
def shown(console: Console | None = None) -> Iterator[None]:
    """Show what is told of progress meanwhile."""
    from rich.console import Console

    console = console or Console(highlight=False)
    display = Bars(console) if console.is_terminal else Lines(console)
    try:
        with watched(display):
            yield
    finally:
        display.close()


class Bars:
    """A bar for each kind of work under way. There is none on the screen while there is none to show."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if 0 < total <= done:
            task = self.tasks.pop(what, None)
            if task is not None and self.progress is not None:
                self.progress.remove_task(task)
            if not self.tasks:
                self.close()
            return
        progress = self.progress = self.progress or self.started()
        if what not in self.tasks:
            self.tasks[what] = progress.add_task(what, total=total or None)
        progress.update(self.tasks[what], completed=done, total=total or None)

    def started(self) -> Progress:
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left, after"),
            TimeElapsedColumn(),
        )
        progress = Progress(*columns, console=self.console, transient=True)
        progress.start()
        return progress

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
        self.progress = None
        self.tasks.clear()


class Lines:
    """Now and then, how far the outermost work has come, and how long the rest of it takes at that pace."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # Of the work under way: when it began, and how much of it is done.
        self.work: dict[str, tuple[float, float]] = {}
        self.due = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if 0 < total <= done:
            self.work.pop(what, None)
            return
        if not self.work:
            self.due = max(self.due, now + FIRST)
        began, _ = self.work.get(what, (now, 0.0))
        share = done / total if total else 0.0
        self.work[what] = began, share
        outermost = next((name for name, (_, part) in self.work.items() if part), None)
        if now < self.due or what != outermost:
            return
        self.due = now + EVERY
        left = (now - began) * (1 - share) / share
        self.console.print(f"{what}: {share:.0%}, about {duration(left)} left")

    def close(self) -> None:
        self.work.clear()


def duration(seconds: float) -> str:
    """As in 40 s, 12 min, 3 h."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"
