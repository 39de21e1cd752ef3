"""Frames of equal area for pictures of several shapes."""

from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.data import divide, load_folder, load_mixed, write_shards
from pushforward.data.images.buckets import candidates, choose, cropped, find_buckets
from pushforward.data.images.decode import centre, largest

SIZES = [(48, 48), (40, 80), (44, 60), (90, 30), (64, 60), (31, 64), (200, 100)]


@pytest.mark.parametrize(("size", "unit"), [(64, 1), (64, 8), (50, 2), (96, 12), (8, 4), (512, 16)])
def test_frames_have_the_area_of_the_square_and_sides_of_the_unit(size, unit):
    found = candidates(size, unit)
    for height, width in found:
        assert height % unit == width % unit == 0
        assert abs(height * width / size**2 - 1) <= 0.15
        assert max(height, width) <= 4 * min(height, width)
    # Lying ones as standing ones, and few enough to choose among exactly.
    assert {(w, h) for h, w in found} == set(found)
    assert len(set(found)) == len(found) <= 120
    if size % unit == 0:
        assert (size, size) in found


def test_a_size_that_no_multiple_of_the_unit_is_near_is_refused():
    with pytest.raises(InputError, match="multiples of 32: choose a multiple of 32"):
        candidates(12, 32)


def by_areas(size, frame):
    """The share of a picture's area that is outside of the largest part of the frame's shape, from the crop itself."""
    left, top, right, bottom = centre(size[1], size[0], frame)
    assert left >= 0
    assert top >= 0
    assert right <= size[1] + 1e-9
    assert bottom <= size[0] + 1e-9
    assert abs((right - left) / (bottom - top) - frame[1] / frame[0]) < 1e-9
    return 1 - (right - left) * (bottom - top) / (size[0] * size[1])


