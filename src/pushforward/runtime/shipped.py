"""Models that come with the library, by name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from pushforward.core.errors import InputError
from pushforward.runtime.files import explain

SHIPPED = Path(__file__).parents[1] / "shipped"
DESCRIPTION = "model.json"


def shipped() -> list[str]:
    """The names of these models."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{DESCRIPTION}"))


def find(folder: str | Path) -> Path:
    """The folder; where there is none, that of the shipped model of this name, which is only to be read."""
    folder = Path(folder)
    if not folder.exists() and str(folder) in shipped():
        return SHIPPED / str(folder)
    return folder


def own_copy(folder: Path) -> Path:
    """The folder; where there is none and a model of this name is shipped, runs/shipped/NAME, with a copy of it.

    A copy, so that samples, figures and fitted samplers have a place beside the model, as those of any run.
    """
    found = find(folder)
    if found == folder:
        return folder
    return copied(found, Path("runs", "shipped") / folder, f"{folder} comes with pushforward")


def copied(found: Path, copy: Path, what: str) -> Path:
    """A copy of the model in a folder that is only to be read, at `copy`; the one that is there, if its weights are
    the same.

    Whole or not at all, also among several processes. what: the model, in words, for InputError where something else
    is in that place.
    """
    if copy.exists():
        if _weights(copy) != _weights(found):
            raise InputError(
                f"{what} and is to be used in {copy}, where there is something else: move that away, or give the path "
                f"of the run that you mean"
            )
        return copy
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=copy.parent, prefix=f".{copy.name}-") as holder:
            whole = Path(holder) / copy.name
            shutil.copytree(found, whole)
            try:
                os.rename(whole, copy)
            except OSError:
                # Another process was quicker.
                if not copy.exists():
                    raise
    except OSError as error:
        raise explain(copy, error) from error
    return copy


def _weights(folder: Path) -> str | None:
    """The SHA-256 of the weights by a description; None if there is none."""
    try:
        return str(json.loads((folder / DESCRIPTION).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def hint() -> str:
    """What is said besides where there is no such folder."""
    names = shipped()
    return f"; models that come with pushforward: {', '.join(names)}" if names else ""
