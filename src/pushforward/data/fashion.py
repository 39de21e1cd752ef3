"""Fashion-MNIST: 70 000 images of clothes, 28 x 28, in ten classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.fetch import cache_folder, fetch
from pushforward.data.idx import parse_idx

HOME = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
# Where Debian's package dataset-fashion-mnist puts the files.
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# SHA-256 of the files' content, which is the same however they were compressed.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def load_fashion(path: str | Path | None = None, download: bool = False) -> tuple[Dataset, Dataset]:
    """60 000 images to train on and 10 000 that are held out, (1, 28, 28), with labels and the names of classes.

    The four IDX files, with .gz or without, come from `path`; by default from the folder of Debian's package
    dataset-fashion-mnist or from the user's cache, into which `download` brings them from their public home. Files that
    the user has not named must be the published ones, by their SHA-256.

    Raises DataError if they are missing, damaged or something else. Xiao, Rasul & Vollgraf 2017 (arXiv 1708.07747).
    """
    folder = Path(path) if path is not None else _found(download)
    arrays = {name: _read(folder, name, known=path is None) for name in FILES}
    return _pair(arrays, "train", folder), _pair(arrays, "t10k", folder)


def fashion_cache() -> Path:
    return cache_folder() / "fashion-mnist"


def _pair(arrays: dict[str, np.ndarray], part: str, folder: Path) -> Dataset:
    images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{folder}: the {part} files hold images of shape {images.shape} and labels of shape {labels.shape}; "
            f"expected (N, H, W) and (N,)"
        )
    return Dataset.from_arrays(images, labels, class_names=CLASSES, where=f"{folder}, {part}")


def _found(download: bool) -> Path:
    cache = fashion_cache()
    for folder in (DEBIAN, cache):
        if all(_file(folder, name) is not None for name in FILES):
            return folder
    if not download:
        raise DataError(
            f"Fashion-MNIST is not on this machine. Name the folder of its four IDX files (--data), install Debian's "
            f"package dataset-fashion-mnist, or get them from {HOME} into {cache} (--download)"
        )
    for name in FILES:
        if _file(cache, name) is None:
            _fetch(name, cache)
    return cache


def _fetch(name: str, cache: Path) -> None:
    address = f"{HOME}{name}.gz"
    instead = "Get the four files by other means, and name their folder (--data)"
    path = fetch(address, cache, None, instead)
    try:
        _check(parse_idx(path)[1], name, address)
    except DataError:
        path.unlink()
        raise


def _file(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _read(folder: Path, name: str, known: bool) -> np.ndarray:
    path = _file(folder, name)
    if path is None:
        raise DataError(f"{folder} has neither {name} nor {name}.gz: all four files are needed")
    values, digest = parse_idx(path)
    if known:
        _check(digest, name, str(path))
    return values


def _check(digest: str, name: str, where: str) -> None:
    if digest != FILES[name]:
        raise DataError(
            f"{where} is not the {name} of Fashion-MNIST: the SHA-256 of its content is {digest}. Remove it, and get "
            f"it anew"
        )
