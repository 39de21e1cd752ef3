"""Vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.vectors import vectors
from pushforward.evaluate.kinds.base import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Vector(Kind):
    """Vectors (D,), drawn as histograms of each dimension and, if they are few, of each pair."""

    name, form = "vector", "(N, D)"
    alone = 2000

    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        names = tuple(map(spec.name, range(spec.classes or 0)))
        return vectors(samples, title, channels=spec.channels or (), label=label, names=names)
