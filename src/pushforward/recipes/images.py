"""Any folder, archives or array of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field

from pushforward.recipes.buckets import by_frame, spec_of, unit_of
from pushforward.recipes.families import ConditionalMatching, ConditionalObjective
from pushforward.recipes.latents import LATENTS, PIXELS
from pushforward.recipes.networks import NETWORK, ImageNetwork, UNetSize
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Group, Machine, Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.data.images.lazy import Crop
    from pushforward.recipes.experiment import Experiment

Sized = TypeVar("Sized", bound=Recipe)


class Augmentation(Group):
    """How training images are altered at random."""

    flip: bool = option(False, "Mirror half of the images.", rare=True)
    shift: int = option(0, "Move images by up to this many pixels.", ge=0, rare=True)


class Pictures(Group):
    """How images are read from files."""

    size: int | None = option(
        None,
        "Scale and crop to this many pixels a side. Default: as large as all are.",
        ge=2,
    )
    channels: Literal[1, 3] = option(
        3, "1 for grey, 3 for colour, of a folder's images.", rare=True
    )
    on_bad: Literal["error", "skip"] = option(
        "error", "Files that cannot be read: stop, or skip and report them.", rare=True
    )
    image_key: str | None = option(None, "Name of the images in a .npz file.", rare=True)


class LabelledPictures(Pictures):
    label_key: str | None = option(None, "Name of the labels in a .npz file.", rare=True)


class FilePictures(LabelledPictures):
    lazy: Literal["auto", "yes", "no"] = option(
        "auto",
        "Decode images when they are used, not all at the start; auto: from 1 GiB of pixels on.",
        rare=True,
    )
    crop: bool = option(
        False,
        "Cut squares at random along the longer side of images, anew in each step.",
        rare=True,
    )


class MixedPictures(FilePictures):
    buckets: int = option(
        1,
        "Sizes of equal area, at most, that images are sorted into by their shapes; 1: all are cut to squares.",
        ge=1,
        le=32,
        rare=True,
    )


class ImageRecipe(Recipe):
    """A recipe whose network takes images, by default with what is fastest on this machine."""

    objective: ConditionalObjective = pick(ConditionalMatching, OBJECTIVE)
    network: ImageNetwork = pick(UNetSize, NETWORK)
    augment: Augmentation = Field(default_factory=Augmentation)
    machine: Machine = Field(default_factory=lambda: Machine(precision="auto", compile="auto"))


class Images(ImageRecipe):
    """U-Net or DiT on your own images: a folder (classes from its subfolders), tar archives, a .npy or .npz array."""

    data: Path = option(..., "Folder of images, .tar archives, .npy or .npz file.")
    held_out: float = option(
        0.1, "Share of the data kept apart for evaluation; 0: train on all.", ge=0, lt=1, rare=True
    )
    pictures: MixedPictures = Field(default_factory=MixedPictures)
    latents: Path = option(PIXELS, LATENTS)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=10_000, batch_size=64, lr=5e-4, ema=0.999)
    )

    def settled(self) -> Self:
        """With a size, where one must be chosen; which one is printed."""
        return sized(self, self.data, self.pictures)

    def build(self) -> Experiment:
        from pushforward.recipes.assemble import assemble

        whole = read_mixed(self, self.data)
        train, held_out = divided(whole, self.held_out)
        train = altered(train, self.augment)
        return assemble(
            self,
            self.objective,
            self.network,
            train,
            held_out,
            spec_of(train),
            **by_frame(self, train, held_out),
        )


def sized(recipe: Sized, data: Path, pictures: FilePictures) -> Sized:
    """A recipe on files of images with a size, where one must be chosen; which one is printed."""
    from pushforward.core.errors import InputError

    if pictures.crop and pictures.lazy == "no":
        raise InputError("--crop cuts anew from the files at each step, which --lazy no rules out")
    if pictures.size is not None or recipe.place.resume:
        return recipe
    from pushforward.data import find_size
    from pushforward.data.images.load import find_mixed_size
    from pushforward.runtime.processes import Processes

    if getattr(pictures, "buckets", 1) > 1:
        return recipe.changed(size=Processes.current().first(lambda: find_mixed_size(data)))
    crop: Crop = "random" if pictures.crop else "centre"
    size, notes = Processes.current().first(lambda: find_size(data, crop))
    tell(notes)
    return recipe.changed(size=size)


def divided(whole: Dataset, share: float) -> tuple[Dataset, Dataset | None]:
    """The data to train on, and those kept apart; None for a share of 0."""
    return whole.split(1 - share, seed=0) if share else (whole, None)


def altered(train: Dataset, augment: Augmentation) -> Dataset:
    """The data as training sees them: mirrored and moved at random if that is wanted."""
    if not (augment.flip or augment.shift):
        return train
    from pushforward.data import Augment

    return replace(train, augment=Augment(augment.flip, augment.shift))


def read_images(data: Path, pictures: Pictures, vectors: bool = False) -> Dataset:
    """A folder, archives or an array of images, or also of vectors; what was decided and skipped is printed."""
    from pushforward.core.errors import InputError
    from pushforward.data import load_images

    lazy = getattr(pictures, "lazy", "auto")
    whole = load_images(
        data,
        pictures.size,
        pictures.channels,
        pictures.on_bad,
        pictures.image_key,
        getattr(pictures, "label_key", None),
        crop="random" if getattr(pictures, "crop", False) else "centre",
        lazy={"auto": None, "yes": True, "no": False}[lazy],
    )
    whole = reported(whole)
    if not whole.images and not (vectors and len(whole.shape) == 1):
        raise InputError(
            f"{data} holds samples of shape {whole.shape}; this recipe takes images (C, H, W): pushforward train array "
            f"takes anything else"
        )
    return whole


def read_mixed(recipe: Any, data: Path) -> Dataset:
    """The same of images of several shapes, if they are to be sorted by them. recipe: with `pictures` and `network`."""
    pictures = recipe.pictures
    if pictures.buckets == 1:
        return read_images(data, pictures)
    from pushforward.core.errors import InputError
    from pushforward.data import load_mixed

    if pictures.lazy == "no" and pictures.crop:
        raise InputError("--crop cuts anew from the files at each step, which --lazy no rules out")
    return reported(
        load_mixed(
            data,
            pictures.size,
            pictures.channels,
            pictures.on_bad,
            crop="random" if pictures.crop else "centre",
            buckets=pictures.buckets,
            unit=unit_of(recipe),
            least=recipe.optimiser.batch_size,
        )
    )


def reported(whole: Dataset) -> Dataset:
    """The data, which say from now on what they skip; what was decided and skipped so far is printed."""
    from pushforward.data import Pictures as Decoded

    tell(whole.notes)
    for file, reason in whole.report:
        skipped(file, reason)
    if isinstance(whole.values, Decoded):
        return replace(whole, values=replace(whole.values, tell=skipped))
    return whole


def skipped(file: str, reason: str) -> None:
    tell([f"skipped {file}: {reason}"])


def tell(lines: Iterable[str]) -> None:
    """Print them on stderr, by one of several processes."""
    from rich.console import Console

    from pushforward.runtime.processes import Processes

    if Processes.current().lead:
        console = Console(highlight=False, stderr=True)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
