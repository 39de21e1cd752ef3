"""Packing images into archives: what was packed comes back."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from imagefiles import encoded, picture, stored, write_picture
from PIL import Image

from pushforward.cli import main
from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset, load_folder, load_shards, write_shards

PNG = [encoded(picture(i)) for i in range(6)]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


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
    images = np.zeros((2, 1, 4, 4), np.uint8)
    for more in ({"columns": {"age": [1.0, 2.0]}}, {"texts": {"title": ["a", "b"]}}):
        with pytest.raises(InputError, match=r"these data have (age|title): drop it first"):
            write_shards(Dataset.from_arrays(images, **more), tmp_path / "out")
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
    first, last = said.out.splitlines()
    assert first.startswith("packing ")
    assert last == f"3 images in 2 archives in {tmp_path / 'out'}"
    assert said.err.startswith("skipped a/3.png: is none of PNG")
    assert len(load_shards(tmp_path / "out")) == 3
