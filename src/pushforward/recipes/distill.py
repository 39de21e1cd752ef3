"""A trained model, distilled into one of few steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.core.fields import Field as ModelField
    from pushforward.core.paths import Path as ProbabilityPath
    from pushforward.models.flow_map import FlowMapModel
    from pushforward.models.model import Model
    from pushforward.objectives import Objective
    from pushforward.recipes.experiment import Experiment

MethodName = Literal["meanflow", "progressive", "consistency", "continuous-consistency", "shortcut"]
# Those whose students make any jump; a consistency model goes to the data, a progressive student along its grid.
ANY_JUMP = ("meanflow", "shortcut")


class Distill(Recipe):
    """Distillation: the flow map of a trained model's flow, for samples in one to a few network calls."""

    teacher: Path | None = Field(
        None, description="Run folder of the model that is distilled. Required."
    )
    method: MethodName = Field(
        "consistency",
        description="MeanFlow, progressive distillation, consistency distillation in steps or in continuous time, or a "
        "shortcut model.",
    )
    guidance: float | None = Field(
        None, description="Scale of classifier-free guidance that the student learns to have."
    )
    student_steps: int = Field(
        1, ge=1, description="Steps of a progressive student; its teacher makes two for each."
    )
    fresh: bool = Field(False, description="Start from random weights, not from the teacher's.")
    batch_size: int = Field(256, ge=1, description="Samples in a step.")
    steps: int = Field(3000, ge=1, description="Optimiser steps.")

    def build(self) -> Experiment:
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.core.interpolants import Interpolant
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.models.model import Model
        from pushforward.recipes.experiment import Experiment, recipe_of
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        if self.teacher is None:
            raise InputError("--teacher is missing: the run folder of a trained model")
        self._check()
        device = find_device(self.device)
        teacher = load(self.teacher, device)
        of_stage = isinstance(teacher, FlowMapModel) and self.method == "progressive"
        if not isinstance(teacher, Model) and not of_stage:
            raise InputError(
                f"{self.teacher} holds a {type(teacher).__name__}; the flow of a Model is distilled"
            )
        if isinstance(teacher.path, Interpolant):
            raise InputError(
                f"{self.teacher} goes along {teacher.path}, which adds noise on the way: the flow of such a model "
                f"is not distilled"
            )
        if self.guidance is not None and teacher.classes is None:
            raise InputError("--guidance needs a teacher with classes, and this one has none")
        if self.guidance is not None and of_stage:
            raise InputError("guidance is learned in the first stage: leave --guidance out")
        root = root_of(self.teacher)
        recipe = recipe_of(root, out=root, device=self.device)
        told = recipe.model_copy(update={"seed": self.seed, "batch_size": self.batch_size}).build()
        if not isinstance(told, Experiment):
            raise InputError(f"{root} is the run of a classifier, which has no flow")
        condition_dropout = (
            float(getattr(recipe, "condition_dropout", 0.0)) if teacher.classes else 0.0
        )
        model, objective = self._student(teacher, condition_dropout)
        return replace(told, model=model, objective=objective, prepare=None)

    def _check(self) -> None:
        """Refuse options that say what a student does not choose."""
        from pushforward.core.errors import InputError

        names = (
            "objective", "coupling", "regularisation", "path", "std", "prediction", "loss_in", "edm", "weight", "times",
            "phase", "simulation_steps",
        )  # fmt: skip
        fields = type(self).model_fields
        changed = [
            f"--{name.replace('_', '-')}"
            for name in names
            if getattr(self, name) != fields[name].default
        ]
        if self.method != "progressive" and self.student_steps != 1:
            changed.append("--student-steps")
        if changed:
            raise InputError(
                f"a student by {self.method} has the path, pairs and prediction of its teacher: leave "
                f"{', '.join(changed)} out"
            )

    def _student(self, teacher: Any, condition_dropout: float) -> tuple[FlowMapModel, Objective]:
        from pushforward.core.times import uniform
        from pushforward.core.transfer import ScheduleTransfer
        from pushforward.guidance import ClassifierFree
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.models.model import Model
        from pushforward.nets import NETS
        from pushforward.runtime.device import seeded

        whole: Model = teacher.model if isinstance(teacher, FlowMapModel) else teacher
        path = path_of_student(whole)
        field: ModelField = whole if path == whole.path else ScheduleTransfer(whole, path)
        if self.guidance is not None:
            field = ClassifierFree(field, self.guidance)
        same = can_start_from(whole, path)
        config: dict[str, Any] = whole.net.config | {  # type: ignore[operator]
            "outputs": 1, "time": "smooth", "two_times": self.method in ANY_JUMP,
        }  # fmt: skip
        net = seeded(lambda: NETS[type(whole.net).__name__](**config), self.seed)
        net = net.to(next(whole.parameters()).device)
        if same and not self.fresh and not self.resume:
            start_from(net, whole, path, self.seed)
        left_out = ("samplers", "sha256", "nfe", "step", "guidance", "method")
        info = {k: v for k, v in whole.info.items() if k not in left_out}
        info |= {"method": self.method, "teacher": whole.info["sha256"]}
        info.setdefault("origin", whole.info["sha256"])
        guidance = whole.info.get("guidance") if self.guidance is None else self.guidance
        if guidance is not None:
            info["guidance"] = guidance
        made = Model(
            net,
            path,
            whole.prediction if same else "v",
            whole.preconditioning if same else None,
            margin=whole.margin,
            shape=whole.shape,
            classes=whole.classes,
            info=info,
        )
        fine = uniform(2 * self.student_steps)
        jumps: Any = "any" if self.method in ANY_JUMP else "data"
        student = FlowMapModel(
            made, tuple(fine[::2].tolist()) if self.method == "progressive" else jumps
        )
        return student, self._objective(student, teacher, field, condition_dropout)

    def _objective(
        self, student: FlowMapModel, teacher: Any, field: ModelField, condition_dropout: float
    ) -> Objective:
        from pushforward import objectives
        from pushforward.core.times import Uniform, uniform
        from pushforward.models.flow_map import FlowMapModel
        from pushforward.solvers import Heun, SolverFlowMap

        times = Uniform(low_discrepancy=self.low_discrepancy)
        match self.method:
            case "meanflow":
                return objectives.MeanFlow(
                    student, field, times, share=0.25, condition_dropout=condition_dropout
                )
            case "consistency":
                levels = objectives.Levels(10, 160, self.steps)
                return objectives.ConsistencyDistillation(
                    student,
                    levels,
                    condition_dropout=condition_dropout,
                    teacher=SolverFlowMap(field, Heun()),
                )
            case "continuous-consistency":
                return objectives.ContinuousConsistency(
                    student,
                    field,
                    times,
                    warmup=self.steps // 4,
                    condition_dropout=condition_dropout,
                )
            case "shortcut":
                return objectives.Shortcut(
                    student,
                    SolverFlowMap(field, Heun()),
                    share=0,
                    condition_dropout=condition_dropout,
                )
        # Students keep the error of the first teacher's steps: Heun's are better than DDIM's, for twice the calls.
        flow = teacher if isinstance(teacher, FlowMapModel) else SolverFlowMap(field, Heun())
        fine = uniform(2 * self.student_steps)
        return objectives.ProgressiveDistillation(
            student, flow, fine, condition_dropout=condition_dropout
        )


def root_of(folder: Path) -> Path:
    """The run that the students in a chain of distillations come from."""
    from pushforward.core.errors import CheckpointError
    from pushforward.recipes.experiment import read_config

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

    if teacher.net.config.get("outputs", 1) != 1:  # type: ignore[union-attr, operator]
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
