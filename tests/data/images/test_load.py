"""The front door: what is at a path, which size is taken, and what stays in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagefiles import bomb, encoded, pack, picture, stored, write_picture
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.data import (
    Pictures,
    Sizes,
    choose_size,
    describe_sizes,
    find_size,
    load_array,
    load_folder,
    load_images,
    load_shards,
)


def mixed(folder: Path) -> Path:
    for i, (width, height) in enumerate([(50, 40), (40, 50), (50, 40), (90, 33)]):
        write_picture(folder / f"{i}.png", i, width, height)
    return folder


def test_sizes_are_counted_upright_and_from_the_smallest_to_the_largest_area(
    tmp_path: Path,
) -> None:
    mixed(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(picture(0, 70, 60)).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(picture(0, 70, 60)).save(tmp_path / "turned.png", exif=exif)
    (tmp_path / "bomb.png").write_bytes(bomb())
    sizes = describe_sizes(tmp_path)
    assert sizes.count == {(50, 40): 2, (40, 50): 1, (90, 33): 1, (60, 70): 2}
    assert sizes.shortest == 33
    assert str(sizes) == "6 images of 4 sizes (from 40 x 50 to 60 x 70)"
    ((number, reason),) = sizes.unread
    assert (number, "64 million" in reason) == (4, True)


def test_the_pixels_of_a_png_are_not_decoded_for_its_size(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(encoded(picture(0, 300, 200))[:1000])
    assert describe_sizes(tmp_path).count == {(300, 200): 1}


def test_one_size_is_said_as_one(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", 0, 50, 40)
    assert str(describe_sizes(tmp_path)) == "1 image of 50 x 40"
    write_picture(tmp_path / "1.png", 0, 50, 40)
    assert str(describe_sizes(tmp_path)) == "2 images of 50 x 40"


def test_sizes_of_some_are_those_spread_evenly(tmp_path: Path) -> None:
    for i in range(10):
        write_picture(tmp_path / f"{i}.png", 0, 20 + i, 9)
    assert list(describe_sizes(tmp_path, 5).count) == [(20 + i, 9) for i in (0, 2, 4, 6, 8)]
    assert len(describe_sizes(tmp_path, 100).count) == 10


def test_a_folder_of_nothing_but_bad_files_has_no_sizes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(
        DataError, match=r"none of the images can be opened; .*a\.png is none of PNG"
    ):
        describe_sizes(tmp_path)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1))
def test_the_size_chosen_blows_nothing_up_and_is_the_largest_of_the_usual_ones(
    pairs: list[tuple[int, int]],
) -> None:
    size = choose_size(Sizes(dict.fromkeys(pairs, 1), {}, ()))
    shortest = min(map(min, pairs))
    assert size <= shortest
    assert size in (8, 16, 32, 64) or size == shortest < 8
    assert size == 64 or 2 * size > shortest or shortest < 8


@pytest.mark.parametrize(
    ("shortest", "size"),
    [(1, 1), (7, 7), (8, 8), (15, 8), (16, 16), (31, 16), (32, 32), (63, 32), (64, 64), (4000, 64)],
)
def test_the_size_chosen_is_the_shortest_side_where_that_is_a_usual_one(
    shortest: int, size: int
) -> None:
    assert choose_size(Sizes({(9000, shortest): 2, (shortest + 1, 5000): 1}, {}, ())) == size


def test_photographs_of_several_sizes_get_one_and_it_is_said(tmp_path: Path) -> None:
    dataset = load_images(mixed(tmp_path))
    assert dataset.shape == (3, 32, 32)
    assert isinstance(dataset.values, np.ndarray)
    assert dataset.notes == (
        "4 images of 3 sizes (from 40 x 50 to 90 x 33): each cropped to its centred square and scaled to 32 x 32; "
        "choose another with --size",
    )
    assert dataset.fingerprint() == load_folder(tmp_path, 32).fingerprint()
    chosen = load_images(tmp_path, size=16)
    assert (chosen.shape, chosen.notes) == ((3, 16, 16), ())


def test_images_of_one_size_keep_it(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", 0, 130, 40)
    dataset = load_images(tmp_path, channels=1)
    assert (dataset.shape, dataset.notes) == ((1, 40, 130), ())
    assert isinstance(load_images(tmp_path, channels=1, memory=40 * 130).values, np.ndarray)
    lazy = load_images(tmp_path, channels=1, memory=40 * 130 - 1)
    assert isinstance(lazy.values, Pictures)
    assert torch.equal(lazy[torch.tensor([0])].x1, dataset[torch.tensor([0])].x1)
    (note,) = lazy.notes
    assert note.startswith("1 images would take 0.0 GiB of memory: they are decoded when")


@pytest.mark.parametrize(("width", "shape"), [(256, (3, 20, 256)), (257, (3, 16, 16))])
def test_images_of_one_size_beyond_256_are_made_smaller(
    tmp_path: Path, width: int, shape: tuple[int, int, int]
) -> None:
    write_picture(tmp_path / "0.png", 0, width, 20)
    dataset = load_images(tmp_path)
    assert dataset.shape == shape
    assert len(dataset.notes) == (width == 257)
    assert find_size(tmp_path) == (None if width == 256 else 16, dataset.notes)


def test_the_size_found_is_the_size_taken(tmp_path: Path) -> None:
    mixed(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    for crop in ("centre", "random"):
        size, notes = find_size(tmp_path, crop)
        assert (size, notes) == (32, load_images(tmp_path, crop=crop).notes)
    assert find_size(tmp_path / "a.npy") == (None, ())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no picture")
    assert find_size(tmp_path / "bad") == (None, ())


def test_of_many_images_some_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushforward.data.images.load.LOOKED_AT", 3)
    size, (note,) = find_size(mixed(tmp_path))
    assert size == 32
    assert note.startswith("of 4 images, 3 images of 2 sizes (from 40 x 50 to 50 x 40): each")
    for path in tmp_path.iterdir():
        path.unlink()
    for i in range(4):
        write_picture(tmp_path / f"{i}.png", i, 9 + (i == 3), 9)
    # The odd one was not looked at: then it is an error when it is decoded, and not taken for something else.
    for lazy in (True, False):
        with pytest.raises(DataError, match="2 sizes"):
            load_images(tmp_path, lazy=lazy)


def test_what_is_said_of_memory_is_overruled(tmp_path: Path) -> None:
    mixed(tmp_path)
    assert isinstance(load_images(tmp_path, 8, memory=1, lazy=False).values, np.ndarray)
    assert isinstance(load_images(tmp_path, 8, lazy=True).values, Pictures)
    assert load_images(tmp_path, 8, memory=1, lazy=True).notes == ()


def test_what_exceeds_the_memory_stays_in_its_files(tmp_path: Path) -> None:
    mixed(tmp_path)
    eager = load_images(tmp_path, 8, memory=4 * 3 * 64)
    lazy = load_images(tmp_path, 8, memory=4 * 3 * 64 - 1)
    assert isinstance(eager.values, np.ndarray)
    assert isinstance(lazy.values, Pictures)
    assert torch.equal(eager[torch.arange(4)].x1, lazy[torch.arange(4)].x1)


def test_to_be_cropped_at_random_images_stay_in_their_files(tmp_path: Path) -> None:
    dataset = load_images(mixed(tmp_path), crop="random", zoom=2.0)
    assert isinstance(dataset.values, Pictures)
    assert "cropped to a square of it drawn at random and scaled to 32 x 32" in dataset.notes[0]
    indices, noise = torch.arange(4), Noise.batch(4)
    wanted = load_folder(tmp_path, 32, lazy=True, crop="random", zoom=2.0)
    assert torch.equal(dataset.drawn(indices, noise).x1, wanted.drawn(indices, noise).x1)
    write_picture(tmp_path / "one" / "0.png", 0, 30, 20)
    assert load_images(tmp_path / "one", crop="random").shape == (3, 16, 16)
    with pytest.raises(InputError, match="needs lazy=True"):
        load_images(tmp_path, crop="random", lazy=False)


def test_each_kind_of_path_is_told(tmp_path: Path) -> None:
    pixels = [write_picture(tmp_path / "folder" / f"{i}.png", i) for i in range(3)]
    np.save(tmp_path / "a.npy", np.stack(pixels))
    np.savez(tmp_path / "a.npz", pictures=np.stack(pixels), kinds=np.arange(3))
    (tmp_path / "packed").mkdir()
    for i in range(3):
        pack(tmp_path / "packed" / f"{i}.tar", (f"{i}.png", encoded(pixels[i])))
    one = pack(tmp_path / "one.tar", *((f"{i}.png", encoded(p)) for i, p in enumerate(pixels)))
    wanted = load_array(tmp_path / "a.npy")[torch.arange(3)].x1
    for path in (
        tmp_path / "folder",
        tmp_path / "a.npy",
        tmp_path / "packed",
        one,
        tmp_path / "packed" / "*.tar",
    ):
        dataset = load_images(path)
        assert isinstance(dataset.values, np.ndarray)
        assert torch.equal(dataset[torch.arange(3)].x1, wanted)
    named = load_images(tmp_path / "a.npz", image_key="pictures", label_key="kinds")
    assert named.labels is not None
    assert named.labels.tolist() == [0, 1, 2]
    lazy = load_images(tmp_path / "packed", memory=1)
    assert isinstance(lazy.values, Pictures)
    assert lazy.fingerprint() == load_shards(tmp_path / "packed").fingerprint()


def test_a_folder_with_images_and_archives_is_one_of_images(tmp_path: Path) -> None:
    write_picture(tmp_path / "0.png", 0)
    pack(tmp_path / "a.tar", ("1.png", encoded(picture(1))), ("2.png", encoded(picture(2))))
    assert len(load_images(tmp_path)) == 1
    (tmp_path / "0.png").unlink()
    assert len(load_images(tmp_path)) == 2


def test_bad_files_are_an_error_or_reported(tmp_path: Path) -> None:
    mixed(tmp_path)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(DataError, match=r"has 1 problem:\n  bad.png: is none of PNG"):
        load_images(tmp_path)
    dataset = load_images(tmp_path, on_bad="skip")
    assert [name for name, _ in dataset.report] == ["bad.png"]
    assert len(dataset) == 4
    for path in tmp_path.glob("?.png"):
        path.unlink()
    with pytest.raises(DataError, match="No image is left"):
        load_images(tmp_path, on_bad="skip")


@pytest.mark.parametrize(
    ("name", "options", "error", "match"),
    [
        ("none", {}, DataError, "there is no folder"),
        ("none.tar", {}, DataError, "there is no archive"),
        ("none.npy", {}, DataError, "there is no file"),
        ("v.npy", {"size": 8}, InputError, "--size is for images, and the data are 2 vectors"),
        ("notes.csv", {}, DataError, "none of the data that are read: a folder of images"),
        ("a.tar.gz", {}, DataError, r"is compressed \(gzip\)"),
        ("a.tar", {"columns": ["age"]}, InputError, r"conditions \(age\) come from"),
        ("one", {"kind": "signal"}, InputError, "holds images, and no signals"),
        ("a.npy", {"crop": "random"}, InputError, "is for image files"),
        ("a.npy", {"channels": 2}, InputError, "channels is 2"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, name: str, options: dict[str, object], error: type[Exception], match: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    np.save(tmp_path / "v.npy", np.zeros((2, 4)))
    (tmp_path / "notes.csv").write_text("a, b")
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b and more")
    pack(tmp_path / "a.tar", ("a.png", encoded(picture(0))))
    write_picture(tmp_path / "one" / "a.png", 0)
    with pytest.raises(error, match=match):
        load_images(tmp_path / name, **options)  # type: ignore[arg-type]


def test_one_image_is_data(tmp_path: Path) -> None:
    pixels = write_picture(tmp_path / "a.png", 0)
    for path in (tmp_path, tmp_path / "a.png"):
        dataset = load_images(path)
        assert np.array_equal(stored(dataset), pixels)
        assert str(dataset) == "1 image, 6 x 8, 3 channels"
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(DataError, match=r"b\.png: is none of PNG"):
        load_images(tmp_path / "b.png", 8)[torch.tensor([0])]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [4, 9, 40])
def test_images_of_an_array_are_resized_as_those_of_files_are(
    tmp_path: Path, channels: int, side: int
) -> None:
    pixels = np.stack([picture(i, 30, 21)[..., :channels] for i in range(5)])
    for i, image in enumerate(pixels):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{i}.png").write_bytes(encoded(image.squeeze()))
    np.savez(tmp_path / "a.npz", x=pixels, y=np.arange(5))
    wanted = load_folder(tmp_path / "in", side, channels)
    found = load_images(tmp_path / "a.npz", side)
    every = torch.arange(5)
    assert torch.equal(found[every].x1, wanted[every].x1)
    assert found.labels is not None
    assert (found.labels.tolist(), found.bin_width) == ([0, 1, 2, 3, 4], 2 / 255)
    assert isinstance(found.values, np.ndarray)
    lazy = load_images(tmp_path / "a.npz", side, memory=5 * side**2 * channels - 1)
    assert not isinstance(lazy.values, np.ndarray)
    assert lazy.fingerprint() == found.fingerprint()
    assert torch.equal(
        lazy.split(0.5)[0][torch.tensor([1])].x1, found.split(0.5)[0][torch.tensor([1])].x1
    )
    np.save(tmp_path / "first.npy", pixels.transpose(0, 3, 1, 2))
    assert load_images(tmp_path / "first.npy", side).fingerprint() != ""
    assert torch.equal(load_images(tmp_path / "first.npy", side)[every].x1, wanted[every].x1)


def test_floating_images_of_any_number_of_channels_are_resized(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.random((3, 7, 12, 20), dtype=np.float32) > 0.5)
    np.save(tmp_path / "a.npy", np.load(tmp_path / "a.npy").astype(np.float32))
    dataset = load_images(tmp_path / "a.npy", 6)
    x1 = dataset[torch.arange(3)].x1
    assert dataset.shape == (7, 6, 6)
    # Lanczos rings: without a limit values would leave the range.
    assert (x1.min(), x1.max()) == (0, 1)
    assert dataset.bin_width is None
    # A ramp stays a ramp: the centred square of columns 4..15, two of them in each.
    np.save(tmp_path / "b.npy", np.broadcast_to(np.arange(20.0), (1, 1, 12, 20)))
    ramp = load_images(tmp_path / "b.npy", 6)[torch.tensor([0])].x1[0, 0]
    torch.testing.assert_close(
        ramp[:, 1:-1], torch.tensor([6.5, 8.5, 10.5, 12.5]).expand(6, 4), rtol=0, atol=0.06
    )
    same = load_images(tmp_path / "a.npy")
    assert load_images(tmp_path / "a.npy", 12).shape == (7, 12, 12)
    assert same.shape == (7, 12, 20)
