"""Any folder or array of images, or an array of vectors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.networks import ImageRecipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.recipes.experiment import Experiment


class Images(ImageRecipe):
    """U-Net or DiT on your own images: a folder (classes from its subfolders) or a .npy or .npz array."""

    data: Path | None = Field(None, description="Folder of images, or .npy or .npz file. Required.")
    size: int | None = Field(None, ge=2, description="Scale and crop to this many pixels a side.")
    channels: Literal[1, 3] = Field(
        3, description="1 for grey, 3 for colour, of a folder's images."
    )
    on_bad: Literal["error", "skip"] = Field(
        "error",
        description="What to do about files that cannot be read: stop, or go on and report them.",
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

    def build(self) -> Experiment:
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import assemble

        if self.data is None:
            raise InputError("--data is missing: a folder of images, or a .npy or .npz file")
        whole = read_images(
            self.data, self.size, self.channels, self.on_bad, self.image_key, self.label_key
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
            drop=self.drop,
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
) -> Dataset:
    """A folder or an array of images, or also of vectors; what was left out is printed."""
    from rich.console import Console

    from pushforward.core.errors import InputError
    from pushforward.data import load_array, load_folder

    if data.suffix in (".npy", ".npz") and not data.is_dir():
        if size is not None:
            raise InputError("--size is for folders; an array keeps the size it has")
        whole = load_array(data, image_key, label_key)
    else:
        whole = load_folder(data, size, channels, on_bad)
    console = Console(highlight=False, stderr=True)
    for file, reason in whole.report:
        console.print(f"left out {file}: {reason}", markup=False, soft_wrap=True)
    if not whole.images and not (vectors and len(whole.shape) == 1):
        raise InputError(
            f"{data} holds samples of shape {whole.shape}; this recipe takes images (C, H, W)"
        )
    return whole
