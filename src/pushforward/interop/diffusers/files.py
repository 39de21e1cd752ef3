"""Configurations and weights in folders of diffusers. Nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import explain, sync_folder, write_file
from pushforward.saving.tensors import plain

STEM = "diffusion_pytorch_model"
INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler_config.json"
# The version of diffusers whose folders are written, and with which all this was compared.
VERSION = "0.42.1"
MAX_SHARD = 10 * 10**9


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a part, safetensors where there are any. A missing shard is named.

    Where there is a variant alone, such as `STEM.fp16.safetensors`, it is taken.
    """
    names = sorted(path.name for path in folder.iterdir())
    for end in ("safetensors", "bin"):
        whole = re.compile(rf"{STEM}(\.\w+)?\.{end}")
        index = re.compile(rf"{STEM}\.{end}\.index(\.\w+)?\.json")
        found = [
            (match[1] or "", pattern is whole, name)
            for pattern in (index, whole)
            for name in names
            if (match := pattern.fullmatch(name))
        ]
        if found:
            _, single, name = min(found)
            return [folder / name] if single else _shards(folder, folder / name)
    raise CheckpointError(f"{folder} has no weights: {STEM}.safetensors is missing")


def _shards(folder: Path, index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} has no weight_map")
    files = sorted(set(names.values()))
    for name in files:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r}, which is no file of its folder")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks {name}, which {index.name} names")
    return [folder / name for name in files]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a part by name. Those of safetensors are mapped from the file, and read when they are used."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        for name, value in _read(path).items():
            if name in tensors:
                raise CheckpointError(f"{folder}: {name} is in two files, {path.name} one of them")
            tensors[name] = value
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is not read: it is no pickle of tensors alone, or damaged "
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise CheckpointError(f"{path} holds something else than tensors by name")
    return dict(found)


class _Meta(TorchFunctionMode):
    """`torch.empty` gives tensors without memory: parameters have none until they are read, and buffers do."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


@contextmanager
def without_weights() -> Iterator[None]:
    """Modules built in here have parameters on the meta device. The caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[]), _Meta():
        yield


def fill(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Give a module these tensors, which become its own without a copy. Names and shapes must fit."""
    want = module.state_dict()
    problems = [f"missing: {name}" for name in want if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in want]
    problems += [
        f"{name}: {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in want.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + ("; ..." if len(problems) > 6 else "")
        raise CheckpointError(
            f"the weights in {where} do not fit its {CONFIG} ({len(problems)} differences): {shown}"
        )
    module.load_state_dict(dict(tensors), assign=True)
    if absent := [name for name, x in module.named_buffers() if x.is_meta]:
        raise CheckpointError(f"{where}: the buffer {absent[0]} has no values")


def write_part(
    folder: Path, config: Mapping[str, Any], kind: str, tensors: Mapping[str, Tensor]
) -> None:
    """Write config.json and the weights of a part, in shards of at most 10 GB."""
    tensors = plain(tensors)
    shards = _split(tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{STEM}*"):
            old.unlink()
        names: dict[str, str] = {}
        for k, shard in enumerate(shards, 1):
            many = f"-{k:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            name = f"{STEM}{many}.safetensors"
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            save_file(shard, temporary, {"format": "pt"})
            os.replace(temporary, folder / name)
            names |= dict.fromkeys(shard, name)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise explain(folder, OSError(str(error))) from error
    if len(shards) > 1:
        total = sum(x.numel() * x.element_size() for x in tensors.values())
        write_json(
            folder / f"{STEM}.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))},
        )
    write_json(folder / CONFIG, {"_class_name": kind, "_diffusers_version": VERSION, **config})


def _split(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, x in tensors.items():
        more = x.numel() * x.element_size()
        if shards[-1] and size + more > MAX_SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = x
        size += more
    return shards
