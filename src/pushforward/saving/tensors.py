"""Weights of a part as a safetensors file, and what they have in common with those of another."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pushforward.core.errors import CheckpointError

# Names of dtypes in a safetensors header.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors keeps them: on the CPU, contiguous, conjugates and negatives computed, none in the memory
    of another."""
    out: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in tensors.items():
        x = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        place = x.untyped_storage().data_ptr()
        if place in taken or x.untyped_storage().nbytes() != x.numel() * x.element_size():
            x = x.clone()
        taken.add(x.untyped_storage().data_ptr())
        out[name] = x
    return out


def serialise(tensors: Mapping[str, Tensor]) -> bytes:
    return save(plain(tensors))


# As safetensors sorts them in a file.
ORDER = (
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8",
    "BOOL",
)  # fmt: skip


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of `serialise(tensors)`, one piece after the other: the tensors themselves, without a copy of them all.

    https://github.com/huggingface/safetensors, "Format".
    """
    kinds = {kind: name for name, kind in DTYPES.items()}
    place = {name: k for k, name in enumerate(ORDER)}
    order = sorted(tensors, key=lambda name: (place[kinds[tensors[name].dtype]], name))
    header, start = {}, 0
    for name in order:
        x = tensors[name]
        end = start + x.numel() * x.element_size()
        header[name] = {
            "dtype": kinds[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        x = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        if x.numel():
            yield x.reshape(-1).view(torch.uint8).numpy().data


@contextmanager
def reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: names, shapes and types."""
    with reading(path), safe_open(path, "pt") as file:
        found = {}
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            kind = DTYPES.get(part.get_dtype())
            if kind is None:
                raise CheckpointError(f"{path}: {name} is of type {part.get_dtype()}")
            found[name] = torch.empty(part.get_shape(), dtype=kind, device="meta")
        return found


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file."""
    with reading(path), safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def own_names(module: nn.Module, children: Collection[nn.Module]) -> list[str]:
    """The names in a module's state_dict of what belongs to none of its children."""
    inside = {id(child) for child in children}
    prefixes = tuple(
        f"{path}."
        for path, part in module.named_modules(remove_duplicate=False)
        if path and id(part) in inside
    )
    return [name for name in module.state_dict() if not name.startswith(prefixes)]


def cast(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The module in the precision of these tensors, which may be several."""
    kinds = {x.dtype for x in tensors.values() if x.is_floating_point()}
    if len(kinds) == 1:
        return module.to(kinds.pop())
    for name, x in [*module.named_parameters(), *module.named_buffers()]:
        if x.is_floating_point() and name in tensors and tensors[name].is_floating_point():
            x.data = x.data.to(tensors[name].dtype)
    return module


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module, after listing every name, shape or type that does not fit."""
    check_fit(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors))


def check_fit(want: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    problems = [f"missing: {name}" for name in want if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in want]
    problems += [
        f"{name}: {tensors[name].dtype} {tuple(tensors[name].shape)}, expected {value.dtype} {tuple(value.shape)}"
        for name, value in want.items()
        if name in tensors
        and (tensors[name].shape != value.shape or tensors[name].dtype != value.dtype)
    ]
    if problems:
        shown = "; ".join(problems[:8]) + ("; ..." if len(problems) > 8 else "")
        raise CheckpointError(
            f"{where} does not fit the model ({len(problems)} differences): {shown}"
        )
