"""Folders of images: what is decoded, how it is labelled, and that nothing is dropped in silence."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset, load_folder

RNG = np.random.default_rng(0)


def paint(path: Path, size: tuple[int, int] = (8, 6), value: int | None = None) -> np.ndarray:
    """Save a picture of this (width, height) and return its pixels (H, W, 3)."""
    shape = (size[1], size[0], 3)
    pixels = RNG.integers(0, 256, shape) if value is None else np.full(shape, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return pixels.astype(np.uint8)


def stored(dataset: Dataset, index: int = 0) -> np.ndarray:
    """The bytes (H, W, C) of one picture, back from what the model sees."""
    x = dataset[torch.tensor([index])].x1[0]
    return ((x + 1) * 127.5).round().permute(1, 2, 0).byte().numpy()


def describe(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text + "\n", encoding="utf-8")


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG of under a hundred bytes that declares width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_pictures_come_in_order_of_their_names_with_their_pixels(tmp_path: Path) -> None:
    pixels = {name: paint(tmp_path / name) for name in ("b.PNG", "c.bmp", "a.png")}
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    dataset = load_folder(tmp_path)
    assert (len(dataset), dataset.shape) == (3, (3, 6, 8))
    assert dataset.images
    assert dataset.classes is None
    assert dataset.captions is None
    for i, name in enumerate(("a.png", "b.PNG", "c.bmp")):
        assert np.array_equal(stored(dataset, i), pixels[name])


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp", "gif"])
def test_each_format_is_read(tmp_path: Path, suffix: str) -> None:
    paint(tmp_path / f"a.{suffix}", value=200)
    assert np.abs(stored(load_folder(tmp_path)).astype(int) - 200).max() <= 2


def test_folders_are_classes_when_every_image_lies_in_one(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/x/1.png", "cat/2.png", "cow/1.png"):
        paint(tmp_path / name)
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("cat", "cow", "dog")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.notes == ()


def test_a_stray_image_beside_class_folders_is_named_and_takes_no_label_away(
    tmp_path: Path,
) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/2.png", "stray.png"):
        paint(tmp_path / name)
    with pytest.raises(DataError, match=r"stray\.png: lies beside the class folders cat, dog"):
        load_folder(tmp_path)
    dataset = load_folder(tmp_path, on_bad="skip")
    assert dataset.class_counts == (2, 1)
    assert dataset.report == (("stray.png", "lies beside the class folders cat, dog"),)


def test_a_few_folders_beside_many_images_are_no_classes_and_that_is_said(tmp_path: Path) -> None:
    for name in ("more/1.png", "1.png", "2.png"):
        paint(tmp_path / name)
    dataset = load_folder(tmp_path)
    assert (len(dataset), dataset.labels) == (3, None)
    assert "2 of 3 images lie beside the folders more" in dataset.notes[0]
    for i in range(9):
        paint(tmp_path / "more" / f"{i}.png")
    dataset = load_folder(tmp_path)
    assert (len(dataset), dataset.labels) == (11, None)
    paint(tmp_path / "other" / "1.png")
    with pytest.raises(DataError, match=r"1\.png: lies beside the class folders more, other"):
        load_folder(tmp_path)


def test_one_class_folder_is_one_class(tmp_path: Path) -> None:
    for i in range(5):
        paint(tmp_path / "set" / f"{i}.png")
    dataset = load_folder(tmp_path)
    assert (dataset.classes, dataset.class_names, dataset.class_counts) == (1, ("set",), (5,))
    assert dataset.notes == ("all images lie in one folder, 'set': there is one class",)
    paint(tmp_path / "set" / "in" / "a.png")
    assert "name 'set' itself" in load_folder(tmp_path).notes[0]


def test_folders_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    for name in ("10", "2", "1"):
        paint(tmp_path / name / "a.png")
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("1", "2", "10")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2, 1]  # Files in the order of their names: 1, 10, 2.


@pytest.mark.parametrize("field", ["class", "class_name", "category", "target"])
def test_labels_under_other_names_are_taken_and_said(tmp_path: Path, field: str) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    describe(
        tmp_path,
        {"file_name": "a.png", field: "cow", "prompt": "one", "width": 3},
        {"file_name": "b.png", field: "cat", "prompt": "two", "url": None},
    )
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("cat", "cow")
    assert dataset.captions == ("one", "two")
    assert dataset.notes == (
        f"metadata.jsonl: the field {field!r} is taken for the label",
        "metadata.jsonl: not used: the fields 'width'",
    )
    # What cannot be a label is none.
    describe(tmp_path, {"file_name": "a.png", field: 0.5}, {"file_name": "b.png", field: 0.1})
    dataset = load_folder(tmp_path)
    assert dataset.labels is None
    assert dataset.notes == (f"metadata.jsonl: not used: the fields {field!r}",)


def test_numbers_of_the_metadata_become_conditions_by_name(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    describe(
        tmp_path,
        {"file_name": "b.png", "age": 3, "place": [1, 2.5]},
        {"file_name": "a.png", "age": 0.5, "place": [0, 1]},
    )
    dataset = load_folder(tmp_path, columns=["age", "place"])
    batch = dataset[torch.tensor([1, 0])]
    assert batch.cond["age"].tolist() == [3, 0.5]
    assert batch.cond["place"].tolist() == [[1, 2.5], [0, 1]]
    assert dataset.notes == ()
    describe(tmp_path, {"file_name": "a.png", "age": None}, {"file_name": "b.png", "age": 2})
    dataset = load_folder(tmp_path, columns=["age"])
    assert "'age' is unknown (NaN) for 1 of 2 samples" in dataset.notes[0]
    assert dataset[torch.tensor([0])].cond["age"].isnan().all()
    describe(tmp_path, {"file_name": "a.png", "age": "old"}, {"file_name": "b.png", "age": 2})
    with pytest.raises(DataError, match=r"its age is 'old', not a number or a list of numbers"):
        load_folder(tmp_path, columns=["age"])
    describe(tmp_path, {"file_name": "a.png", "age": [1, 2]}, {"file_name": "b.png", "age": 2})
    with pytest.raises(DataError, match=r"some are \(\) and some \(2,\)"):
        load_folder(tmp_path, columns=["age"])
    with pytest.raises(DataError, match="no line has one"):
        load_folder(tmp_path, columns=["height"])
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"no metadata\.jsonl, which the conditions age"):
        load_folder(tmp_path, columns=["age"])


def test_files_that_are_not_read_are_said(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    for name in ("b.tif", "c.TIFF", "d.tif", "labels.csv", "notes.md"):
        (tmp_path / name).touch()
    formats, lists = load_folder(tmp_path).notes
    assert "not read: 2 x .tif, 1 x .tiff" in formats
    assert "labels.csv is not read; labels and captions come from metadata.jsonl" in lists


def test_a_link_to_a_folder_is_followed_but_not_in_circles(tmp_path: Path) -> None:
    paint(tmp_path / "elsewhere" / "1.png")
    paint(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "cat" / "up").symlink_to(tmp_path / "set")
    dataset = load_folder(tmp_path / "set")
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset) == 2


def test_metadata_gives_captions_and_labels(tmp_path: Path) -> None:
    for name in ("a.png", "in/b.png", "in/c.png"):
        paint(tmp_path / name)
    describe(
        tmp_path,
        {"file_name": "in/c.png", "caption": "a cow", "label": "cow"},
        "",
        {"file_name": "./a.png", "text": "a cät", "label": "cat"},
        {"file_name": "in/b.png", "text": "another cow", "label": "cow"},
    )
    dataset = load_folder(tmp_path)
    assert dataset.captions == ("a cät", "another cow", "a cow")
    assert dataset.class_names == ("cat", "cow")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 1, 1]

    lines = [{"file_name": n, "label": k} for k, n in enumerate(("in/b.png", "a.png", "in/c.png"))]
    describe(tmp_path, *lines)
    dataset = load_folder(tmp_path)
    assert dataset.captions is None
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1, 0, 2]


def test_captions_go_with_the_classes_of_the_folders(tmp_path: Path) -> None:
    paint(tmp_path / "cat" / "1.png")
    describe(tmp_path, {"file_name": "cat/1.png", "text": "one"})
    dataset = load_folder(tmp_path)
    assert (dataset.captions, dataset.class_names) == (("one",), ("cat",))


def test_mixed_sizes_are_listed_and_a_size_makes_them_one(tmp_path: Path) -> None:
    paint(tmp_path / "a.png", (8, 6))
    paint(tmp_path / "b.png", (8, 6))
    paint(tmp_path / "c.png", (20, 6))
    # Lying on its side: 6 x 8 when it is upright.
    turned = Image.new("RGB", (8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "d.jpg", exif=exif)
    with pytest.raises(DataError, match="3 sizes") as caught:
        load_folder(tmp_path)
    message = str(caught.value)
    assert "8 x 6: 2 images, for example a.png" in message
    assert "20 x 6: 1 images, for example c.png" in message
    assert "6 x 8: 1 images, for example d.jpg" in message
    assert "--size" in message
    dataset = load_folder(tmp_path, size=6)
    assert (len(dataset), dataset.shape) == (4, (3, 6, 6))


def test_a_size_takes_the_centre(tmp_path: Path) -> None:
    pixels = paint(tmp_path / "a.png", (20, 6))
    assert np.array_equal(stored(load_folder(tmp_path, size=6)), pixels[:, 7:13])


def test_making_pictures_smaller_does_not_alias(tmp_path: Path) -> None:
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    small = stored(load_folder(tmp_path, size=8)).astype(int)
    assert np.abs(small - 127.5).max() < 8


def test_a_very_long_picture_needs_no_more_memory_than_its_square(tmp_path: Path) -> None:
    Image.new("L", (60_000, 1), 77).save(tmp_path / "a.png")
    assert (stored(load_folder(tmp_path, size=64)) == 77).all()


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of what is stored
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(stored(load_folder(tmp_path)), np.rot90(pixels, -1))


def test_transparent_pictures_are_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0] = 100
    rgba[0, :, 3] = (255, 0, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    row = stored(load_folder(tmp_path))[0].tolist()
    assert row[:2] == [[100, 0, 0], [255, 255, 255]]
    assert row[2] == [224, 204, 204]  # 255 - (255 - v) / 5

    palette = Image.fromarray(np.array([[0, 1, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "a.png", transparency=1)
    assert stored(load_folder(tmp_path))[0].tolist() == [[10, 20, 30], [255] * 3, [255] * 3]


def test_palette_two_level_and_cmyk_pictures_become_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.save(tmp_path / "a.png")
    assert stored(load_folder(tmp_path))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert stored(load_folder(tmp_path))[0].tolist() == [[0] * 3, [255] * 3, [0] * 3]
    (tmp_path / "a.png").unlink()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = stored(load_folder(tmp_path))[4, 4].astype(int)
    assert red > 240
    assert max(green, blue) < 15


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257 * 77, 257 * 77 + 100, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert stored(load_folder(tmp_path, channels=1)).flatten().tolist() == [0, 0, 1, 77, 77, 255]
    assert load_folder(tmp_path).shape == (3, 1, 6)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (30, 90, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (stored(load_folder(tmp_path)) == 30).all()


def test_one_channel_is_the_luminance(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [9, 9, 9]]], np.uint8)).save(
        tmp_path / "a.png"
    )
    dataset = load_folder(tmp_path, channels=1)
    assert dataset.shape == (1, 1, 3)
    assert stored(dataset).flatten().tolist() == [76, 150, 9]  # ITU-R 601


def spoil(folder: Path) -> dict[str, str]:
    """Put every kind of bad file into a folder. Returns a word of the reason for each."""
    paint(folder / "cut.png", (64, 64))
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    paint(folder / "cut.jpg", (64, 64))
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    (folder / "text.png").write_text("this is a text")
    (folder / "empty.png").touch()
    Image.new("RGB", (8, 6)).save(folder / "vector.eps")
    (folder / "vector.eps").rename(folder / "vector.png")
    bomb(folder / "bomb.png", 9000, 8000)
    bomb(folder / "large_bomb.png", 10_000, 10_000)
    bomb(folder / "huge_bomb.png", 100_000, 100_000)
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    return {
        "cut.png": "truncated",
        "cut.jpg": "truncated",
        "text.png": "is none of PNG",
        "empty.png": "is none of PNG",
        "vector.png": "is none of PNG",
        "bomb.png": "9000 x 8000",
        "large_bomb.png": "10000 x 10000",
        "huge_bomb.png": "64 million pixels",
        "link.png": "nowhere",
    }


def test_files_that_cannot_be_decoded_are_named_or_reported(tmp_path: Path) -> None:
    good = paint(tmp_path / "good.png", (64, 64))
    bad = spoil(tmp_path)
    with pytest.raises(DataError, match=f"has {len(bad)} problems") as caught:
        load_folder(tmp_path)
    assert 'on_bad="skip" to go on with the other 1 images' in str(caught.value)
    dataset = load_folder(tmp_path, on_bad="skip")
    report = dict(dataset.report)
    assert report.keys() == bad.keys()
    for name, word in bad.items():
        assert word in report[name]
        assert f"{name}: {report[name]}" in str(caught.value)
    assert np.array_equal(stored(dataset), good)
    assert len(dataset) == 1
    assert len(load_folder(tmp_path, size=4, on_bad="skip").report) == len(bad)


def test_only_the_first_ten_problems_are_named(tmp_path: Path) -> None:
    for i in range(13):
        (tmp_path / f"{i:02}.png").touch()
    with pytest.raises(DataError, match="has 13 problems") as caught:
        load_folder(tmp_path, on_bad="skip")
    assert "09.png" in str(caught.value)
    assert "10.png" not in str(caught.value)
    assert "and 3 more" in str(caught.value)
    assert "No image is left" in str(caught.value)


def test_a_large_picture_within_the_limit_is_not_a_bomb(tmp_path: Path) -> None:
    Image.new("1", (8000, 7999)).save(tmp_path / "a.png")
    assert load_folder(tmp_path, size=2).shape == (3, 2, 2)


def test_labels_and_captions_stay_with_their_pictures_when_others_are_left_out(
    tmp_path: Path,
) -> None:
    for i, name in enumerate(("a/1.png", "b/1.png", "c/1.png")):
        paint(tmp_path / name, value=i)
    (tmp_path / "b" / "0.png").touch()
    (tmp_path / "b" / "1.png").write_text("spoilt")
    dataset = load_folder(tmp_path, on_bad="skip")
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 2]
    assert stored(dataset, 1)[0, 0].tolist() == [2, 2, 2]
    names = ("a/1.png", "b/0.png", "b/1.png", "c/1.png")
    describe(tmp_path, *({"file_name": name, "text": name} for name in names))
    assert load_folder(tmp_path, on_bad="skip").captions == ("a/1.png", "c/1.png")


def test_metadata_that_does_not_match_is_named_with_its_line(tmp_path: Path) -> None:
    for name in "abcdef":
        paint(tmp_path / f"{name}.png")
    (tmp_path / "g.tif").touch()
    describe(
        tmp_path,
        {"file_name": "a.png", "text": "fine"},
        '{"file_name": "b.png", "text": ',
        {"file_name": "gone.png", "text": "missing"},
        {"file_name": "a.png", "text": "again"},
        {"file_name": "c.png"},
        {"file_name": "d.png", "text": 3},
        ["e.png"],
        {"text": "nameless"},
        {"file_name": "g.tif", "text": "another kind"},
        "[" * 100_000,
    )
    expected = {
        "metadata.jsonl, line 2": "is not JSON",
        "metadata.jsonl, line 3": "there is no file gone.png",
        "metadata.jsonl, line 4": "described before, in line 1",
        "metadata.jsonl, line 5": "c.png has no text",
        "metadata.jsonl, line 6": "its text is 3",
        "metadata.jsonl, line 7": "is not a JSON object",
        "metadata.jsonl, line 8": "has no file_name",
        "metadata.jsonl, line 9": "not one of the image types",
        "metadata.jsonl, line 10": "",
        **{f"{name}.png": "has no line in metadata.jsonl" for name in "bcdef"},
    }
    with pytest.raises(DataError, match=f"has {len(expected)} problems"):
        load_folder(tmp_path)
    dataset = load_folder(tmp_path, on_bad="skip")
    report = dict(dataset.report)
    assert report.keys() == expected.keys()
    for where, word in expected.items():
        assert word in report[where]
    assert dataset.captions == ("fine",)


@pytest.mark.parametrize(
    "name", ["../a.png", "/etc/a.png", "in/../../a.png", "..\\a.png", "C:\\a.png", "\\\\host\\a"]
)
@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(
    tmp_path: Path, name: str, on_bad: str
) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "set" / "a.png")
    describe(tmp_path / "set", {"file_name": "a.png"}, {"file_name": name})
    with pytest.raises(DataError, match=r"line 2: .* leads out of the folder"):
        load_folder(tmp_path / "set", on_bad=on_bad)  # type: ignore[arg-type]


def test_metadata_of_another_kind_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png")
    describe(tmp_path, {"file_name": "a.png", "label": 1}, {"file_name": "b.png", "label": "x"})
    with pytest.raises(DataError, match="some labels are numbers"):
        load_folder(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "\xff.png"}')
    with pytest.raises(DataError, match="UTF-8"):
        load_folder(tmp_path)
    describe(tmp_path, {"file_name": "a.png", "label": True}, {"file_name": "b.png", "label": 0})
    with pytest.raises(DataError, match="its label is True"):
        load_folder(tmp_path)


def test_folders_that_cannot_be_used_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_folder(tmp_path / "none")
    paint(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"is not a folder.*load_array"):
        load_folder(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images \(png.*it holds no files"):
        load_folder(tmp_path / "empty")
    (tmp_path / "empty" / "a.tif").touch()
    with pytest.raises(DataError, match=r"it holds 1 x \.tif"):
        load_folder(tmp_path / "empty")

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "option",
    [
        {"size": 0},
        {"size": 2**40},
        {"size": 2.5},
        {"size": True},
        {"channels": 4},
        {"on_bad": "ignore"},
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, option: dict[str, object]) -> None:
    paint(tmp_path / "a.png")
    with pytest.raises(InputError, match=next(iter(option))):
        load_folder(tmp_path, **option)  # type: ignore[arg-type]


def test_pictures_too_many_for_memory_are_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "a.png")

    def refuse(shape: tuple[int, ...], dtype: type) -> None:
        raise MemoryError

    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(DataError, match=r"1 images .* at 8 x 6 need 0 GiB of memory; pass a small"):
        load_folder(tmp_path)


def test_importing_the_data_imports_no_heavy_library() -> None:
    code = (
        "import sys, pushforward.data\n"
        "heavy = {'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
