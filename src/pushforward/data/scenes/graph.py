"""Scene graphs: small coloured shapes, drawn by rule.

A scene is what a picture shows, and a request is what a caption asks for. Both are functions of (seed, index).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pushforward.core.errors import InputError

Shape = Literal["circle", "square", "triangle", "cross"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (240, 65, 60),
    "green": (55, 190, 75),
    "blue": (75, 115, 250),
    "yellow": (240, 215, 50),
    "purple": (190, 85, 225),
    "cyan": (70, 215, 225),
}
# Radius of the circle of equal area, in widths of the picture.
SIZES: dict[str, tuple[float, float]] = {"small": (0.100, 0.115), "large": (0.150, 0.165)}
# Unit vectors from the second group to the first one, y pointing down.
RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1),
}  # fmt: skip
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
# What an object is to the rest of its scene: alone, one of several alike, beside others, or in a relation.
ROLES = ("alone", "many", "beside", *RELATIONS)
TEXTURES = ("plain", "striped", "checked", "shaded")
MOST = 4  # objects in a scene

# Distance from the centre of a shape to its farthest point, for a circle of equal area of radius 1.
_SQUARE = math.sqrt(math.pi) / 2  # half of a side
_TRIANGLE = math.sqrt(4 * math.pi / (3 * math.sqrt(3)))  # to a corner
_ARM = math.sqrt(math.pi / 2.31)  # of a cross whose arms are 0.7 of that wide
REACH: dict[str, float] = {
    "circle": 1.0,
    "square": _SQUARE * math.sqrt(2),
    "triangle": _TRIANGLE,
    "cross": _ARM * math.hypot(1, 0.35),
}
GAP = 0.05  # between the circles that objects fill
APART = 0.15  # of centres along a relation


@dataclass(frozen=True)
class Object:
    """A shape of one colour, at (x, y) in widths of the picture, y pointing down; r: of the circle of equal area."""

    shape: str
    colour: str
    x: float
    y: float
    r: float

    @property
    def size(self) -> str:
        """ "small" or "large"."""
        return "small" if self.r < (SIZES["small"][1] + SIZES["large"][0]) / 2 else "large"


@dataclass(frozen=True)
class Scene:
    """A picture's content. ground: grey level in [0, 1] and texture; objects: from back to front."""

    objects: tuple[Object, ...]
    ground: float = 0.15
    texture: str = "plain"
    phase: float = 0.0


@dataclass(frozen=True)
class Group:
    """So many objects alike. None: not said."""

    count: int
    shape: str
    colour: str | None = None
    size: str | None = None

    def fits(self, thing: Object) -> bool:
        return (
            thing.shape == self.shape
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )


@dataclass(frozen=True)
class Request:
    """One group, or two and how the first lies to the second: "beside" for anyhow."""

    groups: tuple[Group, ...]
    relation: str = "beside"

    def roles(self) -> tuple[str, ...]:
        """Of each group."""
        if len(self.groups) == 1:
            return ("alone" if self.groups[0].count == 1 else "many",)
        return self.relation, INVERSE.get(self.relation, "beside")

    @property
    def held_out(self) -> bool:
        """Whether a combination of colour, shape and role in it is never trained on."""
        return any(
            group.colour is not None and is_held_out(group.colour, group.shape, role)
            for group, role in zip(self.groups, self.roles(), strict=True)
        )

    def satisfied(self, objects: Sequence[Object]) -> bool:
        """Whether these are all objects that are asked for, and no others, each attribute and the relation right."""
        if len(objects) != sum(group.count for group in self.groups):
            return False
        chosen = [[o for o in objects if group.fits(o)] for group in self.groups]
        if any(len(c) != g.count for c, g in zip(chosen, self.groups, strict=True)):
            return False
        if self.relation not in RELATIONS:
            return True
        dx, dy = RELATIONS[self.relation]
        return all((a.x - b.x) * dx + (a.y - b.y) * dy > 0 for a in chosen[0] for b in chosen[1])


