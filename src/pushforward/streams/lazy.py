"""A stream that is built when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from pushforward.data.batch import Batch
from pushforward.streams.stream import Stream


class Lazy:
    """A stream that is built when its first batch is asked for, from data that do not exist before."""

    def __init__(self, make: Callable[[], Stream], batch_size: int) -> None:
        self.make, self.batch_size = lru_cache(maxsize=1)(make), batch_size

    def at(self, step: int) -> Batch:
        return self.make().at(step)
