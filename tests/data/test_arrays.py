"""Finite data sets: what is read, how it is scaled, divided and recognised, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset, load_array, load_digits

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def all_of(dataset: Dataset) -> torch.Tensor:
    return dataset[torch.arange(len(dataset))].x1


def test_every_order_of_dimensions_gives_the_same_pictures() -> None:
    last = Dataset.from_arrays(PIXELS)
    first = Dataset.from_arrays(np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)))
    assert last.shape == first.shape == (3, 5, 7)
    assert torch.equal(all_of(last), all_of(first))
    expected = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).double() / 127.5 - 1
    torch.testing.assert_close(all_of(last).double(), expected, rtol=0, atol=1e-7)
    assert all_of(last).is_contiguous()

    grey = Dataset.from_arrays(PIXELS[..., 0])
    assert grey.shape == (1, 5, 7)
    assert torch.equal(all_of(grey)[:, 0], all_of(last)[:, 0])
    assert all(dataset.images for dataset in (last, first, grey))
    assert last.value_range == (-1, 1)


@pytest.mark.parametrize(
    ("stored", "seen"),
    [
        ((2, 1, 4, 4), (1, 4, 4)),
        ((2, 4, 4, 3), (3, 4, 4)),
        ((2, 3, 3, 3), (3, 3, 3)),
        ((2, 9, 8, 4), (4, 9, 8)),
        ((2, 8, 8, 1), (1, 8, 8)),
        ((2, 784), (784,)),
    ],
)
def test_the_shape_says_where_the_channels_are(
    stored: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    dataset = Dataset.from_arrays(np.zeros(stored, np.uint8))
    assert dataset.shape == seen == tuple(all_of(dataset).shape[1:])


def test_black_and_white_are_the_ends_of_the_range() -> None:
    ends = np.array([[[0, 255]]], np.uint8)
    assert all_of(Dataset.from_arrays(ends)).flatten().tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("values", "value_range"),
    [([[0.0, 0.5]], (0, 1)), ([[-0.1, 1.0]], (-1, 1)), ([[-3.0, 7.0]], (-3, 7)), ([[5.0]], (5, 6))],
)
def test_floating_numbers_are_kept_as_they_are(
    values: list[list[float]], value_range: tuple[float, float]
) -> None:
    dataset = Dataset.from_arrays(np.array(values))
    assert all_of(dataset).tolist() == torch.tensor(values).tolist()
    assert dataset.value_range == value_range
    assert not dataset.images
    assert dataset.classes is None
    assert dataset[torch.tensor([0])].cond == {}


def test_a_batch_is_in_the_order_asked_for_and_names_its_samples() -> None:
    dataset = Dataset.from_arrays(
        np.arange(6.0)[:, None], labels=["b", "a", "c", "a", "b", "c"], captions=list("uvwxyz")
    )
    batch = dataset[torch.tensor([4, 1, 1])]
    assert batch.x1.dtype == torch.float32
    assert batch.x1.flatten().tolist() == [4, 1, 1]
    assert batch.cond["label"].tolist() == [1, 0, 0]
    assert batch.ids is not None
    assert batch.ids.tolist() == [4, 1, 1]
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.classes == 3

    part = dataset.subset(torch.tensor([5, 0, 3])).subset(torch.tensor([2, 0]))
    batch = part[torch.tensor([0, 1])]
    assert batch.x1.flatten().tolist() == [3, 5]
    assert batch.cond["label"].tolist() == [0, 2]
    assert part.captions == ("x", "z")
    assert part.classes == 3
    assert len(part) == 2


@pytest.mark.parametrize(
    "indices", [torch.tensor([6]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor(0)]
)
def test_indices_that_are_not_there_are_refused(indices: torch.Tensor) -> None:
    dataset = Dataset.from_arrays(np.zeros((6, 2)))
    with pytest.raises(InputError, match="indices"):
        dataset[indices]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.73])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_split_is_disjoint_covers_and_divides_each_class_alike(
    fraction: float, labelled: bool
) -> None:
    labels = RNG.choice(4, 203, p=[0.6, 0.3, 0.08, 0.02]) if labelled else None
    dataset = Dataset.from_arrays(np.arange(203.0)[:, None], labels)
    a, b = dataset.split(fraction, seed=5)
    ids_a, ids_b = all_of(a).flatten().tolist(), all_of(b).flatten().tolist()
    assert sorted(ids_a + ids_b) == list(range(203))
    assert len(a) == round(fraction * 203)
    assert ids_a == sorted(ids_a)
    if labels is not None:
        assert a.labels is not None
        for label in range(4):
            share = (labels == label).sum() * len(a) / 203
            assert abs((a.labels == label).sum() - share) < 1
    again = dataset.split(fraction, seed=5)[0]
    assert a.fingerprint() == again.fingerprint()
    assert a.fingerprint() != dataset.split(fraction, seed=6)[0].fingerprint()


def test_each_sample_is_as_often_in_one_half_as_in_the_other() -> None:
    dataset = Dataset.from_arrays(np.arange(10.0)[:, None], [0] * 5 + [1] * 5)
    count = torch.zeros(10)
    for seed in range(400):
        count[all_of(dataset.halves(seed)[0]).flatten().long()] += 1
    # Four standard deviations of a binomial law with 400 trials.
    assert (count - 200).abs().max() < 40


@pytest.mark.parametrize("n", [2, 3, 7, 100, 1001])
def test_halves_are_halves(n: int) -> None:
    a, b = Dataset.from_arrays(np.zeros((n, 1))).halves()
    assert (len(a), len(b)) == (n // 2, n - n // 2)


def test_a_split_never_leaves_a_part_empty() -> None:
    a, b = Dataset.from_arrays(np.zeros((3, 1))).split(0.01)
    assert (len(a), len(b)) == (1, 2)
    with pytest.raises(DataError, match="1 sample"):
        Dataset.from_arrays(np.zeros((1, 1))).halves()
    with pytest.raises(InputError, match="fraction"):
        Dataset.from_arrays(np.zeros((3, 1))).split(1.1)


def test_the_fingerprint_follows_the_content_and_not_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    np.savez_compressed(tmp_path / "a.npz", images=PIXELS)
    np.savez(tmp_path / "b.npz", images=PIXELS, y=np.arange(6))
    one = load_array(tmp_path / "a.npy").fingerprint()
    assert one == load_array(tmp_path / "a.npz").fingerprint()
    assert one == Dataset.from_arrays(PIXELS).subset(torch.arange(6)).fingerprint()
    monkeypatch.setattr("pushforward.data.values.CHUNK", 200)
    assert one == Dataset.from_arrays(PIXELS).fingerprint()

    changed = PIXELS.copy()
    changed[5, 4, 6, 2] ^= 1
    others = [
        load_array(tmp_path / "b.npz"),
        Dataset.from_arrays(changed),
        Dataset.from_arrays(PIXELS[:5]),
        Dataset.from_arrays(PIXELS.reshape(6, 7, 5, 3)),
        Dataset.from_arrays(PIXELS, captions=list("abcdef")),
        Dataset.from_arrays(PIXELS, labels=list("abcdef")),
        Dataset.from_arrays(PIXELS).subset(torch.tensor([1, 0, 2, 3, 4, 5])),
    ]
    assert len({one, *(other.fingerprint() for other in others)}) == 8

    floats = RNG.normal(size=(4, 3))
    little, big = (Dataset.from_arrays(floats.astype(order)) for order in ("<f8", ">f8"))
    assert little.fingerprint() == big.fingerprint()
    assert torch.equal(all_of(little), all_of(big))


def test_an_npy_file_is_mapped_and_stays_mapped_in_its_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    dataset = load_array(tmp_path / "a.npy")
    assert isinstance(dataset.values, np.memmap)
    assert dataset.halves()[0].values is dataset.values
    x1 = all_of(dataset)
    x1 += 1  # a batch is a copy: the file does not change
    assert torch.equal(all_of(load_array(tmp_path / "a.npy")), x1 - 1)


@pytest.mark.parametrize("image", ["image", "images", "x", "data", None])
@pytest.mark.parametrize("label", ["label", "labels", "y"])
def test_usual_names_are_found_in_an_npz_file(
    tmp_path: Path, image: str | None, label: str
) -> None:
    path = tmp_path / "a.npz"
    labels = {label: np.array([2, 0, 1, 2, 0, 1])}
    if image is None:
        np.savez(path, PIXELS, **labels)
    else:
        np.savez(path, **{image: PIXELS}, **labels)
    dataset = load_array(path)
    assert torch.equal(all_of(dataset), all_of(Dataset.from_arrays(PIXELS)))
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1, 2, 0, 1]
    assert dataset.classes == 3
    assert dataset.class_names is None


def test_other_names_are_found_when_they_are_given(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((2, 3)), pictures=PIXELS, kind=np.array(list("cabbac"))[:, None])
    dataset = load_array(path, image_key="pictures", label_key="kind")
    assert dataset.shape == (3, 5, 7)
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1, 1, 0, 2]


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def test_files_that_cannot_be_used_say_why_and_what_to_do(tmp_path: Path) -> None:
    def refused(match: str, path: Path, **keys: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            load_array(path, **keys)
        assert str(path) in str(caught.value)

    refused("there is no file", tmp_path / "none.npy")
    refused("folder", tmp_path)
    text = tmp_path / "text.npy"
    text.write_text("1, 2, 3\n")
    refused("not a NumPy file", text)
    (tmp_path / "empty.npy").touch()
    refused("not a NumPy file", tmp_path / "empty.npy")

    objects = np.array([[1], ["a"]], dtype=object)
    np.save(tmp_path / "objects.npy", objects)
    refused("Python objects", tmp_path / "objects.npy")
    refused("Python objects", save(tmp_path, x=objects))

    np.save(tmp_path / "cut.npy", PIXELS)
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:300])
    refused("damaged", tmp_path / "cut.npy")
    whole = save(tmp_path, x=PIXELS).read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:300])
    refused("damaged", tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(whole.replace(PIXELS[2].tobytes(), PIXELS[3].tobytes()))
    refused("damaged", tmp_path / "a.npz")

    refused("'a', 'b'", save(tmp_path, a=PIXELS, b=PIXELS))
    refused("no array called 'q'.*'x'", save(tmp_path, x=PIXELS), image_key="q")
    refused("no array called 'q'.*'x'", save(tmp_path, x=PIXELS), label_key="q")
    refused("both 'images' and 'x'", save(tmp_path, x=PIXELS, images=PIXELS))
    refused("6 samples, but labels of shape", save(tmp_path, x=PIXELS, y=np.arange(5)))
    refused("label -1", save(tmp_path, x=PIXELS, y=np.arange(6) - 1))
    refused("sample 5 has label 10000000", save(tmp_path, x=PIXELS, y=np.arange(6) * 2_000_000))
    refused("labels are float64", save(tmp_path, x=PIXELS, y=np.arange(6.0)))
    refused("no samples", save(tmp_path, x=PIXELS[:0], y=np.arange(0)))
    np.save(tmp_path / "a.npy", PIXELS)
    refused("without a name", tmp_path / "a.npy", image_key="x")


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.zeros((3, 4), np.int64), "int64"),
        (np.zeros((3, 4), np.complex64), "complex64"),
        (np.zeros((3, 4), bool), "bool"),
        (np.zeros(3), r"\(3,\)"),
        (np.zeros(()), r"\(\)"),
        (np.zeros((3, 0)), r"\(3, 0\)"),
        (np.zeros((3, 8, 8, 8), np.uint8), "which of its axes is that of the channels"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(values: np.ndarray, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Dataset.from_arrays(values)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_rows_that_are_not_finite_are_named(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushforward.data.values.CHUNK", 100)
    values = np.zeros((50, 4))
    values[[7, 31], [0, 3]] = wrong
    with pytest.raises(DataError, match=r"2 of 50 samples .* first rows 7, 31;"):
        Dataset.from_arrays(values)


def test_captions_and_names_must_fit() -> None:
    with pytest.raises(DataError, match="5 captions"):
        Dataset.from_arrays(PIXELS, captions=list("abcde"))
    with pytest.raises(DataError, match="label 5 has no name"):
        Dataset.from_arrays(PIXELS, labels=list(range(6)), class_names=["a", "b"])


def test_digits_are_the_digits() -> None:
    digits = load_digits()
    assert (len(digits), digits.shape, digits.classes) == (1797, (1, 8, 8), 10)
    assert digits.class_names == tuple("0123456789")
    assert digits.value_range == (-1, 1)
    assert digits.images
    batch = digits[torch.tensor([0])]
    assert batch.cond["label"].tolist() == [0]
    # The first digit of the set, a nought, in its sixteenths of grey.
    assert ((batch.x1[0, 0, 1] + 1) * 8).tolist() == [0, 0, 13, 15, 10, 15, 5, 0]
    assert torch.bincount(digits.labels).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip


def test_digits_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[demo\]'"):
        load_digits()


def test_digits_that_were_changed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import datasets

    bunch = datasets.load_digits()
    bunch.images[3, 2, 1] += 1
    monkeypatch.setattr(datasets, "load_digits", lambda: bunch)
    with pytest.raises(DataError, match="SHA-256"):
        load_digits()
