"""Samples as picture files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_are_rounded_to_bytes_of_the_range(channels: int, mode: str, tmp_path: Path) -> None:
    values = torch.linspace(-0.3, 1.2, 2 * channels * 5 * 4).reshape(2, channels, 5, 4)
    files = pf.save_images(values, tmp_path / "new" / "folder", (-0.1, 1.1))
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "new/folder/000000.png",
        "new/folder/000001.png",
    ]
    for sample, file in zip(values.double().numpy(), files, strict=True):
        image = Image.open(file)
        assert (image.mode, image.size) == (mode, (4, 5))
        expected = np.clip(np.round(255 * (sample + 0.1) / 1.2), 0, 255)
        found = np.asarray(image).reshape(5, 4, channels)
        np.testing.assert_array_equal(found, np.moveaxis(expected, 0, 2))


def test_black_and_white_are_the_ends_of_the_usual_range(tmp_path: Path) -> None:
    samples = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 1, 1, 3)
    [file] = pf.save_images(samples, str(tmp_path))
    # 127.5 is rounded to the even one.
    assert np.asarray(Image.open(file)).tolist() == [[0, 128, 255]]


def test_older_pictures_stay_unless_they_may_be_replaced(tmp_path: Path) -> None:
    pf.save_images(torch.full((2, 1, 3, 3), -1.0), tmp_path, start=5)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert sorted(file.name for file in before) == ["000005.png", "000006.png"]
    with pytest.raises(pf.InputError, match=r"000005.png is there already: pass overwrite=True"):
        pf.save_images(torch.ones(4, 1, 3, 3), tmp_path, start=3)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    pf.save_images(torch.ones(4, 1, 3, 3), tmp_path, start=3, overwrite=True)
    assert len(list(tmp_path.iterdir())) == 4
    assert np.asarray(Image.open(tmp_path / "000006.png")).min() == 255


@pytest.mark.parametrize("shape", [(2, 3), (2, 8, 8), (2, 2, 8, 8), (2, 5, 8, 8), (2, 1, 4, 4, 4)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(pf.InputError, match="pictures are samples"):
        pf.save_images(torch.zeros(shape), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(pf.InputError, match="cannot write pictures into"):
        pf.save_images(torch.zeros(1, 1, 2, 2), tmp_path / "file")


def test_the_name_of_a_picture_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(pf.InputError, match=r"a\.png names a picture: give a folder"):
        pf.save_images(torch.zeros(2, 1, 4, 4), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
