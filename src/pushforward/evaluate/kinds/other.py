"""Data that nothing is known of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.evaluate.kinds.base import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Other(Kind):
    """Samples of a kind that has no object of its own: they can be drawn from a model, but not as a picture."""

    name = "unknown"
    drawable = False

    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        raise InputError(
            f"samples of shape {tuple(samples.shape[1:])} and of the kind {spec.kind!r} cannot be drawn as a picture"
        )