def test_the_share_that_is_cropped_is_that_of_the_crop():
    frames = candidates(64, 8)
    truth = [[by_areas(size, frame) for frame in frames] for size in SIZES]
    assert np.allclose(cropped(np.array(SIZES), np.array(frames)), truth, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_the_frames_that_are_chosen_crop_least_of_all_choices(seed):
    numbers = np.random.default_rng(seed)
    sizes = numbers.integers(16, 80, (60, 2))[numbers.integers(0, 25, 60)]
    frames = candidates(32, 4)
    lost = cropped(sizes, np.array(frames))
    for number in (1, 2, 3):
        least = min(
            lost[:, list(some)].min(1).sum() for some in combinations(range(len(frames)), number)
        )
        chosen = choose(sizes, frames, number)
        assert len(chosen) <= number
        assert lost[:, chosen].min(1).sum() == pytest.approx(least, rel=1e-9)


def test_no_more_frames_are_chosen_than_help():
    frames = candidates(32, 8)
    assert [frames[i] for i in choose(np.array([(50, 50)] * 9), frames, 8)] == [(32, 32)]
    both = [frames[i] for i in choose(np.array([(50, 50)] * 9 + [(20, 40)]), frames, 8)]
    assert both == [(32, 32), (24, 48)]


def test_each_picture_goes_where_least_is_cropped_and_small_frames_are_dropped():
    sizes = np.array([(60, 60)] * 20 + [(40, 80)] * 10 + [(90, 30)] * 3 + [(0, 0)])
    found = find_buckets(sizes, 32, 4, 4, least=1)
    assert found.frames == ((32, 32), (24, 48), (56, 20))  # the one that most have first
    shares = cropped(sizes[:-1], np.array(found.frames))
    assert np.array_equal(found.which[:-1], shares.argmin(1))
    assert found.which[-1] == 0
    assert found.lost == pytest.approx(shares.min(1).mean())
    assert sum(found.counts) == 34
    few = find_buckets(sizes, 32, 4, 4, least=4)
    assert len(few.frames) == 2
    assert min(few.counts) >= 10
    one = find_buckets(sizes, 32, 4, 4, least=100)
    assert len(one.frames) == 1
    assert found.digest() != few.digest()


def paint(height, width, number):
    """A picture whose parts can be told: red grows to the right, green downwards, blue says its number."""
    y, x = np.mgrid[:height, :width]
    return np.stack((255 * x / (width - 1), 255 * y / (height - 1), np.full_like(x, 4 * number)), 2)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    for i in range(24):
        height, width = ((48, 48), (40, 80), (80, 40))[(0, 1, 0, 2)[i % 4]]
        Image.fromarray(paint(height, width, i).round().astype(np.uint8)).save(
            place / f"{i:02d}.png"
        )
        (place / f"{i:02d}.txt").write_text(f"number {i}")
    return place


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_a_folder_is_divided_by_shape_with_its_captions_and_whole_pictures(folder, memory):
    data = load_mixed(folder, 32, unit=8, buckets=4)
    mixed = divide(data, memory)
    shapes = [part.shape for part in mixed.parts]
    assert shapes[0] == data.shape == (3, 32, 32)
    assert set(shapes) == {(3, 32, 32), (3, 24, 48), (3, 48, 24)}
    assert torch.cat(mixed.rows).sort().values.tolist() == list(range(24))
    for part, rows in zip(mixed.parts, mixed.rows, strict=True):
        assert isinstance(part.values, np.ndarray) == (memory > 0)
        batch = part[torch.arange(len(part))]
        assert batch.texts["caption"] == tuple(f"number {i}" for i in rows.tolist())
        pixels = (batch.x1 + 1) * 127.5
        # Blue says which one it is, and red and green run from end to end: nothing is cut off.
        assert torch.allclose(pixels[:, 2].mean((1, 2)), 4.0 * rows, atol=0.51)
        for channel, along in ((0, 2), (1, 1)):
            ends = pixels[:, channel].mean(3 - along)[:, [0, -1]].mean(0)
            assert float(ends[1] - ends[0]) > 255 * 0.9, part.shape
    assert "24 images of 3 sizes" in data.notes[0]
    assert "32 x 32 (12)" in data.notes[0]


def test_frames_belong_to_the_fingerprint_and_survive_a_split(folder):
    data = load_mixed(folder, 32, unit=8, buckets=4)
    assert data.fingerprint() == load_mixed(folder, 32, unit=8, buckets=4).fingerprint()
    others = [
        load_mixed(folder, 32, unit=8, buckets=2), load_mixed(folder, 24, unit=8, buckets=4),
        load_folder(folder, 32, lazy=True),
    ]  # fmt: skip
    assert len({one.fingerprint() for one in (data, *others)}) == 4
    for half in data.split(0.5):
        mixed = divide(half)
        for part, rows in zip(mixed.parts, mixed.rows, strict=True):
            assert part.texts["caption"] == tuple(half.texts["caption"][i] for i in rows)


def test_archives_are_divided_as_folders_are(folder, tmp_path):
    write_shards(folder, tmp_path / "shards")
    one, two = (divide(load_mixed(p, 32, unit=8)) for p in (folder, tmp_path / "shards"))
    for a, b in zip(one.parts, two.parts, strict=True):
        rows = torch.arange(len(a))
        assert torch.equal(a[rows].x1, b[rows].x1)
        assert a[rows].texts == b[rows].texts


def test_crops_at_random_have_the_shape_of_their_frame():
    u = np.random.default_rng(1).random((200, 3))
    from pushforward.data.images.lazy import Cut

    for scale, across, down in u:
        left, top, right, bottom = Cut(scale, across, down, 2.0)(81, 40, (24, 48))
        assert 0 <= left < right <= 81
        assert 0 <= top < bottom <= 40
        assert abs((right - left) / (bottom - top) - 2) < 0.06
        assert right - left >= 39
    assert largest(81, 40, (24, 48)) == (80, 40)


def test_what_has_one_size_or_cannot_be_read_is_said(folder, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(InputError, match="is an array, whose images have one size"):
        load_mixed(tmp_path / "x.npz")
    (folder / "00.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"00\.png: is none of"):
        load_mixed(folder, 32)
    kept = divide(load_mixed(folder, 32, on_bad="skip", unit=8), 1 << 30)
    assert sum(map(len, kept.parts)) == 23
    assert all("number 0" not in part.texts["caption"] for part in kept.parts)
