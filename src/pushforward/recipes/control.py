"""A trained model of images, steered by pictures: edges, masks, or the order of objects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pushforward.recipes.options import Choice, Optimiser, RunFolder, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.data import Dataset
    from pushforward.data.hints import Hint
    from pushforward.recipes.steered import Steered


class HintChoice(Choice):
    """What a picture is steered by."""

    def hint(self, data: Dataset, codec: Any = None) -> Hint:
        """That of the pictures of a data set, whose samples a codec decodes, if there is one."""
        raise NotImplementedError

    def of_picture(self, grey: Tensor) -> tuple[Tensor, str]:
        """A hint (1, 1, H, W) from grey levels (H, W) between 0 and 1, and what was done with them."""
        return grey[None, None], "as it is"

    @property
    def changes(self) -> dict[str, Any]:
        """What the options of the base's recipe must be, where it has them."""
        return {}


class EdgesChoice(HintChoice):
    """Edges by Canny's detector (extra control)."""

    name: Literal["edges"] = "edges"
    sigma: float = option(1.0, "Width of the Gaussian before edges are found, in pixels.", gt=0)
    low: float = option(0.1, "Lower threshold of the gradient of brightness.", gt=0, rare=True)
    high: float = option(0.2, "Upper threshold of the gradient of brightness.", gt=0, rare=True)

    def require(self) -> None:
        from pushforward.data.hints import find_canny

        find_canny()

    def edges(self, value_range: tuple[float, float] = (0.0, 1.0), codec: Any = None) -> Any:
        from pushforward.data.hints import Edges

        decode = None if codec is None else codec.decode
        return Edges(self.sigma, self.low, self.high, value_range, decode)

    def hint(self, data: Dataset, codec: Any = None) -> Hint:
        found: Hint = self.edges(data.value_range if codec is None else (-1.0, 1.0), codec)
        return found

    def of_picture(self, grey: Tensor) -> tuple[Tensor, str]:
        if set(grey.unique().tolist()) <= {0.0, 1.0}:
            return grey[None, None], "as it is, since it is black and white"
        return self.edges().of(grey[None, None]), "by its edges"


class MasksChoice(HintChoice):
    """Masks, 1 where there is something: of scenes, or pictures in a folder of their own."""

    name: Literal["masks"] = "masks"
    masks: Path | None = option(
        None, "Folder of masks, of the names of the pictures. Default: those of scenes."
    )

    def hint(self, data: Dataset, codec: Any = None) -> Hint:
        return from_files(self.masks, data) if self.masks else of_scenes(data, "masks")

    @property
    def changes(self) -> dict[str, Any]:
        return {"lazy": "yes"} if self.masks else {}


class OrderChoice(HintChoice):
    """The order of objects from back to front, in grey levels: of scenes, or pictures in a folder of their own."""

    name: Literal["order"] = "order"
    masks: Path | None = option(
        None, "Folder of grey pictures, of the names of the pictures. Default: those of scenes."
    )

    def hint(self, data: Dataset, codec: Any = None) -> Hint:
        return from_files(self.masks, data) if self.masks else of_scenes(data, "order")

    @property
    def changes(self) -> dict[str, Any]:
        return {"lazy": "yes"} if self.masks else {}


def of_scenes(data: Dataset, what: Literal["masks", "order"]) -> Hint:
    from pushforward.core.errors import InputError
    from pushforward.data.hints import SceneHint

    graphs = getattr(data.values, "graphs", None)
    if graphs is None:
        raise InputError(
            f"these data say nothing of objects, as scenes do: give pictures of the same names by --masks FOLDER, or "
            f"take --control edges instead of {what}"
        )
    return SceneHint(graphs, data.values.shape[1], what)


def from_files(folder: Path, data: Dataset) -> Hint:
    from pushforward.core.errors import InputError
    from pushforward.data import Pictures
    from pushforward.data.hints import MaskFiles

    values = data.values
    if not isinstance(values, Pictures):
        raise InputError("--masks is for data in files, which have names: a folder of images")
    if not folder.is_dir():
        raise InputError(f"--masks {folder} is no folder")
    if values.crop == "random":
        raise InputError(
            "pictures are cropped at random, and masks would stay: train without --crop"
        )
    root = Path(getattr(values.source, "root", "."))
    names = [os.path.relpath(values.source.name(k), root) for k in range(len(values))]
    found = MaskFiles(folder, names, values.frame)
    for name in names:
        found.find(name)
    return found


AnyHint = Annotated[EdgesChoice | MasksChoice | OrderChoice, Field(discriminator="name")]


