"""Classes from the folders that images lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pushforward.data.labels import encode, in_order, some


@dataclass(frozen=True)
class ByFolder:
    """labels: (N,) int64 and the names of the classes, or None; strays: which images lie beside the folders of classes;
    note: for the user, what was decided.
    """

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    strays: tuple[int, ...] = ()
    note: str | None = None


def of_folder(names: Sequence[str]) -> ByFolder:
    """Of images in a folder: the first folder within it is the class.

    names: relative, with slashes. A few images beside such folders are strays, which have no label; beside a
    single folder, or where they are half of all or more, the folders are no classes.
    """
    strays = tuple(i for i, name in enumerate(names) if "/" not in name)
    labels, class_names = encode(name.split("/", 1)[0] for name in names if "/" in name)
    if not class_names:
        return ByFolder()
    if strays and (len(class_names) == 1 or 2 * len(strays) >= len(names)):
        return ByFolder(
            note=f"{len(strays)} of {len(names)} images lie beside the folders {some(class_names, 5)}: these are not "
            f"taken for classes"
        )
    note = None
    if len(class_names) == 1:
        note = f"all images lie in one folder, {class_names[0]!r}: there is one class"
        if any(name.count("/") > 1 for name in names):
            note += f". For the folders within it as classes, name {class_names[0]!r} itself"
    return ByFolder(labels, class_names, strays, note)


def of_archive(names: Sequence[str]) -> ByFolder:
    """Of images in archives: the first folder in which their names differ is the class.

    One folder for all is none, as archives often have it; nor are there classes where some images lie outside.
    """
    paths = {name.rpartition("/")[0]: None for name in names}
    parts = [path.split("/") if path else [] for path in paths]
    depth = 0
    while all(len(part) > depth for part in parts) and len({part[depth] for part in parts}) == 1:
        depth += 1
    folders = in_order(part[depth] for part in parts if len(part) > depth)
    if not folders:
        return ByFolder()
    if any(len(part) <= depth for part in parts):
        outside = sum(name.count("/") <= depth for name in names)
        note = (
            f"{outside} of {len(names)} images lie outside of the folders {some(folders, 5)}: these are not taken for "
            f"classes"
        )
        return ByFolder(note=note)
    labels, class_names = encode(name.split("/", depth + 1)[depth] for name in names)
    note = f"the {len(class_names)} folders in the archives are the classes: {some(class_names, 5)}"
    return ByFolder(labels, class_names, (), note)
