"""Fashion-MNIST, 28 x 28, by class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.images import ImageRecipe, altered
from pushforward.recipes.options import Logging, Optimiser, option

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Fashion(ImageRecipe):
    """Class-conditional network on the 60 000 images of Fashion-MNIST; its 10 000 test images are held out."""

    data: Path | None = option(
        None, "Folder of the four IDX files. Default: that of Debian's package, or one's own cache."
    )
    download: bool = option(False, "Download the files from their public home if they are missing.")
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=20_000, batch_size=64, lr=1e-3, ema=0.999)
    )
    logging: Logging = Field(default_factory=lambda: Logging(sample_every=1000))

    def build(self) -> Experiment:
        from pushforward.data import load_fashion
        from pushforward.recipes.assemble import assemble

        train, held_out = load_fashion(self.data, self.download)
        return assemble(
            self, self.objective, self.network, altered(train, self.augment), held_out, train.spec
        )
