"""Prompts whose pictures can be judged exactly: the six tasks of GenEval (Ghosh et al. 2023, arXiv 2310.11513)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pushforward.core.errors import InputError
from pushforward.data.scenes.captions import short
from pushforward.data.scenes.graph import (
    COLOURS,
    MOST,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Object,
    Request,
    generator,
)

# The stream of random numbers that prompts are drawn from.
PROMPTS = 1


@dataclass(frozen=True)
class Prompt:
    """A request in words, and the task that it belongs to."""

    text: str
    request: Request
    task: str

    def satisfied(self, objects: Sequence[Object]) -> bool:
        return self.request.satisfied(objects)


def _group(random: np.random.Generator, count: int = 1, colour: bool = True) -> Group:
    shade = tuple(COLOURS)[random.integers(len(COLOURS))] if colour else None
    return Group(count, SHAPES[random.integers(len(SHAPES))], shade)


def _pair(
    random: np.random.Generator,
    colour: bool,
    relation: str = "beside",
    colours_differ: bool = False,
) -> Request:
    first, second = _group(random, 1, colour), _group(random, 1, colour)
    while first.shape == second.shape or (colours_differ and first.colour == second.colour):
        second = _group(random, 1, colour)
    return Request((first, second), relation)


def _sized(random: np.random.Generator) -> Request:
    group = _group(random)
    size = tuple(SIZES)[random.integers(len(SIZES))]
    return Request((Group(1, group.shape, group.colour, size),))


def _relation(random: np.random.Generator) -> str:
    return tuple(RELATIONS)[random.integers(len(RELATIONS))]


Maker = Callable[[np.random.Generator], Request]
# Of combinations that are seen in training, as in GenEval; and of those held out, where every prompt names colours.
SEEN: dict[str, Maker] = {
    "single_object": lambda r: Request((_group(r, 1, colour=False),)),
    "two_object": lambda r: _pair(r, colour=False),
    "counting": lambda r: Request((_group(r, int(r.integers(2, MOST + 1)), colour=False),)),
    "colors": lambda r: Request((_group(r),)),
    "position": lambda r: _pair(r, False, _relation(r)),
    "color_attr": lambda r: _pair(r, True, colours_differ=True),
}
HELD_OUT: dict[str, Maker] = {
    **SEEN,
    "single_object": _sized,
    "two_object": lambda r: _pair(r, True),
    "counting": lambda r: Request((_group(r, int(r.integers(2, MOST + 1))),)),
    "position": lambda r: _pair(r, True, _relation(r)),
}
TASKS = tuple(SEEN)


def prompts(number: int, seed: int = 0, held_out: bool = False) -> list[Prompt]:
    """`number` prompts of the six tasks in turn, a function of (seed, held_out).

    held_out: each has a combination of colour, shape and role that no training scene has; else none has.
    """
    if number < 1:
        raise InputError(f"{number} prompts were asked for; it takes at least 1")
    makers = HELD_OUT if held_out else SEEN
    found = []
    for index in range(number):
        task = TASKS[index % len(TASKS)]
        random = generator(seed, index, PROMPTS)
        request = makers[task](random)
        while request.held_out != held_out:
            request = makers[task](random)
        found.append(Prompt(short(request), request, task))
    return found


@dataclass(frozen=True)
class Score:
    """A share of satisfied prompts, and its standard error."""

    value: float
    error: float
    number: int


def scores(asked: Sequence[Prompt], seen: Sequence[Sequence[Object]]) -> dict[str, Score]:
    """The score of each task by what was read in the picture of each prompt, and "mean", that of the tasks.

    A share p of n has the standard error sqrt(p (1 - p)/n), and the mean of k tasks sqrt(sum e^2)/k.
    """
    if len(asked) != len(seen):
        raise InputError(f"{len(seen)} pictures for {len(asked)} prompts")
    right: dict[str, list[bool]] = {}
    for prompt, objects in zip(asked, seen, strict=True):
        right.setdefault(prompt.task, []).append(prompt.satisfied(objects))
    found = {}
    for task in sorted(right, key=TASKS.index):
        n, p = len(right[task]), sum(right[task]) / len(right[task])
        found[task] = Score(p, math.sqrt(p * (1 - p) / n), n)
    k = len(found)
    value = sum(s.value for s in found.values()) / k
    error = math.sqrt(sum(s.error**2 for s in found.values())) / k
    return found | {"mean": Score(value, error, len(asked))}
