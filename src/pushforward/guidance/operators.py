"""What is seen of data: operators (B, ...) -> (B, *M) of each sample by itself, differentiable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import avg_pool2d

from pushforward.core.errors import InputError
from pushforward.guidance.blurring import blurred, reach_of


@dataclass(frozen=True, eq=False)
class Mask:
    """The entries at which `mask` is true, (B, *mask's shape) -> (B, M). mask: bool, of a sample's shape, or
    broadcast to it from the left (1, H, W) -> (C, H, W)."""

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise InputError(f"a mask is bool, true where data are seen, not {self.mask.dtype}")
        if not bool(self.mask.any()):
            raise InputError("the mask shows nothing of the data")

    def __call__(self, x: Tensor) -> Tensor:
        try:
            seen = self.mask.to(x.device).expand(x.shape[1:])
        except RuntimeError as error:
            raise InputError(
                f"the mask has shape {tuple(self.mask.shape)}, and samples {tuple(x.shape[1:])}"
            ) from error
        return x[:, seen]


@dataclass(frozen=True, eq=False)
class Linear:
    """A x, with A (M, D) and D numbers in a sample: (B, ...) -> (B, M)."""

    matrix: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        count = math.prod(x.shape[1:])
        if self.matrix.ndim != 2 or self.matrix.shape[1] != count:
            raise InputError(
                f"the matrix has shape {tuple(self.matrix.shape)}, and a sample {count} numbers"
            )
        return x.reshape(len(x), count) @ self.matrix.to(x).T


@dataclass(frozen=True)
class Downsample:
    """Means over squares of `factor` pixels, (B, C, H, W) -> (B, C, H/factor, W/factor)."""

    factor: int = 2

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise InputError(f"factor is {self.factor}; it must be at least 2")

    def __call__(self, x: Tensor) -> Tensor:
        _pictures(x)
        if x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise InputError(
                f"the sides {x.shape[2]} x {x.shape[3]} are no multiples of {self.factor}"
            )
        return avg_pool2d(x, self.factor)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur of `sigma` pixels, borders mirrored, its filter ending at three sigma: (B, C, H, W) -> same."""

    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma < float("inf"):
            raise InputError(f"sigma is {self.sigma}; it must be positive")

    def __call__(self, x: Tensor) -> Tensor:
        _pictures(x)
        if reach_of(self.sigma) >= min(x.shape[2:]):
            raise InputError(
                f"sigma {self.sigma:g} is too wide for {x.shape[2]} x {x.shape[3]} pixels"
            )
        return blurred(x, self.sigma)


@dataclass(frozen=True, eq=False)
class Decoded:
    """What `operator` sees of decoded latents, A(decode(z)): of a model whose states are latents.

    decode: (B, c, h, w) -> (B, C, H, W), differentiable, such as that of `Latents`.
    """

    decode: Callable[[Tensor], Tensor]
    operator: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        # Fused attention has no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return self.operator(self.decode(z))


def _pictures(x: Tensor) -> None:
    if x.ndim != 4:
        raise InputError(f"this operator takes pictures (B, C, H, W), got {tuple(x.shape)}")
