"""Scenes as a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pushforward.core.errors import InputError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.images.names import Names
from pushforward.data.scenes import captions
from pushforward.data.scenes.graph import Scene, draw, generator
from pushforward.data.scenes.render import Graphs, Rendered

Captions = Literal["mixed", "short", "descriptive", "noisy"]
# The stream of random numbers of captions, and where the shares of mixed ones end.
CAPTIONS = 2
MIXED: tuple[tuple[str, float], ...] = (("short", 0.6), ("descriptive", 0.9), ("noisy", 1.0))


def load_scenes(
    number: int = 40_000,
    size: int = 32,
    seed: int = 0,
    captioned: Captions = "mixed",
    held_out: bool = False,
) -> Dataset:
    """Pictures (3, size, size) of scenes with captions, drawn when they are read.

    captioned: what stands as `caption`; `short`, `descriptive` and `noisy` texts are there in any case. mixed: six in
               ten short, three descriptive, one noisy.
    held_out:  scenes with combinations of colour, shape and role that the others never have.
    """
    if size < 16:
        raise InputError(
            f"scenes of {size} pixels cannot be read back: take at least 16, best 32 or 64"
        )
    if number < 1:
        raise InputError(f"{number} scenes were asked for; it takes at least 1")
    drawn: list[Scene] = []
    texts: dict[str, list[str]] = {name: [] for name, _ in MIXED}
    chosen: list[str] = []
    for index in range(number):
        if index % 1000 == 0:
            tell("scenes", index, number)
        scene, request = draw(seed, index, held_out)
        random = generator(seed, index, CAPTIONS)
        u = float(random.random())
        lines = {
            "short": captions.short(captions.vague(request, random)),
            "descriptive": captions.descriptive(scene),
            "noisy": captions.noisy(request, random),
        }
        drawn.append(scene)
        for name, line in lines.items():
            texts[name].append(line)
        kind: str = captioned
        if kind == "mixed":
            kind = next(name for name, upto in MIXED if u < upto)
        chosen.append(lines[kind])
    whole = Dataset.from_arrays(
        Rendered(Graphs.of(drawn), size),
        captions=chosen,
        texts=texts,
        where="scenes",
        layout="channels last",
    )
    return replace(whole, names=Names.of(name_of(i, seed, held_out) for i in range(number)))


def name_of(index: int, seed: int = 0, held_out: bool = False) -> str:
    """What scene `index` is called, where files have names."""
    return f"scenes/{seed}{'-held-out' if held_out else ''}/{index:06d}"
