"""Archives of images: any order gives the same, and classes of all of them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagefiles import encoded, in_bytes, pack, picture, stored, write_picture

from pushforward.core.errors import DataError
from pushforward.core.noise import Noise
from pushforward.data import Pictures, load_folder, load_shards, write_shards

PNG = [encoded(picture(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_labels_that_are_texts_become_classes_by_their_names(tmp_path: Path) -> None:
    members = [(f"{i}{end}", content) for i, label in enumerate(["cow", "ant", "cow"])
               for end, content in ((".png", PNG[i]), (".json", json.dumps({"label": label}).encode()))]  # fmt: skip
    dataset = load_shards(pack(tmp_path / "a.tar", *members))
    assert dataset.class_names == ("ant", "cow")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.captions is None


def many(folder: Path, count: int = 30) -> list[Path]:
    """Three archives of ten pictures, with labels."""
    folder.mkdir(exist_ok=True)
    return [
        pack(
            folder / f"{s}.tar",
            *(
                (f"{i:03}{end}", content)
                for i in range(10 * s, 10 * s + 10)
                for end, content in ((".png", encoded(picture(i))), (".cls", str(i).encode()))
            ),
        )
        for s in range(count // 10)
    ]


@given(st.lists(st.integers(0, 29), min_size=1, max_size=12))
def test_any_order_gives_each_picture_with_its_label(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "many"
    if not folder.exists():
        many(folder)
    dataset = load_shards(folder)
    batch = dataset[torch.tensor(order)]
    assert batch.cond["label"].tolist() == order
    for got, i in zip(in_bytes(batch.x1), order, strict=True):
        assert np.array_equal(got, picture(i))


def test_archives_are_named_as_a_folder_a_pattern_or_one_by_one(tmp_path: Path) -> None:
    paths = many(tmp_path / "set")
    (tmp_path / "set" / "notes.txt").write_text("mine")
    (tmp_path / "set" / ".4.tar").write_text("hidden")
    marks = {
        load_shards(named).fingerprint()
        for named in (
            tmp_path / "set",
            str(tmp_path / "set" / "*.tar"),
            paths,
            [paths[0], tmp_path / "set" / "[12].tar"],
        )
    }
    assert len(marks) == 1
    other = load_shards(paths[::-1])
    assert other.fingerprint() not in marks
    assert np.array_equal(stored(other, 0), picture(20))
    one = load_shards(paths[1])
    assert (len(one), one.labels.tolist() if one.labels is not None else None) == (
        10,
        list(range(10, 20)),
    )
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "none.tar", tmp_path / "x*.tar"):
        with pytest.raises(DataError, match="no archive"):
            load_shards(nothing)


def test_size_channels_and_crops_are_those_of_a_folder(tmp_path: Path) -> None:
    for i in range(4):
        write_picture(tmp_path / "in" / f"{i}.png", i, 20 + i, 31)
    packed = write_shards(tmp_path / "in", tmp_path / "out", per_shard=3)
    assert [p.name for p in packed.shards] == ["shard-00000.tar", "shard-00001.tar"]
    indices, noise = torch.tensor([3, 0, 1]), Noise.batch(3, 4)
    a = load_folder(tmp_path / "in", 8, 1, lazy=True, crop="random", zoom=2.0)
    b = load_shards(tmp_path / "out", 8, 1, crop="random", zoom=2.0)
    assert torch.equal(a.drawn(indices, noise).x1, b.drawn(indices, noise).x1)
    assert torch.equal(a[indices].x1, b[indices].x1)
    with pytest.raises(DataError, match="4 sizes"):
        load_shards(tmp_path / "out")


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tar has no images"):
        load_shards(pack(tmp_path / "a.tar", ("README", b"nothing here")))


def test_images_that_turn_out_bad_are_named_or_replaced(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar", ("a.png", PNG[0][:-40]), ("b.png", b"no picture"), ("c.png", PNG[2])
    )
    with pytest.raises(DataError, match=r"a.tar: b.png is none of PNG"):
        load_shards(path, 6)[torch.tensor([1])]
    dataset = load_shards(path, 6, on_bad="skip")
    batch = dataset[torch.arange(3)]
    assert batch.ids is not None
    assert batch.ids.tolist() == [2, 2, 2]
    assert isinstance(dataset.values, Pictures)
    assert [name for name, _ in dataset.values.report] == [f"{path}: a.png", f"{path}: b.png"]


def test_an_archive_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    dataset = load_shards(path, on_bad="skip")
    pack(path, ("a.png", encoded(picture(0, 90, 80))))
    with pytest.raises(DataError, match=r"a\.tar has changed since"):
        dataset[torch.tensor([0])]
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar cannot be read: No such file"):
        dataset[torch.tensor([0])]


def test_some_of_the_archives_have_the_classes_of_all(tmp_path: Path) -> None:
    for i, name in enumerate(("cat", "cow", "dog")):
        write_picture(tmp_path / "in" / name / "0.png", i)
    packed = write_shards(tmp_path / "in", tmp_path / "out", per_shard=1)
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["cat", "cow", "dog"]
    with tarfile.open(
        packed.shards[2]
    ) as archive:  # Numbers run on, so that archives can be mixed.
        assert archive.getnames() == ["000000002.png", "000000002.json"]
    whole, last = load_shards(tmp_path / "out"), load_shards(packed.shards[2])
    for dataset, labels in ((whole, [0, 1, 2]), (last, [2])):
        assert (dataset.classes, dataset.class_names) == (3, ("cat", "cow", "dog"))
        assert dataset.labels is not None
        assert dataset.labels.tolist() == labels
    numbered = pack(tmp_path / "out" / "numbers.tar", ("a.png", PNG[0]), ("a.cls", b"1"))
    assert load_shards(numbered).class_names == ("cat", "cow", "dog")
    beyond = pack(tmp_path / "out" / "beyond.tar", ("a.png", PNG[0]), ("a.cls", b"3"))
    assert load_shards(beyond).class_names is None
    # A list that is none, or that does not have them, is left aside.
    for content in ("", "[", "{}", "[1]", '["dog", "dog"]', '["cat"]', "null", "[" * 100_000):
        (tmp_path / "out" / "classes.json").write_text(content)
        assert load_shards(packed.shards[2]).class_names == ("dog",)
    (tmp_path / "other").mkdir()
    other = pack(tmp_path / "other" / "a.tar", ("a.png", PNG[0]), ("a.json", b'{"label": "dog"}'))
    (tmp_path / "out" / "classes.json").write_text('["cat", "dog"]')
    (tmp_path / "other" / "classes.json").write_text('["dog", "cat"]')
    assert load_shards([packed.shards[2], other]).class_names == ("dog",)


def test_folders_in_archives_are_classes(tmp_path: Path) -> None:
    first = pack(tmp_path / "1.tar", ("set/dog/1.png", PNG[0]), ("set/cat/v.1/1.png", PNG[1]))
    second = pack(tmp_path / "2.tar", ("set/cow/1.png", PNG[2]))
    dataset = load_shards(tmp_path)
    assert dataset.class_names == ("cat", "cow", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1]
    assert "the 3 folders in the archives are the classes: cat, cow, dog" in dataset.notes
    # The same folder for all is none, and what an archive says goes before.
    assert load_shards(second).labels is None
    pack(
        second,
        ("set/cow/1.png", PNG[2]),
        ("set/cow/1.cls", b"7"),
        ("set/ox/1.png", PNG[2]),
        ("set/ox/1.cls", b"5"),
    )
    found = load_shards(second).labels
    assert found is not None
    assert found.tolist() == [7, 5]
    pack(first, ("set/dog/1.png", PNG[0]), ("set/cat/1.png", PNG[1]), ("set/1.png", PNG[1]))
    dataset = load_shards(first)
    assert dataset.labels is None
    assert "1 of 3 images lie outside of the folders cat, dog" in dataset.notes[0]


def test_folders_of_numbers_in_archives_are_in_their_order(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", *((f"{n}/1.png", PNG[0]) for n in (10, 9, 2)))
    dataset = load_shards(path)
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 1, 0]
