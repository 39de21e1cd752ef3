"""Single cells as measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.labels import some

SHOWN = 8


@dataclass(frozen=True, eq=False)
class Cells:
    """Single cells as measured, of one file or several.

    values:   (N, C) float32, one row a cell.
    channels: C names.
    wells:    the number of cells by the name of their file, in the order of the rows.
    report:   (file, reason) of cells that were skipped. Print it.
    markers:  what is measured in each channel, such as an antibody, "" where nobody says; or () for none.
    notes:    what was read otherwise than the files say. Print them.
    """

    values: np.ndarray
    channels: tuple[str, ...]
    wells: Mapping[str, int]
    report: tuple[tuple[str, str], ...] = ()
    markers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def pick(self, channels: Sequence[str]) -> Cells:
        """The same cells with these channels, in this order, called as they are here: by name, or by marker.

        DataError for one that is not there, and for a marker that several channels have.
        """
        if not channels:
            raise DataError(f"{self._where}: no channel was asked for; there are {self._known}")
        columns = [self._column(name) for name in channels]
        markers = tuple(self.markers[c] for c in columns) if self.markers else ()
        return replace(
            self, values=self.values[:, columns], channels=tuple(channels), markers=markers
        )

    @property
    def _where(self) -> str:
        return some(self.wells, SHOWN)

    @property
    def _known(self) -> str:
        markers = self.markers or ("",) * len(self.channels)
        return ", ".join(
            f"{name} ({marker})" if marker not in ("", name) else name
            for name, marker in zip(self.channels, markers, strict=True)
        )

    def _column(self, name: str) -> int:
        if name in self.channels:
            return self.channels.index(name)
        found = [c for c, marker in enumerate(self.markers) if marker and marker == name]
        if len(found) > 1:
            both = some(self.channels[c] for c in found)
            raise DataError(
                f"{self._where}: several channels have the marker {name}: {both}; name one"
            )
        if not found:
            raise DataError(f"{self._where}: no channel {name}; there are {self._known}")
        return found[0]


def same_channels(cells: Sequence[Cells]) -> None:
    """DataError if not all have the same channels in the same order."""
    first = cells[0]
    for other in cells[1:]:
        if other.channels != first.channels:
            names = f"{some(first.wells, SHOWN)} and {some(other.wells, SHOWN)}"
            apart = [n for n in (*first.channels, *other.channels)
                     if n not in first.channels or n not in other.channels]  # fmt: skip
            what = f"not in both: {some(apart, SHOWN)}" if apart else "their order differs"
            raise DataError(
                f"{names} do not have the same channels ({what}); pick those that both have (--channels)"
            )


def usual_channels(channels: Sequence[str]) -> tuple[str, ...]:
    """All but times and the widths of pulses: the area over the height, and wild where the height is small."""
    return tuple(
        name
        for name in channels
        if name.lower() not in ("time", "hdr-t") and not name.lower().endswith("-w")
    )
