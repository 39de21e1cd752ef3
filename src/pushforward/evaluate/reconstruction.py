"""How well an autoencoder gives pictures back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pushforward.core.errors import InputError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.scenes import read_all
from pushforward.evaluate.prompts import pictures

ROWS = 64
NEAR = 2 / 32  # of the centre of an object that is read again, in widths of the picture


@torch.no_grad()
def reconstructed(model: Any, x: Tensor) -> Tensor:
    """(N, C, H, W) on the CPU: what an `AutoencoderModel` makes of pictures, a few at a time."""
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    try:
        return torch.cat([model(part.to(device)).cpu().to(x.dtype) for part in x.split(ROWS)])
    finally:
        model.train(mode)


def psnr(x: Tensor, y: Tensor, span: float) -> Tensor:
    """(B,) 10 log10(span^2 / mean (x - y)^2) in decibels. span: of black to white."""
    return 10 * torch.log10(span**2 / (x - y).double().square().flatten(1).mean(1))


def ssim(x: Tensor, y: Tensor, span: float) -> Tensor:
    """(B,) the structural similarity of pictures (B, C, H, W), 1 for equal ones.

        (2 mx my + c1)(2 cxy + c2) / ((mx^2 + my^2 + c1)(vx + vy + c2)),   c1 = (0.01 span)^2, c2 = (0.03 span)^2

    Means, variances and the covariance are those of windows of 11 x 11 pixels with Gaussian weights of standard
    deviation 1.5, the mean of all windows within the picture and of the channels; of smaller pictures the window is as
    large as an odd number of pixels can be.

    Wang, Bovik, Sheikh & Simoncelli 2004.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise InputError(
            f"pictures (B, C, H, W) of one shape are compared, not {tuple(x.shape)} and {tuple(y.shape)}"
        )
    side = min(11, *(s - 1 + s % 2 for s in x.shape[2:]))
    at = torch.arange(side, dtype=torch.float64) - side // 2
    row = (-(at**2) / (2 * 1.5**2)).exp()
    row = row / row.sum()
    window = (row[:, None] * row)[None, None]

    def mean(values: Tensor) -> Tensor:
        return conv2d(values.flatten(0, 1)[:, None], window)

    x, y = x.double().cpu(), y.double().cpu()
    mx, my = mean(x), mean(y)
    vx, vy, cxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    each = (2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return each.flatten(1).mean(1).unflatten(0, x.shape[:2]).mean(1)


def judge_reconstruction(
    model: Any, held_out: Dataset, num: int = 1000, scenes: bool = False
) -> dict[str, float]:
    """Figures of the reconstructions of at most `num` held-out pictures, each with its standard error.

    psnr: in decibels. ssim. l1: mean |x - x'|, in units of [-1, 1]. Reconstructions are clipped to the range of values.
    read: of scenes, the share whose objects (number, shape, colour, size, and place within 2 pixels of 32) are read
    from the reconstruction as from the picture.
    """
    if len(held_out) < 2 or num < 2:
        raise InputError("reconstructions are judged on two held-out pictures or more")
    low, high = held_out.value_range
    apart = held_out.sample(num)
    found: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "l1": []}
    for start in range(0, len(apart), ROWS):
        tell("reconstructions", start, len(apart))
        x = apart[torch.arange(start, min(start + ROWS, len(apart)))].x1
        y = reconstructed(model, x).clamp(low, high)
        found["psnr"].append(psnr(x, y, high - low))
        found["ssim"].append(ssim(x, y, high - low))
        found["l1"].append((x - y).abs().flatten(1).mean(1) * 2 / (high - low))
        if scenes:
            seen, again = read_all(pictures(x)), read_all(pictures(y))
            found.setdefault("read", []).append(
                torch.tensor([_same(a, b) for a, b in zip(seen, again, strict=True)])
            )
    tell("reconstructions", len(apart), len(apart))
    figures: dict[str, float] = {}
    for name, parts in found.items():
        values = torch.cat(parts).double()
        error = float(values.std()) / math.sqrt(len(values))
        figures |= {name: float(values.mean()), f"{name}_error": error}
    return figures


def _same(a: Any, b: Any) -> bool:
    """Whether two readings name the same objects, each near its place."""
    left = list(b)
    for thing in a:
        near = [
            other
            for other in left
            if (other.shape, other.colour, other.size) == (thing.shape, thing.colour, thing.size)
            and math.hypot(other.x - thing.x, other.y - thing.y) < NEAR
        ]
        if not near:
            return False
        left.remove(near[0])
    return not left
