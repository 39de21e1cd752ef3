"""Prompts whose pictures can be read: which share of them is satisfied."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.data.scenes import prompts, read_all, scores
from pushforward.data.scenes.prompts import TASKS
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
    if num < len(TASKS):
        raise InputError(
            f"{num} prompts leave some of the {len(TASKS)} tasks out of their mean: judge at least {len(TASKS)} (--num)"
        )
    seed = int(sampling.get("seed", 0))
    asked = [prompts(num, seed), prompts(num, seed, held_out=True)]
    lines = [p.text for each in asked for p in each]
    samples = drawn(model, 2 * num, prompt=lines, **sampling)
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
