"""Low- to high-resolution images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class SuperResolution(Recipe):
    """U-Net from coarse images to fine ones: digits, or your own images as for the recipe `images`."""

    data: Path | None = Field(
        None,
        description="Folder of images, or .npy or .npz file. Left out: scikit-learn's 1797 digits of 8 x 8.",
    )
    size: int | None = Field(None, ge=2, description="Scale and crop to this many pixels a side.")
    channels: Literal[1, 3] = Field(
        3, description="1 for grey, 3 for colour, of a folder's images."
    )
    on_bad: Literal["error", "skip"] = Field(
        "error",
        description="What to do about files that cannot be read: stop, or go on and report them.",
    )
    image_key: str | None = Field(None, description="Name of the images in a .npz file.")
    factor: int = Field(2, ge=2, description="Pixels to a side of what becomes one pixel.")
    blur: float = Field(
        0.2,
        ge=0,
        description="Standard deviation of noise on the coarse image, which makes room for what is not in it: with "
        "none there is one answer to each.",
    )
    unpaired: bool = Field(
        False,
        description="Do not say which coarse image belongs to which fine one: two halves of the data, for --coupling.",
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the data kept apart for evaluation."
    )
    width: int = Field(32, ge=8, description="Channels at full resolution.")
    multipliers: tuple[int, ...] = Field(
        (1, 2), min_length=1, description="Channels by resolution, over width."
    )
    blocks: int = Field(1, ge=1, description="Residual blocks at each resolution.")
    attention: tuple[int, ...] = Field(
        (), description="Resolutions that attend, from 0, the full one."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the residual blocks.")
    steps: int = Field(2000, ge=1, description="Optimiser steps.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")

    def build(self) -> Experiment:
        from dataclasses import replace

        import torch

        from pushforward.core.errors import InputError
        from pushforward.data import load_digits
        from pushforward.data.images.coarse import Coarse, coarsen
        from pushforward.nets import UNet
        from pushforward.recipes.experiment import assemble
        from pushforward.recipes.images import read_images
        from pushforward.recipes.set_to_set import Refinement, become
        from pushforward.streams.paired import Blurred, Bridged, Paired, Transformed
        from pushforward.streams.shuffled import Shuffled
        from pushforward.streams.stream import Stream

        if self.coupling != "independent" and not self.unpaired:
            raise InputError(
                "--coupling is for what is not paired yet: add --unpaired, or leave it out"
            )
        if self.data is None:
            whole = load_digits()
        else:
            whole = read_images(self.data, self.size, self.channels, self.on_bad, self.image_key)
        # What is made fine is not known by its class.
        whole = replace(whole, labels=None, classes=None, class_names=None, texts={})
        train, held_out = whole.split(1 - self.held_out, seed=0)

        def coarse(x1: torch.Tensor) -> torch.Tensor:
            return coarsen(x1, self.factor)

        coarse(train[torch.zeros(1, dtype=torch.int64)].x1)  # an error now if the sides do not fit
        data = train
        stream: Stream
        if self.unpaired:
            other, data = train.halves(seed=0)
            stream = Bridged(Transformed(other, coarse), data, self.batch_size, self.seed)
        else:
            stream = Shuffled(Paired(train, coarse), self.batch_size, self.seed)
        experiment = assemble(
            self,
            lambda outputs, **more: UNet(
                train.shape[0],
                self.width,
                self.multipliers,
                self.blocks,
                self.attention,
                None,
                self.dropout,
                outputs=outputs,
                **more,
            ),
            data,
            held_out,
            shape=train.shape,
            classes=None,
            fingerprint=train.fingerprint(),
            info={
                "value_range": list(train.value_range),
                "source": f"coarse images: blocks of {self.factor}, noise {self.blur:g}",
            },
            source=Coarse(held_out, self.factor, self.blur),
            stream=Blurred(stream, self.blur, self.seed),
        )
        return become(Refinement, experiment)
