"""Low- to high-resolution images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.families import PairedMatching, PairedObjective, is_paired
from pushforward.recipes.images import Pictures
from pushforward.recipes.networks import NETWORK, ImageNetwork, UNetChoice
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class SuperResolution(Recipe):
    """U-Net from coarse images to fine ones: digits, or your own images as for the recipe `images`."""

    data: Path | None = option(
        None,
        "Folder of images, or .npy or .npz file. Default: scikit-learn's 1797 digits of 8 x 8.",
    )
    factor: int = option(2, "Pixels to a side of what becomes one pixel.", ge=2)
    blur: float = option(
        0.2,
        "Standard deviation of noise on the coarse image: without it there is one answer to each.",
        ge=0,
    )
    held_out: float = option(
        0.2, "Share of the data kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    pictures: Pictures = Field(default_factory=Pictures)
    objective: PairedObjective = pick(PairedMatching, OBJECTIVE)
    network: ImageNetwork = pick(UNetChoice, NETWORK)
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(lr=2e-3))

    def build(self) -> Experiment:
        from dataclasses import replace

        import torch

        from pushforward.data import load_digits
        from pushforward.data.images.coarse import Coarse, coarsen
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.images import read_images
        from pushforward.recipes.set_to_set import Refinement
        from pushforward.streams.paired import Blurred, Bridged, Paired, Transformed
        from pushforward.streams.shuffled import Shuffled
        from pushforward.streams.stream import Stream

        whole = load_digits() if self.data is None else read_images(self.data, self.pictures)
        # What is made fine is not known by its class.
        whole = replace(whole, labels=None, classes=None, class_names=None, columns={}, texts={})
        train, held_out = whole.split(1 - self.held_out, seed=0)

        def coarse(x1: torch.Tensor) -> torch.Tensor:
            return coarsen(x1, self.factor)

        coarse(train[torch.zeros(1, dtype=torch.int64)].x1)  # an error now if the sides do not fit
        size, data = self.optimiser.batch_size, train
        stream: Stream
        if is_paired(self.objective):
            stream = Shuffled(Paired(train, coarse), size, self.seed)
        else:
            other, data = train.halves(seed=0)
            stream = Bridged(Transformed(other, coarse), data, size, self.seed)
        return assemble(
            self,
            self.objective,
            self.network,
            data,
            held_out,
            train.spec,
            source=Coarse(held_out, self.factor, self.blur),
            source_name=f"coarse images: blocks of {self.factor}, noise {self.blur:g}",
            stream=Blurred(stream, self.blur, self.seed),
            kind=Refinement,
        )
