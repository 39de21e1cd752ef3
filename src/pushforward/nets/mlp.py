"""A residual multi-layer perceptron for vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import silu

from pushforward.core.errors import InputError
from pushforward.nets.layers import Conditioning, zero


class MLP(nn.Module):
    """Residual blocks modulated by time and label: `h <- h + W2 silu(W1 silu(h) + E(t, label))`.

    dim: size of a sample, (B, dim) -> (B, outputs dim). width: of the hidden layers. depth: number of blocks.
    classes: number of labels, None for none. time: "sinusoidal", "fourier" or "smooth"
    features. two_times: the network also takes a time s, for flow maps.
    outputs: answers for each dimension, one after the other: 2 for a learned variance or a score beside the velocity.
    The last layer starts at 0.
    """

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        classes: int | None = None,
        time: str = "sinusoidal",
        outputs: int = 1,
        two_times: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, width, depth, outputs) < 1:
            raise InputError(
                f"dim, width, depth and outputs must be positive, got {dim}, {width}, {depth}, {outputs}"
            )
        self.config: dict[str, Any] = {
            "dim": dim, "width": width, "depth": depth, "classes": classes, "time": time, "outputs": outputs,
            "two_times": two_times,
        }  # fmt: skip
        self.conv_in = nn.Linear(dim, width)
        self.conditioning = Conditioning(width, classes, time, two_times)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.conv_out = zero(nn.Linear(width, outputs * dim))

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, s: Tensor | None = None
    ) -> Tensor:
        if x.ndim != 2:
            raise InputError(f"MLP takes vectors (B, {self.config['dim']}), got {tuple(x.shape)}")
        condition = silu(self.conditioning(t, label, s))
        h = self.conv_in(x)
        for first, modulate, second in zip(self.first, self.modulate, self.second, strict=True):
            h = h + second(silu(first(silu(h)) + modulate(condition)))
        return self.conv_out(silu(h))
