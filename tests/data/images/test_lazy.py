"""Pictures that stay in their files: the same pixels as at once, random crops, and files that turn out bad."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from imagefiles import bomb, encoded, in_bytes, picture, stored, write_picture
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import AUGMENT, Noise
from pushforward.data import Augment, Dataset, Pictures, load_folder
from pushforward.data.images import files as files_module
from pushforward.data.images.files import Files, scan
from pushforward.data.images.names import Names
from pushforward.streams.prefetch import Prefetch
from pushforward.streams.shuffled import Shuffled


def pictures_of(dataset: Dataset) -> Pictures:
    assert isinstance(dataset.values, Pictures)
    return dataset.values


def photographs(folder: Path, count: int = 6) -> Path:
    """Pictures of several sizes in two classes."""
    for i in range(count):
        write_picture(folder / "ab"[i % 2] / f"{i}.png", i, 20 + 7 * i, 31 - 3 * i)
    return folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 40])
def test_decoded_when_wanted_pixels_labels_and_captions_are_those_decoded_at_once(
    tmp_path: Path, channels: int, size: int
) -> None:
    folder = photographs(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(9, 33, 21)).save(folder / "a" / "turned.jpg", exif=exif)
    rgba = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(folder / "b" / "clear.png")
    lines = [{"file_name": name, "text": f"of {name}"} for name in scan(folder)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    eager = load_folder(folder, size, channels)
    lazy = load_folder(folder, size, channels, lazy=True)
    assert isinstance(eager.values, np.ndarray)
    values = pictures_of(lazy)
    assert values.shape == eager.values.shape == (8, channels, size, size)
    assert (values.ndim, values.dtype, values.nbytes) == (4, np.uint8, eager.values.nbytes)
    assert np.array_equal(values[np.array([5, 0, 5])], eager.values[[5, 0, 5]])
    assert np.array_equal(values[-3:], eager.values[-3:])
    rows = torch.tensor([7, 2, 2, 0])
    a, b = eager[rows], lazy[rows]
    assert torch.equal(a.x1, b.x1)
    assert torch.equal(a.cond["label"], b.cond["label"])
    assert b.ids is not None
    assert b.ids.tolist() == rows.tolist()
    for name in ("captions", "class_names", "classes", "images", "value_range", "shape"):
        assert getattr(eager, name) == getattr(lazy, name)
    half, other = eager.halves(3), lazy.halves(3)
    for one, two in zip(half, other, strict=True):
        every = torch.arange(len(one))
        assert torch.equal(one[every].x1, two[every].x1)


def test_without_a_size_pictures_of_one_size_keep_it(tmp_path: Path) -> None:
    seen = [write_picture(tmp_path / f"{i}.png", i, 5, 1 + 8) for i in range(3)]
    lazy = load_folder(tmp_path, lazy=True)
    assert lazy.shape == (3, 9, 5)
    assert np.array_equal(stored(lazy, 2), seen[2])
    write_picture(tmp_path / "3.png", 3, 9, 5)
    with pytest.raises(DataError, match=r"2 sizes:\n  5 x 9: 3 images, for example 0.png\n  9 x 5"):
        load_folder(tmp_path, lazy=True)


@pytest.mark.parametrize("lazy", [True, False])
def test_pictures_one_pixel_wide_are_no_channels(tmp_path: Path, lazy: bool) -> None:
    pixels = write_picture(tmp_path / "a.png", 0, 1, 6)
    dataset = load_folder(tmp_path, lazy=lazy)
    assert dataset.shape == (3, 6, 1)
    assert np.array_equal(stored(dataset), pixels)


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a-b", "ab", "é", "z.x"]), min_size=1, max_size=3),
        max_size=9,
    )
)
def test_files_are_in_the_order_of_their_paths(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("set")
    for folders in (*paths, ["a"]):
        path = root.joinpath(*folders[:-1], f"{folders[-1]}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    wanted = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    assert list(scan(root)) == wanted


@given(st.lists(st.text(max_size=5).filter(lambda s: "\ud800" not in s)))
def test_names_are_kept_as_they_are(texts: list[str]) -> None:
    names = Names.of(texts)
    assert list(names) == texts
    assert [names[i] for i in range(len(texts))] == texts
    assert list(names[1::2]) == texts[1::2]
    assert [names[-i - 1] for i in range(len(texts))] == texts[::-1]
    with pytest.raises(IndexError):
        names[len(texts)]


def test_names_that_are_no_text_are_found_again(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    (tmp_path / "plain.png").write_bytes(encoded(picture(0)))
    with open(folder + b"/\xff\xfe.png", "wb") as file:
        file.write(encoded(picture(1)))
    assert np.array_equal(stored(load_folder(tmp_path, lazy=True), 1), picture(1))


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    for side, other in (("a", "b"), ("b", "a")):
        write_picture(tmp_path / side / "1.png", 0)
        (tmp_path / side / "to").symlink_to(tmp_path / other)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert list(scan(tmp_path)) == ["a/1.png", "a/to/1.png", "b/1.png", "b/to/1.png"]


def test_a_folder_is_listed_without_opening_a_file_and_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 20_000
    for i in range(count):
        os.close(os.open(tmp_path / f"{i:06}.png", os.O_CREAT | os.O_WRONLY))

    def refuse(file: object) -> None:
        raise AssertionError("an image was opened")

    monkeypatch.setattr(files_module, "open_image", refuse)
    gc.collect()
    tracemalloc.start()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    dataset = load_folder(tmp_path, 64, lazy=True)
    took, kept = time.process_time() - start, tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(dataset) == count
    # Ten bytes of a name and eight of its place: a list of paths takes hundreds. A million: half a minute at most.
    assert kept < 25 * count
    assert took < 30 * count / 1e6 + 1
    assert len(dataset.fingerprint()) == 64


def test_the_fingerprint_tells_files_and_how_pixels_are_made_without_reading_them(
    tmp_path: Path,
) -> None:
    folder = photographs(tmp_path / "one")

    def mark(**options: object) -> str:
        return load_folder(folder, **{"size": 8, "lazy": True, **options}).fingerprint()  # type: ignore[arg-type]

    first = mark()
    assert first == mark()
    assert first == load_folder(photographs(tmp_path / "two"), 8, lazy=True).fingerprint()
    assert first == mark(crop="random", zoom=2.0)
    dataset = load_folder(folder, 8, lazy=True)
    others = [mark(size=9), mark(channels=1), dataset.subset(torch.tensor([1, 0, 2, 3, 4, 5])).fingerprint(),
              dataset.subset(torch.arange(5)).fingerprint(), load_folder(folder, 8).fingerprint()]  # fmt: skip
    (folder / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": n, "label": 0}) for n in scan(folder))
    )
    others.append(mark())
    (folder / "metadata.jsonl").unlink()
    path = folder / "a" / "0.png"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    others.append(mark())
    path.write_bytes(whole)
    assert first == mark()
    path.rename(folder / "a" / "00.png")
    others.append(mark())
    assert len({first, *others}) == len(others) + 1
    write_picture(tmp_path / "square" / "0.png", 0, 8, 8)
    kept, scaled, grey = (
        pictures_of(load_folder(tmp_path / "square", size, channels, lazy=True))
        for size, channels in ((None, 3), (8, 3), (8, 1))
    )
    assert len({kept.fingerprint(), scaled.fingerprint(), grey.fingerprint()}) == 3


def spoilt(folder: Path) -> list[np.ndarray]:
    """Pictures 0 to 5 of one size, of which 1, 2 and 5 cannot be decoded."""
    pixels = [write_picture(folder / f"{i}.png", i, 8, 8) for i in range(6)]
    (folder / "1.png").write_bytes(encoded(pixels[1])[:-40])
    (folder / "2.png").write_text("no picture")
    (folder / "5.png").write_bytes(bomb())
    return pixels


def test_a_file_that_turns_out_bad_is_named(tmp_path: Path) -> None:
    spoilt(tmp_path)
    dataset = load_folder(tmp_path, 8, lazy=True)
    dataset[torch.tensor([0, 3])]
    for i, why in (
        (1, "truncated|cannot be decoded"),
        (2, "is none of PNG"),
        (5, "64 million pixels"),
    ):
        with pytest.raises(DataError, match=rf"{i}\.png .*({why}).*--on-bad skip"):
            dataset[torch.tensor([0, i])]
    (tmp_path / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png is not a file"):
        dataset[torch.tensor([3])]
    write_picture(tmp_path / "4.png", 4, 8, 9)
    load_folder(tmp_path, 8, on_bad="skip", lazy=True)[torch.tensor([4])]


def test_a_bad_file_is_replaced_by_the_next_good_one_and_reported(tmp_path: Path) -> None:
    pixels = spoilt(tmp_path)
    dataset = load_folder(tmp_path, 8, on_bad="skip", lazy=True)
    assert dataset.report == ()
    batch = dataset[torch.tensor([4, 1, 5, 2, 3])]
    assert batch.ids is not None
    assert batch.ids.tolist() == [4, 3, 0, 3, 3]
    for got, i in zip(in_bytes(batch.x1), [4, 3, 0, 3, 3], strict=True):
        assert np.array_equal(got, pixels[i])
    report = pictures_of(dataset).report
    assert [Path(file).name for file, _ in report] == ["1.png", "2.png", "5.png"]
    assert np.array_equal(pictures_of(dataset)[np.array([5])], pictures_of(dataset)[np.array([0])])
    # Asked in another order, and in parts, it is the same.
    again = load_folder(tmp_path, 8, on_bad="skip", lazy=True)
    parts = [again[torch.tensor([i])].x1 for i in (3, 2, 5, 1, 4)]
    assert torch.equal(torch.cat(parts[::-1]), batch.x1)


def test_what_replaces_a_bad_file_is_of_the_same_part_and_brings_its_own_label(
    tmp_path: Path,
) -> None:
    pixels = spoilt(tmp_path)
    (tmp_path / "metadata.jsonl").write_text(
        "\n".join(json.dumps({"file_name": f"{i}.png", "label": i}) for i in range(6))
    )
    part = load_folder(tmp_path, 8, on_bad="skip", lazy=True).subset(torch.tensor([4, 1, 0]))
    batch = part[torch.tensor([1, 0])]
    assert batch.cond["label"].tolist() == [0, 4]
    assert batch.ids is not None
    assert batch.ids.tolist() == [2, 0]
    assert np.array_equal(in_bytes(batch.x1)[0], pixels[0])
    with pytest.raises(DataError, match=r"none of the 2 images can be used; .*1.png"):
        load_folder(tmp_path, 8, on_bad="skip", lazy=True).subset(torch.tensor([1, 2]))[
            torch.tensor([0])
        ]


def test_without_a_size_headers_that_are_bad_are_left_out_and_later_sizes_are_bad(
    tmp_path: Path,
) -> None:
    spoilt(tmp_path)
    with pytest.raises(
        DataError, match=r"has 2 problems:\n  2.png: is none of PNG.*\n  5.png: declares"
    ):
        load_folder(tmp_path, lazy=True)
    dataset = load_folder(tmp_path, on_bad="skip", lazy=True)
    assert [name for name, _ in dataset.report] == ["2.png", "5.png"]
    assert len(dataset) == 4
    write_picture(tmp_path / "4.png", 4, 8, 9)
    batch = dataset[torch.tensor([3])]
    assert np.array_equal(in_bytes(batch.x1)[0], picture(0, 8, 8))
    assert pictures_of(dataset).report == ((str(tmp_path / "4.png"), "is 8 x 9, others are 8 x 8"),)


@pytest.mark.parametrize("failure", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_a_machine_that_runs_out_of_something_is_no_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    write_picture(tmp_path / "a.png", 0)
    dataset = load_folder(tmp_path, 4, on_bad="skip", lazy=True)

    def fail(self: Files, entry: int) -> None:
        raise failure

    monkeypatch.setattr(Files, "open", fail)
    with pytest.raises(type(failure)):
        dataset[torch.tensor([0])]
    assert pictures_of(dataset).report == ()


# Of 40 x 24 pixels, whose red is the column and whose green is the row.
HEIGHT, WIDTH = 24, 40
PLACES = np.stack(
    (*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.zeros((HEIGHT, WIDTH))), axis=2
).astype(np.uint8)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    (folder / "0.png").write_bytes(encoded(PLACES))
    (folder / "1.png").write_bytes(encoded(PLACES.transpose(1, 0, 2)))
    return folder


@given(st.integers(1, 40), st.floats(1, 8), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_a_random_crop_is_pillow_s_of_the_square_that_is_drawn(
    places: Path, size: int, zoom: float, seed: int, step: int
) -> None:
    dataset = load_folder(places, size, lazy=True, crop="random", zoom=zoom)
    indices, noise = torch.tensor([0, 1, 1, 0]), Noise(seed, torch.tensor([4, 2, 0, 2**33]), step)
    found = in_bytes(dataset.drawn(indices, noise).x1)
    for i, got, u in zip(indices, found, noise.uniform((6,), AUGMENT)[:, 3:].tolist(), strict=True):
        image = Image.fromarray(PLACES if i == 0 else PLACES.transpose(1, 0, 2))
        side = round(HEIGHT * (1 - u[0] * (1 - 1 / zoom)))
        left, top = (math.floor(v * (n - side + 1)) for v, n in zip(u[1:], image.size, strict=True))
        box = (left, top, left + side, top + side)
        wanted = image.crop(box)
        if side != size:
            wanted = image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        assert np.array_equal(got, np.asarray(wanted))


def test_zoom_is_into_pictures_of_the_size_wanted_too(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(PLACES[:, :HEIGHT]))
    dataset = load_folder(tmp_path, HEIGHT, lazy=True, crop="random", zoom=4.0)
    found = in_bytes(dataset.drawn(torch.zeros(50, dtype=torch.int64), Noise.batch(50)).x1)
    width = found[:, 12, -1, 0].astype(int) - found[:, 12, 0, 0]
    assert width.min() < HEIGHT / 2
    assert np.array_equal(stored(dataset), PLACES[:, :HEIGHT])


def test_without_zoom_the_square_is_whole_and_each_place_is_as_likely_as_any_other(
    places: Path,
) -> None:
    dataset = load_folder(places, HEIGHT, lazy=True, crop="random")
    n = 3400
    found = in_bytes(dataset.drawn(torch.zeros(n, dtype=torch.int64), Noise.batch(n, 1)).x1)
    left, top = found[:, 0, 0, 0].astype(int), found[:, 0, 0, 1]
    assert (top == 0).all()
    assert (found[:, -1, -1, 0] == left + HEIGHT - 1).all()
    counts = np.bincount(left, minlength=17)
    assert len(counts) == WIDTH - HEIGHT + 1
    assert np.abs(counts - n / 17).max() < 4.5 * math.sqrt(n / 17)


def test_with_zoom_sides_are_uniform_from_the_zoomth_part_to_the_whole(places: Path) -> None:
    dataset = load_folder(places, 48, lazy=True, crop="random", zoom=4.0)
    n = 1000
    found = in_bytes(dataset.drawn(torch.zeros(n, dtype=torch.int64), Noise.batch(n, 1)).x1)
    side = found[:, 24, -1, 0].astype(float) - found[:, 24, 0, 0] + 1
    # Uniform on [6, 24]; a standard deviation of the mean is 0.16.
    assert abs(side.mean() - 15) < 0.8
    assert 5 <= side.min() < 7.5
    assert 22.5 < side.max() <= 25


def test_a_crop_is_the_same_in_any_batch_and_other_at_another_step(places: Path) -> None:
    dataset = load_folder(places, 16, lazy=True, crop="random", zoom=2.0)
    dataset = Dataset(**{**dataset.__dict__, "augment": Augment(True, 2)})
    indices, noise = torch.tensor([0, 1] * 4), Noise.batch(8, 2, 5)
    whole = dataset.drawn(indices, noise).x1
    for part in torch.tensor([5, 0, 7, 2, 1, 6, 3, 4]).split(3):
        assert torch.equal(dataset.drawn(indices[part], noise[part]).x1, whole[part])
    assert not torch.equal(dataset.drawn(indices, noise.at(6)).x1, whole)
    assert len({part.numpy().tobytes() for part in whole}) == 8
    # Asked for without noise, pictures are cropped in the middle, as without any of this.
    assert torch.equal(dataset[indices].x1, load_folder(places, 16)[indices].x1)
    centred = load_folder(places, 16, lazy=True)
    assert torch.equal(centred.drawn(indices, noise).x1, centred[indices].x1)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_fine_checkerboard_becomes_grey(tmp_path: Path, lazy: bool) -> None:
    board = np.indices((256, 256)).sum(0) % 2 * 255
    (tmp_path / "a.png").write_bytes(encoded(board.astype(np.uint8)))
    small = stored(load_folder(tmp_path, 16, lazy=lazy)).astype(float)
    assert np.abs(small - 127.5).max() < 3
    if lazy:
        dataset = load_folder(tmp_path, 16, lazy=True, crop="random", zoom=3.0)
        found = in_bytes(dataset.drawn(torch.zeros(20, dtype=torch.int64), Noise.batch(20)).x1)
        assert np.abs(found.astype(float) - 127.5).max() < 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"crop": "random", "size": None}, "needs a size"),
        ({"crop": "random", "lazy": False}, "needs lazy=True"),
        ({"crop": "middle"}, "crop is 'middle'"),
        ({"crop": "random", "zoom": 0.5}, "zoom is 0.5"),
        ({"crop": "random", "zoom": math.nan}, "zoom is nan"),
        ({"crop": "random", "zoom": math.inf}, "zoom is inf"),
        ({"zoom": 2.0}, 'zoom is for crop="random"'),
        ({"size": 0}, "size is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    places: Path, options: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        load_folder(places, **{"size": 8, "lazy": True, **options})  # type: ignore[arg-type]


def test_noise_must_be_that_of_the_batch_and_indices_whole_numbers(places: Path) -> None:
    dataset = load_folder(places, 8, lazy=True, crop="random")
    with pytest.raises(InputError, match="noise of 3 samples was given for 2 pictures"):
        dataset.drawn(torch.tensor([0, 1]), Noise.batch(3))
    with pytest.raises(InputError, match="by an array"):
        pictures_of(dataset)[1]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_that_work_ahead_make_the_same_batches(tmp_path: Path, workers: int) -> None:
    photographs(tmp_path, 9)
    (tmp_path / "a" / "4.png").write_text("bad")
    dataset = load_folder(tmp_path, 12, on_bad="skip", lazy=True, crop="random", zoom=2.0)
    plain = Shuffled(dataset, 4, seed=1)
    wanted = [plain.at(step) for step in range(12)]
    fresh = load_folder(tmp_path, 12, on_bad="skip", lazy=True, crop="random", zoom=2.0)
    with Prefetch(Shuffled(fresh, 4, seed=1), depth=4, workers=workers) as ahead:
        for step in (*range(12), 3, 9):
            batch = ahead.at(step)
            assert torch.equal(batch.x1, wanted[step].x1)
            assert torch.equal(batch.cond["label"], wanted[step].cond["label"])
    assert len(pictures_of(fresh).report) == 1


def test_a_child_process_reads_what_its_parent_has_read(tmp_path: Path) -> None:
    photographs(tmp_path)
    dataset = load_folder(tmp_path, 12, lazy=True)
    every = np.arange(6)
    wanted = pictures_of(dataset)[every]
    child = os.fork()
    if child == 0:  # pragma: no cover
        good = False
        try:
            good = np.array_equal(pictures_of(dataset)[every], wanted)
        finally:
            os._exit(0 if good else 1)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda _: pictures_of(dataset)[every], range(4)):
            assert np.array_equal(found, wanted)
    assert os.waitpid(child, 0)[1] == 0
    assert not [link for link in os.listdir("/proc/self/fd")
                if os.path.realpath(f"/proc/self/fd/{link}").startswith(str(tmp_path))]  # fmt: skip
