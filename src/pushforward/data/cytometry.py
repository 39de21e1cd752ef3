"""Flow cytometry: light scatter and fluorescence of single cells, from FCS files."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import DataError, InputError
from pushforward.data.dataset import Dataset

# The example: eleven wells of yeast with a fluorescent protein, which the package FlowCytometryTools carries for its
# tests (MIT licence). ARCHIVE is the SHA-256 of its wheel, CONTENT that of the eleven files one after the other.
PACKAGE, VERSION = "FlowCytometryTools", "0.5.1"
ARCHIVE = "9380ffb968469e3f0a97113add1c10e82cab6131462cf47b6826d36d1679e354"
CONTENT = "473f2357dbf094f014806317942be466dbd8ca0440f1c6a2ad22f9e5abf4714e"
FOLDER = "FlowCytometryTools/tests/data"
WELLS = (
    "Plate01/CFP_Well_A4.fcs", "Plate01/CFP_Well_B4.fcs",
    "Plate01/RFP_Well_A3.fcs", "Plate01/RFP_Well_A6.fcs", "Plate01/RFP_Well_B3.fcs",
    "Plate01/YFP_Well_A7.fcs", "Plate01/YFP_Well_C7.fcs",
    "Plate02/Mixed_Well_H1.001.fcs", "Plate02/Mixed_Well_H12.001.fcs",
    "Plate02/Mixed_Well_H3.001.fcs", "Plate02/Mixed_Well_H7.001.fcs",
)  # fmt: skip
MAX_WELL = 1 << 20  # bytes; the files have 642 kB each
SHOWN = 8


@dataclass(frozen=True, eq=False)
class Cells:
    """Single cells as measured, of one file or several.

    values:   (N, C) float32, one row a cell.
    channels: C names.
    wells:    the number of cells by the name of their file, in the order of the rows.
    report:   (file, reason) of cells that were left out. Print it.
    """

    values: np.ndarray
    channels: tuple[str, ...]
    wells: Mapping[str, int]
    report: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def pick(self, channels: Sequence[str]) -> Cells:
        """The same cells with these channels, in this order. DataError for one that is not there."""
        missing = [name for name in channels if name not in self.channels]
        if missing or not channels:
            raise DataError(
                f"{_some(self.wells)}: no channel {_some(missing) or 'was asked for'}; there are "
                f"{', '.join(self.channels)}"
            )
        columns = [self.channels.index(name) for name in channels]
        return Cells(self.values[:, columns], tuple(channels), self.wells, self.report)


def load_cells(
    population: str = "",
    path: str | Path | None = None,
    channels: Sequence[str] | Callable[[Sequence[str]], Sequence[str]] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Cells:
    """The cells of a population: of the file with this name, or of all files whose names begin with it.

    path: a file, or a folder: a file's name is its path in there without ".fcs", so that the files of a folder within
          are a population too. None for the example, with the populations CFP, RFP, YFP and Mixed (see
          `example_wells`).
    channels: which, and in what order, or a function of all their names, as `usual_channels`; all of them if left out.
              Files must agree in them.
    on_bad:   what to do about cells with values that are not finite: "error" raises a DataError, "skip" leaves the
              cells out and says so in `report`.

    Integer and logarithmic channels are brought to the linear scale, and divided by their gain, as the file says.
    Raises DataError for what is missing, damaged, or does not fit together.
    """
    if on_bad not in ("error", "skip"):
        raise InputError(f'on_bad is {on_bad!r}; it must be "error" or "skip"')
    files = example_wells() if path is None else list_wells(Path(path))
    chosen = [population] if population in files else [n for n in files if n.startswith(population)]
    if not chosen:
        raise DataError(
            f"{path or 'the example'} has no .fcs file whose name begins with {population!r}; "
            f"it has {_some(files, 16)}"
        )
    parts = [read_fcs(files[name], name) for name in chosen]
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
        tuple(line for part in parts for line in part.report),
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


def read_fcs(path: Path, name: str | None = None) -> Cells:
    """The cells of one FCS file, versions 2.0 to 3.1 (Spidlen et al. 2010), values not looked at."""
    try:
        import flowio
    except ImportError as error:
        raise DataError(
            "FCS files are read by flowio, which is not installed; pip install -e '.[cells]'"
        ) from error
    try:
        with path.open("rb") as file:
            if file.read(3) != b"FCS":
                raise ValueError("it does not begin with FCS")
        flow = flowio.FlowData(str(path))
        with np.errstate(over="ignore"):
            values = flow.as_array(preprocess=True).astype(np.float32)
    # The parser believes what is in the file, and then fails in many ways; each one is a reason to report.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path} cannot be opened: {error.strerror}") from error
        reason = str(error) or type(error).__name__
        raise DataError(f"{path} is damaged, or no FCS file: {reason}") from error
    if len(values) != flow.event_count or len(values) == 0:
        raise DataError(f"{path} holds {len(values)} cells and declares {flow.event_count}")
    labels = tuple(flow.pnn_labels)
    if len(set(labels)) != values.shape[1]:
        raise DataError(f"{path} has {values.shape[1]} channels, but the names {_some(labels)}")
    return Cells(values, labels, {name or path.stem: len(values)})


def same_channels(cells: Sequence[Cells]) -> None:
    """DataError if not all have the same channels in the same order."""
    first = cells[0]
    for other in cells[1:]:
        if other.channels != first.channels:
            names = f"{_some(first.wells)} and {_some(other.wells)}"
            apart = [n for n in (*first.channels, *other.channels)
                     if n not in first.channels or n not in other.channels]  # fmt: skip
            what = f"not in both: {_some(apart)}" if apart else "their order differs"
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


@dataclass(frozen=True)
class Asinh:
    """What a network sees of a measurement x, and back.

        z = (asinh(x / cofactor) - mean) / std          x = cofactor sinh(mean + std z)

    Linear about 0, where background subtraction leaves negative values, and logarithmic beyond the cofactor. 150 is
    usual for fluorescence, 5 for mass cytometry. mean and std: one a channel. Computed in float64.
    """

    cofactor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, cells: Iterable[np.ndarray], cofactor: float = 150.0) -> Asinh:
        """With the mean and standard deviation of all these cells (N, C) together, so that each channel has 0 and 1."""
        if not 0 < cofactor < float("inf"):
            raise InputError(f"cofactor is {cofactor}; it must be positive and finite")
        u = np.arcsinh(np.concatenate(list(cells)).astype(np.float64) / cofactor)
        varied = u.max(0) > u.min(0)  # False for NaN, too
        if not varied.all():
            raise DataError(
                f"channels {np.flatnonzero(~varied).tolist()} have one value in all cells, or values that are not "
                f"finite: leave them out (--channels)"
            )
        mean, std = u.mean(0), u.std(0)
        return cls(cofactor, tuple(mean.tolist()), tuple(std.tolist()))

    def __call__(self, x: Tensor) -> Tensor:
        mean, std = self._scale(x)
        return (((x.double() / self.cofactor).asinh() - mean) / std).to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        mean, std = self._scale(z)
        return (self.cofactor * (mean + std * z.double()).sinh()).to(z.dtype)

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != len(self.mean):
            raise InputError(f"{x.shape[-1]} channels, and {len(self.mean)} are expected")
        mean, std = torch.tensor((self.mean, self.std), dtype=torch.float64, device=x.device)
        return mean, std

    def dataset(self, cells: np.ndarray, where: str = "the cells") -> Dataset:
        """Cells (N, C) as a data set of vectors that a network sees."""
        z = self(torch.from_numpy(cells))
        return Dataset.from_arrays(z.numpy(), where=where)

    def to_json(self) -> dict[str, Any]:
        return {"cofactor": self.cofactor, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Asinh:
        return cls(float(entry["cofactor"]), tuple(entry["mean"]), tuple(entry["std"]))


def example_wells() -> dict[str, Path]:
    """The files of the example by name: eleven wells of 10 000 yeast cells and 16 channels, of the strains CFP, RFP and
    YFP, with a cyan, red or yellow fluorescent protein, and of mixtures of them.

    Looked for in the installed package FlowCytometryTools 0.5.1, then in the cache, a folder `pushforward` in
    $XDG_CACHE_HOME or ~/.cache, or $PUSHFORWARD_CACHE. Else the package's wheel is fetched by pip; these files, and no
    others, are taken out of it, and nothing of it is run. Checksums are compared every time.

    Raises DataError if the files cannot be had, or are not those known here.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        installed = [Path(spec.origin).parent.parent / FOLDER / name for name in WELLS]
        if _digest(installed) == CONTENT:
            return _named(installed)
    folder = cache_folder() / f"{PACKAGE}-{VERSION}"
    files = [folder / Path(name).name for name in WELLS]
    if not folder.exists():
        with tempfile.TemporaryDirectory() as temporary:
            unpack_example(_fetch(Path(temporary)), folder)
    if _digest(files) != CONTENT:
        raise DataError(
            f"the files in {folder} are not those of the example: remove this folder, and they are fetched anew"
        )
    return _named(files)


