"""The autoencoder of latent diffusion: an image as the mean and variance of a smaller one, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu

from pushforward.core.errors import InputError
from pushforward.nets import strips
from pushforward.nets.attention import attend
from pushforward.nets.autoencoder import Autoencoder
from pushforward.nets.layers import recomputing


class AutoencoderKL(Autoencoder):
    """Convolutions that make an image smaller by halves, to a normal law for each place, and their mirror image.

        q(z | x) = N(mean(x), exp log_variance(x)),    x' = decode(z)

    (B, channels, H, W) -> mean and log variance (B, latent, H / f, W / f) with f = 2^(levels - 1); called, it gives the
    decoded mean. H and W must be multiples of f.

    widths:    channels of each level, from the finest one. blocks: residual blocks of a level; one more on the way up.
    groups:    of the group norms; they must divide the widths.
    attention: in the middle, one head over all places.
    quant, post_quant: a 1 x 1 convolution behind the encoder and before the decoder; SD3 and FLUX have none.
    scaling_factor, shift_factor: see `Autoencoder`.

    Attribute `checkpointing`: activations of a level are recomputed in the backward pass instead of stored.

    Rombach et al. 2022 (arXiv 2112.10752), app. G. Names, order and shapes of the weights, and outputs, are those of
    diffusers' `AutoencoderKL`, whose state dict loads. Its images are in [-1, 1].
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        groups: int = 32,
        attention: bool = True,
        quant: bool = True,
        post_quant: bool = True,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        *,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        outside = channels if out_channels is None else out_channels
        if min(channels, latent, outside, blocks, groups, *widths) < 1 or not widths:
            raise InputError(
                "channels, latent, widths, blocks and groups of an autoencoder must be positive"
            )
        if any(width % groups for width in widths):
            raise InputError(
                f"the {groups} groups of the norms must divide every width: not {list(widths)}; choose groups="
            )
        if not scaling_factor:
            raise InputError("a scaling_factor of 0 would make all latents alike")
        self.channels, self.latent = channels, latent
        self.factor = 2 ** (len(widths) - 1)
        self.scaling_factor, self.shift_factor = scaling_factor, shift_factor
        self.checkpointing = False
        self.encoder = KLEncoder(channels, 2 * latent, widths, blocks, groups, attention)
        self.decoder = Decoder(latent, outside, widths, blocks + 1, groups, attention)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if quant else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if post_quant else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, latent, H / f, W / f); the latter is kept in [-30, 20]."""
        self._check_image(x)
        call = recomputing(self)
        mean, log_variance = self.quant_conv(self.encoder(x, call)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.encode(x)

    @property
    def last(self) -> Tensor:
        return self.decoder.conv_out.weight

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent, h, w) -> (B, channels, f h, f w)."""
        out: Tensor = self.decoder(self._checked(z), recomputing(self))
        return out

    @torch.no_grad()
    def decode_tiled(self, z: Tensor, tile: int = 4) -> Tensor:
        """As `decode`, for inference, in strips of `tile` rows of z: the same to rounding, for a part of the memory.

        Norms take means over all places, so that strips decoded each for itself differ everywhere and not only where
        they meet. Here each norm has the figures of the whole image: every layer is computed strip by strip, with the
        rows beyond a strip that its convolutions see, into one tensor, and once more where that saves a second one.
        """
        if tile < 1:
            raise InputError(f"a strip has at least one row of latents, not {tile}")
        return strips.decode(self.decoder, self._checked(z), tile)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x)[0])

    def _checked(self, z: Tensor) -> Tensor:
        self._check_latent(z)
        out: Tensor = self.post_quant_conv(z)
        return out


class KLResidual(nn.Module):
    """`x + conv(silu(norm(conv(silu(norm(x))))))`; x by a 1 x 1 convolution where channels change."""

    def __init__(self, inside: int, outside: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inside, 1e-6)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outside, 1e-6)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        out: Tensor = self.conv_shortcut(x) + self.conv2(silu(self.norm2(h)))
        return out


class PlaceAttention(nn.Module):
    """`x + W softmax(Q K^T / sqrt c) V` among all places of an image, Q, K, V linear in its group norm."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x.flatten(2)).mT
        q, k, v = (layer(h)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        out: Tensor = x + self.to_out(attend(q, k, v)).mT.reshape(x.shape)
        return out


class Middle(nn.Module):
    """Two residual blocks, with attention between them if wanted."""

    def __init__(self, width: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.resnets = nn.Sequential(*(KLResidual(width, width, groups) for _ in range(2)))
        self.attentions = nn.Sequential(*([PlaceAttention(width, groups)] if attention else []))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions(self.resnets[0](x)))
        return out


class Halved(nn.Module):
    """Half the sides by a convolution of stride 2, with zeros below and on the right."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(pad(x, (0, 1, 0, 1)))
        return out