class Control(Recipe):
    """ControlNet: steer the model of a run by pictures, its weights locked and a copy of its first half trained.

    Data, objective and times are those of the run. What is saved is the copy, and the run by its SHA-256.
    """

    base: RunFolder = option(..., "Run folder of the model to steer.", positional=True)
    control: AnyHint = pick(EdgesChoice, "What it is steered by.")
    hint_width: int = option(32, "Channels that hints are read by.", ge=1, rare=True)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=2000, batch_size=64, lr=5e-4, ema=0.99)
    )

    def require(self) -> None:
        from pushforward.core.errors import InputError

        super().require()
        if self.machine.parallel == "fsdp":
            raise InputError(
                "--parallel fsdp splits networks that are called as a whole, and a locked one is called by halves: "
                "take --parallel ddp"
            )

    def build(self) -> Steered:
        from dataclasses import fields, is_dataclass, replace

        from pushforward.core.errors import InputError
        from pushforward.data import Dataset
        from pushforward.data.hints import OfRows
        from pushforward.models.model import Model
        from pushforward.recipes.conditions import of_data
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Experiment
        from pushforward.recipes.run import folder_of
        from pushforward.recipes.steered import Steered
        from pushforward.runtime.device import find_device, seeded
        from pushforward.saving.control import Control as Steering
        from pushforward.saving.control import controlled, controls_of, parts_of_base
        from pushforward.saving.folder import load
        from pushforward.streams.hinted import Hinted

        device, name = find_device(self.place.device), self.control.name
        base = load(self.base, device)
        if not isinstance(base, Model) or base.spec.kind != "image":
            raise InputError(
                f"{self.base} holds a {type(base).__name__} of the kind {base.spec.kind}; a Model of images is steered"
            )
        if controls_of(base):
            raise InputError(
                f"{self.base} is a control itself: train another one on its base, and put both on it by --with"
            )
        recipe = recipe_of(self.base, out=self.base, device=self.place.device)
        there = recipe.flat()
        changes = {key: value for key, value in self.control.changes.items() if key in there}
        if there.get("buckets", 1) > 1:
            # Hints are learned from squares, and networks of images take any size.
            changes["buckets"] = 1
        parts: Any = recipe.changed(
            changes, batch_size=self.optimiser.batch_size, seed=self.seed
        ).build()
        if (
            not isinstance(parts, Experiment)
            or parts.prepare
            or not isinstance(parts.data, Dataset)
        ):
            raise InputError(
                f"{self.base} is a run of the recipe {recipe.name()}, which has no data of its own: take the run that "
                f"it comes from"
            )
        objective: Any = parts.objective
        if (
            not is_dataclass(type(objective))
            or getattr(objective, "model", None) is not parts.model
        ):
            raise InputError(
                f"{self.base} was trained by {type(objective).__name__}, and controls learn by objectives of one model"
            )
        codec = base.codec
        steering = seeded(lambda: Steering.of(base, name, width=self.hint_width), self.seed)
        model = controlled(base, [steering])
        model.spec = model.spec.with_(
            fingerprint=parts.fingerprint, shape=parts.data.shape, frames=None
        )
        model.provenance = replace(model.provenance, recipe=self.name(), step=None)

        def with_hints(data: Dataset, codec: Any = None) -> Dataset:
            hint = self.control.hint(data, codec)
            if data.augment is not None and not hint.moves:
                raise InputError(
                    f"the run of {self.base} mirrors or moves its pictures, and {name} would stay: train the base "
                    f"without"
                )
            return replace(data, hints={name: hint})

        data = with_hints(parts.data)
        held_out = None if parts.held_out is None else with_hints(parts.held_out)
        validated = parts.validated
        if parts.validated and parts.held_out is not None:
            # Latents of held-out data, whose hints are those of the pictures.
            hint: Any = self.control.hint(parts.held_out, codec)
            rows = parts.held_out.rows
            hints: dict[str, Any] = {name: hint if rows is None else OfRows(hint, rows)}
            validated = tuple(replace(part, hints=hints) for part in parts.validated)
        shown = data if held_out is None else held_out
        where = Path(os.path.relpath(self.base, folder_of(self))).as_posix()
        same = {f.name: getattr(parts, f.name) for f in fields(Experiment)}
        return Steered(
            **same
            | {
                "model": model,
                "objective": replace(objective, model=model),
                # Its samples are latents where there is a codec.
                "stream": Hinted(parts.stream, with_hints(parts.data, codec)),
                "data": data,
                "held_out": held_out,
                "validated": validated,
                "conditions": of_data(shown),
                "references": parts_of_base(model, where),
            },
            name=name,
            edges=self.control.edges((-1.0, 1.0))
            if isinstance(self.control, EdgesChoice)
            else None,
            scenes=bool(getattr(parts, "scenes", False)),
        )
