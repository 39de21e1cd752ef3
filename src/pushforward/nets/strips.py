"""A convolutional decoder in strips of rows, exactly, for little memory.

A group norm needs the mean and variance of all places before the first one can be normalised, so that layers cannot
follow one another within a strip. Layer by layer, then: what a layer gives is held whole, in one tensor and only where
it must be; what lies between two such tensors (an image of twice the size, a normalised one, the first convolution of
a block) is made strip by strip where it is needed, and made again where it is needed again.

A strip is rows [top, bottom) of an image of full width. Convolutions of 3 x 3 see one row beyond: halos are made along,
and zeros stand beyond the image alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad, silu


@dataclass
class Rows:
    """An image in memory (B, C, H, W), of which any rows can be had."""

    x: Tensor

    @property
    def height(self) -> int:
        return self.x.shape[2]

    def __call__(self, top: int, bottom: int) -> Tensor:
        """Rows [top, bottom) that lie in the image."""
        return self.x[:, :, top:bottom]


@dataclass
class Twice(Rows):
    """An image of twice the size of the one in memory, by a convolution of the fourfold places; made when asked for."""

    conv: nn.Conv2d

    @property
    def height(self) -> int:
        return 2 * self.x.shape[2]

    def __call__(self, top: int, bottom: int) -> Tensor:
        first, last = max(top - 1, 0), min(bottom + 1, self.height)
        rows = self.x[:, :, first // 2 : (last + 1) // 2]
        large = interpolate(rows, scale_factor=2.0, mode="nearest")
        start = first - 2 * (first // 2)
        return convolved(self.conv, large[:, :, start : start + last - first], top, bottom, self)


def convolved(conv: nn.Conv2d, x: Tensor, top: int, bottom: int, image: Rows) -> Tensor:
    """Rows [top, bottom) of a 3 x 3 convolution, of the rows x around them that lie in the image."""
    x = pad(x, (1, 1, int(top == 0), int(bottom == image.height)))
    return conv2d(x, conv.weight, conv.bias)


def spans(height: int, rows: int) -> Iterator[tuple[int, int]]:
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


class Moments:
    """Mean and variance of each group of channels, of an image whose strips come one after the other.

        n = n1 + n2,  m = m1 + d n2 / n,  M = M1 + M2 + d^2 n1 n2 / n        d = m2 - m1,  M = n variance

    in double precision (Chan, Golub & LeVeque 1983).
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.norm, self.count = norm, 0
        start = torch.zeros((), dtype=torch.float64, device=norm.weight.device)
        self.mean, self.sum = start, start

    def add(self, strip: Tensor) -> None:
        values = strip.unflatten(1, (self.norm.num_groups, -1)).flatten(2)
        count = values.shape[2]
        variance, mean = (
            part.double() for part in torch.var_mean(values, dim=2, correction=0)
        )  # of a strip: rounding is that of single precision, and errors do not add up
        whole, apart = self.count + count, mean - self.mean
        self.sum = self.sum + variance * count + apart**2 * self.count * count / whole
        self.mean, self.count = self.mean + apart * count / whole, whole

    def normalise(self) -> Callable[[Tensor], Tensor]:
        """silu(norm(x)) of any strip, as one scale and shift for each channel."""
        norm, each = self.norm, self.norm.num_channels // self.norm.num_groups
        scale = (self.sum / self.count + norm.eps).rsqrt().repeat_interleave(each, dim=1)
        scale = scale * norm.weight
        shift = norm.bias - self.mean.repeat_interleave(each, dim=1) * scale
        a, b = (part.to(norm.weight.dtype)[..., None, None] for part in (scale, shift))
        return lambda x: silu(torch.addcmul(b, x, a), inplace=True)


def moments(image: Rows, norm: nn.GroupNorm, rows: int) -> Callable[[Tensor], Tensor]:
    """The activation behind a norm of an image, by one pass over it."""
    found = Moments(norm)
    for top, bottom in spans(image.height, rows):
        found.add(image(top, bottom))
    return found.normalise()


def residual(block: Any, image: Rows, rows: int) -> Tensor:
    """A residual block of an image, held whole: in the image's own memory if it is held and has as many channels."""
    first = moments(image, block.norm1, rows)

    def halfway(top: int, bottom: int) -> Tensor:
        """The first convolution."""
        seen = first(image(max(top - 1, 0), min(bottom + 1, image.height)))
        return convolved(block.conv1, seen, top, bottom, image)

    second, height = Moments(block.norm2), image.height
    if not isinstance(image, Twice) and block.conv1.in_channels == block.conv1.out_channels:
        for top, bottom in spans(height, rows):
            second.add(halfway(top, bottom))
        return _in_place(block, image, first, second.normalise(), rows)
    out: Tensor | None = None
    for top, bottom in spans(height, rows):
        strip = halfway(top, bottom)
        second.add(strip)
        if out is None:
            out = strip.new_empty(*strip.shape[:2], height, strip.shape[3])
        out[:, :, top:bottom] = strip
    assert out is not None
    # The first convolution is held, and the result takes its place.
    act, above = second.normalise(), out[:, :, :0]
    for top, bottom in spans(height, rows):
        seen = torch.cat((above, out[:, :, top : min(bottom + 1, height)]), dim=2)
        above = out[:, :, bottom - 1 : bottom].clone()
        strip = convolved(block.conv2, act(seen), top, bottom, image)
        out[:, :, top:bottom] = strip + block.conv_shortcut(image(top, bottom))
    return out


def _in_place(
    block: Any,
    image: Rows,
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    rows: int,
) -> Tensor:
    """`residual` where the result takes the place of the image, of which two rows above a strip are kept."""
    x, height = image.x, image.height
    above = x[:, :, :0]
    for top, bottom in spans(height, rows):
        seen = torch.cat((above, x[:, :, top : min(bottom + 2, height)]), dim=2)
        above = seen[:, :, : above.shape[2] + bottom - top][:, :, -2:].clone()
        # Rows of the first convolution that the second sees.
        start, stop = max(top - 1, 0), min(bottom + 1, height)
        middle = convolved(block.conv1, first(seen), start, stop, image)
        x[:, :, top:bottom] += convolved(block.conv2, second(middle), top, bottom, image)
    return x


def decode(decoder: Any, z: Tensor, tile: int) -> Tensor:
    """What the decoder of an `AutoencoderKL` makes of z (B, C, h, w), in strips of `tile` rows of z."""
    x, rows = decoder.mid_block(decoder.conv_in(z)), tile
    image = Rows(x)
    del x
    for level in decoder.up_blocks:
        for block in level.resnets:
            image = Rows(residual(block, image, rows))
        for layer in level.then:
            image, rows = Twice(image.x, layer.conv), 2 * rows
    act, conv = moments(image, decoder.conv_norm_out, rows), decoder.conv_out
    parts = []
    for top, bottom in spans(image.height, rows):
        seen = act(image(max(top - 1, 0), min(bottom + 1, image.height)))
        parts.append(convolved(conv, seen, top, bottom, image))
    return torch.cat(parts, dim=2)
