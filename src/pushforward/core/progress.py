"""How far long work has come, told to whoever watches: the command line does, and shows it; in a library nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
# Called with what is done, how much of it, and of how much.
Watcher = Callable[[str, int, int], None]

_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """What is told in this context, and on this thread, goes to `watcher`."""
    before = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(before)


def is_watched() -> bool:
    return _WATCHER.get() is not None


def tell(what: str, done: int, total: int) -> None:
    """That so much of something is done. Work inside of work tells its own, under another name."""
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher(what, done, total)


def counted(what: str, items: Sequence[T]) -> Iterator[T]:
    """The items, one by one, telling how many are done."""
    for i, item in enumerate(items):
        tell(what, i, len(items))
        yield item
    tell(what, len(items), len(items))
