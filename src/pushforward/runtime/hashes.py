"""What tensors are known by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, whatever file they are in."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        found.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        if x.numel():
            found.update(memoryview(x.reshape(-1).view(torch.uint8).numpy()))  # type: ignore[arg-type]
    return found.hexdigest()
