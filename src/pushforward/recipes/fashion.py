"""Fashion-MNIST, 28 x 28, by class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.networks import ImageRecipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Fashion(ImageRecipe):
    """Class-conditional network on the 60 000 images of Fashion-MNIST; its 10 000 test images are held out."""

    data: Path | None = Field(
        None,
        description="Folder of the four IDX files. Left out: that of Debian's package, or one's own cache.",
    )
    download: bool = Field(
        False, description="Get the files from their public home if they are not there."
    )
    steps: int = Field(20_000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(64, ge=1, description="Samples in a step.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    ema: float = Field(
        0.999, ge=0, lt=1, description="Decay of the average of weights that is sampled."
    )
    sample_every: int = Field(1000, ge=0, description="Steps between sample pictures; 0 for none.")

    def build(self) -> Experiment:
        from pushforward.data import load_fashion
        from pushforward.recipes.experiment import assemble
        from pushforward.recipes.images import altered

        train, held_out = load_fashion(self.data, self.download)
        assert train.class_names is not None
        return assemble(
            self,
            self.factory(1, train.classes),
            altered(train, self),
            held_out,
            shape=train.shape,
            classes=train.classes,
            fingerprint=train.fingerprint(),
            info={"value_range": list(train.value_range), "class_names": list(train.class_names)},
            condition_dropout=self.condition_dropout,
        )
