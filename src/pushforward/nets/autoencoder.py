"""What autoencoders of images have in common."""

from __future__ import annotations

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.nets.grids import states
from pushforward.nets.network import Network


class Autoencoder(Network):
    """Images (B, channels, H, W) to latents (B, latent, H / factor, W / factor), and back.

    scaling_factor, shift_factor: a diffusion model sees (z - shift) scale, see `shrunk` and `grown`.
    """

    channels: int
    latent: int
    factor: int
    scaling_factor: float
    shift_factor: float

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The latents' mean, and their log variance where there is a normal law for each; None for latents without."""
        raise NotImplementedError

    @property
    def last(self) -> Tensor:
        """The weight of the decoder's last layer."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent, h, w) -> (B, channels, factor h, factor w)."""
        raise NotImplementedError

    def shrunk(self, z: Tensor) -> Tensor:
        """Latents as a diffusion model sees them, (z - shift) scale: of variance near 1."""
        return (z - self.shift_factor) * self.scaling_factor

    def grown(self, z: Tensor) -> Tensor:
        """The latents of what a diffusion model gives, the inverse of `shrunk`."""
        return z / self.scaling_factor + self.shift_factor

    def _check_image(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"this autoencoder takes {states(self.channels, 2)}, got {tuple(x.shape)}"
            )
        if any(side % self.factor or not side for side in x.shape[2:]):
            raise InputError(
                f"this autoencoder halves the sides {self.factor.bit_length() - 1} times: they must be multiples of "
                f"{self.factor}, not {tuple(x.shape[2:])}; crop or pad the images"
            )

    def _check_latent(self, z: Tensor) -> None:
        if z.ndim != 4 or z.shape[1] != self.latent:
            raise InputError(
                f"this autoencoder decodes latents (B, {self.latent}, h, w), got {tuple(z.shape)}"
            )
