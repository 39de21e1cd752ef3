"""Handwritten digits, 8 x 8, by class: a minute's worth of training on real data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pushforward.recipes.families import ConditionalMatching, ConditionalObjective
from pushforward.recipes.networks import NETWORK, ImageNetwork, UNetChoice
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Optimiser, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Digits(Recipe):
    """Class-conditional U-Net on half of scikit-learn's 1797 digits; the other half is held out."""

    objective: ConditionalObjective = pick(ConditionalMatching, OBJECTIVE)
    network: ImageNetwork = pick(UNetChoice, NETWORK)
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(lr=2e-3))

    def build(self) -> Experiment:
        from pushforward.data import load_digits
        from pushforward.recipes.assemble import assemble

        train, held_out = load_digits().halves(seed=0)
        return assemble(self, self.objective, self.network, train, held_out, train.spec)
