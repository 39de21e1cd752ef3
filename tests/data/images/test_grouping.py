"""Which members of an archive belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imagefiles import encoded, pack, picture, stored

from pushforward.core.errors import DataError
from pushforward.data import load_shards

PNG = [encoded(picture(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def test_samples_are_members_with_one_key_up_to_the_first_dot(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("in.side/x.png", PNG[0]),
        ("in.side/x.cls", b"2\n"),
        ("in.side/x.txt", "a cät\n".encode()),
        ("in.side/x.seg.png", PNG[5]),
        ("y.json", b'{"label": 0, "caption": "a dog"}'),
        ("y.PNG", PNG[1]),
        ("y.npy", b"anything"),
        ("._y.png", b"left by some system"),
        ("README", b"about all this"),
        ("z.cls", b"1"),
        ("z.json", b'{"label": 1, "width": 3}'),
        ("z.txt", b"third"),
        ("z.png", PNG[2]),
    )
    dataset = load_shards(path)
    assert dataset.report == ()
    assert len(dataset) == 3
    assert [np.array_equal(stored(dataset, i), picture(i)) for i in range(3)] == [True] * 3
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [2, 0, 1]
    assert dataset.captions == ("a cät", "a dog", "third")
    assert dataset.class_names is None


def test_samples_that_are_not_whole_are_errors_or_reported(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("good.png", PNG[0]), ("good.cls", b"1"),
        ("bare.cls", b"1"),
        ("two.png", PNG[1]), ("two.jpg", PNG[1]), ("two.cls", b"1"),
        ("word.png", PNG[1]), ("word.cls", b"one"),
        ("clash.png", PNG[1]), ("clash.cls", b"1"), ("clash.json", b'{"label": 2}'),
        ("list.png", PNG[1]), ("list.json", b"[1]"),
        ("deep.png", PNG[1]), ("deep.json", b"[" * 100_000),
        ("minus.png", PNG[1]), ("minus.cls", b"-1"),
        ("truth.png", PNG[1]), ("truth.json", b'{"label": true}'),
        ("text.png", PNG[1]), ("text.json", b'{"label": 1, "text": 3}'),
        ("bytes.png", PNG[1]), ("bytes.cls", b"1"), ("bytes.txt", b"\xff"),
        ("none.png", PNG[1]),
        ("again.png", PNG[1]), ("again.cls", b"3"),
        ("good.txt", b"late"),
    )  # fmt: skip
    expected = {
        "bare": "has no image", "two": "has several images", "word": "invalid literal", "clash": "its .cls says 1",
        "list": "is no object", "deep": "", "minus": "label is -1", "truth": "label is True", "text": "text is 3",
        "bytes": "utf-8", "good": "do not follow each other", "none.png": "has no label, others have",
    }  # fmt: skip
    with pytest.raises(DataError, match=f"has {len(expected)} problems"):
        load_shards(path)
    dataset = load_shards(path, on_bad="skip")
    assert len(dataset) == 2
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 3]
    report = dict(dataset.report)
    assert report.keys() == {f"{path}: {name}" for name in expected}
    for name, word in expected.items():
        assert word in report[f"{path}: {name}"]
    assert load_shards(path, on_bad="skip").report == dataset.report  # From the index, the same.
    pack(path, ("a.png", PNG[0]), ("a.cls", b"1"), ("b.png", PNG[1]), ("b.json", b'{"label": "x"}'))
    with pytest.raises(DataError, match="some labels are numbers"):
        load_shards(path)
    pack(path, ("a.cls", b"1"))
    with pytest.raises(DataError, match="No image is left"):
        load_shards(path, on_bad="skip")


def test_images_whose_names_have_dots_are_read(tmp_path: Path) -> None:
    """Up to the first dot they all have one key."""
    path = pack(
        tmp_path / "a.tar",
        ("img_0.25.png", PNG[0]), ("img_0.25.cls", b"1"),
        ("img_0.50.png", PNG[1]), ("img_0.50.json", b'{"label": 0}'),
        ("v1.2_dog.png", PNG[2]), ("v1.2_dog.cls", b"2"),
        ("in.x/v1.2_cat.v.jpg.png", PNG[3]), ("in.x/v1.2_cat.v.jpg.cls", b"3"),
    )  # fmt: skip
    dataset = load_shards(path)
    assert (dataset.report, dataset.notes) == ((), ())
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 2, 3]
    assert all(np.array_equal(stored(dataset, i), picture(i)) for i in range(4))
    pack(path, *((f"img_0.{i}.png", PNG[i]) for i in range(5)))
    dataset = load_shards(path)
    assert all(np.array_equal(stored(dataset, i), picture(i)) for i in range(5))


def test_keys_with_dots_may_come_again_with_another_name(tmp_path: Path) -> None:
    names = ("a_0.1.png", "b.png", "a_0.2.png", "b_1.5.png", "a_0.3.png")
    dataset = load_shards(pack(tmp_path / "a.tar", *((n, PNG[i]) for i, n in enumerate(names))))
    assert dataset.report == ()
    assert len(dataset) == 5


def test_one_image_with_dots_has_the_label_of_its_key(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("a.input.png", PNG[0]), ("a.cls", b"1"),
        ("b.cls", b"0"), ("b.input.png", PNG[1]), ("b.input.txt", b"its own"),
        ("c.input.png", PNG[2]), ("c.cls", b"1"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a\.input\.png: has no text, others have"):
        load_shards(path)
    dataset = load_shards(path, on_bad="skip")
    assert dataset.labels is not None
    assert (dataset.labels.tolist(), dataset.captions) == ([0], ("its own",))
    pack(path, ("a.input.png", PNG[0]), ("a.cls", b"1"), ("b.input.png", PNG[1]), ("b.cls", b"0"))
    dataset = load_shards(path)
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0]


def test_several_images_that_share_a_label_are_refused_by_name(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("a.input.png", PNG[0]), ("a.goal.png", PNG[1]), ("a.cls", b"1"),
        ("b.png", PNG[2]), ("b.cls", b"1"),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"a: has several images: a\.input\.png, a\.goal\.png"):
        load_shards(path)
    assert len(load_shards(path, on_bad="skip")) == 1


def test_every_member_with_the_suffix_of_an_image_is_read_or_said(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("a.png", PNG[0]), ("a.seg.png", PNG[1]), ("a.depth.PNG", PNG[1]),
        ("b.tif", b"?"), ("c.TIFF", b"?"), ("d.tif", b"?"), ("e.jpg.txt", b"no image"),
    )  # fmt: skip
    for _ in range(2):  # From the archive, and from its index.
        dataset = load_shards(path)
        assert len(dataset) == 1
        assert dataset.notes == (
            f"{path}: not read: a.seg.png and 1 more, beside the image of the same sample",
            f"{path}: not read: 2 x .tif, 1 x .tiff, which are formats that are not decoded",
        )


def test_labels_of_other_names_are_taken_and_said(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.tar",
        ("a.png", PNG[0]), ("a.json", b'{"category": "cow", "prompt": "moo", "width": 8}'),
        ("b.png", PNG[1]), ("b.json", b'{"category": "cat", "prompt": "mew", "key": "b"}'),
    )  # fmt: skip
    dataset = load_shards(path)
    assert (dataset.class_names, dataset.captions) == (("cat", "cow"), ("moo", "mew"))
    assert dataset.notes == (
        f"{path}: its .json: the field 'category' is taken for the label",
        f"{path}: its .json: not used: the fields 'width'",
    )
