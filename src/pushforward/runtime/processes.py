"""The processes of a run: one, or several that share its samples.

`torchrun` starts them. Ids of samples and batches are global, so that each process computes a part of what a single one
would compute.
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

# How long a process waits for the others: as long as the slowest picture or checkpoint of rank 0 may take.
PATIENCE = timedelta(minutes=60)
# How long a process that has failed waits for the error of rank 0.
ECHO = timedelta(seconds=2)

# Groups are kept: where a network is the last to hold one, torch frees it under Python's lock and waits for its thread,
# which may wait for the lock.
_groups: list[Any] = []


class ElsewhereError(Error, RuntimeError):
    """Another process has failed; its message."""


@dataclass(frozen=True)
class Processes:
    """This process among those that share a run: number `rank` of `count`.

    All processes call every method but `share` in the same order. With one process they do nothing.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those of torch.distributed; a single one if it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def lead(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """This process's rows out of `total`: consecutive, in parts whose sizes differ by at most one."""
        return slice(total * self.rank // self.count, total * (self.rank + 1) // self.count)

    def sum(self, x: Tensor) -> Tensor:
        """All-reduce: the sum of x over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(x)
        return x

    def everybody(self, value: T) -> list[T]:
        """All-gather of Python objects: the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """All-gather: the rows (n_r, ...) of all processes in the order of ranks, (sum n_r, ...). n_r may differ."""
        if self.count == 1:
            return rows
        sizes = self.everybody(len(rows))
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, slice]:
        """`gather` with gradients, and which of the rows are this process's own.

        The backward pass sums the gradients of a row over all processes. If each process then takes the losses of its
        own rows, the total gradient is that of a single process with all rows.
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
        """Run on rank 0 and broadcast the result; if it raises, every process raises, with the same message."""
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
        """Barrier."""
        if self.count > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All-gather of rows; its backward pass is an all-reduce of their gradients."""

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
    """Join the process group of torchrun; a single process without it.

    Backends: gloo on the CPU, and NCCL where each process has a CUDA device of its own. All processes leave together.
    An error that all of them raise is raised by rank 0 alone; the others exit with SystemExit.
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
        if _raised_by_lead(processes, str(error)):
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


def _raised_by_lead(processes: Processes, words: str) -> bool:
    """Whether rank 0 raises the same message, so that this process need not repeat it."""
    store = dist.distributed_c10d._get_default_store()
    try:
        if processes.lead:
            store.set("pushforward/error", words)
            return False
        store.wait(["pushforward/error"], ECHO)
        return bool(store.get("pushforward/error").decode() == words)
    except RuntimeError:  # rank 0 does not fail, or is gone
        return False


def _lost(error: RuntimeError) -> bool:
    """Whether an error means that another process no longer answers."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "by peer" in str(error)