def is_held_out(colour: str, shape: str, role: str) -> bool:
    """One colour of six for each shape and role: 28 of 168 combinations, each part of which is seen elsewhere."""
    return (tuple(COLOURS).index(colour) + 2 * SHAPES.index(shape) + 3 * ROLES.index(role)) % 6 == 0


def generator(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Random numbers of one scene, independent of all others: counter-based."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stream, index]))


Layout = Literal["one", "many", "beside", "relation"]
LAYOUTS: dict[Layout, float] = {"one": 0.2, "many": 0.2, "beside": 0.2, "relation": 0.4}


def draw(
    seed: int, index: int, held_out: bool = False, layouts: dict[Layout, float] | None = None
) -> tuple[Scene, Request]:
    """Scene `index`, and the request with every attribute said that it satisfies.

    held_out: only scenes with a combination that is held out; else only those without.
    """
    random = generator(seed, index)
    shares = LAYOUTS if layouts is None else layouts
    names = tuple(shares)
    weights = np.array([shares[name] for name in names])
    while True:
        request = _request(random, names[random.choice(len(names), p=weights / weights.sum())])
        if request.held_out != held_out:
            continue
        objects = place(request, random)
        if objects is None:
            continue
        scene = Scene(
            objects,
            float(random.uniform(0.06, 0.22)),
            TEXTURES[random.choice(4, p=(0.55, 0.15, 0.15, 0.15))],
            float(random.uniform(0, 1)),
        )
        return scene, request


def _request(random: np.random.Generator, layout: Layout) -> Request:
    def group(count: int) -> Group:
        return Group(
            count,
            SHAPES[random.integers(len(SHAPES))],
            tuple(COLOURS)[random.integers(len(COLOURS))],
            # Several large ones leave little room.
            "large" if random.random() < (0.5 if count == 1 else 0.2) else "small",
        )

    if layout == "one":
        return Request((group(1),))
    if layout == "many":
        return Request((group(int(random.integers(2, MOST + 1))),))
    counts = (1, 1)
    if layout == "relation" and random.random() < 0.4:
        counts = ((1, 2), (2, 1))[random.integers(2)]
    first, second = group(counts[0]), group(counts[1])
    while (first.shape, first.colour) == (second.shape, second.colour):
        second = group(counts[1])
    relation = tuple(RELATIONS)[random.integers(4)] if layout == "relation" else "beside"
    return Request((first, second), relation)


def place(
    request: Request, random: np.random.Generator, tries: int = 60
) -> tuple[Object, ...] | None:
    """Objects that satisfy a request whose attributes are all said; None if no room was found."""
    wanted = [group for group in request.groups for _ in range(group.count)]
    radii = [random.uniform(*SIZES[str(group.size)]) for group in wanted]
    reach = np.array([r * REACH[g.shape] for r, g in zip(radii, wanted, strict=True)])
    first = request.groups[0].count
    direction = RELATIONS.get(request.relation)
    room = np.minimum(reach, 0.45) + 0.01
    for _ in range(tries):
        at = random.uniform(room[:, None], 1 - room[:, None], (len(wanted), 2))
        if direction is not None:
            along = at @ np.array(direction, float)
            if along[:first].min() < along[first:].max() + APART:
                continue
        between = np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1))
        if (between < reach[:, None] + reach + GAP)[~np.eye(len(at), dtype=bool)].any():
            continue
        return tuple(
            Object(g.shape, str(g.colour), float(x), float(y), float(r))
            for g, (x, y), r in zip(wanted, at, radii, strict=True)
        )
    return None


def scenes(
    number: int, seed: int = 0, held_out: bool = False, start: int = 0
) -> Iterator[tuple[Scene, Request]]:
    """Scenes start, start + 1, ..., each a function of (seed, index, held_out)."""
    if number < 1:
        raise InputError(f"{number} scenes were asked for; it takes at least 1")
    for index in range(start, start + number):
        yield draw(seed, index, held_out)
