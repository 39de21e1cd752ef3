"""Options of commands that draw pictures under hints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pushforward.recipes.options import Options, option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.nets.control import Branch


class Steering(NamedTuple):
    """A model with controls, the hint (1, C, H, W) of each by name, and both in words for what is drawn."""

    model: Any
    hints: dict[str, Tensor]
    settings: dict[str, Any]


class Hinted(Options):
    """By which pictures what is drawn is steered."""

    control_image: Path | None = option(
        None,
        "Hint of a control: a picture of edges, masks or grey levels; edges are found in a picture that is not black "
        "and white. Default: hints of held-out data.",
        rare=True,
    )
    control_strength: tuple[float, ...] = option(
        (), "Strength of the control, and of those of --with in turn; 0 is none.", rare=True
    )
    with_: tuple[str, ...] = option(
        (),
        "Another control of the same base and its hint, RUN=X.png; several, each after a --with of its own.",
        rare=True,
        append=True,
    )

    def steered(self, model: Any, folder: Path, sides: tuple[int, int]) -> Steering:
        """The model with all controls at their strengths. folder: its run; sides: (H, W) of its states."""
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.models.model import Model
        from pushforward.saving.control import controlled, controls_of, load_control, strengthened

        own = controls_of(model) if isinstance(model, Model) else {}
        if not own:
            for flag, given in (
                ("--control-image", self.control_image), ("--control-strength", self.control_strength),
                ("--with", self.with_),
            ):  # fmt: skip
                if given:
                    raise InputError(
                        f"{flag} needs the run of a control, as of pushforward train control RUN, and {folder} is none"
                    )
            return Steering(model, {}, {})
        hints: dict[str, Tensor] = {}
        settings: dict[str, Any] = {}
        if self.control_image is not None:
            if len(own) > 1:
                raise InputError(f"{folder} has several controls: train or save them one by one")
            ((name, branch),) = own.items()
            hints[name] = hint_of(self.control_image, folder, branch, sides)
            settings["control_image"] = {name: self.control_image.name}
        elif self.with_:
            raise InputError("--with goes with the run's own hint: add --control-image")
        for entry in self.with_:
            run, _, picture = entry.partition("=")
            if not picture:
                raise InputError(
                    f"--with {entry}: give a run and a picture, as in runs/masks=X.png"
                )
            control = load_control(run, next(model.parameters()).device)
            while control.name in controls_of(model):
                control = replace(control, name=f"{control.name}_")
            model = controlled(model, [control])
            hints[control.name] = hint_of(Path(picture), Path(run), control.branch, sides)
            settings["control_image"] |= {control.name: Path(picture).name}
        names = list(controls_of(model))
        if len(self.control_strength) > len(names):
            raise InputError(
                f"{len(self.control_strength)} strengths were given for {len(names)} controls ({', '.join(names)})"
            )
        strengths = dict(zip(names, self.control_strength, strict=False))
        if strengths:
            model = strengthened(model, strengths)
        settings["control_strength"] = {name: strengths.get(name, 1.0) for name in names}
        return Steering(model, hints, settings)


def hint_of(path: Path, run: Path, branch: Branch, sides: tuple[int, int]) -> Tensor:
    """The hint (1, 1, H, W) in a picture file, for states of these sides; what was done with it is said."""
    from pushforward.core.errors import InputError
    from pushforward.data.hints import open_grey
    from pushforward.recipes.config import recipe_of
    from pushforward.recipes.control import Control
    from pushforward.recipes.images import tell

    recipe = recipe_of(run)
    if not isinstance(recipe, Control):
        raise InputError(f"{run} is a run of {recipe.name()}, and not of a control")
    height, width = (branch.factor * side for side in sides)
    grey, had = open_grey(path, (height, width))
    hint, how = recipe.control.of_picture(grey)
    scaled = "" if had == (height, width) else f", scaled from {had[1]} x {had[0]}"
    tell([f"{path} is the hint of {recipe.control.name} {how}{scaled}"])
    return hint
