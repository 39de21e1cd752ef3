"""A process from one data set of your own to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pushforward.recipes.options import CouplingName, ObjectiveName, Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Bridge(Recipe):
    """From one data set of your own to another, unpaired: a Schroedinger bridge, or any objective between two laws.

    Arrays of vectors (N, D), whose values are taken as they are and should be of the order of 1, or of images, or
    folders of images.
    """

    source_data: Path | None = Field(
        None, description="What samples start from: a .npy or .npz file, or a folder of images."
    )
    data: Path | None = Field(None, description="What they are to become. Both are required.")
    size: int | None = Field(
        None, ge=2, description="Scale and crop a folder's images to this many pixels a side."
    )
    channels: Literal[1, 3] = Field(
        3, description="1 for grey, 3 for colour, of a folder's images."
    )
    held_out: float = Field(0.2, gt=0, lt=1, description="Share of both kept apart for evaluation.")
    objective: ObjectiveName = Field("sf2m", description="What is minimised; see train toy2d.")
    coupling: CouplingName = Field(
        "ot", description="How source and data are paired within a batch."
    )
    width: int = Field(
        64, ge=8, multiple_of=2, description="Width of hidden layers, or channels of images."
    )
    depth: int = Field(3, ge=1, description="Residual blocks, of vectors.")
    steps: int = Field(5000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(256, ge=1, description="Samples in a step.")

    def build(self) -> Experiment:
        import hashlib
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.data.resampled import Resampled
        from pushforward.nets import MLP, UNet
        from pushforward.recipes.experiment import assemble
        from pushforward.recipes.images import read_images
        from pushforward.recipes.set_to_set import SetMapping, become
        from pushforward.streams.paired import Bridged

        if self.source_data is None or self.data is None:
            raise InputError(
                "--source-data and --data are missing: two .npy or .npz files, or folders of images"
            )
        both = [
            replace(
                read_images(place, self.size, self.channels, "error", None, vectors=True),
                labels=None,
                classes=None,
                class_names=None,
            )
            for place in (self.source_data, self.data)
        ]
        if both[0].shape != both[1].shape:
            raise InputError(
                f"{self.source_data} holds samples {both[0].shape}, {self.data} {both[1].shape}: shapes must agree"
            )
        (source, source_held), (data, data_held) = (
            part.split(1 - self.held_out, seed=0) for part in both
        )
        shape = data.shape

        def net(outputs: int, **more: Any) -> MLP | UNet:
            if len(shape) == 1:
                return MLP(shape[0], self.width, self.depth, outputs=outputs, **more)
            return UNet(shape[0], self.width, outputs=outputs, **more)

        prints = f"{source.fingerprint()} {data.fingerprint()}"
        experiment = assemble(
            self,
            net,
            data,
            data_held,
            shape=shape,
            classes=None,
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
            info={"source": str(self.source_data), "value_range": list(data.value_range)},
            source=Resampled(source_held),
            stream=Bridged(source, data, self.batch_size, self.seed),
        )
        return become(SetMapping, experiment)
