"""`pushforward distill`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from pushforward.cli.base import Command, say
from pushforward.cli.teacher import taught
from pushforward.recipes import distill
from pushforward.recipes.flat import make
from pushforward.recipes.options import Options, option, pick
from pushforward.recipes.reflow import Rectify


class Stages(distill.Progressive):
    """Progressive distillation by stages, each a run of its own in OUT/stages, the last one in OUT."""

    from_steps: int = option(16, "Steps of the first student, halved from stage to stage.", ge=1)


class Pairs(distill.MethodChoice):
    """Reflow's single step, fitted to pairs that the teacher's flow joins."""

    name: Literal["reflow"] = "reflow"
    pairs: int = option(20_000, "Pairs that the teacher's flow joins.", ge=1)


class DistillOptions(distill.Distill):
    """Distil the model of a run into one that takes one to a few network calls for a sample.

    Compare the student with its teacher by: pushforward evaluate RUN --students OUT
    """

    method: Annotated[
        distill.ConsistencyStudent
        | distill.ContinuousStudent
        | distill.MeanFlowStudent
        | Stages
        | distill.ShortcutStudent
        | Pairs,
        Field(discriminator="name"),
    ] = pick(distill.ConsistencyStudent, distill.METHOD)  # type: ignore[assignment]


class Distill(Command):
    __doc__ = DistillOptions.__doc__

    trains: ClassVar[bool] = True

    options: Mapping[str, Any]

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Self:
        given = taught(DistillOptions, words, prog, "consistency")
        if not given.get("resume"):
            make(DistillOptions, given)
        return cls(options=given)

    @property
    def teacher(self) -> Path:
        return Path(self.options["teacher"])

    @property
    def out(self) -> Path:
        return Path(self.options["out"])

    @property
    def method(self) -> str:
        return str(self.options.get("method", "consistency"))

    def opening(self) -> str:
        return f"preparing distillation of {self.teacher}"

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        if self.options.get("resume"):
            return {}
        return {"options": {**self.options, **above(make(DistillOptions, self.options))}}

    def run(self) -> int:
        from pushforward.recipes import run
        from pushforward.recipes.config import CONFIG

        resumed = bool(self.options.get("resume"))
        if resumed:
            require_begun(self.out)
        elif not self.options.get("overwrite"):
            run.require_new(self.out)
        stages = self.stages()
        for number, (where, kind, given) in enumerate(stages):
            if len(stages) > 1:
                say(f"stage {number + 1} of {len(stages)}: {given['student_steps']} steps")
            if resumed and (where / CONFIG).is_file():
                run.require_recipe(where, kind.name())
                _, signal = run.resume(where, given)
            else:
                fresh = earlier(self.out, self.options) | given
                fresh.pop("resume", None)
                _, signal = run.train(make(kind, fresh))
            if signal:
                say(
                    f"stopped; continue with: pushforward distill {self.teacher} --method {self.method} --out "
                    f"{self.out} --resume"
                )
                return 128 + signal
        calls = stages[-1][2].get("student_steps", 1)
        say(
            f"done: {self.out}. Draw samples with: pushforward sample {self.out} --nfe {calls}; compare with the "
            f"teacher by: pushforward evaluate {self.teacher} --students {self.out}"
        )
        return 0

    def stages(self) -> list[tuple[Path, Any, dict[str, Any]]]:
        """(folder, recipe, options) of all runs that are trained, in order."""
        given = dict(self.options)
        if self.method == "reflow":
            given.pop("method")
            return [(self.out, Rectify, given | {"objective": "one-step"})]
        if self.method != "progressive":
            return [(self.out, distill.Distill, given)]
        return progressive(self.out, given)


def progressive(out: Path, given: dict[str, Any]) -> list[tuple[Path, Any, dict[str, Any]]]:
    """The stages of progressive distillation: each student teaches the next, of half its steps."""
    from pushforward.core.errors import InputError
    from pushforward.recipes.config import STAGES

    first, last = counts_of(out, given)
    given.pop("from_steps", None)
    counts = [first]
    while counts[-1] > last and counts[-1] % 2 == 0:
        counts.append(counts[-1] // 2)
    if counts[-1] != last:
        raise InputError(
            f"--from-steps {first} does not come down to --student-steps {last} by halves"
        )
    stages: list[tuple[Path, Any, dict[str, Any]]] = []
    for count in counts:
        where = out if count == last else out / STAGES / f"{count:04d}"
        own = given | {"out": where, "student_steps": count}
        if stages:
            own["teacher"] = stages[-1][0]
            # Guidance is learned in the first stage.
            own.pop("guidance", None)
        stages.append((where, distill.Distill, own))
    return stages


def counts_of(out: Path, given: Mapping[str, Any]) -> tuple[int, int]:
    """Steps of the first and of the last student: those that are given, and where a run is resumed those it has."""
    from pushforward.core.errors import InputError

    usual = Stages()
    first, last = (
        int(given.get(name, getattr(usual, name))) for name in ("from_steps", "student_steps")
    )
    begun = begun_stage(out) if given.get("resume") else None
    if begun is None:
        return first, last
    from pushforward.recipes.config import recipe_of

    there = int(recipe_of(begun).flat().get("student_steps", first))
    if "from_steps" in given and first != there:
        raise InputError(
            f"--resume continues with the options of {begun}, and these differ: --from-steps {first} (the run has "
            f"{there}). Omit them, or start anew in another --out"
        )
    return there, last


def earlier(out: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the stage with which a run that is resumed began: those of all stages, but what is each one's."""
    from pushforward.recipes.config import recipe_of
    from pushforward.recipes.options import Place

    begun = begun_stage(out) if given.get("resume") else None
    if begun is None:
        return {}
    own = {
        "teacher",
        "student_steps",
        "guidance",
        *(name.rstrip("_") for name in Place.model_fields),
    }
    return {name: value for name, value in recipe_of(begun).flat().items() if name not in own}


def begun_stage(out: Path) -> Path | None:
    """The folder of the first stage of what is there."""
    from pushforward.recipes.config import CONFIG, STAGES

    stages = sorted((out / STAGES).glob("*"), reverse=True)
    return next((folder for folder in [*stages, out] if (folder / CONFIG).is_file()), None)


def require_begun(out: Path) -> None:
    from pushforward.core.errors import CheckpointError

    if begun_stage(out) is None:
        raise CheckpointError(f"there is nothing in {out} to resume: start it without --resume")
