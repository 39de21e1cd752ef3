"""How the parts of a run are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from pushforward.core.conditions import Fill, Null, Unknown
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.data.dataset import Dataset
from pushforward.laws.law import Law
from pushforward.models.base import Encoder
from pushforward.recipes.experiment import Experiment, States
from pushforward.recipes.networks import Data, NetworkChoice, Text
from pushforward.recipes.objectives import ObjectiveChoice, Parts
from pushforward.recipes.recipe import Recipe
from pushforward.runtime.device import find_device, seeded
from pushforward.streams.drawn import Drawn
from pushforward.streams.shuffled import Shuffled
from pushforward.streams.stream import Stream

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
    text: Text | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
    encoders: Mapping[str, Encoder] | None = None,
    states: States | None = None,
    kind: Callable[..., Made] = Experiment,  # type: ignore[assignment]
    **more: Any,
) -> Made:
    """The parts of a run from a recipe and its data.

    spec:   of the data, with their fingerprint; its classes are what the network is conditioned on.
    source: what x0 is drawn from, None for Gaussian noise; source_name: what it is called.
    stream: batches, if they are not plain draws of the data and the source.
    features: widths of the continuous conditions, by name.
    text:   what the network is given of texts; wrap: what is made of the network, such as `Prompted`.
    encoders: of the model. states: what it is trained on instead of the data, such as their latents.
    kind:   the experiment to make, of fields `more` besides those of `Experiment`.
    """
    path, coupling = objective.along(source is None)
    device = find_device(recipe.place.device)
    inside = Data(
        spec.shape if states is None else states.train.shape, spec.classes, features, text
    )
    given = data if states is None else states.train
    nulls: dict[str, Null] = dict.fromkeys(features or (), Unknown())
    if spec.classes is not None:
        nulls = {"label": Fill(-1)} | nulls
    for encoder in (encoders or {}).values():
        nulls |= encoder.nulls
    dropped = getattr(objective, "condition_dropout", None) if nulls else None
    parts = Parts(
        lambda outputs, **options: wrap(network.build(inside, outputs=outputs, **options)),
        path,
        given,
        recipe.optimiser.steps,
        nulls,
        spec,
        SamplingDefaults(source=source_name, condition_dropout=dropped),
        Provenance(recipe=recipe.name()),
        encoders,
        None if states is None else states.codec,
    )
    model, loss = seeded(lambda: objective.build(parts), recipe.seed)
    model.to(device)
    size, seed = recipe.optimiser.batch_size, recipe.seed
    if stream is None:
        if isinstance(given, Dataset):
            stream = Shuffled(given, size, seed)
        else:
            stream = Drawn(given, size, seed)
        if source is not None:
            from pushforward.streams.drawn import Sourced

            stream = Sourced(stream, source, seed)
    if coupling is not None:
        from pushforward.streams.coupled import Coupled
        from pushforward.streams.prefetch import Prefetch

        stream = Prefetch(Coupled(stream, coupling, seed))
    assert spec.fingerprint is not None
    if states is not None:
        apart = () if states.held_out is None else (states.held_out,)
        more = {"validated": apart} | more
    return kind(model, loss, stream, data, held_out, spec.fingerprint, source, **more)
