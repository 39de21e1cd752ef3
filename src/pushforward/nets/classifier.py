"""Networks that tell the classes of noisy samples apart: (x (B, ...), t (B,)) -> logits (B, classes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import silu

from pushforward.core.errors import InputError
from pushforward.nets.layers import Conditioning, zero
from pushforward.nets.mlp import MLP
from pushforward.nets.unet import ResidualBlock, _norm


class MLPClassifier(MLP):
    """The residual blocks of `MLP`, with logits at the end. dim: size of a sample, (B, dim) -> (B, classes)."""

    def __init__(
        self, dim: int, classes: int, width: int = 128, depth: int = 3, time: str = "sinusoidal"
    ) -> None:
        super().__init__(dim, width, depth, time=time)
        self.config = {
            "dim": dim, "classes": classes, "width": width, "depth": depth, "time": time,
        }  # fmt: skip
        self.conv_out = zero(nn.Linear(width, classes))


class ImageClassifier(nn.Module):
    """The way down of a U-Net, the mean over the pixels, and logits.

    (B, channels, H, W) -> (B, classes), for any H and W. width, multipliers, blocks, dropout, time: as in `UNet`.
    dim: how many features there are, that is, numbers that the logits are linear in.

    Dhariwal & Nichol 2021 (arXiv 2105.05233), sec. 4.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 1,
        dropout: float = 0.0,
        time: str = "sinusoidal",
    ) -> None:
        super().__init__()
        if min(channels, classes, width, blocks) < 1 or not multipliers:
            raise InputError(
                "channels, classes, width, blocks must be positive and multipliers not empty"
            )
        self.config: dict[str, Any] = {
            "channels": channels, "classes": classes, "width": width, "multipliers": list(multipliers),
            "blocks": blocks, "dropout": dropout, "time": time,
        }  # fmt: skip
        condition = 4 * width
        self.conditioning = Conditioning(condition, None, time)
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.down, now = nn.ModuleList(), width
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
            for _ in range(blocks):
                self.down.append(ResidualBlock(now, width * multiplier, condition, dropout))
                now = width * multiplier
        self.dim = now
        self.leave_norm, self.conv_out = _norm(now), zero(nn.Linear(now, classes))

    def features(self, x: Tensor, t: Tensor) -> Tensor:
        """(B, dim) what the logits are linear in: the mean over the pixels of the last layer."""
        if x.ndim != 4 or x.shape[1] != self.config["channels"]:
            raise InputError(
                f"this ImageClassifier takes images (B, {self.config['channels']}, H, W), got {tuple(x.shape)}"
            )
        condition = silu(self.conditioning(t, None))
        h = self.conv_in(x)
        for layer in self.down:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, condition)
        return silu(self.leave_norm(h)).mean((2, 3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv_out(self.features(x, t))
