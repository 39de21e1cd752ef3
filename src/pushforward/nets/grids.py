"""What depends on the number of dimensions of a signal, an image or a volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate

from pushforward.core.errors import InputError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (avg_pool1d, avg_pool2d, avg_pool3d)
LINEAR = ("linear", "bilinear", "trilinear")
SIDES = ("L", "H, W", "D, H, W")
NAMES = ("signals", "images", "volumes")


def check_dims(dims: int) -> None:
    if dims not in (1, 2, 3):
        raise InputError(f"dims is 1 for signals, 2 for images or 3 for volumes: not {dims!r}")


def convolution(dims: int) -> Any:
    """The class of convolutions in so many dimensions."""
    return CONVOLUTIONS[dims - 1]


def halves(x: Tensor) -> tuple[int, ...]:
    """The sides of x (B, C, ...) halved, rounded up."""
    return tuple((side + 1) // 2 for side in x.shape[2:])


def resized(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """To half the size, rounded up, by means of neighbours; to any other by the nearest one."""
    if sides == halves(x):
        return POOLS[len(sides) - 1](x, 2, ceil_mode=True)
    return interpolate(x, size=sides, mode="nearest")


def interpolated(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """(B, C, ...) on a grid of these sides, linearly in each direction."""
    if x.shape[2:] == torch.Size(sides):
        return x
    return interpolate(x, sides, mode=LINEAR[len(sides) - 1], align_corners=False)


def states(channels: int, dims: int) -> str:
    """What a network takes, in words: "images (B, 3, H, W)"."""
    return f"{NAMES[dims - 1]} (B, {channels}, {SIDES[dims - 1]})"


def join_control(
    name: str, x: Tensor, control: Tensor | Mapping[str, Tensor] | None, channels: int
) -> Tensor:
    """x (B, C, ...) with the channels of a control behind its own.

    control: (B, channels, ...), such as a low-resolution image, or several by name, in the order of their names. On
    another grid it is interpolated linearly (as in Dhariwal & Nichol 2021, arXiv 2105.05233, app. C).
    """
    parts = [control[key] for key in sorted(control)] if isinstance(control, Mapping) else [control]
    given = [part for part in parts if part is not None]
    if not channels:
        if given:
            raise InputError(
                f"a control was given to a {name} that was built without one: build it with in_channels= the "
                f"channels of states and controls together"
            )
        return x
    if not given:
        raise InputError(
            f"this {name} takes {channels} channels more than the state has: give them as control= (B, {channels}, ...)"
        )
    for part in given:
        if part.ndim != x.ndim or part.shape[0] != x.shape[0]:
            raise InputError(
                f"a control has as many samples and dimensions as the state {tuple(x.shape)}, got {tuple(part.shape)}"
            )
    found = sum(part.shape[1] for part in given)
    if found != channels:
        raise InputError(f"this {name} takes a control of {channels} channels, got {found}")
    sides = tuple(x.shape[2:])
    return torch.cat((x, *(interpolated(part.to(x.dtype), sides) for part in given)), dim=1)


def count_channels(
    channels: int, outputs: int, in_channels: int | None, out_channels: int | None
) -> tuple[int, int, int]:
    """Channels that a network takes in all, those of them of a control, and channels that it returns."""
    inside = channels if in_channels is None else in_channels
    outside = outputs * channels if out_channels is None else out_channels
    if inside < channels or outside < 1:
        raise InputError(
            f"in_channels counts the {channels} channels of the state and those of a control, and out_channels is "
            f"positive: not {in_channels} and {out_channels}"
        )
    if out_channels is not None and outputs != 1:
        raise InputError("give either outputs, for each channel, or out_channels, not both")
    return inside, inside - channels, outside
