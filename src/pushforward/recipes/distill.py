"""A trained model, distilled into one of few steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pushforward.recipes.latents import require_same_codec
from pushforward.recipes.options import Choice, Optimiser, RunFolder, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.core.fields import Field as ModelField
    from pushforward.core.fields import Jumps
    from pushforward.core.paths import Path as ProbabilityPath
    from pushforward.models.flow_map import FlowMapModel
    from pushforward.models.model import Model
    from pushforward.objectives import Objective
    from pushforward.recipes.experiment import Experiment


@dataclass(frozen=True)
class Lesson:
    """What a student is taught: `field`, the flow of `teacher` under its guidance, in `steps` optimiser steps."""

    student: FlowMapModel
    teacher: Model | FlowMapModel
    field: ModelField
    condition_dropout: float
    steps: int


class MethodChoice(Choice):
    """How a student is distilled."""

    # Whether the student makes any jump, or only those to the data.
    any_jump: ClassVar[bool] = False

    def jumps(self) -> Jumps:
        return "any" if self.any_jump else "data"

    def objective(self, lesson: Lesson) -> Objective:
        raise NotImplementedError


class TimesOfStudent(MethodChoice):
    low_discrepancy: bool = option(True, "Spread the times of a batch evenly.", rare=True)


class MeanFlowStudent(TimesOfStudent):
    """MeanFlow: the mean velocity of any jump."""

    name: Literal["meanflow"] = "meanflow"
    any_jump: ClassVar[bool] = True

    def objective(self, lesson: Lesson) -> Objective:
        from pushforward.core.times import Uniform
        from pushforward.objectives import MeanFlow

        times = Uniform(low_discrepancy=self.low_discrepancy)
        return MeanFlow(
            lesson.student,
            lesson.field,
            times,
            share=0.25,
            condition_dropout=lesson.condition_dropout,
        )


class Progressive(MethodChoice):
    """Progressive distillation: a step for two of the teacher's."""

    name: Literal["progressive"] = "progressive"
    student_steps: int = option(1, "Steps of the student; its teacher makes two for each.", ge=1)

    def jumps(self) -> Jumps:
        return tuple(self.fine()[::2].tolist())

    def fine(self) -> Any:
        from pushforward.core.times import uniform

        return uniform(2 * self.student_steps)

    def objective(self, lesson: Lesson) -> Objective:
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.objectives import ProgressiveDistillation
        from pushforward.solvers import Heun, SolverFlowMap

        # Students keep the error of the first teacher's steps: Heun's are better than DDIM's, for twice the calls.
        teacher = lesson.teacher
        flow = teacher if isinstance(teacher, FlowMapModel) else SolverFlowMap(lesson.field, Heun())
        return ProgressiveDistillation(
            lesson.student, flow, self.fine(), condition_dropout=lesson.condition_dropout
        )


class ConsistencyStudent(MethodChoice):
    """Consistency distillation, in steps that grow finer."""

    name: Literal["consistency"] = "consistency"

    def objective(self, lesson: Lesson) -> Objective:
        from pushforward.objectives import ConsistencyDistillation, Levels
        from pushforward.solvers import Heun, SolverFlowMap

        return ConsistencyDistillation(
            lesson.student,
            Levels(10, 160, lesson.steps),
            condition_dropout=lesson.condition_dropout,
            teacher=SolverFlowMap(lesson.field, Heun()),
        )


class ContinuousStudent(TimesOfStudent):
    """Consistency distillation in continuous time."""

    name: Literal["continuous-consistency"] = "continuous-consistency"

    def objective(self, lesson: Lesson) -> Objective:
        from pushforward.core.times import Uniform
        from pushforward.objectives import ContinuousConsistency

        return ContinuousConsistency(
            lesson.student,
            lesson.field,
            Uniform(low_discrepancy=self.low_discrepancy),
            warmup=lesson.steps // 4,
            condition_dropout=lesson.condition_dropout,
        )


class ShortcutStudent(MethodChoice):
    """A shortcut model: two jumps in one."""

    name: Literal["shortcut"] = "shortcut"
    any_jump: ClassVar[bool] = True

    def objective(self, lesson: Lesson) -> Objective:
        from pushforward.objectives import Shortcut
        from pushforward.solvers import Heun, SolverFlowMap

        return Shortcut(
            lesson.student,
            SolverFlowMap(lesson.field, Heun()),
            share=0,
            condition_dropout=lesson.condition_dropout,
        )


METHOD = "How the student is distilled."
AnyMethod = Annotated[
    ConsistencyStudent | ContinuousStudent | MeanFlowStudent | Progressive | ShortcutStudent,
    Field(discriminator="name"),
]


