"""Captions of scenes: short, descriptive, and noisy ones as they stand beside pictures of the web."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pushforward.data.scenes.graph import COLOURS, SHAPES, SIZES, Group, Object, Request, Scene

COUNTS = ("", "a", "two", "three", "four")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
# How often a short caption says the colour and the size of a group, and how often an alt text gets a thing wrong.
SAYS_COLOUR, SAYS_SIZE, WRONG = 0.8, 0.3, 0.2
NOUNS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}


def words(group: Group) -> str:
    """A group in words: "two small red circles"."""
    noun = group.shape if group.count == 1 else NOUNS[group.shape]
    return " ".join(word for word in (COUNTS[group.count], group.size, group.colour, noun) if word)


def short(request: Request) -> str:
    """A request in words: "a red circle left of two blue squares"."""
    link = " and " if request.relation == "beside" else f" {request.relation} "
    return link.join(words(group) for group in request.groups)


def vague(request: Request, random: np.random.Generator) -> Request:
    """The same request with some attributes not said; what tells two groups apart stays."""
    alike = len({group.shape for group in request.groups}) < len(request.groups)
    colour = random.random() < SAYS_COLOUR or alike
    size = random.random() < SAYS_SIZE
    groups = tuple(
        replace(group, colour=group.colour if colour else None, size=group.size if size else None)
        for group in request.groups
    )
    return replace(request, groups=groups)


def place(thing: Object) -> str:
    """Where an object is, in words: "top left", "centre"."""
    row, column = (min(int(3 * v), 2) for v in (thing.y, thing.x))
    if row == column == 1:
        return "in the centre"
    where = (ROWS[row] if row != 1 else "", COLUMNS[column] if column != 1 else "")
    return "at the " + " ".join(word for word in where if word)


def level(scene: Scene) -> str:
    """How bright the ground is, in words."""
    return "dark" if scene.ground < 0.14 else "grey"


def descriptive(scene: Scene) -> str:
    """Every attribute of every object, and the ground."""
    objects = sorted(scene.objects, key=lambda o: (o.y, o.x))
    parts = [f"a {o.size} {o.colour} {o.shape} {place(o)}" for o in objects]
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"on a {level(scene)} {scene.texture} ground there is {listed}"


def noisy(request: Request, random: np.random.Generator) -> str:
    """An alt text: some attributes wrong or missing, some words that say nothing."""
    groups = []
    for group in request.groups:
        if random.random() < WRONG:
            group = replace(group, colour=tuple(COLOURS)[random.integers(len(COLOURS))])
        if random.random() < WRONG:
            group = replace(group, shape=SHAPES[random.integers(len(SHAPES))])
        if random.random() < WRONG:
            group = replace(group, size=tuple(SIZES)[random.integers(len(SIZES))])
        keep = random.random(2) > WRONG
        groups.append(
            replace(
                group,
                colour=group.colour if keep[0] else None,
                size=group.size if keep[1] else None,
            )
        )
    if len(groups) > 1 and random.random() < WRONG:
        groups = groups[:1]
    text = short(replace(request, groups=tuple(groups)))
    before = ("", "picture of ", "image: ", "free ")[random.integers(4)]
    after = ("", " wallpaper", " stock photo", " clip art")[random.integers(4)]
    return before + text + after
