"""A discriminator that judges patches."""

from __future__ import annotations

from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.nets.grids import states
from pushforward.nets.network import Network


class PatchDiscriminator(Network):
    """Convolutions whose every answer sees a patch of the picture, 70 pixels wide for three layers.

    (B, channels, H, W) -> (B, 1, h, w) logits, each larger where its patch looks real.

    width: channels after the first layer, doubled by each further one up to eightfold. layers: that halve the sides.

    Isola et al. 2017 (arXiv 1611.07004), sec. 3.2 and app. 6.1.2. The norms are of groups of channels and not of
    batches, so that the answer to a picture depends on that picture alone.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if min(channels, width, layers) < 1:
            raise InputError("channels, width and layers of a discriminator must be positive")
        self.channels, self.layers = channels, layers
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        now = width
        for k in range(1, layers + 1):
            wide = width * min(2**k, 8)
            stride = 2 if k < layers else 1
            parts += [
                nn.Conv2d(now, wide, 4, stride, 1, bias=False),
                nn.GroupNorm(groups_of(wide), wide),
                nn.LeakyReLU(0.2),
            ]
            now = wide
        parts.append(nn.Conv2d(now, 1, 4, 1, 1))
        self.main = nn.Sequential(*parts)
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)

    @property
    def least(self) -> int:
        """The shortest side that it takes."""
        return 3 * 2**self.layers

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < self.least:
            raise InputError(
                f"this discriminator takes {states(self.channels, 2)} of {self.least} pixels a side or more, got "
                f"{tuple(x.shape)}"
            )
        out: Tensor = self.main(x)
        return out


def groups_of(width: int, most: int = 32) -> int:
    """The largest number of groups up to `most` that divides the channels, four channels in each or more."""
    return max((g for g in range(1, most + 1) if width % g == 0 and width // g >= 4), default=1)