class Doubled(nn.Module):
    """Twice the sides, each place four times, and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """Residual blocks, then a layer to the next level if there is one, under the name that it has in diffusers."""

    def __init__(
        self, inside: int, outside: int, blocks: int, groups: int, name: str, then: nn.Module | None
    ) -> None:
        super().__init__()
        self.resnets = nn.Sequential(
            *(KLResidual(outside if k else inside, outside, groups) for k in range(blocks))
        )
        self.name = name
        setattr(self, name, nn.Sequential(*([] if then is None else [then])))

    @property
    def then(self) -> nn.Sequential:
        """The layer to the next level, or none."""
        found: nn.Sequential = getattr(self, self.name)
        return found

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.then(self.resnets(x))
        return out


class KLEncoder(nn.Module):
    """(B, inside, H, W) -> (B, outside, H / f, W / f)."""

    def __init__(
        self,
        inside: int,
        outside: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(inside, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                widths[max(k - 1, 0)], width, blocks, groups, "downsamplers", Halved(width) if k < last else None
            )
            for k, width in enumerate(widths)
        )  # fmt: skip
        self.mid_block = Middle(widths[-1], groups, attention)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], outside, 3, padding=1)

    def forward(self, x: Tensor, call: Any) -> Tensor:
        h = self.conv_in(x)
        for layer in (*self.down_blocks, self.mid_block):
            h = call(layer, h)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(h)))
        return out


class Decoder(nn.Module):
    """(B, inside, h, w) -> (B, outside, f h, f w)."""

    def __init__(
        self,
        inside: int,
        outside: int,
        widths: Sequence[int],
        blocks: int,
        groups: int,
        attention: bool,
    ) -> None:
        super().__init__()
        turned, last = list(reversed(widths)), len(widths) - 1
        self.conv_in = nn.Conv2d(inside, turned[0], 3, padding=1)
        self.mid_block = Middle(turned[0], groups, attention)
        self.up_blocks = nn.ModuleList(
            Level(
                turned[max(k - 1, 0)], width, blocks, groups, "upsamplers", Doubled(width) if k < last else None
            )
            for k, width in enumerate(turned)
        )  # fmt: skip
        self.conv_norm_out = nn.GroupNorm(groups, turned[-1], 1e-6)
        self.conv_out = nn.Conv2d(turned[-1], outside, 3, padding=1)

    def forward(self, z: Tensor, call: Any) -> Tensor:
        h = self.conv_in(z)
        for layer in (self.mid_block, *self.up_blocks):
            h = call(layer, h)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(h)))
        return out


def from_kl_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `AutoencoderKL` from the configuration of diffusers' class of that name, its config.json."""
    kinds = {*config["down_block_types"], *config["up_block_types"]}
    if kinds != {"DownEncoderBlock2D", "UpDecoderBlock2D"} or config["act_fn"] not in (
        "silu",
        "swish",
    ):
        raise InputError(
            f"only blocks DownEncoderBlock2D and UpDecoderBlock2D with silu are known, not {sorted(kinds)} with "
            f"{config['act_fn']}"
        )  # fmt: skip
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise InputError("latents_mean and latents_std are not known to AutoencoderKL")
    inside, outside = config["in_channels"], config["out_channels"]
    return {
        "channels": inside,
        "latent": config["latent_channels"],
        "widths": list(config["block_out_channels"]),
        "blocks": config["layers_per_block"],
        "groups": config["norm_num_groups"],
        "attention": config.get("mid_block_add_attention", True),
        "quant": config.get("use_quant_conv", True),
        "post_quant": config.get("use_post_quant_conv", True),
        "scaling_factor": config["scaling_factor"],
        "shift_factor": config.get("shift_factor") or 0.0,
        "out_channels": None if inside == outside else outside,
    }


def kl_config(net: AutoencoderKL, sample_size: int = 512) -> dict[str, Any]:
    """The configuration of diffusers' `AutoencoderKL` of the same layout. sample_size: by which it chooses tiles."""
    config = net.config
    levels = len(config["widths"])
    return {
        "in_channels": config["channels"],
        "out_channels": config["out_channels"] or config["channels"],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(config["widths"]),
        "layers_per_block": config["blocks"],
        "act_fn": "silu",
        "latent_channels": config["latent"],
        "norm_num_groups": config["groups"],
        "sample_size": sample_size,
        "scaling_factor": config["scaling_factor"],
        "shift_factor": config["shift_factor"] or None,
        "use_quant_conv": config["quant"],
        "use_post_quant_conv": config["post_quant"],
        "mid_block_add_attention": config["attention"],
    }
