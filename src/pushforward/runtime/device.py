"""Devices by name, and seeded initialisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from pushforward.core.errors import InputError
from pushforward.runtime.processes import Processes

Made = TypeVar("Made")


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """`make()` with the global generator seeded, and restored afterwards: weights are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        return make()


def find_device(name: str) -> torch.device:
    """A device by name. "auto" takes CUDA if there is any; for one of several processes it is its own CUDA device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and Processes.current().count > 1:
        name = f"cuda:{torch.cuda.current_device()}"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16, so that matrix products are faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in asked)
