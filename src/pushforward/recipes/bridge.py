"""A process from one data set of your own to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.families import SetObjective, SetSF2M
from pushforward.recipes.images import Pictures
from pushforward.recipes.networks import NETWORK, AnyNetwork, Auto
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Bridge(Recipe):
    """From one data set of your own to another, unpaired: a Schroedinger bridge, or any objective between two laws.

    Arrays of vectors (N, D), whose values are taken as they are and should be of the order of 1, or of images, or
    folders of images.
    """

    source_data: Path = option(
        ..., "What samples start from: a .npy or .npz file, or a folder of images."
    )
    data: Path = option(..., "What they become.")
    held_out: float = option(0.2, "Share of both kept apart for evaluation.", gt=0, lt=1)
    pictures: Pictures = Field(default_factory=Pictures)
    objective: SetObjective = pick(SetSF2M, OBJECTIVE)
    network: AnyNetwork = pick(Auto, NETWORK)
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(steps=5000, batch_size=256))

    def build(self) -> Experiment:
        import hashlib
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.data.resampled import Resampled
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.images import read_images
        from pushforward.recipes.networks import MLPChoice, UNetChoice
        from pushforward.recipes.set_to_set import SetMapping
        from pushforward.streams.paired import Bridged

        both = [
            replace(
                read_images(place, self.pictures, vectors=True),
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
        network = self.network
        if isinstance(network, Auto):
            network = MLPChoice(width=64) if len(data.shape) == 1 else UNetChoice(width=64)
        prints = f"{source.fingerprint()} {data.fingerprint()}"
        return assemble(
            self,
            self.objective,
            network,
            data,
            data_held,
            data.spec.with_(fingerprint=hashlib.sha256(prints.encode()).hexdigest()),
            source=Resampled(source_held),
            source_name=str(self.source_data),
            stream=Bridged(source, data, self.optimiser.batch_size, self.seed),
            kind=SetMapping,
        )
