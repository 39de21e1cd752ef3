"""A residual multi-layer perceptron for vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from pushforward.core.errors import InputError
from pushforward.nets.layers import Conditioning, feature_widths, zero
from pushforward.nets.network import Network, refuse_mask


class MLP(Network):
    """Residual blocks modulated by time and conditions: `h <- h + W2 silu(W1 silu(h) + E(t, label))`.

    dim: size of a sample, (B, dim) -> (B, outputs dim). width: of the hidden layers. depth: number of blocks.
    classes: number of labels, None for none. time: "sinusoidal", "fourier" or "smooth"
    features. two_times: the network also takes a time s, for flow maps.
    outputs: answers for each dimension, one after the other: 2 for a learned variance or a score beside the velocity.
    features: names of continuous conditions (B,), or their widths by name for vectors (B, K), which the network takes
    by these names. NaN, or none given, stands for unknown, which has a learned vector of its own.
    The last layer starts at 0.
    """

    double_times = True

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        classes: int | None = None,
        time: str = "sinusoidal",
        outputs: int = 1,
        two_times: bool = False,
        *,
        features: Mapping[str, int] | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if min(dim, width, depth, outputs) < 1:
            raise InputError(
                f"dim, width, depth and outputs must be positive, got {dim}, {width}, {depth}, {outputs}"
            )
        self.dim = dim
        self.conv_in = nn.Linear(dim, width)
        self.conditioning = Conditioning(
            width, classes, time, two_times, columns=feature_widths(features)
        )
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.conv_out = zero(nn.Linear(width, outputs * dim))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        label: Tensor | None = None,
        s: Tensor | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Tensor:
        refuse_mask("MLP", mask)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(f"this MLP takes vectors (B, {self.dim}), got {tuple(x.shape)}")
        condition = silu(self.conditioning(t, label, s, features))
        h = self.conv_in(x)
        for first, modulate, second in zip(self.first, self.modulate, self.second, strict=True):
            h = h + second(silu(first(silu(h)) + modulate(condition)))
        return self.conv_out(silu(h))
