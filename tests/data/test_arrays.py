"""Data sets from .npy and .npz files: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.data import Dataset, load_array

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def all_of(dataset: Dataset) -> torch.Tensor:
    return dataset[torch.arange(len(dataset))].x1


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


def test_labels_of_other_names_are_taken_and_said(tmp_path: Path) -> None:
    for name in ("target", "targets", "class"):
        dataset = load_array(save(tmp_path, x=PIXELS, **{name: np.arange(6) % 2}))
        assert dataset.class_counts == (3, 3)
        assert any(f"{name!r} is taken for the labels" in note for note in dataset.notes)
    np.savez(tmp_path / "a.npz", PIXELS, np.arange(6)[:, None] % 3)
    dataset = load_array(tmp_path / "a.npz")
    assert dataset.class_counts == (2, 2, 2)
    assert any("'arr_1' is taken for the labels" in note for note in dataset.notes)
    # What is no label is not taken for one.
    dataset = load_array(save(tmp_path, x=PIXELS, target=np.linspace(0, 1, 6)))
    assert dataset.labels is None
    assert any("not used: 'target'" in note for note in dataset.notes)


def test_arrays_that_are_not_used_are_said(tmp_path: Path) -> None:
    objects = np.array([{}, 1], dtype=object)
    path = save(tmp_path, x=PIXELS, y=np.arange(6), age=np.ones(6), mean=np.ones(3), junk=objects)
    first, second = load_array(path).notes
    assert "not used: 'age', with a row for each sample" in first
    assert "--columns" in first
    assert "not used: 'mean', 'junk'" in second


def test_columns_are_conditions_and_texts(tmp_path: Path) -> None:
    path = save(
        tmp_path, x=PIXELS, age=np.arange(6.0), names=np.array(list("abcdef")), mean=np.ones(3),
        text=np.array(list("uvwxyz")), class_names=np.array(["p", "q"]), y=np.arange(6) % 2,
    )  # fmt: skip
    batch = load_array(path, columns=["age"])[torch.tensor([4])]
    assert batch.cond["age"].tolist() == [4.0]
    assert batch.texts == {"caption": ("y",)}
    dataset = load_array(path, columns=None)
    assert dataset.class_names == ("p", "q")
    assert list(dataset.columns) == ["age"]
    assert dataset[torch.tensor([4])].texts == {"caption": ("y",), "names": ("e",)}
    with pytest.raises(DataError, match="no array called 'agee'"):
        load_array(path, columns=["agee"])
    with pytest.raises(DataError, match=r"'mean' has shape \(3,\); a condition has one row"):
        load_array(path, columns=["mean"])


def test_the_only_array_of_samples_needs_no_name(tmp_path: Path) -> None:
    dataset = load_array(save(tmp_path, digits=PIXELS, y=np.arange(6)))
    assert dataset.shape == (3, 5, 7)
    assert "'digits' is taken for the samples" in dataset.notes[0]


def test_lengths_and_masks_make_sequences(tmp_path: Path) -> None:
    lengths = np.array([3, 1, 4])
    flat = RNG.normal(size=(8, 3, 3)).astype(np.float32)
    padded = np.zeros((3, 4, 3, 3), np.float32)
    mask = np.arange(4) < lengths[:, None]
    padded[mask] = flat
    files = (
        save(tmp_path, backbone=flat, length=lengths),
        {"x": padded, "lengths": lengths},
        {"x": padded, "mask": mask},
    )
    prints = set()
    for arrays in files:
        path = arrays if isinstance(arrays, Path) else save(tmp_path, **arrays)
        dataset = load_array(path)
        assert (dataset.kind, dataset.shape) == ("sequence", (4, 3, 3))
        batch = dataset[torch.arange(3)]
        assert batch.mask is not None
        assert torch.equal(batch.x1[batch.mask[..., 0, 0]], torch.from_numpy(flat))
        prints.add(dataset.fingerprint())
    assert len(prints) == 1
    with pytest.raises(DataError, match="3 lengths add up to 8, and there are 7 entries"):
        load_array(save(tmp_path, x=flat[:7], length=lengths))


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 9), (6, 3, 8, 8), (6, 1, 4, 5, 6)])
def test_arrays_of_any_shape_are_data(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = RNG.normal(size=shape).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    dataset = load_array(tmp_path / "a.npy")
    assert dataset.shape == shape[1:]
    assert torch.equal(all_of(dataset), torch.from_numpy(values))
