"""A residual autoencoder of few parameters, without norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.nets.autoencoder import Autoencoder
from pushforward.nets.layers import recomputing


class AutoencoderTiny(Autoencoder):
    """Convolutions, residual blocks of three, ReLUs and no norm: a place depends on its surroundings alone.

    (B, channels, H, W) -> (B, latent, H / f, W / f) by `encode`, with f = 2^(levels - 1), and back by `decode`; called,
    it gives decode(encode(x)). H and W must be multiples of f. Latents beyond 3 or so are bent back, 3 tanh(z / 3).

    width: channels of the encoder, decoder_width: those of the decoder, if they differ.
    encoder_blocks, decoder_blocks: residual blocks of each level, in the order in which they are passed.
    scaling_factor, shift_factor: see `Autoencoder`.

    Attribute `checkpointing`: activations of a layer are recomputed in the backward pass instead of stored.

    TAESD (Ollin Boer Bohan 2023). Names, order and shapes of the weights, and outputs of `encode` and `decode`, are
    those of diffusers' `AutoencoderTiny`, whose state dict loads. Its images are in [-1, 1]. Its `forward` also rounds
    latents to 8 bits, and its checkpointing encodes other images than given: neither is done here.
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        width: int = 64,
        encoder_blocks: Sequence[int] = (1, 3, 3, 3),
        decoder_blocks: Sequence[int] = (3, 3, 3, 1),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        *,
        decoder_width: int | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        outside = channels if out_channels is None else out_channels
        wide = width if decoder_width is None else decoder_width
        if min(channels, latent, width, wide, outside) < 1:
            raise InputError("channels, latent and widths of an autoencoder must be positive")
        if len(encoder_blocks) != len(decoder_blocks) or not encoder_blocks:
            raise InputError(
                f"encoder_blocks and decoder_blocks name the levels, as many on both ways: not {list(encoder_blocks)} "
                f"and {list(decoder_blocks)}"
            )
        if not scaling_factor:
            raise InputError("a scaling_factor of 0 would make all latents alike")
        self.channels, self.latent = channels, latent
        self.factor = 2 ** (len(encoder_blocks) - 1)
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor
        self.checkpointing = False

        down: list[nn.Module] = []
        for k, blocks in enumerate(encoder_blocks):
            down.append(
                nn.Conv2d(width, width, 3, 2, 1, bias=False)
                if k
                else nn.Conv2d(channels, width, 3, padding=1)
            )
            down += [TinyResidual(width) for _ in range(blocks)]
        down.append(nn.Conv2d(width, latent, 3, padding=1))

        up: list[nn.Module] = [nn.Conv2d(latent, wide, 3, padding=1), nn.ReLU()]
        for k, blocks in enumerate(decoder_blocks):
            up += [TinyResidual(wide) for _ in range(blocks)]
            if k < len(decoder_blocks) - 1:
                up += [nn.Upsample(scale_factor=2), nn.Conv2d(wide, wide, 3, padding=1, bias=False)]
        up.append(nn.Conv2d(wide, outside, 3, padding=1))
        self.encoder, self.decoder = Layers(down), Layers(up)

    def encode(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, latent, H / f, W / f)."""
        self._check_image(x)
        return self._through(self.encoder, (x + 1) / 2)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.encode(x), None

    @property
    def last(self) -> Tensor:
        weight = self.decoder.layers[-1].weight
        assert isinstance(weight, Tensor)
        return weight

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent, h, w) -> (B, channels, f h, f w)."""
        self._check_latent(z)
        return 2 * self._through(self.decoder, 3 * torch.tanh(z / 3)) - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def _through(self, part: Layers, h: Tensor) -> Tensor:
        call = recomputing(self)
        for layer in part.layers:
            h = call(layer, h)
        return h


class Layers(nn.Module):
    """Layers one after the other, under the name that they have in diffusers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class TinyResidual(nn.Module):
    """`relu(x + conv(relu(conv(relu(conv(x))))))`."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def each() -> nn.Conv2d:
            return nn.Conv2d(width, width, 3, padding=1)

        self.conv = nn.Sequential(each(), nn.ReLU(), each(), nn.ReLU(), each())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.conv(x)).relu()
        return out


def from_tiny_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `AutoencoderTiny` from the configuration of diffusers' class of that name, its config.json."""
    down, up = config["encoder_block_out_channels"], config["decoder_block_out_channels"]
    if len(set(down)) > 1 or len(set(up)) > 1:
        raise InputError(
            f"the levels of a tiny autoencoder are as wide as one another, not {list(down)} and {list(up)}: diffusers' "
            f"own does not run with others"
        )
    kinds = (config["act_fn"], config["upsample_fn"], config["upsampling_scaling_factor"])
    if kinds != ("relu", "nearest", 2):
        raise InputError(f"only ReLUs and doubling by the nearest place are known, not {kinds}")
    inside, outside = config["in_channels"], config["out_channels"]
    return {
        "channels": inside,
        "latent": config["latent_channels"],
        "width": down[0],
        "encoder_blocks": list(config["num_encoder_blocks"]),
        "decoder_blocks": list(config["num_decoder_blocks"]),
        "scaling_factor": config["scaling_factor"],
        "shift_factor": config["shift_factor"],
        "decoder_width": None if up[0] == down[0] else up[0],
        "out_channels": None if inside == outside else outside,
    }


def tiny_config(net: AutoencoderTiny) -> dict[str, Any]:
    """The configuration of diffusers' `AutoencoderTiny` of the same layout."""
    config = net.config
    levels, wide = len(config["encoder_blocks"]), config["decoder_width"] or config["width"]
    return {
        "in_channels": config["channels"],
        "out_channels": config["out_channels"] or config["channels"],
        "encoder_block_out_channels": [config["width"]] * levels,
        "decoder_block_out_channels": [wide] * levels,
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "latent_channels": config["latent"],
        "upsampling_scaling_factor": 2,
        "num_encoder_blocks": list(config["encoder_blocks"]),
        "num_decoder_blocks": list(config["decoder_blocks"]),
        "scaling_factor": config["scaling_factor"],
        "shift_factor": config["shift_factor"],
    }
