"""Detects divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Watch:
    """Follows the losses in the log, and reports that a run has lost what it had learned.

        loss > least + factor (|first - least| + |least|),    `patience` entries in a row

    first: the first loss, least: the least so far. A run that has come from 8 to 0.05 may so go back to 8, as at the
    change of a phase, but not to 240. Losses that are not finite are an error of their own, at once.
    """

    factor: float = 30.0
    patience: int = 3
    first: float = math.nan
    least: float = math.inf
    above: int = 0

    def take(self, loss: float) -> bool:
        """True if with this loss the run has diverged."""
        if math.isnan(self.first):
            self.first = loss
        self.least = min(self.least, loss)
        room = self.factor * (abs(self.first - self.least) + abs(self.least))
        self.above = self.above + 1 if loss > self.least + room else 0
        return self.above >= self.patience
