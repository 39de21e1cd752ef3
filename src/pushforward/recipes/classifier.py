"""Classifiers: of any labelled images, whose features samples are judged by, and of noisy digits, for guidance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.choices import PATH, GaussianPath, Times
from pushforward.recipes.images import LabelledPictures
from pushforward.recipes.options import Group, Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.core.paths import Path as ProbabilityPath
    from pushforward.core.times import TimeDraw
    from pushforward.data import Dataset
    from pushforward.recipes.experiment import Classifying

# The name that stands for Fashion-MNIST instead of a folder or a file, and what its files are called.
FASHION = Path("fashion")
IDX = "train-images-idx3-ubyte*"


class Layers(Group):
    """The network of a classifier."""

    width: int = option(16, "Channels at full resolution.", ge=8)
    multipliers: tuple[int, ...] = option(
        (1, 2, 4, 8), "Channels by resolution, over width.", min_length=1
    )
    blocks: int = option(1, "Residual blocks at each resolution.", ge=1)
    dropout: float = option(0.2, "Dropout in the residual blocks.", ge=0, lt=1)


class Classifier(Recipe):
    """Classifier of clean images: for evaluate --features and --classifier, not for guidance."""

    data: Path = option(
        ...,
        "fashion for Fashion-MNIST, or the folder of its files; a folder of images with a subfolder for each class; or "
        "a .npz file with labels.",
    )
    download: bool = option(
        False, "Download the files of fashion from their public home if they are missing."
    )
    held_out: float = option(
        0.1, "Share of the data kept apart for evaluation; fashion has its own.", gt=0, lt=1
    )
    pictures: LabelledPictures = Field(default_factory=LabelledPictures)
    network: Layers = Field(default_factory=Layers)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=3500, lr=2e-3, weight_decay=0.05)
    )

    def build(self) -> Classifying:
        from pushforward.core.paths import CondOT
        from pushforward.core.times import Constant

        train, held_out = self.read()
        # The end of this path has no noise, and it is the only time at which the classifier is asked.
        return classifying(self, self.network, train, held_out, CondOT(), Constant(1.0), clean=True)

    def read(self) -> tuple[Dataset, Dataset]:
        """The data trained on, and those kept apart."""
        from pushforward.recipes.images import read_images

        own = any(self.data.glob(IDX))
        if own or self.data == FASHION:
            from pushforward.data.fashion import load_fashion

            return load_fashion(self.data if own else None, self.download)
        return read_images(self.data, self.pictures).split(1 - self.held_out, seed=0)


class DigitsClassifier(Recipe):
    """Classifier of noisy digits, on the half that the recipe digits trains on: for sample --classifier."""

    path: GaussianPath = pick(GaussianPath, PATH)
    times: Times = pick(Times, "Law of training times.", rare=True)
    network: Layers = Field(default_factory=lambda: Layers(width=32, multipliers=(1, 2)))
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(steps=500, weight_decay=0.05))

    def build(self) -> Classifying:
        from pushforward.data import load_digits

        train, held_out = load_digits().halves(seed=0)
        path = self.path.build()
        return classifying(self, self.network, train, held_out, path, self.times.build(path))


def classifying(
    recipe: Recipe,
    network: Layers,
    train: Dataset,
    held_out: Dataset,
    path: ProbabilityPath,
    times: TimeDraw,
    clean: bool = False,
) -> Classifying:
    """The parts of a run that trains a classifier of states along a path. clean: of states without noise only."""
    from pushforward.core.errors import InputError
    from pushforward.core.spec import Provenance
    from pushforward.models.classifier import NoisyClassifier
    from pushforward.nets import ImageClassifier
    from pushforward.objectives import Classification
    from pushforward.recipes.experiment import Classifying
    from pushforward.runtime.device import find_device, seeded
    from pushforward.streams.shuffled import Shuffled

    counts = train.class_counts
    if counts is None or sum(count > 0 for count in counts) < 2:
        raise InputError(
            "the data have no two classes to tell apart: give a folder with a subfolder for each class, or a .npz file "
            "with labels"
        )
    net = seeded(
        lambda: ImageClassifier(
            train.shape[0],
            len(counts),
            network.width,
            network.multipliers,
            network.blocks,
            network.dropout,
        ),
        recipe.seed,
    )
    model = NoisyClassifier(
        net,
        path,
        spec=train.spec,
        clean=clean,
        provenance=Provenance(recipe=recipe.name()),
    ).to(find_device(recipe.place.device))
    return Classifying(
        model,
        Classification(model, times),
        Shuffled(train, recipe.optimiser.batch_size, recipe.seed),
        held_out,
        train.fingerprint(),
    )
