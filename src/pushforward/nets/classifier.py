"""Networks that tell the classes of noisy samples apart: (x (B, ...), t (B,)) -> logits (B, classes)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from pushforward.core.errors import InputError
from pushforward.nets.grids import check_dims, convolution, states
from pushforward.nets.layers import Conditioning, zero
from pushforward.nets.mlp import MLP
from pushforward.nets.network import Network, refuse_mask
from pushforward.nets.unet import ResidualBlock, group_norm


class MLPClassifier(MLP):
    """The residual blocks of `MLP`, with logits at the end. dim: size of a sample, (B, dim) -> (B, classes)."""

    def __init__(
        self, dim: int, classes: int, width: int = 128, depth: int = 3, time: str = "sinusoidal"
    ) -> None:
        super().__init__(dim, width, depth, time=time)
        self.conv_out = zero(nn.Linear(width, classes))


class ImageClassifier(Network):
    """The way down of a U-Net, the mean over the pixels, and logits.

    (B, channels, H, W) -> (B, classes), for any H and W. width, multipliers, blocks, dropout, time, dims: as in `UNet`.
    dim: how many features there are, that is, numbers that the logits are linear in.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 4.
    """

    double_times = True

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        dropout: float = 0.0,
        time: str = "sinusoidal",
        *,
        dims: int = 2,
    ) -> None:
        super().__init__()
        check_dims(dims)
        if min(channels, classes, width, blocks) < 1 or not multipliers:
            raise InputError(
                "channels, classes, width, blocks must be positive and multipliers not empty"
            )
        self.channels, self.dims = channels, dims
        conv, condition = convolution(dims), 4 * width
        self.conditioning = Conditioning(condition, None, time)
        self.conv_in = conv(channels, width, 3, padding=1)
        self.down, now = nn.ModuleList(), width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(conv(now, now, 3, stride=2, padding=1))
            for _ in range(blocks):
                self.down.append(
                    ResidualBlock(now, width * multiplier, condition, dropout, dims=dims)
                )
                now = width * multiplier
        self.dim = now
        self.norm_out, self.conv_out = group_norm(now), zero(nn.Linear(now, classes))

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, dim) what the logits are linear in: the mean over the pixels of the last layer."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels:
            raise InputError(
                f"this ImageClassifier takes {states(self.channels, self.dims)}, got {tuple(x.shape)}"
            )
        condition = silu(self.conditioning(t, None))
        h = self.conv_in(x)
        for layer in self.down:
            h = layer(h, condition) if isinstance(layer, ResidualBlock) else layer(h)
        return silu(self.norm_out(h)).mean(tuple(range(2, self.dims + 2)))

    def forward(self, x: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        refuse_mask("ImageClassifier", mask)
        return self.conv_out(self.features(x, t))
