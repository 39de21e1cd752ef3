"""What a model is conditioned on: named tensors, sequences of tokens, and groups of these.

    cond = {"label": (B,) int64, "text": Tokens((B, L, D), (B, L)), "control": {"edges": (B, 1, H, W)}}

Every value has one row for each sample. Whatever cuts, moves, joins or repeats a batch does it here, so that a new
kind of condition needs no other place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pushforward.core.errors import InputError


@dataclass(frozen=True, eq=False)
class Tokens:
    """Sequences of one padded length: `values` (B, L) or (B, L, D), and where they hold tokens, `mask` (B, L) bool.

    What stands where the mask is False never changes a result.
    """

    values: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim < 2 or self.mask.shape != self.values.shape[:2]:
            raise InputError(
                f"tokens are values (B, L, ...) with a mask (B, L), got {tuple(self.values.shape)} and "
                f"{tuple(self.mask.shape)}"
            )
        if self.mask.dtype != torch.bool:
            raise InputError(f"the mask of tokens must be bool, not {self.mask.dtype}")

    def __len__(self) -> int:
        return len(self.values)

    def padded(self, length: int) -> Tokens:
        """The same sequences, padded to `length` by zeros."""
        more = length - self.values.shape[1]
        if more < 0:
            raise InputError(f"tokens of length {self.values.shape[1]} do not fit into {length}")
        if more == 0:
            return self
        values = self.values.new_zeros(self.values.shape[0], more, *self.values.shape[2:])
        mask = self.mask.new_zeros(self.values.shape[0], more)
        return Tokens(torch.cat((self.values, values), 1), torch.cat((self.mask, mask), 1))


Condition = Any  # Tensor | Tokens | Mapping[str, Condition]
Conditions = Mapping[str, Condition]


def _map(change: Callable[[Tensor], Tensor], value: Condition) -> Condition:
    """`value` with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Tokens):
        return Tokens(change(value.values), change(value.mask))
    if isinstance(value, Mapping):
        return {name: _map(change, part) for name, part in value.items()}
    raise InputError(
        f"a condition is a tensor, Tokens, or a dictionary of these, not {type(value).__name__}"
    )


def leaves(cond: Conditions, prefix: str = "") -> Iterator[tuple[str, Tensor | Tokens]]:
    """(name, value) of every tensor and every Tokens, names of groups joined by dots."""
    for name, value in cond.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor | Tokens):
            yield prefix + name, value
        else:
            raise InputError(
                f"the condition {prefix}{name} is a {type(value).__name__}; it must be a tensor, Tokens, or a "
                f"dictionary of these, with one row for each sample"
            )


def size(cond: Conditions) -> int | None:
    """The number of samples, or None without conditions. Raises InputError where they disagree."""
    found: dict[str, int] = {}
    for name, value in leaves(cond):
        if isinstance(value, Tensor) and value.ndim == 0:
            raise InputError(f"the condition {name} is a single number; give one for each sample")
        found[name] = _rows(value)
    if len(set(found.values())) > 1:
        raise InputError(
            "conditions have one row for each sample, and these differ in number: "
            + ", ".join(f"{name} {count}" for name, count in found.items())
        )
    return next(iter(found.values()), None)


def check_size(cond: Conditions, count: int) -> None:
    """That there is one row for each of `count` samples."""
    for name, value in leaves(cond):
        if isinstance(value, Tensor) and value.ndim == 0:
            raise InputError(f"the condition {name} is a single number; give one for each sample")
        if _rows(value) != count:
            raise InputError(f"{name} has {_rows(value)} entries for {count} samples")


def _rows(value: Tensor | Tokens) -> int:
    """The number of samples, which `len` would fix while a graph for any number is traced."""
    return value.shape[0] if isinstance(value, Tensor) else value.values.shape[0]


def trimmed(cond: Conditions) -> dict[str, Any]:
    """The same with Tokens as long as the last token of any sample, and at least 1."""

    def cut(value: Condition) -> Condition:
        if isinstance(value, Mapping):
            return {name: cut(part) for name, part in value.items()}
        if not isinstance(value, Tokens):
            return value
        there = value.mask.any(0).nonzero()
        length = int(there.max()) + 1 if len(there) else 1
        return Tokens(value.values[:, :length], value.mask[:, :length])

    return {name: cut(value) for name, value in cond.items()}


def take(cond: Conditions, rows: slice | Tensor) -> dict[str, Any]:
    """The samples `rows`: a slice, indices (M,) int64 in any order and number, or a mask (B,) bool."""
    if isinstance(rows, slice):
        return _map(lambda x: x[rows], cond)
    return _map(lambda x: x[rows.to(x.device)], cond)


