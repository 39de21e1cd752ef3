"""The flow of a trained model, made straight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment


class Rectify(Recipe):
    """Reflow: the network of a run trained on the pairs that its flow joins, which makes the flow straighter."""

    teacher: Path | None = Field(
        None, description="Run folder of the model whose flow is made straight. Required."
    )
    one_step: bool = Field(
        False, description="Fit a single step to the pairs, in place of a flow that is straight."
    )
    fresh: bool = Field(False, description="Start from random weights, not from the teacher's.")
    pairs: int = Field(
        20_000, ge=1, description="Pairs that the teacher's flow joins, kept in the run folder."
    )
    pairs_nfe: int = Field(100, ge=1, description="Network calls for each pair.")
    guidance: float | None = Field(
        None, description="Scale of the classifier-free guidance under which pairs are made."
    )
    batch_size: int = Field(256, ge=1, description="Pairs in a step.")

    def build(self) -> Experiment:
        from pushforward.core.errors import InputError
        from pushforward.core.paths import CondOT
        from pushforward.models.model import Model
        from pushforward.nets import NETS
        from pushforward.objectives import OneStep, Reflow
        from pushforward.recipes.experiment import Experiment, experiment_of, find_source
        from pushforward.recipes.tables import training_times
        from pushforward.runtime.device import find_device, seeded
        from pushforward.sampling.pairs import Pairs, generate_pairs
        from pushforward.saving.folder import load
        from pushforward.streams.lazy import Lazy
        from pushforward.streams.shuffled import Shuffled

        if self.teacher is None:
            raise InputError("--teacher is missing: the run folder of a trained model")
        changed = [
            f"--{name.replace('_', '-')}"
            for name in ("objective", "coupling", "path", "std", "prediction", "loss_in", "edm", "weight")
            if getattr(self, name) != type(self).model_fields[name].default
        ]  # fmt: skip
        if changed:
            raise InputError(
                f"a rectified flow is the velocity of lines between given pairs: leave {', '.join(changed)} out"
            )
        device = find_device(self.device)
        teacher = load(self.teacher, device)
        if not isinstance(teacher, Model):
            raise InputError(
                f"{self.teacher} holds a {type(teacher).__name__}; flows of a Model are made straight"
            )
        if self.guidance is not None and teacher.classes is None:
            raise InputError("--guidance needs a teacher with classes, and this one has none")
        told = experiment_of(self.teacher, device=self.device)
        config: dict[str, Any] = teacher.net.config | {"outputs": 1}  # type: ignore[operator]
        net = seeded(lambda: NETS[type(teacher.net).__name__](**config), self.seed)
        path = CondOT(gaussian_source=False)
        straight = isinstance(teacher.path, CondOT) and teacher.prediction == "velocity"
        if straight and not self.fresh:
            net.load_state_dict(teacher.net.state_dict())
        own = {k: v for k, v in teacher.info.items() if k not in ("samplers", "sha256", "nfe", "step")}  # fmt: skip
        info = own | {"teacher": teacher.info["sha256"], "method": "reflow"}
        if self.guidance is not None:
            info["guidance"] = self.guidance
        if self.one_step:
            info["nfe"] = 1
        else:
            info["rectified"] = teacher.info.get("rectified", 1) + 1
        model = Model(net, path, shape=teacher.shape, classes=teacher.classes, info=info).to(device)
        source = find_source(teacher, self.teacher)
        folder = (self.out or Path("runs/reflow")) / "pairs"

        def prepare(say: Any) -> None:
            generate_pairs(
                teacher,
                folder,
                self.pairs,
                nfe=self.pairs_nfe,
                guidance=self.guidance,
                source=source,
                seed=self.seed,
                batch_size=1024,
                progress=lambda done, num: say(f"pairs: {done} of {num}"),
            )

        times = training_times(self.times, path, self.low_discrepancy)
        return Experiment(
            model,
            OneStep(model) if self.one_step else Reflow(model, times=times),
            Lazy(lambda: Shuffled(Pairs(folder), self.batch_size, self.seed), self.batch_size),
            told.data,
            told.held_out,
            told.fingerprint,
            source,
            prepare,
        )
