"""Memory that a run takes, and what is said when there is none left."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pushforward.core.errors import Error, OutOfMemoryError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, in the words of any allocator."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


@contextmanager
def within_memory(words: Callable[[BaseException], str]) -> Iterator[None]:
    """Raise OutOfMemoryError with these words for what runs out of memory within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, Error) or not out_of_memory(error):
            raise
        raise OutOfMemoryError(words(error)) from error


def peak_memory(device: torch.device) -> int:
    """The most that was taken so far, in bytes: of the device's memory, or of the machine's by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
