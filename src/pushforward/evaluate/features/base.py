"""Features: what makes vectors of images, by which sets of them are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError

Range = tuple[float, float]


@runtime_checkable
class Features(Protocol):
    """What makes a vector of an image.

    name: what figures are called by. dim: D. key: SHA-256 of all that the vectors depend on but the image.

    Called with images (B, C, H, W), black and white at the ends of value_range, it returns (B, D) float32 on the CPU.
    The vector of an image does not depend on those beside it.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def key(self) -> str: ...

    def __call__(self, images: Tensor, value_range: Range) -> Tensor: ...


class Pixels:
    """The numbers themselves, of samples of any shape."""

    name = "pixels"

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.dim = torch.Size(self.shape).numel()
        self.key = hashlib.sha256(f"pixels {self.shape}".encode()).hexdigest()

    def __call__(self, images: Tensor, value_range: Range = (-1.0, 1.0)) -> Tensor:
        if images.shape[1:] != self.shape:
            raise InputError(
                f"these are features of samples {self.shape}, got {tuple(images.shape)}"
            )
        return images.flatten(1).float().cpu()


def unit(images: Tensor, value_range: Range, net: nn.Module) -> Tensor:
    """(B, C, H, W) float32 from 0, black, to 1, white, on the device of the network; clipped, as pictures are."""
    low, high = value_range
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"features are of images (B, C, H, W) with 1 or 3 channels, got {tuple(images.shape)}"
        )
    if high <= low:
        raise InputError(f"value_range is {value_range}; its second number must be the larger one")
    x = images.to(next(net.parameters()).device, torch.float32)
    return ((x - low) / (high - low)).clamp(0, 1)


def coloured(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1)


def key_of(net: nn.Module, preparation: object) -> str:
    """SHA-256 of the weights of a network and of how images are prepared for it."""
    digest = hashlib.sha256(json.dumps(preparation, sort_keys=True).encode())
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
