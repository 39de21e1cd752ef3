"""Any folder, archives or array of images, or an array of vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.networks import ImageRecipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.data.images.lazy import Crop
    from pushforward.recipes.experiment import Experiment


class Images(ImageRecipe):
    """U-Net or DiT on your own images: a folder (classes from its subfolders), tar archives, a .npy or .npz array."""

    data: Path | None = Field(
        None,
        description="Folder of images, .tar archive or folder of such, or .npy or .npz file. Required.",
    )
    size: int | None = Field(
        None,
        ge=2,
        description="Scale and crop to this many pixels a side. Left out: images of one size up to 256 keep it; for "
        "others, the largest of 8, 16, 32 and 64 that no side is shorter than.",
    )
    channels: Literal[1, 3] = Field(
        3, description="1 for grey, 3 for colour, of a folder's images."
    )
    on_bad: Literal["error", "skip"] = Field(
        "error",
        description="What to do about files that cannot be read: stop, or go on and report them.",
    )
    lazy: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Decode images when they are wanted, and not all at the start; auto: from 1 GiB of pixels on.",
    )
    crop: bool = Field(
        False,
        description="Cut squares at random along the longer side of images, anew for each step.",
    )
    image_key: str | None = Field(None, description="Name of the images in a .npz file.")
    label_key: str | None = Field(None, description="Name of the labels in a .npz file.")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Share of the data kept apart for evaluation."
    )
    steps: int = Field(10_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(64, ge=1, description="Samples in a step.")
    lr: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    ema: float = Field(
        0.999, ge=0, lt=1, description="Decay of the average of weights that is sampled."
    )

    def settled(self) -> Images:
        """With a size, where one must be chosen; what it is is printed."""
        from pushforward.core.errors import InputError

        if self.crop and self.lazy == "no":
            raise InputError("--crop cuts anew from the files at each step: leave --lazy no out")
        if self.data is None or self.size is not None or self.resume:
            return self
        from pushforward.data import find_size
        from pushforward.runtime.processes import Processes

        data = self.data
        crop: Crop = "random" if self.crop else "centre"
        size, notes = Processes.current().first(lambda: find_size(data, crop))
        tell(notes)
        return self.model_copy(update={"size": size})

    def build(self) -> Experiment:
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import assemble

        if self.data is None:
            raise InputError("--data is missing: a folder of images, or a .npy or .npz file")
        whole = read_images(
            self.data,
            self.size,
            self.channels,
            self.on_bad,
            self.image_key,
            self.label_key,
            lazy={"auto": None, "yes": True, "no": False}[self.lazy],
            crop=self.crop,
        )
        train, held_out = whole.split(1 - self.held_out, seed=0)
        return assemble(
            self,
            self.factory(train.shape[0], train.classes),
            altered(train, self),
            held_out,
            shape=train.shape,
            classes=train.classes,
            fingerprint=train.fingerprint(),
            info={
                "value_range": list(train.value_range),
                "class_names": None if train.class_names is None else list(train.class_names),
            },
            condition_dropout=self.condition_dropout,
        )


def altered(train: Dataset, recipe: ImageRecipe) -> Dataset:
    """The data as training sees them: mirrored and moved at random if that is wanted."""
    if not (recipe.flip or recipe.shift):
        return train
    from pushforward.data import Augment

    return replace(train, augment=Augment(recipe.flip, recipe.shift))


def read_images(
    data: Path,
    size: int | None,
    channels: int,
    on_bad: Literal["error", "skip"],
    image_key: str | None,
    label_key: str | None = None,
    vectors: bool = False,
    lazy: bool | None = None,
    crop: bool = False,
) -> Dataset:
    """A folder, archives or an array of images, or also of vectors; what was decided and left out is printed."""
    from pushforward.core.errors import InputError
    from pushforward.data import Pictures, load_images

    whole = load_images(
        data,
        size,
        channels,
        on_bad,
        image_key,
        label_key,
        crop="random" if crop else "centre",
        lazy=lazy,
    )
    tell(whole.notes)
    for file, reason in whole.report:
        left_out(file, reason)
    if isinstance(whole.values, Pictures):
        whole = replace(whole, values=replace(whole.values, tell=left_out))
    if not whole.images and not (vectors and len(whole.shape) == 1):
        raise InputError(
            f"{data} holds samples of shape {whole.shape}; this recipe takes images (C, H, W)"
        )
    return whole


def left_out(file: str, reason: str) -> None:
    tell([f"left out {file}: {reason}"])


def tell(lines: Iterable[str]) -> None:
    """Print them on stderr, by one of several processes."""
    from rich.console import Console

    from pushforward.runtime.processes import Processes

    if Processes.current().lead:
        console = Console(highlight=False, stderr=True)
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
