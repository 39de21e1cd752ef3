"""Archives of images: what is found in them, that any order gives the same, and that what was packed comes back."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagefiles import encoded, in_bytes, pack, picture, stored, write_picture
from PIL import Image

from pushforward.cli import main
from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.data import Dataset, Pictures, load_folder, load_shards, write_shards
from pushforward.data.images import shards
from pushforward.data.images.tar import members

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


def test_labels_that_are_texts_become_classes_by_their_names(tmp_path: Path) -> None:
    members = [(f"{i}{end}", content) for i, label in enumerate(["cow", "ant", "cow"])
               for end, content in ((".png", PNG[i]), (".json", json.dumps({"label": label}).encode()))]  # fmt: skip
    dataset = load_shards(pack(tmp_path / "a.tar", *members))
    assert dataset.class_names == ("ant", "cow")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.captions is None


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_tar_format_with_long_names_is_read(tmp_path: Path, form: int) -> None:
    folder = "d" * 90
    long = f"{folder}/{'n' * 80}" if form == tarfile.USTAR_FORMAT else f"{folder}/{'ü' * 150}"
    path = pack(tmp_path / "a.tar", (f"{long}.png", PNG[0]), ("b.png", PNG[1]), form=form)
    found = {}
    with path.open("rb") as file:
        for member in members(file.fileno(), "a"):
            found[member.name] = os.pread(file.fileno(), member.size or 0, member.offset)
    assert found == {f"{long}.png": PNG[0], "b.png": PNG[1]}
    assert np.array_equal(stored(load_shards(path), 1), picture(1))


@given(
    st.lists(
        st.tuples(st.text("abcü./-", min_size=1, max_size=300), st.binary(max_size=2000)),
        max_size=6,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_python_s_reader_finds(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, bytes]], form: int
) -> None:
    items = [(name, content) for name, content in items if not name.endswith("/")]
    path = pack(tmp_path_factory.mktemp("tar") / "a.tar", *items, form=form)
    with tarfile.open(path) as archive, path.open("rb") as file:
        wanted = [(m.name, m.offset_data, m.size) for m in archive]
        assert [(m.name, m.offset, m.size) for m in members(file.fileno(), "a")] == wanted


def test_a_size_in_an_extended_header_counts(tmp_path: Path) -> None:
    """As for members of 8 GiB and more, whose size does not fit in the header."""
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"size": str(len(PNG[0])), "path": "b.png"}
        file.write(
            info.tobuf(tarfile.PAX_FORMAT) + PNG[0] + bytes(-len(PNG[0]) % 512) + bytes(1024)
        )
    dataset = load_shards(path)
    assert np.array_equal(stored(dataset), picture(0))
    assert isinstance(dataset.values, Pictures)
    assert dataset.values.source.name(0) == f"{path}: b.png"


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


def count_indexing(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    make = shards._make_index

    def counted(descriptor: int, path: Path, mark: dict[str, object]) -> shards.Index:
        made.append(path)
        return make(descriptor, path, mark)

    monkeypatch.setattr(shards, "_make_index", counted)
    return made


def test_an_archive_is_gone_through_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    mark = load_shards(path).fingerprint()
    assert (tmp_path / "a.tar.index.npz").is_file()
    assert load_shards(path).fingerprint() == mark
    assert len(made) == 1

    status = path.stat()
    pack(path, ("a.png", PNG[0]), ("b.png", PNG[1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_shards(path).fingerprint() == mark  # Times are no part of what the data are.
    assert len(made) == 2

    pack(path, ("c.png", PNG[0]), ("b.png", PNG[1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_shards(path).fingerprint() != mark
    assert len(made) == 3

    with path.open("ab") as file:
        file.write(bytes(512))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_shards(path)
    assert len(made) == 4

    with path.open("r+b") as file:  # The last byte alone, behind the end mark.
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    load_shards(path)
    assert len(made) == 5


def test_where_nothing_can_be_written_the_index_goes_to_the_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]))
    (tmp_path / "a.tar.index.npz").mkdir()  # Nobody can rename a file over a folder, not even root.
    for _ in range(2):
        load_shards(path)
    assert len(made) == 1
    assert len(list((cache / "pushforward" / "indexes").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    load_shards(path)
    assert len(made) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.tar.index.npz"]


def test_an_index_that_somebody_else_has_written_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    place = tmp_path / "a.tar.index.npz"
    wanted = load_shards(path).fingerprint()
    good = dict(np.load(place))
    changes: list[dict[str, np.ndarray]] = [
        {"offsets": good["offsets"] + 2**40},
        {"offsets": good["offsets"] - 2**40},
        {"offsets": good["offsets"][:1]},
        {"offsets": good["offsets"].astype(float)},
        {"sizes": good["sizes"] + 2**30},
        {"sizes": -good["sizes"]},
        {"names_ends": good["names_ends"][::-1].copy()},
        {"names_ends": good["names_ends"] + 1},
        {"said_ends": good["said_ends"][:-1]},
        {"said": np.frombuffer(b"[1,2,3]" * 4, np.uint8)[: len(good["said"])]},
        {"said": np.array([{"label": 1}, "x"], dtype=object)},
        {"mark": np.array(json.dumps({**json.loads(str(good["mark"])), "version": 99}))},
        {"names": np.zeros(1 << 20, np.uint8)},
    ]
    for change in changes:
        np.savez_compressed(place, **{**good, **change})
        before = len(made)
        assert load_shards(path).fingerprint() == wanted
        assert len(made) == before + 1
    for content in (b"", b"PK\3\4", place.read_bytes()[:-50]):
        place.write_bytes(content)
        assert load_shards(path).fingerprint() == wanted


def test_an_archive_that_changes_under_a_run_is_noticed(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]), ("b.png", PNG[1]))
    dataset = load_shards(path, on_bad="skip")
    pack(path, ("a.png", encoded(picture(0, 90, 80))))
    with pytest.raises(DataError, match=r"a\.tar has changed since"):
        dataset[torch.tensor([0])]
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar cannot be read: No such file"):
        dataset[torch.tensor([0])]


def test_images_of_a_folder_are_packed_as_they_are_with_all_that_is_said_of_them(
    tmp_path: Path,
) -> None:
    for i, name in enumerate(("cat/1.PNG", "cat/x.y/2.jpeg", "dog/3.webp")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(path)
    (tmp_path / "in" / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": p.relative_to(tmp_path / "in").as_posix(), "text": f"ein {p.stem} ü"})
                  for p in (tmp_path / "in").rglob("*.*") if p.is_file() and p.suffix != ".jsonl")
    )  # fmt: skip
    packed = write_shards(tmp_path / "in", tmp_path / "out")
    assert (packed.count, packed.report) == (3, ())
    with tarfile.open(packed.shards[0]) as archive:
        content = {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive} == {
            (0, 0, 0, "", "", 0o644)
        }
    assert content["000000000.png"] == (tmp_path / "in" / "cat" / "1.PNG").read_bytes()
    assert content["000000001.jpeg"] == (tmp_path / "in" / "cat" / "x.y" / "2.jpeg").read_bytes()
    assert json.loads(content["000000002.json"]) == {
        "file_name": "dog/3.webp",
        "label": "dog",
        "text": "ein 3 ü",
    }
    a, b = load_folder(tmp_path / "in"), load_shards(tmp_path / "out")
    every = torch.arange(3)
    assert torch.equal(a[every].x1, b[every].x1)
    for name in ("captions", "class_names", "classes"):
        assert getattr(a, name) == getattr(b, name)
    assert torch.equal(a[every].cond["label"], b[every].cond["label"])


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


def test_a_change_within_the_last_block_alone_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_indexing(monkeypatch)
    path = pack(tmp_path / "a.tar", ("a.png", PNG[0]))
    load_shards(path)
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] = 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    load_shards(path)
    assert len(made) == 2


def test_the_same_images_give_the_same_bytes_and_every_part_is_full_but_the_last(
    tmp_path: Path,
) -> None:
    for i in range(7):
        write_picture(tmp_path / "in" / f"{i}.png", i)
    first = write_shards(tmp_path / "in", tmp_path / "a", per_shard=3)
    for i in range(7):
        os.utime(tmp_path / "in" / f"{i}.png", (i, i))
    second = write_shards(tmp_path / "in", tmp_path / "b", per_shard=3)
    assert [p.read_bytes() for p in first.shards] == [p.read_bytes() for p in second.shards]
    assert [len(load_shards(p)) for p in first.shards] == [3, 3, 1]
    assert np.array_equal(stored(load_shards(tmp_path / "a"), 6), picture(6))
    # Keys run on, so that archives can be put together.
    with tarfile.open(first.shards[2]) as archive:
        assert archive.getnames() == ["000000006.png", "000000006.json"]
    exact = write_shards(tmp_path / "in", tmp_path / "c", per_shard=7)
    assert len(exact.shards) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_in_an_array_come_back_bit_for_bit(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, channels, 6, 9), dtype=np.uint8)
    dataset = Dataset.from_arrays(values, list("bbacc"), captions=list("uvwxy")).subset(
        torch.tensor([4, 0, 2])
    )
    packed = write_shards(dataset, tmp_path / "out", per_shard=2)
    assert packed.count == 3
    again = load_shards(tmp_path / "out", channels=channels)
    every = torch.arange(3)
    assert torch.equal(again[every].x1, dataset[every].x1)
    assert again.captions == dataset.captions == ("y", "u", "w")
    assert again.class_names == ("a", "b", "c")
    assert again.labels is not None
    assert again.labels.tolist() == [2, 1, 0]
    numbered = Dataset.from_arrays(values, np.array([3, 0, 1, 2, 3]))
    write_shards(numbered, tmp_path / "numbers")
    found = load_shards(tmp_path / "numbers", channels=channels).labels
    assert found is not None
    assert found.tolist() == [3, 0, 1, 2, 3]


def test_what_png_would_change_is_not_packed(tmp_path: Path) -> None:
    for values in (
        np.zeros((2, 1, 4, 4), np.float32),
        np.zeros((2, 9), np.uint8),
        np.zeros((2, 4, 5, 5), np.uint8),
    ):
        with pytest.raises(InputError, match="PNG would change"):
            write_shards(Dataset.from_arrays(values), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_packing_finds_what_is_bad(tmp_path: Path) -> None:
    for i in range(3):
        write_picture(tmp_path / "in" / f"{i}.png", i)
    (tmp_path / "in" / "1.png").write_bytes(PNG[1][:-40])
    with pytest.raises(DataError, match=r"1\.png .*--on-bad skip"):
        write_shards(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    packed = write_shards(tmp_path / "in", tmp_path / "out", on_bad="skip")
    assert packed.count == 2
    assert [name for name, _ in packed.report] == ["1.png"]
    assert np.array_equal(stored(load_shards(tmp_path / "out"), 1), picture(2))
    lazy = load_folder(tmp_path / "in", 6, on_bad="skip", lazy=True)
    packed = write_shards(lazy, tmp_path / "lazy")
    assert (packed.count, packed.report) == (2, (("sample 1", "cannot be decoded"),))
    for i in (0, 2):
        (tmp_path / "in" / f"{i}.png").unlink()
    with pytest.raises(DataError, match="no image that can be packed"):
        write_shards(tmp_path / "in", tmp_path / "none", on_bad="skip")
    assert not (tmp_path / "none").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    write_picture(tmp_path / "in" / "0.png", 0)
    (tmp_path / "out").mkdir()
    write_shards(tmp_path / "in", tmp_path / "out")
    for taken in (tmp_path / "out", tmp_path / "in" / "0.png"):
        with pytest.raises(InputError, match="is there already"):
            write_shards(tmp_path / "in", taken)
    with pytest.raises(InputError, match="per_shard is 0"):
        write_shards(tmp_path / "in", tmp_path / "new", per_shard=0)
    with pytest.raises(DataError, match="cannot write"):
        write_shards(tmp_path / "in", tmp_path / "in" / "0.png" / "new")


def test_the_command_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write_picture(tmp_path / "in" / "a" / f"{i}.png", i)
    (tmp_path / "in" / "a" / "3.png").write_text("no picture")
    line = ["pack", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--per-shard", "2"]
    assert main(line) == 1
    assert "3.png is none of PNG" in capsys.readouterr().err
    assert main([*line, "--on-bad", "skip"]) == 0
    said = capsys.readouterr()
    assert said.out == f"3 images in 2 archives in {tmp_path / 'out'}\n"
    assert said.err.startswith("left out a/3.png: is none of PNG")
    assert len(load_shards(tmp_path / "out")) == 3
