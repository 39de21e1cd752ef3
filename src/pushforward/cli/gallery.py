"""`pushforward gallery`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import DEVICE, Command, say
from pushforward.recipes.choices import LAWS
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.evaluate.figures.gallery import Entry


class Gallery(Command):
    """Compare runs in the plane in one figure: trajectories, which start goes with which end, densities."""

    folders: tuple[Path, ...] = option(..., "Run folders, all of one target law.", positional=True)
    out: Path = option(Path("gallery.png"), "The picture.")
    num: int = option(4000, "Samples of each run.", ge=2)
    noise: bool = option(False, "Bridges by their own process, not by its probability flow.")
    columns: int = option(5, "Runs side by side.", ge=1)
    seed: int = option(0, "Key of the samples.", ge=0, lt=2**64)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"drawing {len(self.folders)} runs"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.gallery import gallery
        from pushforward.runtime.files import write_file

        if not self.folders:
            raise InputError("which runs? Give their folders")
        models = {folder: self.model(folder) for folder in self.folders}
        names = {model.spec.law for model in models.values()}
        if len(names) > 1:
            raise InputError(
                f"these runs have several targets, {', '.join(sorted(names))}: a gallery is of one"
            )
        law = LAWS[names.pop()].make()
        data = law.sample(self.num, seed=(self.seed + 1) % 2**64)
        entries = [self.entry(folder, model, data) for folder, model in models.items()]
        settings = {
            "num": self.num,
            "seed": self.seed,
            "models": [model.provenance.sha256 for model in models.values()],
        }
        write_file(self.out, png(gallery(entries, data, columns=self.columns), settings))
        say(f"{len(entries)} runs in {self.out}")
        return 0

    def model(self, folder: Path) -> Any:
        from pushforward.core.errors import InputError
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        model = load(folder, find_device(self.device))
        if model.shape != (2,) or model.spec.law not in LAWS:
            raise InputError(f"{folder} is no run in the plane, as of the recipe toy2d")
        return model

    def entry(self, folder: Path, model: Any, data: Tensor) -> Entry:
        """Trajectories of a run, with the energy distance of their ends to the data."""
        import torch

        from pushforward.core.fields import FlowMap, ScoreField
        from pushforward.core.interpolants import BrownianBridge
        from pushforward.core.times import uniform
        from pushforward.evaluate.figures.gallery import Entry
        from pushforward.evaluate.metrics.energy import energy_distance
        from pushforward.models.diffflow import DiffFlowModel
        from pushforward.recipes.config import find_source
        from pushforward.sampling.generate import generate
        from pushforward.solvers import EulerMaruyama, Heun

        options: dict[str, Any] = {"solver": Heun(), "grid": uniform(100)}
        if isinstance(model, DiffFlowModel):
            options = {"nfe": model.steps}
        elif isinstance(model, FlowMap):
            options = {}
        elif model.sampling.nfe == 1:
            options = {"nfe": 1}
        elif (
            self.noise and isinstance(model, ScoreField) and isinstance(model.path, BrownianBridge)
        ):
            options["solver"] = EulerMaruyama(model.path.std)
        states: list[Tensor] = []
        ends = generate(
            model,
            self.num,
            source=find_source(model, folder),
            seed=self.seed,
            batch_size=self.num,
            callback=lambda i, t, x: states.append(x.double().cpu()),
            **options,
        )
        found = energy_distance(ends.cpu(), data)
        return Entry(folder.name, torch.stack(states), {"energy distance": found})
