"""What every recipe has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from pushforward.recipes import flat
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.options import Logging, Machine, Optimiser, Options, Place, option

if TYPE_CHECKING:
    from pushforward.recipes.experiment import AnyExperiment


class Recipe(Options, ABC):
    """A complete configuration of a training run.

        Toy2D.of(target="moons", objective="sf2m", coupling="ot", std=0.5, steps=100, out="runs/bridge")

    Every option has a flat name of its own, whatever group or choice it is in: `of` takes these. Which ones there are
    depends on what is chosen.
    """

    # Whether it is a recipe of `stages`, which trains nothing itself.
    staged: ClassVar[bool] = False

    place: Place = Field(default_factory=Place)
    seed: int = option(0, "Key of all randomness.", ge=0, lt=2**64, rare=True)
    optimiser: Optimiser = Field(default_factory=Optimiser)
    machine: Machine = Field(default_factory=Machine)
    logging: Logging = Field(default_factory=Logging)

    def rules(self) -> dict[str, Any] | None:
        """The optimisers by the keys of the losses; None for AdamW of all."""
        return self.optimiser.rules()

    @abstractmethod
    def build(self) -> AnyExperiment:
        """Everything that the run needs, a function of these options alone."""

    def settled(self) -> Self:
        """The recipe with what depends on its data decided, so that it is recorded. Called before a run is built."""
        return self

    @classmethod
    def name(cls) -> str:
        """The recipe's name in the table."""
        here = f"{cls.__module__.removeprefix('pushforward.')}:{cls.__qualname__}"
        return next(name for name, entry in RECIPES.items() if entry.target == here)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """A recipe by flat names. Raises InputError for one that does not exist here, or a value that cannot be."""
        return flat.make(cls, {name.rstrip("_"): value for name, value in options.items()})

    def flat(self) -> dict[str, Any]:
        """All options by their flat names; `of` makes the recipe from them."""
        return flat.values(self)

    def changed(self, options: Mapping[str, Any] | None = None, **more: Any) -> Self:
        """The recipe with some options, by flat name, changed."""
        return type(self).of(**self.flat() | dict(options or {}) | more)

    def recorded(self) -> dict[str, Any]:
        """What says what the run computes, as TOML values, nested; what is None is omitted."""
        found: dict[str, Any] = self.model_dump(mode="json", exclude={"place"}, exclude_none=True)
        return found
