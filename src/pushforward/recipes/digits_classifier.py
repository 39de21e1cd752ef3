"""A classifier of noisy digits, for guidance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Classifying


class DigitsClassifier(Recipe):
    """Classifier of noisy digits, on the half that the recipe digits trains on: for sample --classifier."""

    lr: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW.")
    width: int = Field(32, ge=8, description="Channels at full resolution.")
    blocks: int = Field(1, ge=1, description="Residual blocks at each resolution.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout in the residual blocks.")
    steps: int = Field(500, ge=1, description="Optimiser steps.")

    def build(self) -> Classifying:
        from pushforward.core.errors import InputError
        from pushforward.data import load_digits
        from pushforward.models.classifier import NoisyClassifier
        from pushforward.nets import ImageClassifier
        from pushforward.objectives import Classification
        from pushforward.recipes.experiment import Classifying
        from pushforward.recipes.objectives import find_path
        from pushforward.recipes.tables import training_times
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled

        if (self.prediction, self.loss_in, self.edm, self.objective, self.coupling, self.weight) != (
            "auto", None, False, "matching", "independent", "none",
        ):  # fmt: skip
            raise InputError(
                "a classifier predicts classes: leave --prediction, --loss-in, --edm, --objective, --coupling and "
                "--weight out"
            )
        train, held_out = load_digits().halves(seed=0)
        path = find_path(self, gaussian_source=True)
        model = NoisyClassifier(
            seeded(
                lambda: ImageClassifier(1, 10, self.width, (1, 2), self.blocks, self.dropout),
                self.seed,
            ),
            path,
            classes=10,
            shape=train.shape,
            info={
                "data": train.fingerprint(),
                "class_names": [str(d) for d in range(10)],
            },
        ).to(find_device(self.device))
        return Classifying(
            model,
            Classification(model, training_times(self.times, path, self.low_discrepancy)),
            Shuffled(train, self.batch_size, self.seed),
            held_out,
            train.fingerprint(),
        )
