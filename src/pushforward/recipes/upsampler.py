"""Super-resolution on pictures made worse at random levels: a stage of a cascade."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from pushforward.recipes.captioned import MADE, Captions, read_captioned
from pushforward.recipes.choices import Times
from pushforward.recipes.decoder import factor_to
from pushforward.recipes.images import FilePictures, divided, read_images, sized
from pushforward.recipes.networks import NETWORK, ImageNetwork, NetworkChoice, UNetChoice
from pushforward.recipes.objectives import OBJECTIVE, Matching
from pushforward.recipes.options import Choice, Logging, Machine, Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pushforward.core.augmentation import Augmentation
    from pushforward.data import Dataset
    from pushforward.recipes.experiment import Experiment
    from pushforward.recipes.networks import Data


class NoiseChoice(Choice):
    """Gaussian noise on the low-resolution picture; its level is the share of noise."""

    name: Literal["noise"] = "noise"
    most: float = option(0.5, "The highest level of training.", gt=0, le=1, rare=True)

    def build(self) -> Augmentation:
        from pushforward.core.augmentation import NoiseAugmentation

        return NoiseAugmentation(self.most)


class BlurChoice(Choice):
    """A Gaussian blur of the low-resolution picture; its level is the width in pixels."""

    name: Literal["blur"] = "blur"
    most: float = option(1.0, "The highest level of training.", gt=0, rare=True)

    def build(self) -> Augmentation:
        from pushforward.core.augmentation import BlurAugmentation

        return BlurAugmentation(self.most)


AUGMENTATION = "What is done to low-resolution pictures, at random levels."
AUGMENT_LEVEL = "Level at which samples are drawn by default."
AnyAugmentation = Annotated[NoiseChoice | BlurChoice, Field(discriminator="name")]


@dataclass(frozen=True)
class Concatenating:
    """A choice of network that is built to take `channels` more beside those of the state."""

    network: NetworkChoice
    channels: int

    def build(self, data: Data, **more: Any) -> nn.Module:
        return self.network.build(data, in_channels=data.shape[0] + self.channels, **more)


def late() -> Matching:
    return Matching(times=Times(name="logit-normal", time_mean=0.0))


class Upsampler(Recipe):
    """Super-resolution for a cascade: fine pictures from coarse ones with noise or blur. A part of unclip."""

    data: str = option("scenes", "scenes, emoji, or a folder, archives or array of images.")
    number: int = option(40_000, "Scenes to train on.", ge=100, rare=True)
    captions: Captions = option("mixed", "Captions of scenes, which are not used.", rare=True)
    held_out: float = option(
        0.05, "Share of the data kept apart for evaluation.", ge=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    factor: int = option(2, "Pixels a side of what is drawn for each of the coarse picture.", ge=2)
    drawn_size: int | None = option(
        None,
        "Pixels a side of what is drawn, by means of blocks of the pictures. Default: as they are.",
        ge=4,
    )
    augmentation: AnyAugmentation = pick(NoiseChoice, AUGMENTATION)
    augment_level: float = option(0.1, AUGMENT_LEVEL, ge=0)
    pictures: FilePictures = Field(default_factory=FilePictures)
    objective: Matching = pick(late, OBJECTIVE)
    network: ImageNetwork = pick(UNetChoice, NETWORK)
    machine: Machine = Field(default_factory=lambda: Machine(precision="auto", compile="auto"))
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=10_000, batch_size=32, lr=1e-3, ema=0.999, decay="trapezoid"
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(
            sample_every=2000, validate_every=2000, checkpoint_every=1000
        )
    )

    def settled(self) -> Self:
        """With a size, where one must be chosen for a folder; which one is printed."""
        return self if self.data in MADE else sized(self, Path(self.data), self.pictures)

    def read(self) -> tuple[Dataset, Dataset | None]:
        """The data to train on, and those kept apart, nothing but pictures."""
        if self.data in MADE:
            train, held_out = read_captioned(self, lambda path: read_images(path, self.pictures))
            return pictures_of(train), None if held_out is None else pictures_of(held_out)
        return divided(pictures_of(read_images(Path(self.data), self.pictures)), self.held_out)

    def build(self) -> Experiment:
        from pushforward.core.errors import InputError
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.conditions import of_data
        from pushforward.streams.augmented import Augmented
        from pushforward.streams.shuffled import Shuffled

        augmentation = self.augmentation.build()
        if self.augment_level > augmentation.most:
            raise InputError(
                f"--augment-level is {self.augment_level}, and levels of training go up to {augmentation.most}"
            )
        train, held_out = (None if part is None else self.seen(part) for part in self.read())
        assert train is not None
        stream = Shuffled(train, self.optimiser.batch_size, self.seed)
        return assemble(
            self,
            self.objective,
            Concatenating(self.network, train.shape[0]),  # type: ignore[arg-type]
            train,
            held_out,
            train.spec,
            stream=Augmented(stream, augmentation, self.seed),
            features={LEVEL: 1},
            conditions=of_data(train if held_out is None else held_out),
        )

    def seen(self, data: Dataset) -> Dataset:
        """Pictures of the size that is drawn, with their coarse ones at level 0."""
        from dataclasses import replace

        import torch

        from pushforward.core.errors import InputError
        from pushforward.data.images.coarse import Small

        found = data.reduced(factor_to(data.shape, self.drawn_size))
        if any(side % self.factor for side in found.shape[1:]):
            raise InputError(
                f"pictures of {found.shape[2]} x {found.shape[1]} pixels have no blocks of {self.factor} x "
                f"{self.factor}: give another --factor or --size"
            )
        return replace(
            found, hints={"coarse": Small(self.factor)}, columns={LEVEL: torch.zeros(len(found))}
        )


# The condition with the level.
LEVEL = "augment_level"


def pictures_of(data: Dataset) -> Dataset:
    """What is made fine is not known by its class or text."""
    from dataclasses import replace

    return replace(
        data, labels=None, classes=None, class_names=None, columns={}, texts={}, encodings={}
    )
