"""`pushforward distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pushforward.cli.base import Command, RunFolder, say
from pushforward.recipes.distill import Distill as Recipe
from pushforward.recipes.distill import MethodName
from pushforward.recipes.reflow import Rectify


class Distill(Recipe, Command):
    """Distil the model of a run into one that takes one to a few network calls for a sample.

    Progressive distillation goes by stages, each a run of its own in OUT/stages, the last one in OUT. Compare the
    student
    with its teacher by: pushforward evaluate RUN --students OUT
    """

    folder: RunFolder = Field(description="Run folder of the teacher.")
    out: Path | None = Field(
        None,
        description="Run folder of the student. Left out: the teacher's, with the method after its name.",
    )
    method: Literal[MethodName, "reflow"] = Field(  # type: ignore[assignment]
        "consistency",
        description="MeanFlow; progressive distillation; consistency distillation, in steps or in continuous time; a "
        "shortcut model; or reflow, a single step fitted to pairs that the teacher's flow joins.",
    )
    from_steps: int = Field(
        16, ge=1, description="Progressive: steps of the first student, halved from stage to stage."
    )
    pairs: int = Field(20_000, ge=1, description="Reflow: pairs that the teacher's flow joins.")

    def run(self) -> int:
        from pushforward.core.errors import InputError

        if self.teacher is not None:
            raise InputError("the teacher is the first argument: leave --teacher out")
        own = {"from_steps": "progressive", "student_steps": "progressive", "pairs": "reflow"}
        for name, method in own.items():
            changed = getattr(self, name) != type(self).model_fields[name].default
            if self.method != method and changed:
                raise InputError(f"--{name.replace('_', '-')} is for --method {method}")
        out = self.out or self.folder.with_name(f"{self.folder.name}-{self.method}")
        stages = self._stages(out)
        for number, (where, name, recipe) in enumerate(stages):
            if len(stages) > 1:
                say(f"stage {number + 1} of {len(stages)}: {recipe.student_steps} steps")
            signal = self._train(where, name, recipe)
            if signal:
                say(
                    f"stopped; go on with: pushforward distill {self.folder} --method {self.method} --out {out} "
                    f"--resume"
                )
                return 128 + signal
        calls = self.student_steps if self.method == "progressive" else 1
        say(
            f"done: {out}. Draw samples with: pushforward sample {out} --nfe {calls}; compare with the teacher by: "
            f"pushforward evaluate {self.folder} --students {out}"
        )
        return 0

    def _train(self, where: Path, name: str, recipe: Any) -> int:
        """Train a stage, or go on with it; a stage that is done is left as it is."""
        from pushforward.recipes.experiment import CONFIG, train

        begun = self.resume and (where / CONFIG).is_file()
        return train(name, recipe.model_copy(update={"resume": begun}))[1]

    def _stages(self, out: Path) -> list[tuple[Path, str, Any]]:
        """(folder, name of the recipe, recipe) of all that is to be trained, in order."""
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import STAGES, require_new

        given = self.model_dump(include=set(Recipe.model_fields), exclude_unset=True)
        given.pop("resume", None)
        begun = self._begun(out) if self.resume else None
        if begun is None:
            require_new(out)
        if self.method == "reflow":
            common = {k: v for k, v in given.items() if k in Rectify.model_fields}
            common |= {"teacher": self.folder, "out": out, "one_step": True, "pairs": self.pairs}
            return [(out, "reflow", Rectify(**common))]
        if self.method != "progressive":
            return [(out, "distill", Recipe(**given | {"teacher": self.folder, "out": out}))]
        first = self.from_steps
        if begun is not None:
            first, given = self._recorded(begun, given)
        counts = [first]
        while counts[-1] > self.student_steps and counts[-1] % 2 == 0:
            counts.append(counts[-1] // 2)
        if counts[-1] != self.student_steps:
            raise InputError(
                f"--from-steps {first} does not come down to --student-steps {self.student_steps} by halves"
            )
        stages: list[tuple[Path, str, Any]] = []
        teacher = self.folder
        for count in counts:
            last = count == counts[-1]
            where = out if last else out / STAGES / f"{count:04d}"
            told = {"teacher": teacher, "out": where, "student_steps": count}
            if teacher is not self.folder:
                told["guidance"] = None
            stages.append((where, "distill", Recipe(**given | told)))
            teacher = where
        return stages

    def _begun(self, out: Path) -> Path:
        """The folder of the first stage of what is there."""
        from pushforward.core.errors import CheckpointError
        from pushforward.recipes.experiment import CONFIG, STAGES

        stages = sorted((out / STAGES).glob("*"), reverse=True)
        for folder in [*(stages if self.method == "progressive" else ()), out]:
            if (folder / CONFIG).is_file():
                return folder
        raise CheckpointError(f"there is nothing in {out} to resume: leave --resume out")

    def _recorded(self, begun: Path, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Steps of the first student, and the options of its stage, which are those of all."""
        from pushforward.core.errors import InputError
        from pushforward.recipes.experiment import recipe_of
        from pushforward.recipes.options import PLACE

        recorded = recipe_of(begun).model_dump(exclude={"out", "resume"})
        first = int(recorded["student_steps"])
        there: dict[str, Any] = recorded | {"from_steps": first}
        fields = type(self).model_fields
        wanted = {
            key: value
            for key, value in (given | {"from_steps": self.from_steps}).items()
            if key not in PLACE | {"student_steps"} and value != fields[key].default
        } | {"teacher": self.folder}
        changed = [
            f"--{key.replace('_', '-')} {value} (the run has {there.get(key)})"
            for key, value in wanted.items()
            if there.get(key) != value
        ]
        if changed:
            raise InputError(
                f"--resume goes on with the options of {begun}; these differ: {', '.join(changed)}. Leave them out, or "
                f"start anew in another --out"
            )
        return first, recorded | {"device": self.device}
