"""Sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.lines import lines
from pushforward.evaluate.kinds.base import Kind, rows_by_class
from pushforward.evaluate.kinds.signal import SHOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sequence(Kind):
    """Sequences (L, D) of any length up to L, which a mask says: lines by position, nothing drawn beyond the end."""

    name, form = "sequence", "(N, L, D)"
    alone, per_class = 16, 4

    def fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 2

    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        shown = samples[:SHOWN]
        rows = rows_by_class(len(shown), None if label is None else label[:SHOWN], spec, 4)
        kept = None if mask is None else mask.cpu().expand(samples.shape)[rows.order].any(2)
        return lines(
            shown[rows.order].transpose(1, 2),
            rows.columns,
            title,
            mask=kept,
            row_labels=rows.names,
            channels=spec.channels or (),
            along="position",
        )
