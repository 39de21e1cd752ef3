"""Pictures with captions, as several recipes read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pushforward.recipes.images import FilePictures, divided, read_images, tell

if TYPE_CHECKING:
    from pushforward.data import Dataset

Captions = Literal["mixed", "short", "descriptive", "noisy"]
MADE = ("scenes", "emoji")


class Captioned(Protocol):
    """The options that say which pictures to read."""

    @property
    def data(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def captions(self) -> Captions: ...
    @property
    def held_out(self) -> float: ...
    @property
    def package(self) -> Path | None: ...
    @property
    def pictures(self) -> FilePictures: ...


def read_captioned(
    recipe: Captioned,
    files: Callable[[Path], Dataset],
    also: Callable[[Dataset], Dataset] = lambda whole: whole,
) -> tuple[Dataset, Dataset | None]:
    """The data to train on, and those kept apart. files: reads a folder, archives or an array. also: what is done to
    the data before some are kept apart; of scenes those to train on."""
    from pushforward.core.errors import InputError
    from pushforward.data.encoded import texts_of
    from pushforward.data.scenes import load_scenes

    if recipe.data in MADE and recipe.pictures.channels != 3:
        raise InputError(f"{recipe.data} are in colour: omit --channels")
    if recipe.data == "scenes":
        size = recipe.pictures.size or 32
        train = also(load_scenes(recipe.number, size, captioned=recipe.captions))
        # They show combinations that the others do not.
        apart = max(round(recipe.held_out * recipe.number), 20)
        return train, load_scenes(apart, size, 1, recipe.captions, held_out=True)
    if recipe.data == "emoji":
        from pushforward.data.emoji import load_emoji, split_by_name

        whole = load_emoji(recipe.pictures.size or 64, recipe.package)
        tell(whole.notes)
    else:
        whole = files(Path(recipe.data))
    # Before some are held out: rows that are named are those of the whole.
    texts_of(whole, "caption")
    # A text takes the place of a class.
    whole = also(replace(whole, labels=None, classes=None, class_names=None))
    if recipe.data == "emoji" and recipe.held_out:
        return split_by_name(whole, recipe.held_out)
    return divided(whole, recipe.held_out)


def read_pairs(recipe: Captioned) -> tuple[Dataset, Dataset]:
    """The same of a recipe that judges by pairs kept apart, of which it needs two."""
    from pushforward.core.errors import InputError

    train, held_out = read_captioned(recipe, lambda path: read_images(path, recipe.pictures))
    if held_out is None or len(held_out) < 2:
        raise InputError(
            f"{recipe.data} leaves less than two pictures to judge by: raise --held-out, or give more pictures"
        )
    return train, held_out
