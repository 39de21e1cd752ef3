"""An autoencoder in training, with its judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import ModelBase
from pushforward.nets.autoencoder import Autoencoder


class AutoencoderModel(ModelBase):
    """An autoencoder, and the discriminator that it is trained against. It draws nothing: see `Latents`.

    net: of pictures (B, C, H, W). discriminator: (B, C, H, W) -> (B, 1, h, w), larger where a patch looks real.
    spec, provenance, shape: as in `Model`.
    """

    def __init__(
        self,
        net: Autoencoder,
        discriminator: nn.Module,
        *,
        shape: Sequence[int] = (),
        spec: DataSpec | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.set_records(shape, spec=spec, nulls={}, sampling=sampling, provenance=provenance)
        self.net, self.discriminator = net, discriminator

    def to_config(self) -> dict[str, Any]:
        config = self.records() | {"net": self.net, "discriminator": self.discriminator}
        del config["nulls"]
        return config

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of x from the mean of its latents."""
        out: Tensor = self.net(x)
        return out
