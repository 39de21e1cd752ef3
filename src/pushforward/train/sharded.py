"""Sharded checkpoints, written in the background by all processes (torch.distributed.checkpoint).

Each shard is a safetensors file whose header gives the place of every part in its whole tensor, so that any number of
processes can resume from them and nothing in them is executed.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import explain
from pushforward.runtime.processes import PATIENCE, Processes
from pushforward.train.checkpoint import Checkpoints, State


class Sharded:
    """Writes a run's checkpoints in the background. All processes call its methods in the same order.

    `begin` copies the tensors and returns; `finish` renames the folder into place once everything in it is on the disk.
    """

    def __init__(self, checkpoints: Checkpoints, processes: Processes) -> None:
        self.checkpoints, self.processes = checkpoints, processes
        # A process group of its own: messages of the background must not mix with those of training.
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.pending: tuple[State, Path, Any] | None = None

    def begin(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.finish()
        path = self.checkpoints.path(state.step)
        if self.processes.first(path.exists):
            return
        folder = path.with_name(f".{path.name}.tmp")
        self.processes.first(lambda: _fresh(folder))
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        future = async_save(dict(tensors), storage_writer=writer, process_group=self.group)
        self.pending = state, folder, future

    @property
    def written(self) -> bool:
        """Whether this process has written its shard, so that `finish` need not wait for it."""
        if self.pending is None:
            return False
        future: Future = self.pending[2]
        return future.done()

    def finish(self) -> None:
        from torch.distributed.checkpoint.api import CheckpointException

        if self.pending is None:
            return
        state, folder, future = self.pending
        self.pending = None
        failure = ""
        try:
            future.result()
        except (Exception, CheckpointException) as error:  # which is no Exception
            failure = _words(error, self.checkpoints.path(state.step))
        failures = [words for words in self.processes.everybody(failure) if words]
        if failures:
            self.processes.first(lambda: shutil.rmtree(folder, ignore_errors=True))
            raise CheckpointError(failures[0])
        self.processes.first(lambda: self.checkpoints.adopt(state, folder))

    def drop(self) -> None:
        """Discard the pending checkpoint. The only method that a process may call by itself."""
        if self.pending is None:
            return
        _, folder, future = self.pending
        self.pending = None
        future.exception()
        if self.processes.lead:
            shutil.rmtree(folder, ignore_errors=True)


def _fresh(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError as error:
        raise explain(folder, error) from error


def _words(error: BaseException, path: Path) -> str:
    causes = [error, *(getattr(error, "failures", None) or {}).values()]
    for cause in causes:
        if isinstance(cause, tuple):
            cause = cause[0]
        if isinstance(cause, OSError):
            return str(explain(path, cause))
    return (
        f"cannot write {path}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    )


def described(path: Path) -> dict[str, Tensor]:
    """The tensors in a checkpoint's folder, on the meta device: names, shapes and types."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    with _reading(path):
        found = {
            name: entry
            for name, entry in HuggingFaceStorageReader(str(path))
            .read_metadata()
            .state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
    # What no shard holds would silently keep its value in memory.
    gaps = [
        name
        for name, entry in found.items()
        if sum(math.prod(chunk.sizes) for chunk in entry.chunks) != math.prod(entry.size)
    ]
    if gaps:
        raise CheckpointError(f"{path} does not hold all parts of {', '.join(gaps[:8])}")
    return {
        name: torch.empty(entry.size, dtype=entry.properties.dtype, device="meta")
        for name, entry in found.items()
    }


def read_into(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors, sharded or not, from a checkpoint's folder; its parts may be those of any number of processes."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(path))
    with _reading(path):
        load(dict(tensors), storage_reader=reader, no_dist=not dist.is_initialized())


def read_whole(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint's folder, whole, in this process."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    tensors = {name: torch.empty_like(x, device="cpu") for name, x in described(path).items()}
    with _reading(path):
        load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return tensors


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SafetensorError,
        CheckpointException,
    ) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
