"""Finite data sets: what a batch holds, and how they are divided and recognised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pushforward.core.conditions import Tokens
from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset, load_array

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


def all_of(dataset: Dataset) -> torch.Tensor:
    return dataset[torch.arange(len(dataset))].x1


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


def test_captions_and_names_must_fit() -> None:
    with pytest.raises(DataError, match="5 captions"):
        Dataset.from_arrays(PIXELS, captions=list("abcde"))
    with pytest.raises(DataError, match="label 5 has no name"):
        Dataset.from_arrays(PIXELS, labels=list(range(6)), class_names=["a", "b"])


def everything(n: int = 6) -> Dataset:
    return Dataset.from_arrays(
        np.arange(float(n))[:, None],
        np.arange(n) % 2,
        captions=[f"c{i}" for i in range(n)],
        columns={
            "age": np.arange(n) + 0.5,
            "kind": np.arange(n, dtype=np.uint16),
            "flag": np.arange(n) > 2,
            "text": Tokens(
                torch.arange(n)[:, None].expand(n, 3), torch.ones(n, 3, dtype=torch.bool)
            ),
            "control": {"edges": RNG.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)},
        },
        texts={"title": [f"t{i}" for i in range(n)]},
    )


def test_conditions_and_texts_of_any_name_come_with_their_samples() -> None:
    whole = everything()
    part = whole.subset(torch.tensor([5, 1, 3])).subset(torch.tensor([2, 0]))
    for batch in (part[torch.tensor([0, 1])], whole[torch.tensor([3, 5])]):
        assert batch.x1.flatten().tolist() == [3, 5]
        assert list(batch.cond) == ["label", "age", "kind", "flag", "text", "control"]
        assert batch.cond["age"].dtype == torch.float32
        assert batch.cond["age"].tolist() == [3.5, 5.5]
        assert batch.cond["kind"].dtype == torch.int64
        assert batch.cond["kind"].tolist() == [3, 5]
        assert batch.cond["flag"].tolist() == [True, True]
        assert batch.cond["text"].values[:, 0].tolist() == [3, 5]
        assert batch.cond["control"]["edges"].shape == (2, 3, 4, 5)
        assert -1 <= batch.cond["control"]["edges"].min() < 0 < batch.cond["control"]["edges"].max()
        assert batch.texts == {"caption": ("c3", "c5"), "title": ("t3", "t5")}
    assert whole.spec.columns == ("age", "kind", "flag", "text", "control.edges")
    train, _ = whole.split(0.5)
    assert train[torch.tensor([0])].texts["title"] == (f"t{int(train[torch.tensor([0])].x1)}",)


def test_the_fingerprint_follows_conditions_texts_and_masks() -> None:
    def build(**changes: Any) -> str:
        given = {"columns": {"age": np.arange(4.0)}, "texts": {"title": list("abcd")}}
        return Dataset.from_arrays(np.zeros((4, 3)), **(given | changes)).fingerprint()

    half = np.arange(3) < np.array([[3], [1], [2], [3]])
    prints = [
        build(),
        build(columns={}),
        build(columns={"age": np.arange(4.0) + 1}),
        build(columns={"height": np.arange(4.0)}),
        build(texts={}),
        build(texts={"title": list("abce")}),
        build(mask=half, kind="sequence"),
    ]
    assert prints[0] == build()
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"label": np.zeros(6)}, "cannot be called 'label'"),
        ({"two words": np.zeros(6)}, "cannot be called 'two words'"),
        ({"age": np.zeros(5)}, "6 samples, but 5 rows of the condition 'age'"),
        ({"age": [1, 2, 3, 4, np.inf, 6]}, "condition 'age': 1 rows are infinite.* 4"),
        ({"age": [1, 2, 3, 4, 1e39, 6]}, "condition 'age': 1 rows are infinite.* 4"),
        ({"seed": np.zeros(6)}, "cannot be called 'seed'"),
        ({"age": np.array(3.0)}, "is a single number"),
        ({"age": list("abcdef")}, "conditions are numbers"),
        ({"group": {"age": np.zeros(5)}}, r"condition 'group\.age'"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(columns: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        Dataset.from_arrays(np.zeros((6, 2)), columns=columns)


def test_unknown_numbers_are_nan_and_are_counted() -> None:
    columns = {
        "age": [1, np.nan, 3],
        "place": [[0, 1], [np.nan, 1], [np.nan, np.nan]],
        "n": [1, 2, 3],
    }
    dataset = Dataset.from_arrays(np.zeros((3, 2)), columns=columns)
    assert dataset.notes == (
        "the condition 'age' is unknown (NaN) for 1 of 3 samples",
        "the condition 'place' is unknown (NaN) for 2 of 3 samples",
    )
    assert dataset[torch.arange(3)].cond["age"].isnan().tolist() == [False, True, False]


def test_texts_and_channels_must_fit() -> None:
    with pytest.raises(DataError, match="6 samples, but 2 titles"):
        Dataset.from_arrays(PIXELS, texts={"title": ["a", "b"]})
    with pytest.raises(DataError, match="2 names of channels"):
        Dataset.from_arrays(PIXELS, channels=["a", "b"])
    assert Dataset.from_arrays(PIXELS, channels=["r", "g", "b"]).spec.channels == ("r", "g", "b")


def test_what_stands_in_the_padding_is_never_seen() -> None:
    values = RNG.normal(size=(4, 5, 2))
    lengths = np.array([5, 1, 3, 2])
    mask = np.arange(5) < lengths[:, None]
    dirty = np.where(mask[..., None], values, np.nan)
    a, b = (Dataset.from_arrays(v, mask=mask) for v in (values, dirty))
    batch = b[torch.tensor([2, 1])]
    assert b.kind == "sequence"
    assert batch.mask is not None
    assert batch.mask.shape == (2, 5, 1)
    assert batch.mask.sum((1, 2)).tolist() == [3, 1]
    assert torch.equal(batch.x1, a[torch.tensor([2, 1])].x1)
    assert (batch.x1[0, 3:] == 0).all()
    assert torch.equal(batch.x1[0, :3], torch.from_numpy(values[2, :3]).float())
    assert b.value_range == a.value_range
    data = values[mask]
    assert b.value_range == pytest.approx((data.min(), data.max()))
    part = b.subset(torch.tensor([3, 0]))[torch.tensor([0])]
    assert part.mask is not None
    assert int(part.mask.sum()) == 2


@pytest.mark.parametrize(
    ("kind", "shape", "mask", "seen"),
    [
        ("sequence", (3, 4), (2, 3), (2, 3, 1)),
        ("sequence", (3, 4, 5), (2, 3), (2, 3, 1, 1)),
        ("signal", (4, 3), (2, 3), (2, 1, 3)),
        ("image", (3, 4, 5), (2, 4, 5), (2, 1, 4, 5)),
        ("image", (3, 4, 5), (2, 3, 1, 1), (2, 3, 1, 1)),
        ("vector", (3,), (2, 3), (2, 3)),
    ],
)
def test_a_mask_has_the_axes_of_its_kind(
    kind: Any, shape: tuple[int, ...], mask: tuple[int, ...], seen: tuple[int, ...]
) -> None:
    dataset = Dataset.from_arrays(np.ones((2, *shape)), mask=np.ones(mask, bool), kind=kind)
    assert dataset[torch.arange(2)].mask.shape == seen  # type: ignore[union-attr]


def test_masks_that_do_not_fit_are_refused() -> None:
    values = np.ones((3, 4, 2))
    for wrong in (np.ones((3, 4)), np.ones((3, 5), bool), np.ones((2, 4), bool)):
        with pytest.raises(DataError, match="a mask is bool"):
            Dataset.from_arrays(values, mask=wrong)
    with pytest.raises(DataError, match=r"1 samples have no data.* first rows 1"):
        Dataset.from_arrays(values, mask=np.array([[1] * 4, [0] * 4, [1] * 4], bool))


def test_sequences_of_different_lengths_are_padded_to_the_longest() -> None:
    sequences = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (3, 1, 4)]
    dataset = Dataset.from_arrays(sequences, ["a", "b", "a"])
    assert (len(dataset), dataset.shape, dataset.kind) == (3, (4, 2), "sequence")
    batch = dataset.subset(torch.tensor([2, 0]))[torch.tensor([1, 0])]
    assert batch.mask is not None
    for x, mask, sequence in zip(batch.x1, batch.mask, (sequences[0], sequences[2]), strict=True):
        assert torch.equal(x[mask[:, 0]], torch.from_numpy(sequence))
        assert (x[~mask[:, 0]] == 0).all()
    assert batch.cond["label"].tolist() == [0, 0]
    padded = np.zeros((3, 4, 2), np.float32)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    mask = np.arange(4) < np.array([[3], [1], [4]])
    assert (
        dataset.fingerprint()
        == Dataset.from_arrays(padded, ["a", "b", "a"], mask=mask).fingerprint()
    )
    with pytest.raises(DataError, match=r"sequence 1 has shape \(2, 3\)"):
        Dataset.from_arrays([np.zeros((3, 2)), np.zeros((2, 3))])
    with pytest.raises(DataError, match="has no samples"):
        Dataset.from_arrays([])


def test_the_record_says_what_the_data_are() -> None:
    spec = Dataset.from_arrays(PIXELS, ["a", "b", "a", "a", "b", "a"]).spec
    assert (spec.shape, spec.kind, spec.value_range, spec.bin_width) == (
        (3, 5, 7), "image", (-1, 1), 2 / 255,
    )  # fmt: skip
    assert (spec.classes, spec.class_names, spec.class_counts) == (2, ("a", "b"), (4, 2))
    assert spec.fingerprint == Dataset.from_arrays(PIXELS, list("abaaba")).fingerprint()
    plane = Dataset.from_arrays(np.array([[0.0, -4.0], [2.0, 1.0]])).spec
    assert plane.kind == "plane"
    assert plane.extent == pytest.approx(4.4)


def test_a_condition_never_has_the_name_of_another_argument() -> None:
    import inspect

    import pushforward as pf
    from pushforward.data.columns import TAKEN

    for function in (pf.generate, pf.integrate, pf.Model.forward):
        names = set(inspect.signature(function).parameters) - {"self", "cond", "field", "times"}
        assert names <= set(TAKEN), function
