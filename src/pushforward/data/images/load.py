"""Data from a path, whatever is there: image files, archives, arrays of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pushforward.core.errors import DataError, InputError
from pushforward.core.spec import Kind
from pushforward.data.arrays import load_array
from pushforward.data.dataset import Dataset
from pushforward.data.idx import is_idx, load_idx
from pushforward.data.images.buckets import find_buckets
from pushforward.data.images.decode import EXTENSIONS, OnBad, check_options
from pushforward.data.images.files import Files
from pushforward.data.images.folder import list_folder
from pushforward.data.images.lazy import Crop, Pictures, check_crop
from pushforward.data.images.listing import Listing
from pushforward.data.images.names import Names
from pushforward.data.images.resize import resize
from pushforward.data.images.shards import find_shards, list_shards
from pushforward.data.images.sizes import Sizes, choose_size, measure, measure_each
from pushforward.data.kinds import KINDS

ARRAYS = (".npy", ".npz")
# Pixels up to here are decoded once and kept in memory.
MEMORY = 1 << 30
# Images of one size keep it if no side is longer: from there on no network of the usual width gets far on one machine.
KEPT = 256
# So many headers tell whether images have one size.
LOOKED_AT = 10_000


def load_images(
    path: str | Path,
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    image_key: str | None = None,
    label_key: str | None = None,
    crop: Crop = "centre",
    zoom: float = 1.0,
    lazy: bool | None = None,
    memory: int = MEMORY,
    *,
    columns: Sequence[str] | None = (),
    kind: Kind | None = None,
) -> Dataset:
    """The data at a path: a .npy, .npz or IDX file, a folder of images, one image, a .tar archive, or a folder or
    pattern of such archives.

    size: by default image files of one size keep it, unless that is beyond 256 or they are to be cropped at random;
    others are scaled to what `choose_size` says; images of an array keep theirs. lazy: whether images stay in their
    files until they are read; by default they do if they are to be cropped at random, or if their pixels would take
    more than `memory` bytes. columns: names of further conditions, in an .npz file or in the metadata of a folder.
    kind: what an array holds, where its shape does not say. What was decided is in `notes`. The other arguments are
    those of `load_array` and `load_folder`.

    Raises DataError as these do, and InputError for options that do not go with what is there.
    """
    path = Path(path)
    check_options(size, channels, on_bad)
    if is_array(path):
        if crop != "centre":
            raise InputError(
                'crop="random" is for image files; an array holds what was cut already'
            )
        if path.suffix in ARRAYS:
            array = load_array(path, image_key, label_key, columns=columns, kind=kind)
        else:
            array = load_idx(path, kind=kind)
        return array if size is None else resize(array, size, memory)
    if kind not in (None, "image"):
        raise InputError(f"{path} holds images, and no {KINDS[kind].count(2)[2:]}")
    listing = _listed(path, columns or ())
    notes: list[str] = []
    frame = (0, 0)
    if size is None:
        size, frame, note = _fitted(listing, crop)
        notes.extend(note)
    if size is not None:
        frame = (size, size)
    check_crop(size, crop, zoom, lazy=lazy is not False)
    taken = len(listing.source) * channels * frame[0] * frame[1]
    if lazy is None:
        lazy = crop == "random" or taken > memory
        if taken > memory:
            notes.append(
                f"{len(listing.source)} images would take {taken / 2**30:.1f} GiB of memory: they are decoded when "
                f"they are needed"
            )
    whole = listing.dataset(size, channels, on_bad, lazy, crop, zoom)
    return replace(whole, notes=(*notes, *whole.notes))


def load_mixed(
    path: str | Path,
    size: int | None = None,
    channels: int = 3,
    on_bad: OnBad = "error",
    crop: Crop = "centre",
    zoom: float = 1.0,
    *,
    buckets: int = 8,
    unit: int = 1,
    least: int = 1,
) -> Dataset:
    """Images of several shapes in a folder or in archives, in the frame that most of them have.

    Its values, `Pictures`, have the other frames: `divide` makes a data set of each. buckets: how many frames there are
    at most, each of about size x size pixels with sides that are multiples of `unit`, and for `least` images or more.
    size: by default what `choose_size` says. All headers are read, and pixels when they are used.

    Raises DataError as `load_images`, and InputError for an array, whose images have one size.
    """
    path = Path(path)
    check_options(size, channels, on_bad)
    if is_array(path):
        raise InputError(
            f"{path} is an array, whose images have one size: omit buckets (--buckets)"
        )
    listing = _listed(path)
    sizes, unread = measure_each(listing.source, np.arange(len(listing.source)))
    problems = [(listing.source.name(entry), why) for entry, why in unread]
    listing.refuse([*listing.problems, *problems], on_bad, len(sizes) - len(unread))
    shapes, counts = np.unique(sizes[sizes[:, 0] > 0], axis=0, return_counts=True)
    each = zip(shapes.tolist(), counts.tolist(), strict=True)
    found = Sizes({(w, h): n for (h, w), n in each}, {}, unread)
    size = choose_size(found) if size is None else size
    frames = find_buckets(sizes, size, unit, buckets, least)
    whole = listing.dataset(size, channels, on_bad, True, crop, zoom)
    assert isinstance(whole.values, Pictures)
    values = replace(whole.values, frame=frames.frames[0], buckets=frames)
    note = f"{found}: cut to {frames}, by which {frames.lost:.1%} of their area is cropped"
    return replace(whole, values=values, notes=(note, *whole.notes))


def find_size(path: str | Path, crop: Crop = "centre") -> tuple[int | None, tuple[str, ...]]:
    """The size that `load_images` would choose for the images at a path, and what it would note about that.

    None, and nothing, for an array, and where images have one size, which they may keep. Raises DataError as there.
    """
    path = Path(path)
    if is_array(path):
        return None, ()
    size, _, notes = _fitted(_listed(path), crop)
    return size, notes


def find_mixed_size(path: str | Path) -> int:
    """The size that `load_mixed` would choose for the images at a path."""
    path = Path(path)
    if is_array(path):
        raise InputError(
            f"{path} is an array, whose images have one size: omit buckets (--buckets)"
        )
    sizes = measure(_listed(path).source)
    if not sizes.count:
        raise DataError(f"{path}: none of the images can be opened")
    return choose_size(sizes)


def is_array(path: Path) -> bool:
    if path.is_dir():
        return False
    return path.suffix in ARRAYS or (path.is_file() and is_idx(path))


def _listed(path: Path, columns: Sequence[str] = ()) -> Listing:
    if path.is_file() and path.suffix.lower() in EXTENSIONS:
        return Listing(str(path), Files(path.parent, Names.of([path.name])), [path.name])
    if is_packed(path):
        if columns:
            raise InputError(
                f"conditions ({', '.join(columns)}) come from .npz files and from the metadata.jsonl of folders"
            )
        return list_shards(find_shards(path))
    if path.is_file():
        raise DataError(
            f"{path} is none of the data that are read: a folder of images, an image, a .tar archive, a .npy, .npz or "
            f"IDX file"
        )
    return list_folder(path, columns)


def _fitted(listing: Listing, crop: Crop) -> tuple[int | None, tuple[int, int], tuple[str, ...]]:
    """A size, if one must be chosen; if not, that of all, as far as was looked; and what is to be noted."""
    sizes = measure(listing.source, LOOKED_AT)
    if not sizes.count:
        return None, (0, 0), ()
    width, height = next(iter(sizes.count))
    if len(sizes.count) == 1 and max(width, height) <= KEPT and crop == "centre":
        return None, (height, width), ()
    size, total = choose_size(sizes), len(listing.source)
    looked = "" if total <= LOOKED_AT else f"of {total} images, "
    square = "a square of it drawn at random" if crop == "random" else "its centred square"
    note = f"{looked}{sizes}: each cropped to {square} and scaled to {size} x {size}; choose another with --size"
    return size, (size, size), (note,)


def is_packed(path: Path) -> bool:
    """Whether a path names archives: one, a pattern of them, or a folder that has them, and no images beside them."""
    if not path.is_dir():
        return ".tar" in (suffix.lower() for suffix in path.suffixes) or path.suffix == ".tgz"
    try:
        suffixes = {p.suffix.lower() for p in path.iterdir() if not p.name.startswith(".")}
    except OSError as error:
        raise DataError(f"the folder {path} cannot be read: {error.strerror}") from error
    return ".tar" in suffixes and not suffixes & set(EXTENSIONS)
