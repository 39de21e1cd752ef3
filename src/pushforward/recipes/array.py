"""Arrays of any kind: vectors, signals, images, volumes, with conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.families import ConditionalMatching, ConditionalObjective
from pushforward.recipes.networks import NETWORK, AnyNetwork, Auto
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Array(Recipe):
    """Vectors, signals (C, L), images (C, H, W) or volumes (C, D, H, W) of a .npy or .npz file, and their conditions.

    Every other array of a .npz file that has an entry for each sample is a condition: labels, or numbers.
    """

    data: Path = option(..., ".npy or .npz file.")
    kind: Literal["auto", "vector", "plane", "signal", "image", "volume"] = option(
        "auto", "What the samples are; auto: by the number of their axes.", rare=True
    )
    sample_key: str | None = option(None, "Name of the samples in a .npz file.", rare=True)
    label_key: str | None = option(None, "Name of the labels in a .npz file.", rare=True)
    columns: tuple[str, ...] | None = option(
        None, "Names of the arrays of a .npz file that are conditions. Default: all.", rare=True
    )
    held_out: float = option(
        0.1, "Share of the data kept apart for evaluation; 0: train on all.", ge=0, lt=1
    )
    objective: ConditionalObjective = pick(ConditionalMatching, OBJECTIVE)
    network: AnyNetwork = pick(Auto, NETWORK)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=5000, batch_size=128, ema=0.999)
    )

    def build(self) -> Experiment:
        from pushforward.data import load_array
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.conditions import as_numbers, of_data, widths
        from pushforward.recipes.images import divided, tell

        columns = self.columns if self.data.suffix == ".npz" else ()
        whole = load_array(
            self.data,
            self.sample_key,
            self.label_key,
            columns=columns,
            kind=None if self.kind == "auto" else self.kind,
        )
        tell([*whole.notes, *(f"skipped {file}: {reason}" for file, reason in whole.report)])
        whole = as_numbers(whole)
        features = widths(whole)
        train, held_out = divided(whole, self.held_out)
        return assemble(
            self,
            self.objective,
            self.network,
            train,
            held_out,
            train.spec,
            features=features,
            conditions=of_data(train) if features else None,
        )
