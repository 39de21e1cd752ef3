"""Conditions and masks that go with the samples of a data set, one row each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Condition, Tokens
from pushforward.core.errors import DataError
from pushforward.core.spec import Kind
from pushforward.data.kinds import KINDS
from pushforward.data.values import as_samples, layout_of

# Arguments of networks, of fields, and of `generate` besides conditions.
TAKEN = (
    "x", "t", "s", "want", "label", "mask", "ids", "model", "num", "solver", "nfe", "guidance", "interval", "negative",
    "grid", "source", "from_time", "to_time", "seed", "start", "batch_size", "shape", "callback", "edit", "progress",
    "decode",
)  # fmt: skip


def as_columns(columns: Mapping[str, Any], n: int, where: str) -> dict[str, Condition]:
    """Conditions as tensors with n rows: floating numbers as float32, whole ones as int64, truth values as bool.

    Bytes of images (n, H, W), (n, H, W, C) or (n, C, H, W) become images (n, C, H, W) in [-1, 1]. NaN stands for an
    unknown number. Raises DataError for names that are arguments of networks, other dtypes, infinite numbers, and
    another number of rows.
    """
    out = {}
    for name, value in columns.items():
        if name in TAKEN or not name.isidentifier():
            raise DataError(
                f"{where}: a condition cannot be called {name!r}: it must be a name in Python's sense, and none that "
                f"networks or generate have as an argument"
            )
        out[name] = _column(value, f"{where}, condition {name!r}")
    for name, leaf in conditions.leaves(out):
        if len(leaf) != n:
            raise DataError(f"{where}: {n} samples, but {len(leaf)} rows of the condition {name!r}")
    return out


def _column(value: Any, where: str) -> Condition:
    if isinstance(value, Mapping):
        return {name: _column(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, Tokens):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        raise DataError(f"{where} is a single number; give one for each sample")
    if array.dtype == np.uint8 and array.ndim in (3, 4):
        layout, _ = layout_of(array.shape, array.dtype, "image", False, where)
        return as_samples(array.copy(), layout)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            real = array.astype(np.float32)
        rows = np.flatnonzero(np.isinf(real).reshape(len(real), -1).any(1))
        if len(rows):
            raise DataError(
                f"{where}: {len(rows)} rows are infinite in float32, first {', '.join(map(str, rows[:10]))}"
            )
        return torch.from_numpy(real)
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b":
        return torch.from_numpy(array.copy())
    raise DataError(
        f"{where} holds {array.dtype}; conditions are numbers, and texts are given as texts"
    )


def notes_on_unknown(columns: Mapping[str, Condition]) -> list[str]:
    """How often a condition is unknown, for those that sometimes are."""
    notes = []
    for name, leaf in conditions.leaves(columns):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            count = (
                int(leaf.isnan().flatten(1).any(1).sum())
                if leaf.ndim > 1
                else int(leaf.isnan().sum())
            )
            if count:
                notes.append(
                    f"the condition {name!r} is unknown (NaN) for {count} of {len(leaf)} samples"
                )
    return notes


def as_mask(mask: np.ndarray | Tensor, shape: tuple[int, ...], kind: Kind, where: str) -> Tensor:
    """A mask as bool with as many axes as samples (N, *shape), each as long or 1.

    (N, L) masks the entries of sequences (L, ...) and of signals (C, L); one axis less than the samples have, those
    of channels. Raises DataError for others, and for a sample without data.
    """
    given = torch.from_numpy(np.array(mask))
    held = given
    if held.ndim == len(shape) - 1 and KINDS[kind].channels_first:
        held = held.unsqueeze(1)
    held = held.reshape(*held.shape, *[1] * (len(shape) - held.ndim))
    fits = (
        held.ndim == len(shape)
        and len(held) == shape[0]
        and all(m in (1, n) for m, n in zip(held.shape[1:], shape[1:], strict=True))
    )
    if given.dtype != torch.bool or not fits:
        raise DataError(
            f"{where}: a mask is bool and says of each entry of the samples {shape} whether it is data; got "
            f"{given.dtype} {tuple(given.shape)}"
        )
    empty = (~held.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise DataError(
            f"{where}: {len(empty)} samples have no data, their masks are False everywhere, first rows "
            f"{', '.join(map(str, empty[:10]))}"
        )
    return held


def digest_columns(columns: Mapping[str, Condition]) -> str:
    """SHA-256, in hexadecimal, of conditions: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, leaf in conditions.leaves(columns):
        parts = (leaf.values, leaf.mask) if isinstance(leaf, Tokens) else (leaf,)
        for part in parts:
            digest.update(json.dumps([name, str(part.dtype), list(part.shape)]).encode())
            array = part.contiguous().numpy()
            digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
