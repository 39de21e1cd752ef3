"""What waits to be sent to one client, so that a slow one stops nobody."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from pushforward.serve import limits


class Outbox:
    """Messages in order. Beyond `limits.OUTBOX` bytes the oldest frames are dropped, and never a text.

    The bytes of texts are few: a job has a bounded number of them.
    """

    def __init__(self) -> None:
        self._waiting: deque[str | bytes] = deque()
        self._size = 0
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Bytes of the frames that wait."""
        return self._size

    def text(self, value: dict[str, Any]) -> None:
        self._waiting.append(json.dumps(value, allow_nan=False))
        self._some.set()

    def frame(self, content: bytes) -> None:
        self._waiting.append(content)
        self._size += len(content)
        while self._size > limits.OUTBOX:
            oldest = next(i for i, each in enumerate(self._waiting) if isinstance(each, bytes))
            self._size -= len(self._waiting[oldest])
            del self._waiting[oldest]
        self._some.set()

    def clear(self) -> None:
        """Forget the frames: what they show is no longer asked for."""
        self._waiting = deque(each for each in self._waiting if isinstance(each, str))
        self._size = 0

    async def next(self) -> str | bytes:
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        message = self._waiting.popleft()
        if isinstance(message, bytes):
            self._size -= len(message)
        return message
