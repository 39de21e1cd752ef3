"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """SIGTERM and Ctrl-C are noted once, `number`; a second one ends the process at once."""

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note them within, and give the handlers back at the end."""

        def ask(number: int, frame: object) -> None:
            self.number = number
            signal.signal(number, signal.SIG_DFL)

        try:
            before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are somebody else's
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
