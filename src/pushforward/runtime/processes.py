"""Who takes part in a run: one process, or several that share its samples.

Processes are started by `torchrun`; sample and batch ids are global, so that what each one makes is a part of what one
alone would have made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from pushforward.core.errors import Error, InputError

T = TypeVar("T")

# How long one process waits for the others: for as long as the slowest picture or checkpoint of the lead may take.
PATIENCE = timedelta(minutes=60)
# How long one that has failed waits whether the lead says so, too.
ECHO = timedelta(seconds=2)

# Groups are kept: where a network is the last to hold one, torch frees it under Python's lock and waits for its thread,
# which may wait for the lock.
_groups: list[Any] = []


class ElsewhereError(Error, RuntimeError):
    """Another process has failed, and says why."""


@dataclass(frozen=True)
class Processes:
    """This process among those that share a run: number `rank` of `count`.

    Every method but `share` is to be called by all of them alike. With one process all of them do nothing at all.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """As torch.distributed knows them; one alone if it was not set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def lead(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """The rows of `total` that are this one's: all in order, in parts that differ by one at most."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all processes' x, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def everybody(self, value: T) -> list[T]:
        """The values of all, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (n_r, ...) of all, in the order of ranks: (sum n_r, ...). The numbers of rows may differ."""
        if self.count == 1:
            return rows
        sizes = self.everybody(len(rows))
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        """As `gather`, with gradients, and which of the rows are this process's own.

        The gradient of this process's rows is the sum of those that the losses of all processes have, so that with
        each process's losses of its own rows the gradient is that of one process with all rows.
        """
        if self.count == 1:
            return rows, slice(0, len(rows))
        sizes = torch.zeros(self.count, dtype=torch.int64, device=rows.device)
        sizes[self.rank] = len(rows)
        counts = self.sum(sizes).tolist()
        start = sum(counts[: self.rank])
        mine = slice(start, start + len(rows))
        gathered: Tensor = _Gather.apply(rows, counts, mine)
        return gathered, mine

    def first(self, action: Callable[[], T]) -> T:
        """What the lead finds, told to all. Where it fails all fail, the others with its words."""
        if self.count == 1:
            return action()
        found: list[Any] = [None, None]
        failure: Exception | None = None
        if self.lead:
            try:
                found[0] = action()
            except Exception as error:
                failure, found[1] = error, str(error)
        dist.broadcast_object_list(found)
        if failure is not None:
            raise failure
        if found[1] is not None:
            raise ElsewhereError(found[1])
        return found[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """The rows of all processes; backwards the sum of all processes' gradients of this one's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], mine: slice) -> Tensor:
        ctx.mine = mine
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.mine], None, None


@contextmanager
def joined(device: str = "auto") -> Iterator[Processes]:
    """Take one's place among the processes that torchrun has started; alone without it.

    gloo on the CPU, with NCCL beside it where each process has a CUDA device of its own. All leave together. What fails
    alike in all of them is an error of the lead's; the others leave by SystemExit.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        yield Processes.current()
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        place = int(os.environ.get("LOCAL_RANK", "0"))
        if place >= torch.cuda.device_count():
            raise InputError(
                f"process {place} of this machine has no CUDA device, there are {torch.cuda.device_count()}: start as "
                f"many processes as devices, or pass --device cpu"
            )
        torch.cuda.set_device(place)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    _groups.append(dist.group.WORLD)
    processes = Processes.current()
    try:
        yield processes
        # torchrun stops the others when one ends with a code that is not 0: all end together.
        processes.wait()
    except Error as error:
        if _said(processes, str(error)):
            raise SystemExit(1) from error
        raise
    except RuntimeError as error:
        if not _lost(error):
            raise
        if not processes.lead:
            raise SystemExit(1) from error
        raise ElsewhereError("another process of this run has failed, or was stopped") from error
    finally:
        dist.destroy_process_group()


def _said(processes: Processes, words: str) -> bool:
    """Whether the lead fails with the same words, so that they need not be said again."""
    store = dist.distributed_c10d._get_default_store()
    try:
        if processes.lead:
            store.set("pushforward/error", words)
            return False
        store.wait(["pushforward/error"], ECHO)
        return bool(store.get("pushforward/error").decode() == words)
    except RuntimeError:  # The lead does not fail, or is gone.
        return False


def _lost(error: RuntimeError) -> bool:
    """Whether it is that another process does not answer any more."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "by peer" in str(error)
