"""Fashion-MNIST: where files are looked for, what is checked, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import requests

from pushforward.core.errors import DataError
from pushforward.data import fashion, load_fashion

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (12, 28, 28), np.uint8),
    "t10k": RNG.integers(0, 256, (5, 28, 28), np.uint8),
}
LABELS = {"train": np.arange(12, dtype=np.uint8) % 10, "t10k": np.arange(5, dtype=np.uint8)}


def idx(values: np.ndarray) -> bytes:
    """The format by its definition: two noughts, 8 for bytes, the number of sizes, big-endian sizes, bytes."""
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def contents() -> dict[str, bytes]:
    return {
        f"{part}-{kind}-idx{values[part].ndim}-ubyte": idx(values[part])
        for part in ("train", "t10k")
        for kind, values in (("images", IMAGES), ("labels", LABELS))
    }


def write(folder: Path, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents().items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


class Offline:
    def __init__(self, timeout: float) -> None: ...

    def __call__(self, address: str, file: str, _: Any) -> None:
        raise requests.ConnectionError("no route to host")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the data and without a network, on which the files of this test are the published ones."""

    known = {name: hashlib.sha256(content).hexdigest() for name, content in contents().items()}
    monkeypatch.setattr(fashion, "FILES", known)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PUSHFORWARD_CACHE", raising=False)
    monkeypatch.setattr(pooch, "HTTPDownloader", Offline)
    return tmp_path


def serve(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes] = lambda x: x
) -> list[str]:
    """The public home; returns the addresses that are asked for."""
    asked: list[str] = []

    class Server(Offline):
        def __call__(self, address: str, file: str, _: Any) -> None:
            asked.append(address)
            name = address.rsplit("/", 1)[1].removesuffix(".gz")
            Path(file).write_bytes(change(gzip.compress(contents()[name])))

    monkeypatch.setattr(pooch, "HTTPDownloader", Server)
    return asked


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["given", "debian", "cache/pushforward/fashion-mnist"])
def test_the_files_are_found_in_each_place(alone: Path, packed: bool, place: str) -> None:
    folder = write(alone / place, packed)
    for dataset, part in zip(
        load_fashion(folder if place == "given" else None), ("train", "t10k"), strict=True
    ):
        assert dataset.shape == (1, 28, 28)
        assert np.array_equal(dataset.values, IMAGES[part])
        assert dataset.labels is not None
        assert dataset.labels.tolist() == LABELS[part].tolist()
        assert dataset.class_names is not None
        assert (dataset.class_names[0], dataset.class_names[9]) == ("T-shirt/top", "Ankle boot")
        assert dataset.classes == 10


@pytest.mark.parametrize("place", ["debian", "cache/pushforward/fashion-mnist"])
@pytest.mark.parametrize("name", list(contents()))
def test_files_nobody_named_must_be_the_published_ones(alone: Path, place: str, name: str) -> None:
    path = write(alone / place) / f"{name}.gz"
    content = bytearray(contents()[name])
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"is not the .* of Fashion-MNIST: the SHA-256") as caught:
        load_fashion()
    assert str(path) in str(caught.value)
    load_fashion(alone / place)  # Named by the user, they are what the user says.


def test_without_the_data_all_three_ways_are_named(alone: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_fashion()
    for way in (
        "--data",
        "dataset-fashion-mnist",
        "--download",
        "github.com/zalandoresearch/fashion-mnist",
    ):
        assert way in str(caught.value)
    write(alone / "debian")
    (alone / "debian" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="is not on this machine"):
        load_fashion()
    with pytest.raises(DataError, match="neither t10k-labels-idx1-ubyte nor"):
        load_fashion(alone / "debian")


def test_a_download_is_kept_and_not_repeated(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch)
    first = load_fashion(download=True)
    assert sorted(asked) == sorted(f"{fashion.HOME}{name}.gz" for name in contents())
    kept = sorted(p.name for p in (alone / "cache" / "pushforward" / "fashion-mnist").iterdir())
    assert kept == sorted(f"{name}.gz" for name in contents())
    again = load_fashion(download=True)
    assert len(asked) == 4
    assert [one.fingerprint() for one in first] == [one.fingerprint() for one in again]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda x: gzip.compress(gzip.decompress(x)[:-1] + b"\1"), "SHA-256"),
        (lambda x: x[: len(x) // 2], "cannot be read|cannot get"),
        (lambda x: b"<html>not here</html>", "not an IDX file"),
    ],
)
def test_a_download_that_is_something_else_leaves_nothing(
    alone: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[bytes], bytes], match: str
) -> None:
    serve(monkeypatch, change)
    with pytest.raises(DataError, match=match):
        load_fashion(download=True)
    assert list((alone / "cache" / "pushforward" / "fashion-mnist").iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"cannot get https://github.com.*no route to host.*--data"):
        load_fashion(download=True)


def test_parts_must_fit_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", packed=False)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS["t10k"][:4]))
    with pytest.raises(
        DataError, match=r"t10k files hold images of shape \(5, 28, 28\) and labels of shape \(4,\)"
    ):
        load_fashion(folder)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS["t10k"] + 7))
    with pytest.raises(DataError, match="label 11 has no name"):
        load_fashion(folder)


@pytest.mark.skipif(
    not fashion.DEBIAN.is_dir() and "FASHION_MNIST" not in os.environ,
    reason="needs Debian's dataset-fashion-mnist, or FASHION_MNIST, the folder of its files",
)
def test_the_published_files_are_those_known_here(monkeypatch: pytest.MonkeyPatch) -> None:
    if "FASHION_MNIST" in os.environ:
        monkeypatch.setattr(fashion, "DEBIAN", Path(os.environ["FASHION_MNIST"]))
    train, test = load_fashion()
    assert (len(train), len(test)) == (60_000, 10_000)
    for dataset, each in ((train, 6000), (test, 1000)):
        assert dataset.labels is not None
        assert dataset.labels.bincount().tolist() == [each] * 10
