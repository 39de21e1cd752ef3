"""Weights in half of their precision, for folders of half the size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import CheckpointError
from pushforward.saving.description import Described

FULL = {"float32": torch.float32, "float64": torch.float64}
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Shortened:
    """Tensors as they are stored, and the name of the precision that they had."""

    tensors: Mapping[str, Tensor]
    dtype: str


def shortened(described: Described, storage: torch.dtype) -> dict[str, Shortened]:
    """The tensors of each part, those of two and more dimensions rounded to `storage`.

    Scales, shifts and biases, a hundredth of the whole, keep their digits. Raises CheckpointError for a part of several
    precisions, one that is not of float32 or float64, and values that half precision does not reach.
    """
    if storage not in HALF:
        raise CheckpointError(f"storage is float16 or bfloat16, and not {storage}")
    found = {}
    for place, tensors in described.tensors():
        kinds = {x.dtype for x in tensors.values() if x.is_floating_point()}
        names = [name for name, dtype in FULL.items() if kinds == {dtype}]
        if kinds and not names:
            raise CheckpointError(
                f"{place} is of {' and '.join(sorted(str(kind) for kind in kinds))}: only weights of float32, or of "
                f"float64, are stored in half precision"
            )
        if names:
            short = {n: _round(x, storage, f"{n} of {place}") for n, x in tensors.items()}
            found[place] = Shortened(short, names[0])
    return found


def _round(x: Tensor, storage: torch.dtype, where: str) -> Tensor:
    if not x.is_floating_point() or x.ndim < 2:
        return x
    out = x.to(storage)
    if bool((out.isinf() & x.isfinite()).any()):
        raise CheckpointError(f"{where} has values beyond the range of {storage}: take bfloat16")
    return out


def full_precision(name: object, place: str) -> torch.dtype:
    """The precision of this name in a description."""
    if name not in FULL:
        raise CheckpointError(f"the weights of {place} cannot be brought to {name!r}")
    return FULL[str(name)]


def lengthened(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Tensors in the precision that they had before they were stored; None: as they are."""
    if dtype is None:
        return dict(tensors)
    return {n: x.to(dtype) if x.is_floating_point() else x for n, x in tensors.items()}
