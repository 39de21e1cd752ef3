"""Captions back to what they say: the inverse of `captions.short` and `captions.descriptive`."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from pushforward.data.scenes.captions import COLUMNS, COUNTS, NOUNS, ROWS, level, place
from pushforward.data.scenes.graph import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Group,
    Object,
    Request,
    Scene,
)

_SIZE, _COLOUR, _SHAPE = "|".join(SIZES), "|".join(COLOURS), "|".join(SHAPES)
_SIDES = f"at the (?:{ROWS[0]}|{ROWS[2]})(?: (?:{COLUMNS[0]}|{COLUMNS[2]}))?|at the (?:{COLUMNS[0]}|{COLUMNS[2]})"
_PLACE = f"in the centre|{_SIDES}"
_NOUN = "|".join((*NOUNS.values(), *NOUNS))
_WHOLE = re.compile(f"on a (dark|grey) ({'|'.join(TEXTURES)}) ground there is (.+)")
_THING = re.compile(f"a ({_SIZE}) ({_COLOUR}) ({_SHAPE}) ({_PLACE})")
_GROUP = re.compile(f"({'|'.join(COUNTS[1:])})(?: ({_SIZE}))?(?: ({_COLOUR}))? ({_NOUN})")
_SINGULAR = {plural: noun for noun, plural in NOUNS.items()}


@dataclass(frozen=True)
class Thing:
    """An object as a descriptive caption has it."""

    size: str
    colour: str
    shape: str
    place: str

    @classmethod
    def of(cls, thing: Object) -> Thing:
        """What there is to say of an object."""
        return cls(thing.size, thing.colour, thing.shape, place(thing))


@dataclass(frozen=True)
class Description:
    """What a descriptive caption says: the ground, and the objects in any order."""

    level: str
    texture: str
    things: tuple[Thing, ...]

    @classmethod
    def of(cls, scene: Scene) -> Description:
        """All that there is to say of a scene."""
        return cls(level(scene), scene.texture, tuple(map(Thing.of, scene.objects)))

    def same_things(self, other: Description) -> bool:
        """Whether both have the same objects, every attribute of each, and no others."""
        return Counter(self.things) == Counter(other.things)

    def same_ground(self, other: Description) -> bool:
        return (self.level, self.texture) == (other.level, other.texture)

    def agreement(self, other: Description) -> dict[str, bool]:
        """Of each attribute, whether both have it equally often, whichever objects have it."""
        found = {"count": len(self.things) == len(other.things)}
        for name in ("size", "colour", "shape", "place"):
            mine, theirs = (Counter(getattr(t, name) for t in d.things) for d in (self, other))
            found[name] = mine == theirs
        return found


def parse(text: str) -> Description | Request | None:
    """What a caption says, descriptive or short; None for one that is neither."""
    return parse_descriptive(text) or parse_short(text)


def parse_descriptive(text: str) -> Description | None:
    """The inverse of `descriptive`; None for anything else."""
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return None
    level, texture, listed = whole.groups()
    *others, last = listed.split(" and ")
    if len(others) > 1:
        return None
    parts = [*(others[0].split(", ") if others else []), last]
    found = [_THING.fullmatch(part) for part in parts]
    if not all(found):
        return None
    return Description(level, texture, tuple(Thing(*match.groups()) for match in found if match))


def parse_short(text: str) -> Request | None:
    """The inverse of `short`; None for anything else."""
    for relation in (*RELATIONS, "beside"):
        link = " and " if relation == "beside" else f" {relation} "
        if link in text:
            groups = [_group(part) for part in text.split(link)]
            if len(groups) != 2 or None in groups:
                return None
            return Request(tuple(g for g in groups if g is not None), relation)
    alone = _group(text)
    return None if alone is None else Request((alone,))


def _group(text: str) -> Group | None:
    match = _GROUP.fullmatch(text)
    if match is None:
        return None
    number, size, colour, noun = match.groups()
    count = COUNTS.index(number)
    if (count == 1) != (noun in NOUNS):
        return None
    return Group(count, _SINGULAR.get(noun, noun), colour, size)
