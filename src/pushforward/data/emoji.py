"""Emoji: small pictures that people drew, each with its name.

The pictures are Twemoji, (c) Twitter, Inc and other contributors, CC-BY 4.0; names and files come from the npm package
emoji-datasource-twitter 16.0.0 (code MIT). Whoever shows them, or what a model trained on them draws, names the source.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pushforward.core.errors import DataError, InputError
from pushforward.data.dataset import Dataset
from pushforward.data.fetch import cache_folder, fetch
from pushforward.data.images.decode import is_exhaustion, open_image, pixels, reason
from pushforward.data.images.resize import resize

ADDRESS = (
    "https://registry.npmjs.org/emoji-datasource-twitter/-/emoji-datasource-twitter-16.0.0.tgz"
)
SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
ATTRIBUTION = (
    "Emoji graphics: Twemoji, copyright Twitter, Inc and other contributors, licensed under CC-BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/)"
)
NAMES, PICTURES = "emoji.json", "img/twitter/64/"
SIZE = 64
MEMORY = 1 << 28
# The largest member of an archive that is read: the list of names has 1.4 million bytes.
MAX_MEMBER = 1 << 25

Read = Callable[[str], bytes]


def load_emoji(size: int = SIZE, path: str | Path | None = None) -> Dataset:
    """1911 pictures (3, size, size) on white, with their names in lower case as captions and ten categories as labels.

    size: up to 64, the size that they have. path: the package's archive (.tgz), the folder that it was unpacked to, or
    an .npz file with `image` (N, 64, 64, 3) uint8, `caption` and `category`. By default the archive is downloaded once
    into the user's cache, and its SHA-256 checked.

    Raises DataError for what is missing, damaged, or something else. The first of `notes` names the source, as
    the licence asks, and so does `credit`, which goes into models.
    """
    if not 1 <= size <= SIZE:
        raise InputError(f"emoji have {SIZE} x {SIZE} pixels: size is at most {SIZE}, not {size}")
    if path is None:
        instead = "Get it by other means, such as npm pack emoji-datasource-twitter@16.0.0, and name it (path)"
        path = fetch(ADDRESS, cache_folder() / "emoji", SHA256, instead)
    path = Path(path)
    image, names, categories = _arrays(path) if path.suffix == ".npz" else _package(path)
    data = Dataset.from_arrays(
        image,
        categories,
        names,
        where=str(path),
        layout="channels last",
        notes=[ATTRIBUTION],
    )
    data = replace(data, credit=ATTRIBUTION)
    return data if size == SIZE else resize(data, size, MEMORY)


def split_by_name(data: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Those to train on and those held out, about `share` of them, by their captions alone.

    A caption is held out if SHA-256("seed caption") / 2^256 < share: the same name falls on the same side in any data
    set and order, so that pictures of one name are never divided.
    """
    if data.captions is None:
        raise DataError("data without captions cannot be split by them")
    apart = torch.tensor([_uniform(name, seed) < share for name in data.captions])
    if apart.all() or not apart.any():
        raise DataError(f"a share of {share} of {len(data)} captions leaves one part empty")
    return data.subset((~apart).nonzero().flatten()), data.subset(apart.nonzero().flatten())


def _uniform(name: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _arrays(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            image, names, labels = (file[k] for k in ("image", "caption", "category"))
    except KeyError as error:
        raise DataError(f"{path} needs image, caption and category: {error}") from error
    except Exception as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from error
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[1:] != (SIZE, SIZE, 3):
        raise DataError(
            f"{path}: image is {image.dtype} {image.shape}; emoji are uint8 (N, {SIZE}, {SIZE}, 3)"
        )
    return image, [str(n).lower() for n in names], [str(c) for c in labels]


def _package(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    with _reader(path) as read:
        entries = _entries(read(NAMES), path)
        image = np.empty((len(entries), SIZE, SIZE, 3), np.uint8)
        for i, entry in enumerate(entries):
            name = PICTURES + entry["image"]
            content = read(name)
            try:
                with open_image(BytesIO(content)) as file:
                    one = pixels(file, None, 3)
            except Exception as error:
                if is_exhaustion(error):
                    raise
                raise DataError(f"{path}: {name} {reason(error)}") from error
            if one.shape != (3, SIZE, SIZE):
                raise DataError(
                    f"{path}: {name} is {one.shape[2]} x {one.shape[1]} pixels, not {SIZE} x {SIZE}"
                )
            image[i] = one.transpose(1, 2, 0)
    return image, [e["name"].lower() for e in entries], [e["category"] for e in entries]


def _entries(content: bytes, path: Path) -> list[dict[str, Any]]:
    """The emoji of the list that have a picture here, in the order of the list."""
    try:
        listed = json.loads(content)
        found = [entry for entry in listed if entry.get("has_img_twitter")]
        for entry in found:
            if not all(isinstance(entry.get(k), str) for k in ("name", "category", "image")):
                raise ValueError("an emoji has no name, category or image")
            if Path(entry["image"]).name != entry["image"]:
                raise ValueError(f"the image {entry['image']!r} leads out of its folder")
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: {NAMES} is not the list of emoji: {error}") from error
    if not found:
        raise DataError(f"{path}: {NAMES} lists no emoji that have a picture")
    return found


@contextmanager
def _reader(path: Path) -> Iterator[Read]:
    """What reads a file of the package by its name, from a folder or from an archive."""
    if path.is_dir():

        def from_folder(name: str) -> bytes:
            for root in (path, path / "package"):
                if (root / name).is_file():
                    return (root / name).read_bytes()
            raise _lacks(path, name)

        yield from_folder
        return
    try:
        with tarfile.open(path) as archive:
            wanted = (NAMES, PICTURES)
            # In one pass: a compressed archive has no way to go back.
            held: dict[str, bytes] = {}
            for member in archive:
                name = member.name.removeprefix("package/")
                if member.isfile() and name.startswith(wanted) and member.size <= MAX_MEMBER:
                    file = archive.extractfile(member)
                    held[name] = b"" if file is None else file.read()
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an archive: {error}") from error

    def from_archive(name: str) -> bytes:
        if name not in held:
            raise _lacks(path, name)
        return held[name]

    yield from_archive


def _lacks(path: Path, name: str) -> DataError:
    return DataError(
        f"{path} has no {name}: it is not the package emoji-datasource-twitter, or not all of it"
    )