class Distill(Recipe):
    """Distillation: the flow map of a trained model's flow, for samples in one to a few network calls."""

    teacher: RunFolder = option(..., "Run folder of the model that is distilled.")
    method: AnyMethod = pick(ConsistencyStudent, METHOD)
    guidance: float | None = option(
        None, "Scale of classifier-free guidance that the student learns to have."
    )
    fresh: bool = option(False, "Start from random weights instead of the teacher's.")
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(steps=3000, batch_size=256))

    def build(self) -> Experiment:
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.core.fields import require_nulls
        from pushforward.core.interpolants import Interpolant
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.models.model import Model
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Experiment
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        device = find_device(self.place.device)
        teacher = load(self.teacher, device)
        of_stage = isinstance(teacher, FlowMapModel) and isinstance(self.method, Progressive)
        if not isinstance(teacher, Model) and not of_stage:
            raise InputError(
                f"{self.teacher} holds a {type(teacher).__name__}; the flow of a Model is distilled"
            )
        if isinstance(teacher.path, Interpolant):
            raise InputError(
                f"{self.teacher} goes along {teacher.path}, which adds noise on the way: the flow of such a model "
                f"is not distilled"
            )
        if self.guidance is not None:
            if of_stage:
                raise InputError("guidance is learned in the first stage: omit --guidance")
            require_nulls(teacher)
        root = root_of(self.teacher)
        recipe = recipe_of(root, out=root, device=self.place.device)
        parts = recipe.changed(seed=self.seed, batch_size=self.optimiser.batch_size).build()
        if not isinstance(parts, Experiment):
            raise InputError(f"{root} is the run of a classifier, which has no flow")
        require_same_codec(root, teacher, parts)
        dropout = float(recipe.flat().get("condition_dropout", 0.0)) if teacher.nulls else 0.0
        model, objective = self._student(teacher, dropout)
        return replace(parts, model=model, objective=objective, prepare=None)

    def _student(self, teacher: Any, condition_dropout: float) -> tuple[FlowMapModel, Objective]:
        from pushforward.core.spec import Provenance, SamplingDefaults
        from pushforward.core.transfer import ScheduleTransfer
        from pushforward.guidance import ClassifierFree
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.models.model import Model
        from pushforward.recipes.reflow import again
        from pushforward.runtime.device import seeded

        whole: Model = teacher.model if isinstance(teacher, FlowMapModel) else teacher
        path = path_of_student(whole)
        field: ModelField = whole if path == whole.path else ScheduleTransfer(whole, path)
        if self.guidance is not None:
            field = ClassifierFree(field, self.guidance)
        same = can_start_from(whole, path)
        changes = {"outputs": 1, "time": "smooth", "two_times": self.method.any_jump}
        net = seeded(lambda: again(whole.net, **changes), self.seed)
        net = net.to(next(whole.parameters()).device)
        if same and not self.fresh and not self.place.resume:
            start_from(net, whole, path, self.seed)
        before = teacher.provenance
        scale = teacher.sampling.guidance if self.guidance is None else self.guidance
        inner = Model(
            net,
            path,
            whole.prediction if same else "v",
            whole.preconditioning if same else None,
            margin=whole.margin,
            spec=whole.spec,
            nulls=whole.nulls,
            encoders=whole.encoders,
            codec=whole.codec,
            sampling=SamplingDefaults(source=teacher.sampling.source, guidance=scale),
            provenance=Provenance(
                recipe=self.name(),
                method=self.method.name,
                teacher=before.sha256,
                origin=before.origin or before.sha256,
                rectified=before.rectified,
            ),
        )
        student = FlowMapModel(inner, self.method.jumps())
        lesson = Lesson(student, teacher, field, condition_dropout, self.optimiser.steps)
        return student, self.method.objective(lesson)


def root_of(folder: Path) -> Path:
    """The run that the students in a chain of distillations come from."""
    from pushforward.core.errors import CheckpointError
    from pushforward.recipes.config import read_config

    for _ in range(64):
        name, options = read_config(folder)
        if name != "distill":
            return folder
        folder = Path(options["teacher"])
    raise CheckpointError(f"{folder} is its own teacher: its config.toml was edited")


def path_of_student(teacher: Model) -> ProbabilityPath:
    """The teacher's, if it is smooth up to both ends; else the quarter circle, on which its flow is the same."""
    from dataclasses import replace

    from pushforward.core.paths import CondOT, Cosine

    if isinstance(teacher.path, CondOT | Cosine):
        return replace(teacher.path)
    return Cosine(gaussian_source=teacher.path.gaussian_source)


def can_start_from(teacher: Model, path: ProbabilityPath) -> bool:
    """Whether the teacher's network, asked along `path`, means the same there.

    It must give one answer, and predict what can start at pure noise; along another path the velocity is another, and
    unless it is scaled by a preconditioning its states must have the same scale, alpha^2 + sigma^2 = 1.
    """
    import torch

    from pushforward.models.base import declared_outputs

    if declared_outputs(teacher.net) not in (1, None):
        return False
    if path == teacher.path:
        return teacher.prediction in ("velocity", "v", "data")
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    level = torch.hypot(teacher.path.alpha(t), teacher.path.sigma(t))
    alike = teacher.preconditioning is not None or bool(((level - 1).abs() < 1e-6).all())
    return alike and teacher.prediction in ("v", "data")


def start_from(net: Any, teacher: Model, path: ProbabilityPath, seed: int) -> None:
    """Give the student's network the teacher's weights, with times of the student's path."""
    from torch import Tensor

    from pushforward.train.warm_start import warm_start

    def time(t: Tensor) -> Tensor:
        return teacher.path.time_of_log_snr(path.log_snr(t))

    if teacher.preconditioning is not None:
        # The network is shown ln(sigma/alpha)/4, whatever the path.
        warm_start(net, teacher.net, between=(-5.0, 5.0), seed=seed)
    elif path == teacher.path:
        warm_start(net, teacher.net, seed=seed)
    else:
        warm_start(net, teacher.net, time, seed=seed)
