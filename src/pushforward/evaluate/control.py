"""Whether pictures keep to the hints that they were drawn under."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from pushforward.data.scenes import Object, Scene
from pushforward.evaluate.metrics.measured import Measured, mean

# How far from its place an object may be, in widths of the picture.
NEAR = 0.08


def edge_f1(found: Tensor, wanted: Tensor, tolerance: int | None = None) -> Tensor:
    """(B,) harmonic mean of precision and recall of edges (B, 1, H, W), 0 or 1, as in Arbelaez et al. 2011, sec. 3.1.

    precision: share of the found ones with a wanted one within `tolerance` pixels, along each axis; recall: of the
    wanted ones with a found one. Pictures without any edge agree, with 1. tolerance: by default 1, and 0 of pictures of
    less than 16 pixels, in which everything is next to an edge.
    """
    if tolerance is None:
        tolerance = int(min(found.shape[2:]) >= 16)
    side = 2 * tolerance + 1

    def hit(these: Tensor, those: Tensor) -> tuple[Tensor, Tensor]:
        near = max_pool2d(those, side, 1, tolerance)
        return (these * near).sum((1, 2, 3)), these.sum((1, 2, 3))

    found, wanted = (found > 0.5).float(), (wanted > 0.5).float()
    (a, n), (b, m) = hit(found, wanted), hit(wanted, found)
    precision, recall = a / n.clamp(min=1), b / m.clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((n == 0) & (m == 0), torch.ones_like(f1), f1)


def share(right: Sequence[bool]) -> Measured:
    """The share that is right, and its standard error sqrt(p (1 - p)/n)."""
    p = sum(right) / len(right)
    return Measured(p, math.sqrt(p * (1 - p) / len(right)))


def shows(objects: Sequence[Object], scene: Scene, colours: bool = True) -> bool:
    """Whether these are the objects of a scene, each of its shape, size, place and, if these count, colour."""
    left = list(objects)
    if len(left) != len(scene.objects):
        return False
    for thing in scene.objects:
        near = min(left, key=lambda o: math.hypot(o.x - thing.x, o.y - thing.y))
        if (
            math.hypot(near.x - thing.x, near.y - thing.y) > NEAR
            or (near.shape, near.size) != (thing.shape, thing.size)
            or (colours and near.colour != thing.colour)
        ):
            return False
        left.remove(near)
    return True


def judge_edges(samples: Tensor, wanted: Tensor, edges: Callable[[Tensor], Tensor]) -> Measured:
    """The mean `edge_f1` of samples (N, C, H, W) against edges (N, 1, H, W)."""
    return mean(edge_f1(edges(samples), wanted.cpu()))
