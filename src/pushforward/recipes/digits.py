"""Handwritten digits, 8 x 8, by class: a minute's worth of training on real data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Digits(Recipe):
    """Class-conditional U-Net on half of scikit-learn's 1797 digits; the other half is held out."""

    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    width: int = Field(32, ge=8, description="Channels at full resolution.")
    blocks: int = Field(1, ge=1, description="Residual blocks at each resolution.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout in the residual blocks.")
    condition_dropout: float = Field(
        0.1, ge=0, le=1, description="Share of samples trained without their class."
    )

    def build(self) -> Experiment:
        from pushforward.data import load_digits
        from pushforward.nets import UNet
        from pushforward.recipes.experiment import assemble

        digits = load_digits()
        train, held_out = digits.halves(seed=0)
        return assemble(
            self,
            lambda outputs, **more: UNet(
                1,
                self.width,
                (1, 2),
                self.blocks,
                classes=10,
                dropout=self.dropout,
                outputs=outputs,
                **more,
            ),
            train,
            held_out,
            shape=train.shape,
            classes=10,
            fingerprint=train.fingerprint(),
            info={
                "value_range": list(train.value_range),
                "class_names": [str(d) for d in range(10)],
            },
            condition_dropout=self.condition_dropout,
        )
