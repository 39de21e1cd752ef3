"""An MLP-mixer over the patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu

from pushforward.core.errors import InputError
from pushforward.nets.network import Network, refuse_mask


class Mixer(Network):
    """Perceptrons in turn over the patches and over the features of an image, with time as one more channel of it.

    (B, channels, size, size) -> (B, channels, size, size).

    size, patch: sides of images and of patches, in pixels. width: features of a patch.
    mix_patches, mix_features: hidden units of the two perceptrons. depth: number of blocks.

    The channel of time is 1 - t everywhere: 0 for data and 1 for noise.

    Tolstikhin et al. 2021 (arXiv 2105.01601), as the examples of equinox and diffrax have it for scores: norms over
    patches and features together, with a gain for each.
    """

    double_times = True

    def __init__(
        self,
        channels: int,
        size: int,
        patch: int = 4,
        width: int = 64,
        mix_patches: int = 512,
        mix_features: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__()
        if min(channels, size, patch, width, mix_patches, mix_features, depth) < 1 or size % patch:
            raise InputError(
                f"a Mixer takes positive numbers, and a size that its patch divides: not size {size}, patch {patch}"
            )
        count = (size // patch) ** 2
        self.channels, self.size = channels, size
        self.conv_in = nn.Conv2d(channels + 1, width, patch, stride=patch)
        self.blocks = nn.ModuleList(
            MixerBlock(count, width, mix_patches, mix_features) for _ in range(depth)
        )
        self.norm = WholeNorm(width, count)
        self.conv_out = nn.ConvTranspose2d(width, channels, patch, stride=patch)

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_mask("Mixer", mask)
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise InputError(
                f"this Mixer takes (B, {self.channels}, {self.size}, {self.size}), got {tuple(x.shape)}"
            )
        time = (1 - t).to(x.dtype)[:, None, None, None].expand_as(x[:, :1])
        h = self.conv_in(torch.cat((x, time), dim=1))
        grid = h.shape[2:]
        h = h.flatten(2)
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.conv_out(self.norm(h).unflatten(2, grid))
        return out


class MixerBlock(nn.Module):
    """`y = x + patches(norm x)`, then `y + features(norm y)`, x (B, width, patches)."""

    def __init__(self, count: int, width: int, mix_patches: int, mix_features: int) -> None:
        super().__init__()
        self.patches, self.features = Pair(count, mix_patches), Pair(width, mix_features)
        self.norm1, self.norm2 = WholeNorm(width, count), WholeNorm(count, width)

    def forward(self, x: Tensor) -> Tensor:
        y = (x + self.patches(self.norm1(x))).mT
        out: Tensor = (y + self.features(self.norm2(y))).mT
        return out


class Pair(nn.Module):
    """`W2 relu(W1 x + b1) + b2` over the last dimension."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(relu(self.linear1(x)))
        return out


class WholeNorm(nn.Module):
    """Mean 0 and variance 1 over both dimensions of (B, rows, columns), then a gain and a bias for each entry."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(rows, columns))
        self.bias = nn.Parameter(torch.zeros(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[1:], self.gain, self.bias)
