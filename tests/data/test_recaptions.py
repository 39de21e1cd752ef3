"""Captions that a model wrote: found by name or number, and drawn with their share."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.data import Dataset
from pushforward.data.encoded import encode_texts
from pushforward.data.images.load import load_images
from pushforward.data.recaptions import Recaptions, read_recaptions
from pushforward.data.scenes import load_scenes
from pushforward.models.text import Words


def data(number: int = 6) -> Dataset:
    x = np.zeros((number, 2), np.float32)
    return Dataset.from_arrays(x, captions=[f"old {i}" for i in range(number)])


def given(share: float, number: int = 6) -> Dataset:
    lines = tuple(f"new text {i}" for i in range(number))
    whole = replace(data(number), recaptions={"caption": Recaptions(lines, share)})
    return encode_texts(whole, {"caption": Words(("old", "new", "text", *map(str, range(number))))})


def test_drawings_take_the_other_text_with_their_share_and_the_words_with_it() -> None:
    whole, number = given(0.3), 4000
    rows = torch.arange(number) % 6
    batch = whole.drawn(rows, Noise.batch(number, 5, 1))
    taken = torch.tensor([line.startswith("new") for line in batch.texts["caption"]])
    error = math.sqrt(0.3 * 0.7 / number)
    assert abs(float(taken.double().mean()) - 0.3) < 4 * error
    # Of each sample alike, and both kinds of it.
    for i in range(6):
        assert abs(float(taken[rows == i].double().mean()) - 0.3) < 4 * error * 6**0.5
    words = Words(("old", "new", "text", *map(str, range(6))))
    want = words(batch.texts["caption"])["words"]
    found = batch.cond["words"].padded(want.values.shape[1])
    assert torch.equal(found.values, want.values)
    assert torch.equal(found.mask, want.mask)
    numbers = [int(line.split()[-1]) for line in batch.texts["caption"]]
    assert numbers == rows.tolist()


def test_what_is_drawn_is_a_function_of_seed_step_and_sample_alone() -> None:
    whole = given(0.5)
    rows, noise = torch.arange(6).repeat(10), Noise.batch(60, 3, 7)
    lines = whole.drawn(rows, noise).texts["caption"]
    some = torch.tensor([50, 2, 17])
    assert whole.drawn(rows[some], noise[some]).texts["caption"] == tuple(lines[i] for i in some)
    assert whole.drawn(rows, Noise.batch(60, 3, 8)).texts["caption"] != lines
    assert whole.drawn(rows, Noise.batch(60, 4, 7)).texts["caption"] != lines
    part = whole.subset(torch.tensor([4, 1]))
    for line in part.drawn(torch.tensor([0, 1] * 9), Noise.batch(18)).texts["caption"][::2]:
        assert line.endswith("4")


def test_shares_of_none_and_all_and_reading_without_drawing() -> None:
    rows = torch.arange(6)
    for share, kind in ((0.0, "old"), (1.0, "new text")):
        lines = given(share).drawn(rows, Noise.batch(6)).texts["caption"]
        assert lines == tuple(f"{kind} {i}" for i in range(6))
    whole = given(1.0)
    assert whole[rows].texts["caption"] == data().captions
    assert torch.equal(whole[rows].cond["words"].values, given(0.0)[rows].cond["words"].values)
    with pytest.raises(InputError, match="it lies in"):
        Recaptions(("a",), 1.5)


def test_other_captions_are_other_data() -> None:
    prints = {data().fingerprint(), given(0.3).fingerprint(), given(0.4).fingerprint()}
    assert len(prints) == 3


def recaptioned(whole: Dataset, path: Path, share: float) -> Recaptions:
    return read_recaptions(path, share, len(whole), whole.names)


def write(path: Path, entries: list[dict]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_captions_of_files_are_found_by_name_whatever_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "in").mkdir(parents=True)
    names = ["b.png", "a.png", "in/c.png"]
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)
        (folder / name).with_suffix(".txt").write_text("old")
    lines = [{"id": k, "file_name": n, "text": f"of {n}"} for k, n in enumerate(names)]
    file = write(tmp_path / "c.jsonl", [*lines, {"id": 3, "file_name": "gone.png", "text": "x"}])
    for lazy in (True, False):
        whole = load_images(folder, 4, lazy=lazy)
        found = recaptioned(whole, file, 0.9)
        assert found.lines == ("of a.png", "of b.png", "of in/c.png")
        assert found.share == 0.9
    with pytest.raises(
        DataError, match=r"no caption for 1 of 3 pictures, in/c\.png; 1 of its capt"
    ):
        recaptioned(whole, write(file, [*lines[:2], {"id": 9, "file_name": "x", "text": "y"}]), 0.5)
    with pytest.raises(DataError, match=r"line 4: file_name b\.png has a caption already"):
        recaptioned(whole, write(file, [*lines, lines[0]]), 0.5)
    file.write_text('{"id": 0, "file_name": ["b.png"], "text": "a"}\n')
    with pytest.raises(DataError, match="no caption for 3 of 3"):
        recaptioned(whole, file, 0.5)


def test_captions_of_scenes_and_arrays(tmp_path: Path) -> None:
    scenes = load_scenes(3, 16)
    lines = [{"id": i, "file_name": f"scenes/0/{i:06d}", "text": f"s {i}"} for i in (2, 0, 1, 3)]
    file = write(tmp_path / "c.jsonl", lines)
    assert recaptioned(scenes, file, 1).lines == ("s 0", "s 1", "s 2")
    with pytest.raises(DataError, match="no caption for 3 of 3 pictures, scenes/1/000000"):
        recaptioned(load_scenes(3, 16, 1), file, 1)
    assert recaptioned(data(3), file, 1).lines == ("s 0", "s 1", "s 2")
    with pytest.raises(DataError, match="for 2 of 6 pictures, 4, 5: write them"):
        recaptioned(data(6), file, 1)


def test_a_file_that_is_cut_off_or_none(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"id": 0, "text": "a"}\n{"id": 1, "te')
    with pytest.raises(DataError, match="for 1 of 2 pictures, 1"):
        recaptioned(data(2), file, 1)
    file.write_text('{"id": 0, "text": "a"}\n{"id": 1, "error": "is no picture"}\n')
    with pytest.raises(DataError, match="for 1 of 2 pictures, 1"):
        recaptioned(data(2), file, 1)
    for text in ("nonsense\n", '["a"]\n', '{"id": 0, "text": 3}\n', '{"id": 0}\n'):
        file.write_text(text)
        with pytest.raises(DataError, match="line 1 is no caption"):
            recaptioned(data(2), file, 1)
    with pytest.raises(DataError, match="cannot read the captions"):
        recaptioned(data(2), tmp_path / "none", 1)
    file.write_bytes(b'{"id": 0, "text": "\xff"}\n')
    with pytest.raises(DataError, match="cannot read the captions"):
        recaptioned(data(2), file, 1)
