"""Flow cytometry: light scatter and fluorescence of single cells, from FCS files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pushforward.core.errors import DataError, InputError
from pushforward.data.cells import SHOWN, Cells, same_channels
from pushforward.data.fcs import read_fcs
from pushforward.data.labels import some
from pushforward.data.wells import example_wells


def load_cells(
    population: str = "",
    path: str | Path | None = None,
    channels: Sequence[str] | Callable[[Sequence[str]], Sequence[str]] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Cells:
    """The cells of a population: of the file with this name, or of all files whose names begin with it.

    population: "plate#2" is the second of several data sets in one file called plate.

    path: a file, or a folder: a file's name is its path in there without ".fcs", so that the files of a folder within
          are a population too. None for the example, with the populations CFP, RFP, YFP and Mixed (see
          `example_wells`).
    channels: which, and in what order, by name or marker, or a function of all their names, as `usual_channels`; all
              of them by default. Files must agree in them.
    on_bad:   what to do about cells with values that are not finite: "error" raises a DataError, "skip" goes on
              without them and says so in `report`.

    A file without cells is skipped, and that is in `report`. Raises DataError for what is missing, damaged, or does not
    fit together.
    """
    if on_bad not in ("error", "skip"):
        raise InputError(f'on_bad is {on_bad!r}; it must be "error" or "skip"')
    files = example_wells() if path is None else list_wells(Path(path))
    base, mark, number = population.rpartition("#")
    if population not in files and mark and number.isdecimal() and base in files:
        parts = [read_fcs(files[base], population, int(number))]
    else:
        whole = population in files
        chosen = [population] if whole else [n for n in files if n.startswith(population)]
        if not chosen:
            raise DataError(
                f"{path or 'the example'} has no .fcs file whose name begins with {population!r}; "
                f"it has {some(files, 16)}"
            )
        parts = [read_fcs(files[name], name) for name in chosen]
    empty = tuple((name, "has no cells") for part in parts if not len(part) for name in part.wells)
    parts = [part for part in parts if len(part)]
    if not parts:
        raise DataError(f"{some((name for name, _ in empty), SHOWN)}: no cells at all")
    if channels is not None:
        parts = [
            part.pick(channels(part.channels) if callable(channels) else channels) for part in parts
        ]
    same_channels(parts)
    parts = [_finite(part, on_bad) for part in parts]
    return Cells(
        np.concatenate([part.values for part in parts]),
        parts[0].channels,
        {name: len(part) for part in parts for name in part.wells},
        (*empty, *(line for part in parts for line in part.report)),
        parts[0].markers,
        tuple(note for part in parts for note in part.notes),
    )


def list_wells(path: Path) -> dict[str, Path]:
    """The .fcs files of a folder and the folders within it by name, sorted; or the one file that `path` is."""
    if path.is_file():
        return {path.stem: path}
    if not path.is_dir():
        raise DataError(f"there is no file or folder {path}")
    found = {
        file.relative_to(path).with_suffix("").as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() == ".fcs" and not file.name.startswith(".") and file.is_file()
    }
    if not found:
        raise DataError(f"{path} has no .fcs files")
    return found


def _finite(cells: Cells, on_bad: str) -> Cells:
    """The cells without those that have values which are not finite; DataError if there are and this is an error."""
    good = np.isfinite(cells.values).all(1)
    count = int((~good).sum())
    if count == 0:
        return cells
    ((name, _),) = cells.wells.items()
    columns = [cells.channels[c] for c in np.flatnonzero(~np.isfinite(cells.values).all(0))]
    rows = some(map(str, np.flatnonzero(~good)), SHOWN)
    if on_bad == "error":
        raise DataError(
            f"{name}: {count} of {len(good)} cells have values that are not finite (channels "
            f"{some(columns, SHOWN)}, rows {rows}); skip these cells (--on-bad skip) or pick other channels "
            f"(--channels)"
        )
    if not good.any():
        raise DataError(
            f"{name}: no cell has finite values in all channels; pick others (--channels)"
        )
    report = (*cells.report, (name, f"{count} cells with values that are not finite"))
    return replace(cells, values=cells.values[good], wells={name: len(good) - count}, report=report)
