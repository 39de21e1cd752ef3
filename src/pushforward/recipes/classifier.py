"""A classifier of any labelled images, whose features samples are judged by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.recipes.experiment import Classifying

# The name that stands for Fashion-MNIST in place of a folder or a file.
FASHION = Path("fashion")
# What its files are called.
IDX = "train-images-idx3-ubyte*"
# All options of these names are of noise or of models that draw samples, and a clean classifier has neither.
FOREIGN = (
    "prediction", "loss_in", "edm", "objective", "guidance", "coupling", "regularisation", "path", "std", "weight",
    "times", "simulation_steps",
)  # fmt: skip


class Classifier(Recipe):
    """Classifier of clean images: for evaluate --features and --classifier, not for guidance."""

    data: Path | None = Field(
        None,
        description="fashion for Fashion-MNIST, or the folder of its files; a folder of images with a subfolder for "
        "each class; or a .npz file with labels. Required.",
    )
    download: bool = Field(
        False, description="Get the files of fashion from their public home if they are not there."
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
    label_key: str | None = Field(None, description="Name of the labels in a .npz file.")
    held_out: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the data kept apart for evaluation; fashion has its own.",
    )
    width: int = Field(16, ge=8, description="Channels at full resolution.")
    multipliers: tuple[int, ...] = Field(
        (1, 2, 4, 8), min_length=1, description="Channels by resolution, over width."
    )
    blocks: int = Field(1, ge=1, description="Residual blocks at each resolution.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout in the residual blocks.")
    steps: int = Field(3500, ge=1, description="Optimiser steps.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW.")

    def build(self) -> Classifying:
        from pushforward.core.errors import InputError
        from pushforward.core.paths import CondOT
        from pushforward.core.times import Constant
        from pushforward.models.classifier import NoisyClassifier
        from pushforward.nets import ImageClassifier
        from pushforward.objectives import Classification
        from pushforward.recipes.experiment import Classifying
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled

        fields = type(self).model_fields
        for name in FOREIGN:
            if getattr(self, name) != fields[name].default:
                raise InputError(
                    f"a classifier of clean images has no use for --{name.replace('_', '-')}: leave it out"
                )
        train, held_out = self.read()
        classes = train.classes
        if train.labels is None or classes is None or classes < 2:
            raise InputError(
                f"{self.data} has no two classes to tell apart: give a folder with a subfolder for each class, or a "
                f".npz file with labels"
            )
        model = NoisyClassifier(
            seeded(
                lambda: ImageClassifier(
                    train.shape[0],
                    classes,
                    self.width,
                    self.multipliers,
                    self.blocks,
                    self.dropout,
                ),
                self.seed,
            ),
            CondOT(),
            classes=classes,
            shape=train.shape,
            info={
                "data": train.fingerprint(),
                "class_names": None if train.class_names is None else list(train.class_names),
                "value_range": list(train.value_range),
                # The only time at which it knows the classes: there is no noise at the end of this path.
                "times": [1.0],
            },
        ).to(find_device(self.device))
        return Classifying(
            model,
            Classification(model, Constant(1.0)),
            Shuffled(train, self.batch_size, self.seed),
            held_out,
            train.fingerprint(),
        )

    def read(self) -> tuple[Dataset, Dataset]:
        """The data trained on, and those kept apart."""
        from pushforward.core.errors import InputError
        from pushforward.recipes.images import read_images

        if self.data is None:
            raise InputError(
                "--data is missing: fashion, a folder of images by class, or a .npz file with labels"
            )
        own = any(self.data.glob(IDX))
        if own or self.data == FASHION:
            from pushforward.data.fashion import load_fashion

            return load_fashion(self.data if own else None, self.download)
        whole = read_images(
            self.data, self.size, self.channels, self.on_bad, self.image_key, self.label_key
        )
        return whole.split(1 - self.held_out, seed=0)
