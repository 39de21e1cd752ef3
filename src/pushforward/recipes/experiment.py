"""The parts of a run, and how they are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from pushforward.core.conditions import Fill, Null, Unknown
from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.data.arrays import Dataset
from pushforward.evaluate import kinds
from pushforward.evaluate.report import judge_dataset, judge_law, judge_transport
from pushforward.laws.law import Law
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.classifier import NoisyClassifier
from pushforward.models.diffflow import DiffFlowModel
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.model import Model
from pushforward.objectives import Classification, Objective
from pushforward.recipes.conditions import Columns
from pushforward.recipes.networks import Data, NetworkChoice
from pushforward.recipes.objectives import ObjectiveChoice, Parts
from pushforward.recipes.recipe import Recipe
from pushforward.runtime.device import find_device, seeded
from pushforward.streams.drawn import Drawn
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.stream import Stream

Sampled = Model | FlowMapModel | BridgeModel | HalfBridges | DiffFlowModel


@dataclass(frozen=True)
class Experiment:
    """The parts of a run that trains what draws samples.

    held_out: data kept apart for evaluation; None where the data are a law. fingerprint: of the data.
    source:   what samples start from; None for Gaussian noise.
    prepare:  what must be done before the first step, and again when a run is resumed; given a way to report progress.
    conditions: which continuous conditions samples are drawn for; None without any.
    """

    model: Sampled
    objective: Objective
    stream: Stream
    data: Dataset | Law
    held_out: Dataset | None
    fingerprint: str
    source: Law | None = None
    prepare: Callable[[Callable[[str], None]], None] | None = None
    conditions: Columns | None = None

    def columns(self, num: int, seed: int, label: Tensor | None = None) -> dict[str, Any]:
        """Continuous conditions (num, ...) by name, for samples of these labels: those of data, keyed by the seed."""
        return {} if self.conditions is None else self.conditions(num, seed, label)

    def picture(self, samples: Tensor, label: Tensor | None, title: str) -> Any:
        """A matplotlib figure of samples, by the kind of data."""
        spec = self.model.spec
        return kinds.of(spec).draw(samples, spec, label, title)

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, Tensor | None]:
        """Figures, samples and labels; see evaluate.report."""
        sampling = {"source": self.source} | sampling
        if self.conditions is not None:
            sampling = self.columns(num, int(sampling.get("seed", 0))) | sampling
        if isinstance(self.data, Dataset):
            if self.held_out is None:
                raise InputError(
                    "this run kept no data apart, so there is nothing to evaluate against"
                )
            return judge_dataset(self.model, self.data, self.held_out, num, **sampling)
        return judge_law(self.model, self.data, num, **sampling)

    def transport(self, num: int, seed: int = 0) -> dict[str, float]:
        """The probability flow as a transport of `num` samples; see evaluate.report.judge_transport."""
        return judge_transport(self.model, self.data, self.held_out, num, seed, self.source)


@dataclass(frozen=True)
class Classifying:
    """The parts of a run that trains a classifier."""

    model: NoisyClassifier
    objective: Classification
    stream: Stream
    held_out: Dataset
    fingerprint: str


Made = TypeVar("Made", bound=Experiment)


def assemble(
    recipe: Recipe,
    objective: ObjectiveChoice,
    network: NetworkChoice,
    data: Dataset | Law,
    held_out: Dataset | None,
    spec: DataSpec,
    *,
    source: Law | None = None,
    source_name: str | None = None,
    stream: Stream | None = None,
    features: Mapping[str, int] | None = None,
    kind: Callable[..., Made] = Experiment,  # type: ignore[assignment]
    **more: Any,
) -> Made:
    """The parts of a run from a recipe and its data.

    spec:   of the data, with their fingerprint; its classes are what the network is conditioned on.
    source: what x0 is drawn from, None for Gaussian noise; source_name: what it is called.
    stream: batches, if they are not plain draws of the data and the source.
    features: widths of the continuous conditions, by name.
    kind:   the experiment to make, of fields `more` besides those of `Experiment`.
    """
    path, coupling = objective.along(source is None)
    device = find_device(recipe.place.device)
    inside = Data(spec.shape, spec.classes, features)
    nulls: dict[str, Null] = dict.fromkeys(features or (), Unknown())
    if spec.classes is not None:
        nulls = {"label": Fill(-1)} | nulls
    parts = Parts(
        lambda outputs, **options: network.build(inside, outputs=outputs, **options),
        path,
        data,
        recipe.optimiser.steps,
        nulls,
        spec,
        SamplingDefaults(source=source_name),
        Provenance(recipe=recipe.name()),
    )
    model, loss = seeded(lambda: objective.build(parts), recipe.seed)
    model.to(device)
    size, seed = recipe.optimiser.batch_size, recipe.seed
    if stream is None:
        if isinstance(data, Dataset):
            stream = Shuffled(data, size, seed)
        else:
            stream = Drawn(data, size, seed)
        if source is not None:
            from pushforward.streams.drawn import Sourced

            stream = Sourced(stream, source, seed)
    if coupling is not None:
        from pushforward.streams.coupled import Coupled
        from pushforward.streams.prefetch import Prefetch

        stream = Prefetch(Coupled(stream, coupling, seed))
    assert spec.fingerprint is not None
    return kind(model, loss, stream, data, held_out, spec.fingerprint, source, **more)
