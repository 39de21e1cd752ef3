"""Peak memory of a run, and a clear error when memory runs out."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from pushforward.core.errors import Error, OutOfMemoryError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of any allocator means that memory ran out."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "can't allocate memory" in str(error) or "out of memory" in str(error).lower()


@contextmanager
def within_memory(words: Callable[[BaseException], str]) -> Iterator[None]:
    """Turn out-of-memory errors into OutOfMemoryError with the message `words(error)`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, Error) or not out_of_memory(error):
            raise
        raise OutOfMemoryError(words(error)) from error


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: of the CUDA device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
