"""Pictures and texts that find each other: retrieval and zero-shot classification by a CLIP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pushforward.core.errors import InputError
from pushforward.core.progress import tell
from pushforward.data.dataset import Dataset
from pushforward.data.scenes.captions import COLUMNS, ROWS
from pushforward.data.scenes.graph import COLOURS, SHAPES, SIZES
from pushforward.evaluate.samples import drawn
from pushforward.models.clip import CLIPModel

# Pictures, or texts, among which one is to be found.
GROUP = 100


def in_range(x: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Pictures with values in value_range, clipped, with values in [-1, 1]."""
    low, high = value_range
    return (2 * (x.float() - low) / (high - low) - 1).clamp(-1, 1)


def recall(scores: Tensor, same: Tensor, k: int) -> Tensor:
    """(N,) whether one of the k columns of largest score is a right one, by row. scores (N, M); same (N, M) bool."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return same.gather(1, best).any(1)


def share(right: Tensor, name: str) -> dict[str, float]:
    """A share p of n, and its standard error sqrt(p (1 - p)/n)."""
    p, n = float(right.double().mean()), len(right)
    return {name: p, f"{name}_error": math.sqrt(p * (1 - p) / n)}


def retrieval(
    pictures: Tensor, texts: Tensor, lines: Sequence[str], group: int = GROUP
) -> dict[str, float]:
    """Figures of pictures and texts, vectors (N, D) of length 1 with row i belonging together, in groups of `group`.

    text_R@k: the share of pictures that have their own text among the k nearest ones of their group; image_R@k: of
    texts that have their picture. A text that is written as the own one is as good. What is left over from whole groups
    does not count, unless there is no whole one. of: the size of a group.
    """
    if len(pictures) != len(texts) or len(texts) != len(lines) or len(lines) < 2:
        raise InputError(
            f"retrieval takes two or more pictures and as many texts, got {len(pictures)} and {len(texts)}"
        )
    starts = range(0, max(len(lines) - len(lines) % group, 1), group)
    found: dict[str, list[Tensor]] = {}
    size = min(group, len(lines))
    for start in starts:
        rows = slice(start, start + size)
        own = list(lines[rows])
        number = {line: i for i, line in enumerate(dict.fromkeys(own))}
        kind = torch.tensor([number[line] for line in own])
        same = kind[:, None] == kind
        scores = pictures[rows].double() @ texts[rows].double().T
        for name, s in (("text", scores), ("image", scores.T)):
            for k in (1, 5):
                found.setdefault(f"{name}_R@{k}", []).append(recall(s, same, k))
    figures: dict[str, float] = {"of": float(size)}
    for name, parts in found.items():
        figures |= share(torch.cat(parts), name)
    return figures


def class_vectors(model: CLIPModel, texts: Mapping[str, Sequence[str]]) -> Tensor:
    """(classes, D) the direction of the mean of each class's texts (Radford et al. 2021, sec. 3.1.4)."""
    return torch.stack([normalize(model.texts(list(t)).mean(0), dim=0) for t in texts.values()])


def zero_shot(model: CLIPModel, pictures: Tensor, texts: Mapping[str, Sequence[str]]) -> Tensor:
    """(N,) the class of each picture (N, C, H, W) in [-1, 1] by its nearest direction. texts: of each class by name."""
    return (model.images(pictures) @ class_vectors(model, texts).T).argmax(1)


def scene_texts() -> dict[tuple[str, str], list[str]]:
    """Texts of one object of each colour and shape, as scenes have them: of every size, at every place."""
    places = [f"at the {r} {c}" for r in ROWS[::2] for c in COLUMNS[::2]]
    places += [f"at the {p}" for p in (ROWS[0], ROWS[2], COLUMNS[0], COLUMNS[2])] + [
        "in the centre"
    ]
    return {
        (colour, shape): [
            f"on a {ground} plain ground there is a {size} {colour} {shape} {place}"
            for ground in ("dark", "grey")
            for size in SIZES
            for place in places
        ]
        for colour in COLOURS
        for shape in SHAPES
    }


@torch.no_grad()
def judge_clip(model: CLIPModel, held_out: Dataset, num: int = 1000) -> dict[str, float]:
    """Figures of `retrieval` of at most `num` held-out pairs."""
    apart = held_out.sample(min(num, len(held_out)))
    lines = list(apart.captions or ())
    vectors = []
    for part in torch.arange(len(apart)).split(256):
        tell("pictures", int(part[0]), len(apart))
        vectors.append(model.images(in_range(apart[part].x1, held_out.value_range)))
    tell("pictures", len(apart), len(apart))
    return retrieval(torch.cat(vectors), model.texts(lines), lines)


def judge_scene_classes(model: CLIPModel, num: int = 1000, size: int = 32) -> dict[str, float]:
    """zero_shot: the share of scenes with one object whose colour and shape are found among all 24."""
    from pushforward.data.scenes import draw, render

    texts = scene_texts()
    names = list(texts)
    scenes = [draw(2, i, False, {"one": 1.0})[0] for i in range(num)]
    x = torch.tensor(render(scenes, size)).movedim(-1, 1).float() / 127.5 - 1
    found = zero_shot(model, x, {" ".join(name): lines for name, lines in texts.items()})
    want = torch.tensor([names.index((s.objects[0].colour, s.objects[0].shape)) for s in scenes])
    return share(found == want, "zero_shot")


def judge_pictures(
    clip: CLIPModel, model: Any, lines: Sequence[str], **sampling: Any
) -> tuple[dict[str, float], Tensor]:
    """Figures of pictures that a model draws of texts, by a CLIP: text_R@k among 100, and the mean cosine with the own
    text. Returns the pictures, too."""
    x = drawn(model, len(lines), prompt=list(lines), **sampling)
    low, high = model.spec.value_range or (-1.0, 1.0)
    u, v = clip.images(in_range(x, (low, high))), clip.texts(lines)
    found = retrieval(u, v, lines)
    figures = {name: value for name, value in found.items() if not name.startswith("image")}
    return figures | {"cosine": float((u * v).sum(1).mean())}, x
