"""Networks of images on the command line: one dial for their size, and what may be turned besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from torch import nn

NetworkName = Literal[
    "unet-XS", "unet-S", "unet-M", "unet-L", "unet-XL",
    "dit-nano", "dit-tiny", "dit-mini", "dit-XS", "dit-S", "dit-B", "dit-L", "dit-XL",
]  # fmt: skip


class ImageRecipe(Recipe):
    """A recipe whose network takes images, with the defaults that are quickest on the machine at hand."""

    network: NetworkName = Field(
        "unet-XS", description="Network and its size: `pushforward sizes` lists them."
    )
    patch: int = Field(2, ge=1, description="Pixels a side of a token, of a DiT.")
    width: int | None = Field(
        None, ge=8, description="Channels at full resolution of a U-Net. Left out: its size's."
    )
    multipliers: tuple[int, ...] | None = Field(
        None, min_length=1, description="Channels of a U-Net by resolution, over width."
    )
    blocks: int | None = Field(
        None, ge=1, description="Residual blocks of a U-Net at each resolution."
    )
    attention: tuple[int, ...] | None = Field(
        None, description="Resolutions of a U-Net that attend, from 0, the full one."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the blocks.")
    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of samples trained without their class."
    )
    flip: bool = Field(False, description="Mirror half of the images, at random.")
    shift: int = Field(0, ge=0, description="Move images by up to so many pixels, at random.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="What networks compute in; weights, moments and averages are float32 all the same. auto: bf16 "
        "where the processor has it and the objective is matching.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile of the networks; auto: on CUDA."
    )

    def factory(self, channels: int, classes: int | None) -> Callable[..., nn.Module]:
        """Builds the network with so many answers for each channel."""
        from pushforward.core.errors import InputError
        from pushforward.nets import sizes

        family, _, size = self.network.partition("-")
        turned = {
            name: getattr(self, name)
            for name in ("width", "multipliers", "blocks", "attention")
            if getattr(self, name) is not None
        }
        if family == "unet":

            def unet(outputs: int, **more: Any) -> nn.Module:
                return sizes.unet(
                    size, channels, classes, dropout=self.dropout, outputs=outputs, **turned | more
                )

            return unet
        if turned:
            raise InputError(
                f"--{next(iter(turned))} is for a U-Net, and the network is {self.network}"
            )

        def dit(outputs: int, **more: Any) -> nn.Module:
            return sizes.dit(
                size, self.patch, channels, classes, dropout=self.dropout, outputs=outputs, **more
            )

        return dit
