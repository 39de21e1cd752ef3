"""One drawing: its sampler, its conditions, and the callback by which it is seen and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from pushforward.core import times
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, breaks_of, networks, within
from pushforward.core.noise import START, Noise
from pushforward.core.predictions import Prediction
from pushforward.evaluate.labels import balanced_labels, present
from pushforward.guidance import ClassifierFree
from pushforward.recipes.choices import SOLVERS, grid
from pushforward.sampling.generate import home, shape_of
from pushforward.sampling.invert import slerp
from pushforward.sampling.sampler import find_sampler
from pushforward.serve.settings import Settings
from pushforward.serve.subjects import Subject


class StoppedError(Exception):
    """The job was cancelled, or took too long; raised between calls of the field."""


@dataclass(frozen=True)
class Watched:
    """A field that calls `check` each time before it answers, which may raise."""

    field: Field
    check: Callable[[], None]

    @property
    def path(self) -> Any:
        return self.field.path

    @property
    def breaks(self) -> tuple[float, ...]:
        return breaks_of(self.field)

    def within(self, start: float, end: float) -> Watched:
        return replace(self, field=within(self.field, start, end))

    def __call__(
        self, x: Tensor, t: Tensor | float, want: Prediction = "velocity", **cond: Any
    ) -> Tensor:
        self.check()
        return self.field(x, t, want, **cond)


@contextmanager
def checked(field: Any, check: Callable[[], None]) -> Iterator[Any]:
    """The field, which checks before each call: a wrapped one of a law, the model itself with hooks otherwise."""
    modules = networks(field)
    if not modules:
        yield Watched(field, check)
        return
    inside: list[Any] = [net for model in modules for net in cast(Any, model).networks().values()]
    handles = [net.register_forward_pre_hook(lambda *_: check()) for net in inside]
    try:
        yield field
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Job:
    """tag: the client's own number of it, in every frame. send: takes (kind of message, content).

    cancelled: whether it is to end. deadline: in seconds of `time.monotonic`.
    """

    tag: int
    settings: Settings
    send: Callable[[int, bytes], None]
    cancelled: Callable[[], bool]
    deadline: float

    def check(self) -> None:
        if self.cancelled():
            raise StoppedError("cancelled")
        if time.monotonic() > self.deadline:
            raise StoppedError("it took too long")


def guided(subject: Subject, settings: Settings, field: Any) -> Any:
    """The field whose arrows are drawn."""
    if settings.guidance == 1 or settings.label is None or settings.label < 0:
        return field
    return ClassifierFree(field, settings.guidance)


def labels(subject: Subject, settings: Settings, num: int) -> Tensor | None:
    """(num,) labels: the one that was asked for; else any class of a law, and all classes of pictures in turn."""
    if settings.label is not None:
        return torch.full((num,), settings.label)
    if subject.exact or not subject.spec.classes or settings.prompt:
        return None
    return balanced_labels(num, present(subject.spec))


def given(
    subject: Subject, settings: Settings, num: int, hint: Tensor | None = None
) -> dict[str, Any]:
    """Conditions, guidance and negative, as `generate` takes them."""
    found: dict[str, Any] = {}
    label = labels(subject, settings, num)
    if label is not None:
        found["label"] = label
    if settings.prompt:
        found["prompt"] = [settings.prompt] * num
    if settings.guidance != 1:
        found["guidance"] = settings.guidance
        if settings.negative:
            found["negative"] = {"prompt": settings.negative}
    elif settings.negative:
        raise InputError("the negative prompt acts by guidance: choose one other than 1")
    if hint is not None:
        from pushforward.saving.control import controls_of

        (name,) = controls_of(subject.field)
        found["control"] = {name: hint.expand(num, *hint.shape[1:])}
    return found


def sampler(subject: Subject, settings: Settings, calls: int | None = None) -> dict[str, Any]:
    """solver and grid, as `generate` takes them. calls: instead of those of the settings."""
    field, calls = subject.field, calls or settings.calls
    solver = None if settings.solver == "auto" else SOLVERS[settings.solver].make(path=field.path)
    rule = None if settings.grid == "auto" else grid(settings.grid)
    if solver is not None and solver.calls == 0:
        # So many pictures of a solver that chooses its own steps between them.
        return {"solver": solver, "grid": times.straight(24, field.path)}
    scale = None if settings.guidance == 1 else settings.guidance
    found = find_sampler(field, solver, rule, calls, scale)
    return {"solver": found.solver, "grid": found.grid}


def source(subject: Subject, settings: Settings, num: int) -> Any:
    """States to start from: noise of the seed, turned towards that of the second one by `mix`.

    In the plane along an arc of each coordinate, cos(pi w/2) a + sin(pi w/2) b, which is normal for every w; of
    pictures, whose noise lies near a sphere, by `slerp`.
    """
    if subject.source is not None:
        if settings.mix > 0:
            raise InputError("this run does not start from Gaussian noise: there is nothing to mix")
        return subject.source
    if settings.mix == 0:
        return None
    device, dtype = home(subject.field)
    size = shape_of(subject.field, None, False)
    a, b = (
        Noise.batch(num, seed, device=device).normal(size, START, dtype)
        for seed in (settings.seed, settings.second)
    )
    if subject.kind == "plane":
        angle = torch.tensor(settings.mix * torch.pi / 2, dtype=dtype)
        mixed = angle.cos() * a + angle.sin() * b
    else:
        mixed = slerp(a, b, settings.mix)
    return subject.field.path.source_std * mixed
