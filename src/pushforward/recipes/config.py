"""config.toml of a run folder: the recipe's name and its options, nested as the recipe nests them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from pydantic import ValidationError

from pushforward.core.errors import CheckpointError, InputError
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.flat import explain
from pushforward.recipes.options import Place
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.laws import Law
    from pushforward.recipes.experiment import Experiment

CONFIG = "config.toml"
# The folder in that of a distilled run which holds those of its earlier stages.
STAGES = "stages"


def written(recipe: Recipe) -> bytes:
    """The file that `recipe_of` reads."""
    return tomli_w.dumps({"recipe": recipe.name(), **recipe.recorded()}).encode()


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The recipe's name and its recorded options, nested, from a run folder."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run folder: it has no {CONFIG}")
    try:
        options = tomllib.loads(path.read_text())
        return str(options.pop("recipe")), options
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def recipe_of(folder: Path, **place: Any) -> Recipe:
    """The recipe of a run folder, as recorded; `place` gives out, resume, device, ..."""
    name, options = read_config(folder)
    path = folder / CONFIG
    if name not in RECIPES:
        raise CheckpointError(f"{path} names the recipe {name!r}; known are {', '.join(RECIPES)}")
    if "steps" in options or "batch_size" in options:
        raise CheckpointError(
            f"{path} is of an older version of pushforward, whose options were not grouped: train the model anew"
        )
    if "place" in options:
        raise CheckpointError(f"{path}: options of place are for the command line, remove [place]")
    kind: type[Recipe] = RECIPES[name].find()
    try:
        return kind.model_validate(options | {"place": Place(**place)})
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explain(error, in_file=True)}") from error


def experiment_of(folder: Path, **place: Any) -> Experiment:
    """The experiment of a run folder, its network untrained."""
    from pushforward.recipes.experiment import Experiment

    experiment = recipe_of(folder, **place).build()
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"{folder} is the run of a classifier, an autoencoder, a CLIP or a captioner: its model draws no samples"
        )
    return experiment


def find_source(model: Any, folder: Path) -> Law | None:
    """What samples of the model in a run folder start from; None for Gaussian noise."""
    from pushforward.recipes.choices import LAWS

    name = model.sampling.source
    if name is None:
        return None
    if name in LAWS:
        law: Law = LAWS[name].make()
        return law
    return experiment_of(folder).source