def unpack_example(archive: Path, folder: Path) -> None:
    """Take the wells out of the wheel, once its checksum is found right. The folder is there wholly or not at all."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ARCHIVE:
        raise DataError(
            f"{archive.name} is not the file known here: SHA-256 {found} instead of {ARCHIVE}"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            whole.mkdir()
            with zipfile.ZipFile(archive) as wheel:
                for name in WELLS:
                    with wheel.open(f"{FOLDER}/{name}") as member:
                        (whole / Path(name).name).write_bytes(member.read(MAX_WELL))
            # Another process may have been quicker.
            if not folder.exists():
                os.rename(whole, folder)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"the example cannot be unpacked into {folder}: {error}") from error


def cache_folder() -> Path:
    """Where fetched data are kept."""
    own = os.environ.get("PUSHFORWARD_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pushforward"


def _fetch(folder: Path) -> Path:
    """The wheel of the package, fetched into the folder by pip from where pip gets packages."""
    wanted = f"{PACKAGE}=={VERSION}"
    command = (
        sys.executable, "-m", "pip", "download", wanted, "--no-deps", "--only-binary", ":all:",
        "--dest", str(folder), "--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1",
    )  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        reason = next(reversed(done.stderr.strip().splitlines()), f"status {done.returncode}")
    except subprocess.TimeoutExpired:
        reason = "it took more than five minutes"
    except OSError as error:
        reason = str(error)
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise DataError(
            f"the example cells come with the package {PACKAGE} {VERSION}, which pip could not fetch ({reason}). "
            f'Where there is a network, run "pip install --no-deps {wanted}", or give FCS files of your own (--data)'
        )
    return wheels[0]


def _digest(files: Sequence[Path]) -> str | None:
    """SHA-256 of the files one after the other; None if one is missing."""
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _named(files: Sequence[Path]) -> dict[str, Path]:
    return {file.stem: file for file in files}


def _finite(cells: Cells, on_bad: str) -> Cells:
    """The cells without those that have values which are not finite; DataError if there are and this is an error."""
    good = np.isfinite(cells.values).all(1)
    count = int((~good).sum())
    if count == 0:
        return cells
    ((name, _),) = cells.wells.items()
    columns = [cells.channels[c] for c in np.flatnonzero(~np.isfinite(cells.values).all(0))]
    rows = _some(map(str, np.flatnonzero(~good)))
    if on_bad == "error":
        raise DataError(
            f"{name}: {count} of {len(good)} cells have values that are not finite (channels {_some(columns)}, rows "
            f"{rows}); leave these cells out (--on-bad skip) or pick other channels (--channels)"
        )
    if not good.any():
        raise DataError(
            f"{name}: no cell has finite values in all channels; pick others (--channels)"
        )
    report = (*cells.report, (name, f"{count} cells with values that are not finite"))
    return Cells(cells.values[good], cells.channels, {name: len(good) - count}, report)


def _some(names: Iterable[str], shown: int = SHOWN) -> str:
    every = list(names)
    return ", ".join(every[:shown]) + (", ..." if len(every) > shown else "")
