"""`pushforward train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pushforward.cli.base import Command, say
from pushforward.cli.parse import HELP, HELP_ALL, named, pairs, parse, show_commands
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.flat import OptionError, choices, make, no_such
from pushforward.recipes.options import Options
from pushforward.recipes.recipe import Recipe

# Recipes of models that draw no pictures of a prompt by themselves.
PARTS_OF_UNCLIP = ("prior", "decoder", "upsampler")
# Steps by which a rehearsal prolongs a run.
FEW = 4


class Train(Command):
    """Train a model by a recipe, in a run folder."""

    shareable: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    name: str
    options: Mapping[str, Any]

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Self:
        name, *rest = words or [""]
        if name in (*HELP, HELP_ALL):
            show_commands(prog, cls.__doc__ or "", RECIPES)
        if not name:
            raise OptionError(f"which recipe? One of {', '.join(RECIPES)}; {prog} --help says more")
        if name not in RECIPES:
            raise OptionError(no_such("recipe", name, RECIPES))
        kind: type[Recipe] = RECIPES[name].find()
        given = parse(kind, rest, f"{prog} {name}", recorded_in(rest, Path("runs") / name, name))
        if not given.get("resume"):
            make(kind, given)
        return cls(name=name, options=given)

    def opening(self) -> str:
        return f"preparing {self.name}"

    @property
    def place(self) -> str:
        return str(self.options.get("device", "auto"))

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        if self.options.get("resume"):
            return {"options": {**self.options, **self.prolonged()}}
        return {"options": {**self.options, **above(make(RECIPES[self.name].find(), self.options))}}

    @property
    def folder(self) -> Path:
        return Path(self.options.get("out") or Path("runs") / self.name)

    def prolonged(self) -> dict[str, Any]:
        """In a rehearsal a run is prolonged by a few steps at most."""
        from pushforward.core.errors import CheckpointError
        from pushforward.recipes.config import recipe_of

        if "steps" not in self.options:
            return {}
        try:
            there = recipe_of(self.folder).optimiser.steps
        except CheckpointError:
            return {}  # `run` says what is wrong with the folder.
        return {"steps": min(int(self.options["steps"]), there + FEW)}

    def run(self) -> int:
        from pushforward.recipes import run, stages

        folder, kind = self.folder, RECIPES[self.name].find()
        runner = stages if kind.staged else run
        if self.options.get("resume"):
            fitted = not kind.staged and has_samplers(folder)
            run.require_recipe(folder, self.name)
            folder, signal = runner.resume(folder, self.options)
            if fitted:
                say(
                    f"the samplers that were fitted to the earlier weights are gone: fit them again with "
                    f"pushforward tune {folder}"
                )
        else:
            folder, signal = runner.train(make(kind, self.options))
        if signal:
            say(f"stopped; continue with: pushforward train {self.name} --out {folder} --resume")
            return 128 + signal
        if self.name == "autoencoder":
            say(
                f"done: {folder}. Judge it with: pushforward evaluate {folder}; train on its latents with: "
                f"pushforward train text-to-image --latents {folder}"
            )
            return 0
        if self.name == "clip":
            say(
                f"done: {folder}. Judge it with: pushforward evaluate {folder}; judge prompts by it with: "
                f"pushforward evaluate RUN --clip {folder}"
            )
            return 0
        if self.name == "captioner":
            say(
                f"done: {folder}. Judge it with: pushforward evaluate {folder}; write captions with: "
                f"pushforward caption {folder} --data FOLDER --out captions.jsonl"
            )
            return 0
        if self.name in PARTS_OF_UNCLIP:
            say(
                f"done: {folder}. Draw with it by: pushforward train unclip --{self.name}-run {folder}"
            )
            return 0
        if self.name == "unclip":
            say(
                f'done: {folder}. Draw pictures with: pushforward sample {folder} --prompt "..."; change pictures '
                f"with: pushforward edit {folder} --image X --variations 4"
            )
            return 0
        if self.name.endswith("classifier"):
            command = (
                "evaluate RUN --features"
                if self.name == "classifier"
                else "sample RUN --classifier"
            )
            use = "Judge samples by its features" if self.name == "classifier" else "Guide a model"
            say(f"done: {folder}. {use} with: pushforward {command} {folder}")
            return 0
        look = f" Look at {folder / 'samples'}." if (folder / "samples").is_dir() else ""
        say(f"done: {folder}.{look} Draw more with: pushforward sample {folder}")
        return 0


def recorded_in(
    words: Sequence[str], default: Path | None = None, name: str | None = None
) -> dict[str, str]:
    """The choices of the run that the words resume; {} if they resume none that can be read, or of another recipe.

    default: the run's folder, unless --out names one.
    """
    from pushforward.core.errors import CheckpointError
    from pushforward.recipes.config import recipe_of

    folder = pairs(words).get("out", default)
    if "resume" not in named(words) or folder is None:
        return {}
    try:
        recipe = recipe_of(Path(folder))
        return choices(recipe) if name in (None, recipe.name()) else {}
    except CheckpointError:
        return {}


def has_samplers(folder: Path) -> bool:
    """Whether the model in a folder has samplers fitted to it; no if there is none that can be read."""
    from pushforward.core.errors import CheckpointError
    from pushforward.saving.folder import load

    try:
        return bool(load(folder).sampling.fitted)
    except CheckpointError:
        return False
