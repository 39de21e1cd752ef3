"""Prompts whose pictures can be read: which share of them is satisfied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.scenes import Object, Scene, draw, prompts, read_all, scores
from pushforward.data.scenes.captions import descriptive
from pushforward.data.scenes.parse import Description, Thing
from pushforward.data.scenes.prompts import TASKS
from pushforward.evaluate.clip import share
from pushforward.evaluate.samples import drawn
from pushforward.runtime.processes import Processes


def pictures(samples: Tensor) -> Any:
    """(N, H, W, 3) uint8 from images (N, 3, H, W) in [-1, 1]."""
    return ((samples.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(1, -1).numpy()


def judge_scenes(
    model: Any, num: int = 1000, **sampling: Any
) -> tuple[dict[str, float], Tensor, None]:
    """Figures of `num` prompts of combinations seen in training, and of as many that are held out.

    seen_TASK, held_out_TASK: the share of pictures with the number of objects, shapes, colours, sizes and places asked
    for and nothing else, for the six tasks of GenEval (`data.scenes.prompts`); seen_mean, held_out_mean: of the tasks.
    Each with its standard error. Returns the figures and the pictures of both, in this order.
    """
    seed = int(sampling.get("seed", 0))

    def pictured(lines: Sequence[str]) -> Tensor:
        return drawn(model, len(lines), prompt=list(lines), **sampling)

    return score_scenes(pictured, num, seed)


def score_scenes(
    pictured: Callable[[Sequence[str]], Tensor], num: int, seed: int = 0
) -> tuple[dict[str, float], Tensor, None]:
    """The same of anything that draws pictures (N, 3, H, W) in [-1, 1] of N prompts."""
    if num < len(TASKS):
        raise InputError(
            f"{num} prompts leave some of the {len(TASKS)} tasks out of their mean: judge at least {len(TASKS)} (--num)"
        )
    asked = [prompts(num, seed), prompts(num, seed, held_out=True)]
    samples = pictured([p.text for each in asked for p in each])
    figures: dict[str, float] = {}
    if not Processes.current().lead:
        return figures, samples, None
    seen = read_all(pictures(samples))
    for name, each, objects in zip(
        ("seen", "held_out"), asked, (seen[:num], seen[num:]), strict=True
    ):
        for task, score in scores(each, objects).items():
            figures |= {f"{name}_{task}": score.value, f"{name}_{task}_error": score.error}
    return figures, samples, None


def described_scenes(num: int, seed: int = 0, held_out: bool = False) -> list[Scene]:
    """Scenes whose descriptive captions are prompts, of seeds that no data set of scenes is drawn from."""
    return [draw(2**32 + seed, index, held_out)[0] for index in range(num)]


def shown_as_described(
    scenes: Sequence[Scene], seen: Sequence[Sequence[Object]]
) -> dict[str, Tensor]:
    """(N,) bool of pictures in which these objects were seen, by what is asked of them.

    described: there are all objects of the scene, of each the size, the colour, the shape and the place, and no others.
    described_but_for_places: the same without places.
    """
    if len(scenes) != len(seen):
        raise InputError(f"{len(seen)} pictures for {len(scenes)} scenes")
    found: dict[str, list[bool]] = {"described": [], "described_but_for_places": []}
    for scene, objects in zip(scenes, seen, strict=True):
        asked = Description.of(scene)
        got = replace(asked, things=tuple(map(Thing.of, objects)))
        found["described"].append(got.same_things(asked))
        bare = [
            replace(d, things=tuple(replace(t, place="") for t in d.things)) for d in (got, asked)
        ]
        found["described_but_for_places"].append(bare[0].same_things(bare[1]))
    return {name: torch.tensor(right) for name, right in found.items()}


def judge_descriptions(
    model: Any, num: int = 1000, **sampling: Any
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Figures of `num` descriptive prompts of combinations seen in training, and of as many that are held out.

    Those of `shown_as_described`, after seen_ or held_out_, each with its standard error; and of each the pictures
    (num,) bool that are right. The ground is not read.
    """
    seed = int(sampling.get("seed", 0))
    asked = {name: described_scenes(num, seed, name == "held_out") for name in ("seen", "held_out")}
    figures: dict[str, float] = {}
    rights: dict[str, Tensor] = {}
    for name, scenes in asked.items():
        samples = drawn(model, num, prompt=[descriptive(scene) for scene in scenes], **sampling)
        for what, right in shown_as_described(scenes, read_all(pictures(samples))).items():
            figures |= share(right, f"{name}_{what}")
            rights[f"{name}_{what}"] = right
    return figures, rights
