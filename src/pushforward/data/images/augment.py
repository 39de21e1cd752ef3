"""Changes of an image that leave what it shows, as a function of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pushforward.core.errors import InputError
from pushforward.core.noise import AUGMENT, Noise


@dataclass(frozen=True)
class Augment:
    """Images mirrored left to right with probability 1/2, and moved by up to `shift` pixels each way.

        flip: u_0 < 1/2        dy = floor((2 shift + 1) u_1) - shift,   dx from u_2 alike

    What moves in at a border is the image reflected there. x1: (B, C, H, W), noise: of B samples. u is uniform and
    keyed by the noise's (seed, step, id), so that an image is altered alike in any batch.
    """

    flip: bool = False
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise InputError(f"shift is {self.shift}; it must not be negative")

    def __call__(self, x1: Tensor, noise: Noise) -> Tensor:
        if x1.ndim != 4:
            raise InputError(f"images (B, C, H, W) can be altered, and not {tuple(x1.shape)}")
        height, width = x1.shape[2:]
        if self.shift >= min(height, width):
            raise InputError(
                f"shift is {self.shift}; an image of {height} x {width} cannot move so far"
            )
        u = noise.uniform((3,), AUGMENT).to(x1.device)
        if self.flip:
            x1 = torch.where(u[:, 0, None, None, None] < 0.5, x1.flip(3), x1)
        if self.shift:
            room = 2 * self.shift + 1
            top, left = (room * u[:, 1:]).long().clamp(max=room - 1).unbind(1)
            wide = pad(x1, (self.shift,) * 4, mode="reflect")
            # The pixel (i, j) of the result is that of (i + top, j + left) in the widened image.
            rows = top[:, None] + torch.arange(height, device=x1.device)
            columns = left[:, None] + torch.arange(width, device=x1.device)
            batch = torch.arange(len(x1), device=x1.device)[:, None, None]
            x1 = wide.movedim(1, 3)[batch, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
            x1 = x1.contiguous()
        return x1
