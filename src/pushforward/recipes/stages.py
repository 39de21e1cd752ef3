"""Runs in stages: each a run of its own in STAGES of the folder, and at last what is made of them all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.models.base import ModelBase


@dataclass(frozen=True)
class Stage:
    """A run of `recipe` in `folder`."""

    name: str
    folder: Path
    recipe: Recipe


class Staged(Recipe):
    """A recipe whose model is put together from the models of several runs.

    Its steps and its other options of the optimiser are those of the stage that says so; it trains nothing itself.
    """

    staged: ClassVar[bool] = True

    def build(self) -> NoReturn:
        from pushforward.core.errors import InputError

        raise InputError(
            f"a run of {self.name()} is put together from its stages, which are runs of their own: name one of these"
        )

    @abstractmethod
    def stages(self, folder: Path) -> list[Stage]:
        """The runs in order, for a run in this folder. InputError for what cannot become one model, where that is seen
        before anything is trained."""

    @abstractmethod
    def compose(self, folder: Path) -> ModelBase:
        """What is made of the models of all stages."""


def train(recipe: Staged, quiet: bool = False) -> tuple[Path, int]:
    """Start a run of stages, or resume it; as `run.train`."""
    from pushforward.recipes import run
    from pushforward.recipes.config import CONFIG, written
    from pushforward.runtime.files import write_file
    from pushforward.runtime.processes import Processes

    folder = run.folder_of(recipe)
    if recipe.place.resume:
        return resume(folder, {"device": recipe.place.device}, quiet)
    processes = Processes.current()
    processes.first(lambda: run.require_room(recipe, folder))
    recipe.require()
    recipe.stages(folder)
    if run.replaces(recipe, folder):
        require_kept(recipe, folder)
        processes.first(lambda: _clear(folder))
    processes.first(lambda: run.create(folder))
    processes.first(lambda: write_file(folder / CONFIG, written(recipe)))
    return _finish(recipe, folder, quiet)


def resume(
    folder: Path, given: Mapping[str, Any] | None = None, quiet: bool = False
) -> tuple[Path, int]:
    """Continue a run of stages with its own options: those that are done are skipped; as `run.resume`."""
    from pushforward.recipes import run
    from pushforward.recipes.config import CONFIG, written
    from pushforward.runtime.files import write_file
    from pushforward.runtime.processes import Processes

    recipe = run.resumed(folder, given or {})
    assert isinstance(recipe, Staged)
    Processes.current().first(lambda: write_file(folder / CONFIG, written(recipe)))
    return _finish(recipe, folder, quiet)


def _finish(recipe: Staged, folder: Path, quiet: bool) -> tuple[Path, int]:
    from pushforward.recipes import run
    from pushforward.recipes.card import write_card
    from pushforward.recipes.images import tell
    from pushforward.runtime.files import locked
    from pushforward.runtime.processes import Processes
    from pushforward.saving.folder import save

    processes = Processes.current()
    with locked(folder) if processes.lead else nullcontext():
        stages = recipe.stages(folder)
        for number, stage in enumerate(stages, 1):
            there, done = processes.first(partial(_state, stage))
            if done:
                continue
            if not quiet:
                tell([f"stage {number} of {len(stages)}: {stage.name}, in {stage.folder}"])
            own = stage.recipe.place
            if there:
                more = {"device": own.device, "steps": stage.recipe.optimiser.steps}
                _, signal = run.resume(stage.folder, more, quiet)
            else:
                # What there may be was cut off before its first checkpoint.
                place = own.model_copy(update={"overwrite": True})
                _, signal = run.train(stage.recipe.model_copy(update={"place": place}), quiet)
            if signal:
                return folder, signal

        def together() -> None:
            save(recipe.compose(folder), folder)
            write_card(folder)

        processes.first(together)
    return folder, 0


def _state(stage: Stage) -> tuple[bool, bool]:
    """Whether a run has begun, and whether it has taken all its steps."""
    from pushforward.recipes.config import CONFIG
    from pushforward.saving.folder import DESCRIPTION
    from pushforward.train.checkpoint import Checkpoints

    steps = Checkpoints(stage.folder / "checkpoints").steps()
    last = steps[-1] if steps else 0
    there = (stage.folder / CONFIG).is_file() and bool(steps)
    whole = there and (stage.folder / DESCRIPTION).is_file()
    return there, whole and last >= stage.recipe.optimiser.steps


def require_kept(recipe: Staged, folder: Path) -> None:
    """InputError if a run that is taken is in a folder that will be deleted."""
    from pushforward.core.errors import InputError
    from pushforward.recipes.flat import flag_of, values

    for name, value in values(recipe).items():
        paths = value if isinstance(value, tuple) else (value,)
        for path in paths:
            own = isinstance(path, Path) and name != "out"
            if own and path.resolve().is_relative_to(folder.resolve()):
                raise InputError(
                    f"--overwrite would delete {path}, which {flag_of(name)} names: choose another --out"
                )


def _clear(folder: Path) -> None:
    """Delete a run with its stages."""
    import shutil

    from pushforward.recipes import run
    from pushforward.recipes.config import STAGES

    run.clear(folder)
    shutil.rmtree(folder / STAGES, ignore_errors=True)
