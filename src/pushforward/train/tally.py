"""Means of losses and figures between two lines of the log."""

from __future__ import annotations

from collections.abc import Mapping


class Tally:
    """sums: of what was added, by name, each with its number of terms."""

    def __init__(self, sums: Mapping[str, list[float]] | None = None) -> None:
        self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1

    def take(self) -> dict[str, float]:
        """The means, after which everything starts at 0."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means
