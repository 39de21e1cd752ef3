"""diffusers' autoencoder with a code book, as one of this library's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.nets.adapters import check_arguments, diffusers_class
from pushforward.nets.autoencoder import Autoencoder


class DiffusersVQ(Autoencoder):
    """diffusers' `VQModel`: latents that are rounded to the nearest of a book of codes before they are decoded.

    Its arguments are those of diffusers' class, as in config.json. The latents of an image are those before rounding.

    van den Oord et al. 2017 (arXiv 1711.00937); Esser et al. 2021 (arXiv 2012.09841); of latent diffusion, Rombach et
    al. 2022 (arXiv 2112.10752), app. G.
    """

    kind = "VQModel"
    inner: Any

    def __init__(self, **config: Any) -> None:
        super().__init__()
        check_arguments(self.kind, config)
        self.inner = diffusers_class(self.kind)(**config)
        found = self.inner.config
        self.channels = found["in_channels"]
        self.latent = found["vq_embed_dim"] or found["latent_channels"]
        self.factor = 2 ** (len(found["block_out_channels"]) - 1)
        self.scaling_factor, self.shift_factor = found["scaling_factor"], 0.0
        if not self.scaling_factor:
            raise InputError("a scaling_factor of 0 would make all latents alike")

    @property
    def inner_config(self) -> dict[str, Any]:
        """The arguments of diffusers' class, as its config.json has them, defaults included."""
        return {name: value for name, value in self.inner.config.items() if name[:1] != "_"}

    @property
    def last(self) -> Tensor:
        weight = self.inner.decoder.conv_out.weight
        assert isinstance(weight, Tensor)
        return weight

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        self._check_image(x)
        return self.inner.encode(x, return_dict=False)[0], None

    def decode(self, z: Tensor) -> Tensor:
        self._check_latent(z)
        out: Tensor = self.inner.decode(z, return_dict=False)[0]
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.posterior(x)[0])
