"""`pushforward train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from pushforward.cli.base import Command, say, subcommands
from pushforward.recipes import RECIPES

AnyRecipe: Any = Annotated[subcommands(RECIPES), tyro.conf.arg(name="")]


class Train(Command):
    """Train a model by a recipe, in a run folder."""

    shareable = True

    recipe: AnyRecipe

    @property
    def place(self) -> str:
        return str(self.recipe.device)

    def run(self) -> int:
        from pushforward.recipes.experiment import train

        name = next(name for name, recipe in RECIPES.items() if type(self.recipe) is recipe)
        fitted = bool(self.recipe.resume) and has_samplers(self.recipe.out or Path("runs") / name)
        folder, signal = train(name, self.recipe)
        if fitted:
            say(
                f"the samplers that were fitted to the earlier weights are gone: fit them again with "
                f"pushforward tune {folder}"
            )
        if signal:
            say(f"stopped; go on with: pushforward train {name} --out {folder} --resume")
            return 128 + signal
        if name.endswith("classifier"):
            command = (
                "evaluate RUN --features" if name == "classifier" else "sample RUN --classifier"
            )
            use = "Judge samples by its features" if name == "classifier" else "Guide a model"
            say(f"done: {folder}. {use} with: pushforward {command} {folder}")
            return 0
        look = f" Look at {folder / 'samples'}." if (folder / "samples").is_dir() else ""
        say(f"done: {folder}.{look} Draw more with: pushforward sample {folder}")
        return 0


def has_samplers(folder: Path) -> bool:
    """Whether the model in a folder has samplers fitted to it; no if there is none that can be read."""
    from pushforward.core.errors import CheckpointError
    from pushforward.saving.folder import load

    try:
        return bool(load(folder).info.get("samplers"))
    except CheckpointError:
        return False