def to(cond: Conditions, device: torch.device | str) -> dict[str, Any]:
    """All values on `device`. Dtypes are kept: labels and ids are integers, masks are bool."""
    return _map(lambda x: x.to(device), cond)


def repeat(cond: Conditions, times: int) -> dict[str, Any]:
    """Each sample `times` times in a row: a, a, b, b."""
    return _map(lambda x: x.repeat_interleave(times, 0), cond)


def tile(cond: Conditions, times: int) -> dict[str, Any]:
    """The whole batch `times` times over: a, b, a, b."""
    return _map(lambda x: x.repeat(times, *[1] * (x.ndim - 1)), cond)


def cat(parts: Sequence[Conditions]) -> dict[str, Any]:
    """Batches one after the other. They must have the same names; shorter Tokens are padded to the longest."""
    if len(parts) == 1:
        return dict(parts[0])
    names = [set(part) for part in parts]
    if any(found != names[0] for found in names):
        odd = sorted(names[0].union(*names) - names[0].intersection(*names))
        raise InputError(f"batches with and without the condition {odd[0]} cannot be joined")
    out: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Mapping):
            out[name] = cat(values)
        elif isinstance(first, Tokens):
            length = max(value.values.shape[1] for value in values)
            padded = [value.padded(length) for value in values]
            out[name] = Tokens(
                torch.cat([p.values for p in padded]), torch.cat([p.mask for p in padded])
            )
        else:
            out[name] = torch.cat(values)
    return out


def select(mask: Tensor, a: Condition, b: Condition) -> Condition:
    """`a` for the samples in mask (B,) bool, `b` for the others: two values of one kind."""
    if isinstance(a, Mapping):
        return {name: select(mask, a[name], b[name]) for name in a}
    if isinstance(a, Tokens):
        length = max(a.values.shape[1], b.values.shape[1])
        a, b = a.padded(length), b.padded(length)
        return Tokens(select(mask, a.values, b.values), select(mask, a.mask, b.mask))
    return torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)


# What stands for "none".


@runtime_checkable
class Null(Protocol):
    """What a condition becomes where it is dropped: a value of the same kind and batch size."""

    def __call__(self, value: Condition) -> Condition: ...


@dataclass(frozen=True)
class Fill:
    """One number everywhere: -1 for labels, 0 for embeddings that are centred."""

    value: float = 0

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise InputError(f"Fill takes a number, not {self.value!r}")

    def __call__(self, value: Condition) -> Condition:
        if isinstance(value, Tokens):
            return Tokens(torch.full_like(value.values, self.value), value.mask)
        return _map(lambda x: torch.full_like(x, self.value), value)


@dataclass(frozen=True)
class Empty:
    """A sequence without tokens."""

    def __call__(self, value: Condition) -> Condition:
        if not isinstance(value, Tokens):
            raise InputError(f"only Tokens can be empty, not {type(value).__name__}")
        return Tokens(torch.zeros_like(value.values), torch.zeros_like(value.mask))


@dataclass(frozen=True)
class Unknown:
    """Not a number, by which networks know a continuous condition that is not given."""

    def __call__(self, value: Condition) -> Condition:
        return _map(lambda x: torch.full_like(x, float("nan")), value)


Nulls = Mapping[str, Null]


def as_nulls(nulls: Mapping[str, Null | float | str] | None) -> dict[str, Null]:
    """Nulls by the name of their condition, numbers being `Fill`, "empty" `Empty()` and "unknown" `Unknown()`."""
    out: dict[str, Null] = {}
    for name, null in (nulls or {}).items():
        if isinstance(null, int | float) and not isinstance(null, bool):
            out[name] = Fill(null)
        elif null == "empty":
            out[name] = Empty()
        elif null == "unknown":
            out[name] = Unknown()
        elif callable(null):
            out[name] = null
        else:
            raise InputError(
                f"what stands for no {name} is a number, 'empty', 'unknown' or an object such as Fill(0), not {null!r}"
            )
    return out


def drop(
    cond: Conditions, nulls: Nulls, masks: Tensor | Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """`cond` with what `nulls` names made "none". What it does not name is never dropped.

    masks: (B,) bool, the samples in which all named conditions are dropped together, or one such mask by name; all
    samples without it.
    """
    out = dict(cond)
    for name, null in nulls.items():
        if name not in cond:
            continue
        mask = masks.get(name) if isinstance(masks, Mapping) else masks
        if mask is None and isinstance(masks, Mapping):
            continue
        none = null(cond[name])
        out[name] = none if mask is None else select(mask, none, cond[name])
    return out
