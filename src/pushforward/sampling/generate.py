"""Samples from a model or an exact law, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.errors import InputError, NonFiniteError
from pushforward.core.fields import (
    Field,
    FlowMap,
    breaks_of,
    find_inside,
    networks,
    nulls_of,
    parameters_of,
    require_field,
    require_nulls,
)
from pushforward.core.noise import START, Noise
from pushforward.core.progress import is_watched, tell
from pushforward.core.spec import SamplingDefaults
from pushforward.guidance import ClassifierFree, Composed
from pushforward.laws.law import Law
from pushforward.models.base import ModelBase
from pushforward.runtime.processes import Processes
from pushforward.sampling.checks import as_grid, as_source, check_count, check_whole
from pushforward.sampling.given import Label, conditions_of, count_of, negatives_of
from pushforward.sampling.sampler import Grid, find_sampler
from pushforward.solvers import Solver, integrate
from pushforward.solvers.base import Callback, Edit

Progress = Callable[[int, int], None]


def generate(
    model: Field | FlowMap,
    num: int | None = None,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    negative: Mapping[str, Any] | None = None,
    grid: Tensor | Grid | None = None,
    source: Tensor | Law | None = None,
    from_time: float = 0.0,
    to_time: float = 1.0,
    mask: Tensor | None = None,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    callback: Callback | None = None,
    edit: Edit | None = None,
    progress: Progress | None = None,
    decode: bool = True,
    label: Label | None = None,
    **cond: Any,
) -> Tensor:
    """Draw `num` samples.

    model:      a Field, or a flow map, which takes a step a call; with `shape`, or one of the library's models and
                exact laws, which know theirs. What is wrapped (guidance, ScheduleTransfer) is as good as what is
                inside.
    num:        how many; by default as many as there are prompts, or other entries for the model's encoders.
    solver:     the best known for this model and number of calls by default (`default_sampler`); with a grid of yours,
                `Learned(None)`.
    nfe:        network calls for each sample, at most: nfe // solver.calls steps are taken; a guided call is one.
                By default what the model's SamplingDefaults say; else 50, or of a flow map 1 or its own grid's.
    guidance:   scale w of classifier-free guidance, acting within `interval`; 1 for none. By default none, or with
                `prompt=` what the model's SamplingDefaults say. A flow map has none but what it was trained with.
    negative:   conditions to move away from instead of none, such as {"label": 3}: one for all samples or one for each.
    grid:       times (n + 1,) instead of nfe, or a rule for them such as `times.karras`; by default the solver's own,
                or else `times.straight`.
    source:     states to start from (num, *shape), or a law to draw them from; Gaussian noise by default.
    from_time, to_time: where along the path to start and to end. From a later time than 0, `source` is the state there.
    mask:       (num, ...) bool, of the samples' number of dimensions: the entries that are data, for samples of
                different lengths. Each is the sample that it is alone.
    seed:       sample i is a function of (seed, start + i), whatever the batch size, up to rounding in the network.
    start:      id of the first sample: calls that take shares make the samples of one.
    label:      one class for all, or one for each sample, by number or by name; -1, "none" or None for no class.
    cond:       other conditions, by the names that the network or the model's encoders take them by.
    callback, edit: called as by `integrate`, for each batch.
    progress:   called with (network steps done, of how many).
    decode:     whether samples of a model of latents are decoded; its states otherwise.

    Returns (num, *shape) on the model's device; `generate_batches` yields them batch by batch instead. Raises
    NonFiniteError if any sample is not finite.
    """
    options = {
        name: value for name, value in locals().items() if name not in ("model", "num", "cond")
    }
    return torch.cat(list(generate_batches(model, num, **options, **cond)))


def generate_batches(
    model: Field | FlowMap,
    num: int | None = None,
    *,
    solver: Solver | None = None,
    nfe: int | None = None,
    guidance: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    negative: Mapping[str, Any] | None = None,
    grid: Tensor | Grid | None = None,
    source: Tensor | Law | None = None,
    from_time: float = 0.0,
    to_time: float = 1.0,
    mask: Tensor | None = None,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    shape: Sequence[int] | None = None,
    callback: Callback | None = None,
    edit: Edit | None = None,
    progress: Progress | None = None,
    decode: bool = True,
    label: Label | None = None,
    **cond: Any,
) -> Iterator[Tensor]:
    """The samples of `generate` (b, *shape), b <= batch_size at a time: memory does not grow with `num`.

    Arguments are checked at once, before the first batch is asked for.
    """
    require_field(model)
    num = count_of(model, num, cond)
    check_count(num, batch_size, start)
    check_whole(seed=seed, nfe=nfe)
    source, grid = as_source(source), as_grid(grid)
    if guidance is None and "prompt" in cond and isinstance(model, ModelBase):
        guidance = model.sampling.prompt_guidance
    if not 0 <= from_time < to_time <= 1:
        raise InputError(
            f"from_time = {from_time}, to_time = {to_time}: need 0 <= from_time < to_time <= 1"
        )
    if negative is not None:
        if guidance is None:
            raise InputError(
                "negative conditions act by guidance: give its scale, as in guidance=2.0"
            )
        for name in find_inside(model, "encoders", {}):
            if name in negative and name not in cond:
                raise InputError(f"the negative {name} has no positive one beside it: give both")
        negative = negatives_of(model, num, negative, ARGUMENTS)
    field = model if guidance is None else _guided(model, guidance, interval, negative)
    breaks = sum(from_time < b < to_time for b in breaks_of(field))
    solver, grid, *_ = find_sampler(
        model, solver, grid, nfe, guidance, span=(from_time, to_time), breaks=breaks
    )
    size = shape_of(model, shape, isinstance(source, Tensor))
    device, dtype = home(model, source)
    given = conditions_of(model, num, label, cond, ARGUMENTS)
    if isinstance(source, Tensor):
        source = _states(source, num, size)
    elif from_time > 0:
        raise InputError(
            f"from_time is {from_time:g}, where the state is not noise: give it as source=, (num, *shape)"
        )
    if mask is not None:
        if len(mask) != num:
            raise InputError(f"mask has {len(mask)} entries for {num} samples")
        if find_inside(model, "takes_masks") is False:
            raise InputError(
                "this model's network takes no mask: draw samples of one length, or take a network whose forward has "
                "an argument mask"
            )
    if guidance is not None and guidance != 1:
        _require_guided(field, given, negative)
    return _batches(
        model, field, solver, grid, source, given, mask, num, batch_size, seed, start, size, device, dtype,
        callback, edit, progress, find_inside(model, "codec") if decode and to_time == 1 else None,
    )  # fmt: skip


def _batches(
    model: Any, field: Any, solver: Solver, grid: Tensor, source: Any, given: dict[str, Any], mask: Tensor | None,
    num: int, batch_size: int, seed: int, start: int, size: tuple[int, ...], device: torch.device,
    dtype: torch.dtype, callback: Callback | None, edit: Edit | None, progress: Progress | None, codec: Any,
) -> Iterator[Tensor]:  # fmt: skip
    steps = grid.shape[-1] - 1
    total = steps * -(-num // batch_size)
    for number, first in enumerate(range(0, num, batch_size)):
        rows = slice(first, min(first + batch_size, num))
        noise = Noise.batch(rows.stop - first, seed, start=start + first, device=device)
        part = None if mask is None else mask[rows].to(device)
        here_field = _rows_of(field, rows, device)

        def watched(i: int, t: Tensor, x: Tensor, done: int = number * steps) -> None:
            if callback is not None:
                callback(i, t, x)
            if progress is not None and i:
                progress(min(done + i, total), total)
            tell("samples", min(done + i, total), total)

        with torch.no_grad(), evaluating(model):
            x = start_states(source, noise.masked(part), rows, size, model, dtype)
            here = conditions.to(conditions.take(given, rows), device)
            x = integrate(
                solver, here_field, x, grid, seed=seed, ids=noise.ids, mask=part, edit=edit,
                callback=watched if callback or progress or is_watched() else None, **here,
            )  # fmt: skip
            check_finite(x, first)
            if codec is not None:
                x = codec.decode(x)
        yield x


def _rows_of(field: Any, rows: slice, device: torch.device) -> Any:
    """The field for some of the samples: conditions of its own have a row for each, or one for all."""
    if not is_dataclass(field) or isinstance(field, type):
        return field

    def here(given: Mapping[str, Any]) -> dict[str, Any]:
        part = given if conditions.size(given) == 1 else conditions.take(given, rows)
        return conditions.to(part, device)

    changed: dict[str, Any] = {}
    wrapped = getattr(field, "field", None)
    inside = _rows_of(wrapped, rows, device)
    if inside is not wrapped:
        changed["field"] = inside
    if isinstance(field, ClassifierFree) and field.negative is not None:
        changed["negative"] = here(field.negative)
    if isinstance(field, Composed):
        changed["terms"] = [(w, here(given)) for w, given in field.terms]
    return replace(field, **changed) if changed else field


def check_finite(samples: Tensor, first: int) -> None:
    """That a batch of samples, from number `first` on, is finite."""
    bad = (~samples.flatten(1).isfinite().all(1)).nonzero().flatten() + first
    if len(bad):
        last = first + len(samples) - 1
        raise NonFiniteError(
            f"{len(bad)} of the samples {first} to {last} are not finite (the first: {bad[:8].tolist()}); take more "
            f"steps, another solver, or less guidance, and check that the model is trained"
        )


# What `generate` takes, to guess at misspelt names.
ARGUMENTS = tuple(signature(generate).parameters)[:-1]


def _states(source: Tensor, num: int, size: tuple[int, ...]) -> Tensor:
    """States to start from, one for each sample."""
    if not source.is_floating_point():
        raise InputError(f"source must be floating numbers, got {source.dtype}")
    if len(source) != num:
        raise InputError(f"source has {len(source)} states for {num} samples")
    if size and tuple(source.shape[1:]) != size:
        raise InputError(f"source has states {tuple(source.shape[1:])}, and samples are {size}")
    return source


def _require_guided(
    field: Any, given: Mapping[str, Any], negative: Mapping[str, Any] | None
) -> None:
    """That guidance has something to act on."""
    for name in negative or ():
        if name not in given:
            raise InputError(
                f"the negative condition {name} has no positive one beside it: give both"
            )
    if negative is not None:
        return
    require_nulls(field)
    nulls = nulls_of(field)
    if not any(name in given for name in nulls):
        # What encoders give is asked for by the encoders' names.
        encoders = find_inside(field, "encoders", {}).items()
        reader = {name: asked for asked, encoder in encoders for name in encoder.nulls}
        names = dict.fromkeys(reader.get(name, name) for name in nulls)
        raise InputError(
            f"guidance moves samples towards a condition: give one ({', '.join(f'{name}=' for name in names)})"
        )


def generate_together(
    model: Field | FlowMap,
    num: int,
    *,
    source: Tensor | Law | None = None,
    start: int = 0,
    label: Label | None = None,
    **options: Any,
) -> Tensor:
    """The samples of `generate`, of which each process that takes part in the run draws its share; all get all.

    Options are those of `generate`; what has a row for each sample is cut alike. Equal for any number of processes, up
    to rounding in the network. With fewer samples than processes each one draws them all.
    """
    processes = Processes.current()
    if processes.count == 1 or num < processes.count:
        return generate(model, num, source=source, start=start, label=label, **options)
    asked = {name: options.pop(name) for name in tuple(options) if name not in ARGUMENTS}
    given = conditions_of(model, num, label, asked, ARGUMENTS)
    negative = options.get("negative")
    if negative is not None:
        negative = negatives_of(model, num, negative, ARGUMENTS)
        options["negative"] = negative
        given |= {"negative": negative} if conditions.size(negative) != 1 else {}
    given |= {"mask": options["mask"]} if options.get("mask") is not None else {}
    given |= {"source": source} if isinstance(source, Tensor) else {}
    conditions.check_size(given, num)
    # Shares of one size, so that processes which hold parts of a network call it equally often.
    size = -(-num // processes.count)
    rows = (torch.arange(size) + processes.rank * size).clamp(max=num - 1)
    options = {"source": source} | options | conditions.take(given, rows)
    own = generate(model, size, start=start + processes.rank * size, **options)
    return processes.gather(own)[:num]


def _guided(
    model: Field | FlowMap,
    guidance: float,
    interval: tuple[float, float],
    negative: Mapping[str, Any] | None,
) -> Field | FlowMap:
    if isinstance(model, FlowMap) and guidance == 1:
        return model
    if isinstance(model, FlowMap):
        trained = find_inside(model, "sampling", SamplingDefaults()).guidance or 1
        raise InputError(
            f"a flow map has the guidance that it was trained with (scale {trained}), and no other: leave "
            f"guidance out, or train one with another scale"
        )
    return ClassifierFree(model, guidance, interval, negative)


def shape_of(model: Field | FlowMap, shape: Sequence[int] | None, given: bool) -> tuple[int, ...]:
    """Shape of a sample; `given` where the states to start from say it."""
    size = tuple(shape) if shape is not None else tuple(find_inside(model, "shape", ()))
    if not size and not given:
        raise InputError(
            "the shape of a sample is not known: pass shape=, or build the Model with it"
        )
    return size


def start_states(
    source: Tensor | Law | None,
    noise: Noise,
    rows: slice,
    size: tuple[int, ...],
    model: Field | FlowMap,
    dtype: torch.dtype,
) -> Tensor:
    if source is None:
        trained = find_inside(model, "sampling", SamplingDefaults()).source
        if trained is not None:
            raise InputError(
                f"this model was trained to start from {trained}, and not from noise: pass source="
            )
        return model.path.source_std * noise.normal(size, START, dtype)
    x = source[rows] if isinstance(source, Tensor) else source.draw(noise)
    return x.to(noise.ids.device, dtype)


def home(model: Field | FlowMap, source: Any = None) -> tuple[torch.device, torch.dtype]:
    """Where and in what precision a model computes; what has no parameters does so as the states that are given to
    start from, or in float64 on the CPU."""
    parameter = next(parameters_of(model), None)
    if parameter is None:
        if isinstance(source, Tensor) and source.is_floating_point():
            return source.device, source.dtype
        return torch.device("cpu"), torch.float64
    return parameter.device, torch.promote_types(parameter.dtype, torch.float32)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off, and back as it was."""
    inside = networks(model)
    modes = [(m, m.training) for net in inside for m in net.modules()]
    for net in inside:
        net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
