"""The IDX format: every type and shape, and what is refused."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pushforward.core.errors import DataError
from pushforward.data import Dataset, load_idx, load_images, read_idx

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (5, 28, 28), np.uint8)
TYPES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(values: np.ndarray) -> bytes:
    """The format by its definition: two noughts, the type, the number of sizes, sizes and numbers, big-endian."""
    big = values.astype(values.dtype.newbyteorder(">"))
    head = struct.pack(f">BBBB{big.ndim}I", 0, 0, TYPES[big.dtype.str[1:]], big.ndim, *big.shape)
    return head + big.tobytes()


@given(
    st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"]).flatmap(
        lambda dtype: arrays(
            np.dtype(dtype),
            st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.integers(0, 4)] * n)),
        )
    ),
    st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, packed: bool
) -> None:
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    found = read_idx(path)
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert np.array_equal(found, values, equal_nan=values.dtype.kind == "f")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (idx(SMALL)[:-1], "is cut off"),
        (idx(SMALL) + b"\0", "goes on after its end"),
        (b"\0\0\x0a\1\0\0\0\1\0\0\0\0", "not an IDX file"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0", "is cut off"),
        (b"\0\1\x08\1\0\0\0\1\0", "not an IDX file"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0\x08\xff" + bytes(20), "not an IDX file"),
        (b"\0\0\x08\3\0\0\0\1\0\0", "within its head"),
        (b"\0\0\x08\4" + b"\xff" * 16, "more than the 1 GiB"),
        (b"\0\0\x08\1\x40\0\0\1", "more than the 1 GiB"),
        (b"\x80\4\x95 a pickle", "not an IDX file"),
    ],
)
def test_what_is_no_such_file_is_refused(
    tmp_path: Path, packed: bool, content: bytes, match: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=match) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    whole = gzip.compress(idx(SMALL))
    for spoilt in (
        whole[:-9],
        whole[:-1],
        whole[:500] + b"\xff" * 50 + whole[550:],
        whole + b"more",
    ):
        path.write_bytes(spoilt)
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(path)
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "none")


@pytest.mark.parametrize("announced", [16, 1 << 30])
def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, announced: int) -> None:
    """256 MiB of noughts in 260 kB, after a head that announces less, and one that announces more."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">BBBBI", 0, 0, 8, 1, announced))
        for _ in range(1 << 8 if announced == 16 else 1):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 19
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb.gz .*(goes on after its end|is cut off)"):
            read_idx(path)
        if announced == 16:
            assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def put(path: Path, values: np.ndarray, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    return path


def test_files_of_any_type_and_shape_are_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.integers(0, 256, (3, 4, 5), dtype=np.uint8),
        rng.integers(0, 256, (3, 8, 4, 5), dtype=np.uint8).transpose(0, 2, 3, 1)[:, :, :, :3],
        rng.integers(-99, 99, (3, 7)).astype(np.int16),
        rng.normal(size=(3, 2, 6)).astype(np.float32),
        rng.normal(size=(3, 1, 4, 5, 6)),
    ):
        path = put(tmp_path / "a.idx", values)
        dataset = load_idx(path)
        same = values if values.dtype != np.int16 else values.astype(np.float32)
        want = Dataset.from_arrays(same)
        assert (dataset.kind, dataset.shape) == (want.kind, want.shape)
        assert dataset.fingerprint() == want.fingerprint() == load_images(path).fingerprint()
    assert load_idx(put(path, np.zeros((2, 5), np.float32)), kind="signal").shape == (1, 5)
    assert load_idx(put(path, np.arange(30, dtype=np.int32).reshape(3, 10) % 7)).bin_width == 1
    with pytest.raises(DataError, match="beyond 2\\^24"):
        load_idx(put(path, np.full((2, 2), 2**24 + 1, np.int32)))


@pytest.mark.parametrize("packed", [True, False])
def test_labels_that_lie_beside_are_found_by_their_name(tmp_path: Path, packed: bool) -> None:
    images = put(tmp_path / "train-images-idx3-ubyte", SMALL, packed)
    assert load_idx(images).labels is None
    labels = np.arange(len(SMALL), dtype=np.uint8)
    put(tmp_path / "train-labels-idx1-ubyte.gz", labels, True)
    dataset = load_idx(images)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == labels.tolist()
    assert "train-labels-idx1-ubyte.gz" in dataset.notes[0]
    other = put(tmp_path / "mine", labels[::-1].copy())
    dataset = load_idx(images, other)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == labels[::-1].tolist()
    put(tmp_path / "train-labels-idx1-ubyte.gz", labels[1:], True)
    dataset = load_idx(images)
    assert dataset.labels is None
    assert "does not fit" in dataset.notes[0]
    with pytest.raises(DataError, match="these are labels"):
        load_idx(other)
