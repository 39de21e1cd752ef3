"""The flow of a trained model, made straight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pushforward.recipes.choices import Times
from pushforward.recipes.options import Choice, Optimiser, RunFolder, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.core.spec import Provenance, SamplingDefaults
    from pushforward.models.model import Model
    from pushforward.objectives import Objective
    from pushforward.recipes.experiment import Experiment


class FitChoice(Choice):
    """What is fitted to the pairs."""

    def records(
        self, sampling: SamplingDefaults, provenance: Provenance
    ) -> tuple[SamplingDefaults, Provenance]:
        raise NotImplementedError

    def objective(self, model: Model) -> Objective:
        raise NotImplementedError


class Straight(FitChoice):
    """The velocity of lines between the ends of each pair: a straighter flow."""

    name: Literal["reflow"] = "reflow"
    times: Times = pick(Times, "Law of training times.", rare=True)

    def records(
        self, sampling: SamplingDefaults, provenance: Provenance
    ) -> tuple[SamplingDefaults, Provenance]:
        from dataclasses import replace

        return sampling, replace(provenance, rectified=(provenance.rectified or 1) + 1)

    def objective(self, model: Model) -> Objective:
        from pushforward.objectives import Reflow

        return Reflow(model, times=self.times.build(model.path))


class OneStep(FitChoice):
    """A single step from the start of each pair to its end."""

    name: Literal["one-step"] = "one-step"

    def records(
        self, sampling: SamplingDefaults, provenance: Provenance
    ) -> tuple[SamplingDefaults, Provenance]:
        from dataclasses import replace

        return replace(sampling, nfe=1), provenance

    def objective(self, model: Model) -> Objective:
        from pushforward import objectives

        return objectives.OneStep(model)


class Rectify(Recipe):
    """Reflow: the network of a run trained on the pairs that its flow joins, which makes the flow straighter."""

    teacher: RunFolder = option(..., "Run folder of the model whose flow is made straight.")
    objective: Annotated[Straight | OneStep, Field(discriminator="name")] = pick(
        Straight, "What is fitted to the pairs: a straighter flow, or a single step."
    )
    fresh: bool = option(False, "Start from random weights instead of the teacher's.")
    pairs: int = option(
        20_000, "Pairs that the teacher's flow joins, kept in the run folder.", ge=1
    )
    pairs_nfe: int = option(100, "Network calls for each pair.", ge=1)
    guidance: float | None = option(
        None, "Scale of classifier-free guidance under which pairs are made."
    )
    optimiser: Optimiser = Field(default_factory=lambda: Optimiser(batch_size=256))

    def build(self) -> Experiment:
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.core.fields import require_nulls
        from pushforward.core.paths import CondOT
        from pushforward.core.spec import Provenance, SamplingDefaults
        from pushforward.data.dataset import Dataset
        from pushforward.models.model import Model
        from pushforward.recipes.conditions import of_data
        from pushforward.recipes.config import experiment_of, find_source
        from pushforward.recipes.run import folder_of
        from pushforward.runtime.device import find_device, seeded
        from pushforward.sampling.pairs import Pairs, generate_pairs
        from pushforward.saving.folder import load
        from pushforward.streams.lazy import Lazy
        from pushforward.streams.shuffled import Shuffled

        device = find_device(self.place.device)
        teacher = load(self.teacher, device)
        if not isinstance(teacher, Model):
            raise InputError(
                f"{self.teacher} holds a {type(teacher).__name__}; flows of a Model are made straight"
            )
        if self.guidance is not None:
            require_nulls(teacher)
        parts = experiment_of(self.teacher, device=self.place.device)
        net = seeded(lambda: again(teacher.net, outputs=1), self.seed)
        path = CondOT(gaussian_source=False)
        straight = isinstance(teacher.path, CondOT) and teacher.prediction == "velocity"
        if straight and not self.fresh:
            net.load_state_dict(teacher.net.state_dict())
        before = teacher.provenance
        sampling, provenance = self.objective.records(
            SamplingDefaults(source=teacher.sampling.source, guidance=self.guidance),
            Provenance(
                recipe=self.name(),
                method="reflow",
                teacher=before.sha256,
                origin=before.origin,
                rectified=before.rectified,
            ),
        )
        model = Model(
            net,
            path,
            spec=teacher.spec,
            nulls=teacher.nulls,
            sampling=sampling,
            provenance=provenance,
            encoders=teacher.encoders,
            codec=teacher.codec,
        ).to(device)
        source = find_source(teacher, self.teacher)
        folder, data = folder_of(self) / "pairs", parts.data
        # What is not a label is that of training data, drawn at random.
        more = isinstance(data, Dataset) and bool(data.columns or data.encodings)
        given = of_data(data) if more and isinstance(data, Dataset) else None

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
                given=given,
                progress=lambda done, num: say(f"pairs: {done} of {num}"),
            )

        size = self.optimiser.batch_size
        return replace(
            parts,
            model=model,
            objective=self.objective.objective(model),
            stream=Lazy(lambda: Shuffled(Pairs(folder), size, self.seed), size),
            source=source,
            prepare=prepare,
        )


def again(net: Any, **changes: Any) -> Any:
    """A network like another, with some of its arguments changed, those that it has, and weights of its own.

    Of a network in parts, each part is so.
    """
    from inspect import signature

    if hasattr(net, "again"):
        return net.again(lambda part: again(part, **changes))
    known = signature(type(net).__init__).parameters
    changes = {name: value for name, value in changes.items() if name in known}
    return type(net).from_config(net.to_config() | changes)
