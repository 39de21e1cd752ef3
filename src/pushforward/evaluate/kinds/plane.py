"""Points of the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.plane import plane
from pushforward.evaluate.kinds.base import Kind
from pushforward.laws.plane import LAWS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plane(Kind):
    """Points (2,), drawn as dots over the density of their law, or as a density if they are many."""

    name, form = "plane", "(N, 2)"
    alone = 4000

    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        law = LAWS[spec.law]() if spec.law in LAWS else None
        names = tuple(map(spec.name, range(spec.classes or 0)))
        return plane(samples, spec.extent, title, law=law, label=label, names=names)
