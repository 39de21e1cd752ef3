"""Signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pushforward.core.spec import DataSpec
from pushforward.evaluate.figures.lines import lines
from pushforward.evaluate.kinds.base import Kind, rows_by_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Signals that are drawn: panels of more could not be read.
SHOWN = 48


class Signal(Kind):
    """Signals (C, L), drawn as lines, a panel each, a class a row if classes have equally many."""

    name, form = "signal", "(N, C, L)"
    alone, per_class = 16, 4

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
        kept = None if mask is None else mask.cpu().expand(samples.shape)[rows.order].any(1)
        return lines(
            shown[rows.order],
            rows.columns,
            title,
            mask=kept,
            row_labels=rows.names,
            channels=spec.channels or (),
        )
