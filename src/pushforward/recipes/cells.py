"""Single cells of one population carried to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.options import CouplingName, Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Cells(Recipe):
    """Residual MLP from the cells of one strain, or before a treatment, to those of another. Flow cytometry."""

    data: Path | None = Field(
        None,
        description="FCS file, or folder of them. Left out: eleven wells of yeast, with the strains CFP, RFP and YFP, "
        "from the package FlowCytometryTools, which is fetched once.",
    )
    source: str = Field(
        "CFP", description="What the names of the files that cells start from begin with."
    )
    target: str = Field(
        "YFP", description="What the names of the files of the cells to come to begin with."
    )
    channels: tuple[str, ...] = Field(
        (), description="Channels to carry. Left out: all but times and the widths of pulses."
    )
    cofactor: float = Field(
        150.0, gt=0, description="Where asinh(x / cofactor) goes from linear to logarithmic."
    )
    on_bad: Literal["error", "skip"] = Field(
        "error", description="What to do about cells with values that are not finite."
    )
    held_out: float = Field(
        0.2, gt=0, lt=1, description="Share of the cells kept apart for evaluation."
    )
    coupling: CouplingName = Field(
        "ot", description="How source and data are paired within a batch."
    )
    width: int = Field(128, ge=2, multiple_of=2, description="Width of the hidden layers.")
    depth: int = Field(3, ge=1, description="Residual blocks.")
    steps: int = Field(5000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(256, ge=1, description="Samples in a step.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    ema: float = Field(
        0.999, ge=0, lt=1, description="Decay of the average of weights that is sampled."
    )

    def build(self) -> Experiment:
        import hashlib

        from rich.console import Console

        from pushforward.core.errors import InputError
        from pushforward.data import Asinh, Dataset, load_cells
        from pushforward.data.cells import same_channels, usual_channels
        from pushforward.data.resampled import Resampled
        from pushforward.nets import MLP
        from pushforward.recipes.experiment import assemble
        from pushforward.recipes.set_to_set import CellMapping, become
        from pushforward.streams.paired import Bridged

        cells = [
            load_cells(name, self.data, self.channels or usual_channels, self.on_bad)
            for name in (self.source, self.target)
        ]
        same_channels(cells)
        shared = cells[0].wells.keys() & cells[1].wells.keys()
        if shared:
            raise InputError(
                f"--source {self.source} and --target {self.target} are both of {', '.join(sorted(shared))}: "
                f"name files that differ"
            )
        console = Console(highlight=False, stderr=True)
        for file, reason in (line for part in cells for line in part.report):
            console.print(f"left out of {file}: {reason}", markup=False, soft_wrap=True)
        for note in (note for part in cells for note in part.notes):
            console.print(note, markup=False, soft_wrap=True)
        # Each population is divided alike; the scale is of the cells that are trained on, both populations together.
        parts = [
            Dataset.from_arrays(part.values).split(1 - self.held_out, seed=0) for part in cells
        ]
        scale = Asinh.fit([train.values[train.rows] for train, _ in parts], self.cofactor)
        (source, source_held), (target, target_held) = (
            tuple(scale.dataset(part.values[part.rows]) for part in pair) for pair in parts
        )
        dim = len(cells[0].channels)
        prints = f"{source.fingerprint()} {target.fingerprint()}"
        experiment = assemble(
            self,
            lambda outputs, **more: MLP(dim, self.width, self.depth, outputs=outputs, **more),
            target,
            target_held,
            shape=(dim,),
            classes=None,
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
            info={
                "source": f"cells: {self.source}",
                "target": f"cells: {self.target}",
                "channels": list(cells[0].channels),
                "scale": scale.to_json(),
            },
            source=Resampled(source_held),
            stream=Bridged(source, target, self.batch_size, self.seed),
        )
        return become(
            CellMapping,
            experiment,
            scale=scale,
            channels=cells[0].channels,
            names=(self.source, self.target),
        )
