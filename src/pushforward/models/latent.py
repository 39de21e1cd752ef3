"""The latents of a frozen autoencoder as the states of a model.

    z = (mean(x) - m) / s,    x' = decode(m + s z)

mean(x) is that of the autoencoder's posterior, m and s the mean and standard deviation of each channel of it over the
data, so that z has the size of the noise that it is mixed with. Rombach et al. 2022 (arXiv 2112.10752), app. G, scale
all channels by one number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.nets.autoencoder import Autoencoder
from pushforward.runtime.hashes import digest

# Pixels of pictures that are decoded in one pass; a larger one is decoded in strips where its network can.
PIXELS = 1 << 22
STRIPED = 512 * 512


class Latents(nn.Module):
    """Pictures (B, C, H, W) in [-1, 1] to latents (B, c, H / factor, W / factor) of mean 0 and variance 1, and back.

    net:       the autoencoder, which is frozen.
    mean, std: of each channel of its latents, over the data (`data.latents.statistics`); 0 and 1 by default.

    Of a model it is the `codec`: saved with it as a frozen part, or held by reference (`pf.save`).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: Autoencoder,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        values = {"mean": (mean, 0.0), "std": (std, 1.0)}
        for name, (given, usual) in values.items():
            row = torch.tensor([usual] * net.latent if given is None else list(given))
            if row.shape != (net.latent,) or not bool(row.isfinite().all()):
                raise InputError(
                    f"{name} of latents of {net.latent} channels is a finite number for each, not {list(given or [])}"
                )
            self.register_buffer(name, row.float())
        if not bool((self.std > 0).all()):
            raise InputError(
                "a channel of the latents never changes: its standard deviation is 0, and no model can be trained on "
                "it; train the autoencoder for longer, or with fewer latent channels"
            )
        self.requires_grad_(False).eval()

    def to_config(self) -> dict[str, Any]:
        return {"net": self.net, "mean": self.mean.tolist(), "std": self.std.tolist()}

    def train(self, mode: bool = True) -> Self:
        """It stays in evaluation mode."""
        return super().train(False)

    @property
    def factor(self) -> int:
        """Pixels of a side for one latent."""
        return self.net.factor

    @property
    def channels(self) -> int:
        """Of the pictures."""
        return self.net.channels

    @property
    def digest(self) -> str:
        """SHA-256 of the network's layout, its weights and the statistics."""
        layout = json.dumps([type(self.net).__name__, self.net.config], sort_keys=True)
        return hashlib.sha256(f"{layout} {digest(self.state_dict())}".encode()).hexdigest()

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(c, H / factor, W / factor) of pictures (C, H, W)."""
        f = self.factor
        if len(shape) != 3 or shape[0] != self.channels:
            raise InputError(
                f"the autoencoder takes pictures of {self.channels} channels, and these are {tuple(shape)}"
            )
        if any(side % f for side in shape[1:]):
            raise InputError(
                f"the autoencoder takes pictures whose sides are multiples of {f}, and these are {tuple(shape)}: scale "
                f"or crop them (--size)"
            )
        return (self.net.latent, shape[1] // f, shape[2] // f)

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, c, H / factor, W / factor), the same for one picture whatever the noise."""
        self.latent_shape(x.shape[1:])
        mean, _ = self.net.posterior(x.to(self.mean.dtype))
        return ((mean - _column(self.mean)) / _column(self.std)).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, C, factor h, factor w), a few pictures at a time, in strips if they are large.

        Strips save memory, and not where gradients are taken.
        """
        raw = z.to(self.mean.dtype) * _column(self.std) + _column(self.mean)
        pixels = z[0, 0].numel() * self.factor**2
        decode: Any = self.net.decode
        if pixels > STRIPED and not raw.requires_grad:
            decode = getattr(self.net, "decode_tiled", decode)
        # A graph for any number of pictures cannot depend on how many there are.
        few = max(PIXELS // max(pixels, 1), 1)
        some = [raw] if torch.compiler.is_exporting() else raw.split(few)
        return torch.cat([decode(part) for part in some]).to(z.dtype)


def _column(row: Tensor) -> Tensor:
    return row[:, None, None]
