"""Captions judged: by those that are given, and of scenes by what they say of the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from pushforward.core.errors import InputError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.scenes.graph import Scene
from pushforward.data.scenes.parse import Description, parse
from pushforward.data.scenes.render import Rendered
from pushforward.evaluate.clip import retrieval, share
from pushforward.evaluate.metrics.captions import bleu, cider
from pushforward.models.captioner import CaptionModel
from pushforward.sampling.captions import captions
from pushforward.sampling.decoding import Decoder

# Pictures that are captioned together.
ROWS = 64


def scenes_of(data: Dataset) -> list[Scene]:
    """The scenes that these pictures show. Raises InputError for other pictures."""
    if not isinstance(data.values, Rendered):
        raise InputError("these pictures are no scenes: what they show is not known")
    return data.values.graphs.scenes(slice(None) if data.rows is None else data.rows)


def judge_scene_captions(lines: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of captions of scenes, each with its standard error.

    understood: are short or descriptive captions, as scenes have them. descriptive: of the latter kind. right: are
    true, the descriptive ones naming all objects with every attribute (number, size, colour, shape, place) and no
    others, the short ones being satisfied by them as `Request.satisfied` says. Of descriptive ones also: ground, its
    level and texture right; count, size, colour, shape, place: these alone right, whichever objects have them.
    """
    if len(lines) != len(scenes) or not lines:
        raise InputError(f"{len(lines)} captions for {len(scenes)} scenes")
    found: dict[str, list[bool]] = {}
    names = ("ground", "count", "size", "colour", "shape", "place")
    for line, scene in zip(lines, scenes, strict=True):
        said, true = parse(line), Description.of(scene)
        detailed = isinstance(said, Description)
        one = dict.fromkeys(names, False)
        if isinstance(said, Description):
            one |= {"ground": said.same_ground(true)} | said.agreement(true)
            right = said.same_things(true)
        else:
            right = said is not None and said.satisfied(scene.objects)
        one |= {"understood": said is not None, "descriptive": detailed, "right": right}
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    figures: dict[str, float] = {}
    order = ("right", "understood", "descriptive", *names)
    for name in order if any(found["descriptive"]) else order[:2]:
        figures |= share(torch.tensor(found[name]), name)
    return figures


@torch.no_grad()
def judge_captioner(
    model: CaptionModel,
    held_out: Dataset,
    num: int = 1000,
    decoder: Decoder | None = None,
    seed: int = 0,
) -> tuple[dict[str, float], list[str]]:
    """Figures of captions of at most `num` held-out pictures, and these captions.

    BLEU4 and CIDEr (see `metrics.captions`) by the captions that are given; of scenes also `judge_scene_captions`; and
    retrieval by the model's own vectors, see `evaluate.clip.retrieval`.
    """
    apart = held_out.sample(min(num, len(held_out)))
    given = list(apart.captions or ())
    lines: list[str] = []
    vectors: list[Any] = []
    for part in torch.arange(len(apart)).split(ROWS):
        tell("pictures", int(part[0]), len(apart))
        x = apart[part].x1
        lines += captions(model, x, decoder, seed=seed, start=int(part[0]), batch_size=ROWS)
        vectors.append(model.images(x))
    tell("pictures", len(apart), len(apart))
    references = [[line] for line in given]
    figures: dict[str, float] = {}
    if isinstance(apart.values, Rendered):
        figures |= judge_scene_captions(lines, scenes_of(apart))
    metrics: dict[str, Callable[..., float]] = {"BLEU4": bleu, "CIDEr": cider}
    figures |= {name: metric(lines, references) for name, metric in metrics.items()}
    return figures | retrieval(torch.cat(vectors), model.texts(given), given), lines
