"""Single cells of one population carried to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.recipes.families import SetMatching, SetObjective
from pushforward.recipes.networks import MLPChoice
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Cells(Recipe):
    """Residual MLP from the cells of one strain, or before a treatment, to those of another. Flow cytometry."""

    data: Path | None = option(
        None,
        "FCS file, or folder of them. Default: eleven wells of yeast, with the strains CFP, RFP and YFP, from the "
        "package FlowCytometryTools, which is downloaded once.",
    )
    source: str = option("CFP", "What the names of the files that cells start from begin with.")
    target: str = option(
        "YFP", "What the names of the files of the cells that they become begin with."
    )
    channels: tuple[str, ...] = option(
        (), "Channels to carry. Default: all but times and the widths of pulses."
    )
    cofactor: float = option(
        150.0,
        "Where asinh(x / cofactor) goes from linear to logarithmic.",
        gt=0,
        rare=True,
    )
    on_bad: Literal["error", "skip"] = option(
        "error", "Cells with values that are not finite: stop, or skip and report them.", rare=True
    )
    held_out: float = option(
        0.2, "Share of the cells kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    objective: SetObjective = pick(SetMatching, OBJECTIVE)
    network: MLPChoice = pick(MLPChoice, "Network.")
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=5000, batch_size=256, lr=2e-3, ema=0.999)
    )

    def build(self) -> Experiment:
        import hashlib

        from pushforward.core.errors import InputError
        from pushforward.core.spec import DataSpec
        from pushforward.data import Asinh, Dataset, load_cells
        from pushforward.data.cells import same_channels, usual_channels
        from pushforward.data.resampled import Resampled
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.images import tell
        from pushforward.recipes.set_to_set import CellMapping
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
        tell(f"skipped in {file}: {reason}" for part in cells for file, reason in part.report)
        tell(note for part in cells for note in part.notes)
        # Each population is divided alike; the scale is of the cells that are trained on, both populations together.
        parts = [
            Dataset.from_arrays(part.values).split(1 - self.held_out, seed=0) for part in cells
        ]
        scale = Asinh.fit([train.values[train.rows] for train, _ in parts], self.cofactor)
        (source, source_held), (target, target_held) = (
            tuple(scale.dataset(part.values[part.rows]) for part in pair) for pair in parts
        )
        channels = cells[0].channels
        prints = f"{source.fingerprint()} {target.fingerprint()}"
        spec = DataSpec(
            shape=(len(channels),),
            kind="vector",
            channels=channels,
            scale=scale.to_json(),
            fingerprint=hashlib.sha256(prints.encode()).hexdigest(),
        )
        return assemble(
            self,
            self.objective,
            self.network,
            target,
            target_held,
            spec,
            source=Resampled(source_held),
            source_name=f"cells: {self.source}",
            stream=Bridged(source, target, self.optimiser.batch_size, self.seed),
            kind=CellMapping,
            scale=scale,
            channels=channels,
            names=(self.source, self.target),
        )
