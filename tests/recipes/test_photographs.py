"""Somebody's photographs: the recipe `images` on a folder of mixed sizes, packed or not, decoded early or late."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pushforward.cli import main
from pushforward.core.errors import InputError
from pushforward.data import Dataset, Pictures
from pushforward.recipes import Images
from pushforward.recipes.images import Pictures as PictureOptions
from pushforward.recipes.images import read_images
from pushforward.recipes.run import settle
from pushforward.runtime.processes import Processes
from pushforward.streams.prefetch import Prefetch

TINY = (
    "--device cpu --network unet-XS --width 8 --multipliers 1 --blocks 1 --batch-size 24 --sample-every 0 "
    "--checkpoint-every 2 --log-every 1 --validate-every 1 --keep 9"
)
SENTENCE = (
    "20 images of 20 sizes (from 20 x 24 to 115 x 81): each cropped to its centred square and scaled to 16 x 16; "
    "choose another with --size\n"
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 20 sizes: one grey, one transparent, one on its side, one in 16 bits; in two folders."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(20):
        path = folder / ("cats" if i % 3 else "dogs") / f"{i:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (24 + 3 * i, 20 + 5 * i, 4), dtype=np.uint8)
        match i:
            case 3:
                Image.fromarray(pixels[..., 0]).save(path)
            case 4:
                Image.fromarray(pixels).save(path.with_suffix(".png"))
            case 5:
                exif = Image.Exif()
                exif[0x0112] = 6
                Image.fromarray(pixels[..., :3]).save(path, exif=exif)
            case 6:
                deep = pixels[..., 0].astype(np.uint16) * 257
                Image.fromarray(deep).save(path.with_suffix(".png"))
            case _:
                Image.fromarray(pixels[..., :3]).save(path)
    return folder


def run(data: Path, out: Path, *options: str, steps: int = 3) -> int:
    place = ["--data", str(data), "--out", str(out), "--steps", str(steps)]
    return main(["train", "images", *place, *TINY.split(), *options])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def recipe(data: Path, **options: Any) -> Images:
    chosen = {"device": "cpu", "width": 8, "multipliers": (1,), "batch_size": 7} | options
    found = settle(Images.of(data=data, **chosen))
    assert isinstance(found, Images)
    return found


@pytest.fixture(scope="module")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(photographs, folder, steps=4) == 0
    return folder


def test_twenty_photographs_of_many_sizes_train_and_what_was_done_is_said(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photographs, tmp_path / "run", "--sample-every", "2") == 0
    # All of it, and once, although the data are read by two steps.
    assert capsys.readouterr().err == SENTENCE
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["pictures"]["size"] == 16
    parts = json.loads((tmp_path / "run" / "model.json").read_text())["parts"]
    assert parts["spec"]["config"]["shape"] == [3, 16, 16]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 3
    # The loss on the two that are held out.
    assert all(np.isfinite([v for k, v in entry.items() if "loss" in k]).all() for entry in log)
    assert any((tmp_path / "run" / "samples").iterdir())


def test_the_chosen_size_is_that_of_the_run_when_it_is_resumed_or_judged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    last = sorted((again / "checkpoints").iterdir(), key=lambda path: path.name)[-1]
    shutil.rmtree(last) if last.is_dir() else last.unlink()

    def choose(*_: object) -> None:
        raise AssertionError("a size is chosen once")

    monkeypatch.setattr("pushforward.data.find_size", choose)
    monkeypatch.setattr("pushforward.data.images.load.choose_size", choose)
    capsys.readouterr()
    assert main(["train", "images", "--out", str(again), "--resume", "--device", "cpu"]) == 0
    assert "at step 2 of 4" in capsys.readouterr().out
    assert same(weights(again), weights(trained))
    assert main(["evaluate", str(again), "--num", "4", "--nfe", "2", "--device", "cpu"]) == 0
    assert main(["sample", str(again), "--num", "2", "--nfe", "2", "--label", "1"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("altered", [{}, {"flip": True, "shift": 2}])
def test_decoded_early_or_late_packed_or_not_batches_are_the_same_bit_for_bit(
    photographs: Path, tmp_path: Path, altered: dict[str, Any]
) -> None:
    assert main(["pack", str(photographs), "--out", str(tmp_path / "a"), "--per-shard", "7"]) == 0
    streams, ends = [], []
    for data in (photographs, tmp_path / "a"):
        for lazy in ("yes", "no"):
            experiment = recipe(data, lazy=lazy, **altered).build()
            streams += [experiment.stream, Prefetch(experiment.stream, 4, 2)]
            ends.append(experiment)
    for step in (0, 3, 1, 50):
        first, *others = [stream.at(step) for stream in streams]
        for other in others:
            assert torch.equal(other.x1, first.x1)
            assert torch.equal(other.cond["label"], first.cond["label"])
    for experiment in ends:
        assert experiment.model.spec.class_names == ("cats", "dogs")
        held_out = experiment.held_out
        assert torch.equal(held_out[torch.arange(2)].x1, ends[0].held_out[torch.arange(2)].x1)
    for stream in streams:
        if isinstance(stream, Prefetch):
            stream.close()


def test_workers_and_lateness_change_no_weight(
    photographs: Path, trained: Path, tmp_path: Path
) -> None:
    assert run(photographs, tmp_path / "b", "--lazy", "yes", "--workers", "2", steps=4) == 0
    assert same(weights(tmp_path / "b"), weights(trained))


def test_random_squares_are_for_training_and_the_same_whoever_draws_them(
    photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, cut = recipe(photographs).build(), recipe(photographs, crop=True).build()
    assert "each cropped to a square of it drawn at random and scaled" in capsys.readouterr().err
    first = cut.stream.at(2).x1
    assert not torch.equal(first, plain.stream.at(2).x1)
    with Prefetch(cut.stream, 3, 2) as ahead:
        assert torch.equal(ahead.at(2).x1, first)
    both = torch.arange(2)
    assert torch.equal(cut.held_out[both].x1, plain.held_out[both].x1)


def test_images_of_one_size_keep_it_unless_it_is_beyond_what_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, size in (("small", (24, 16)), ("edge", (256, 9)), ("large", (300, 257))):
        (tmp_path / folder).mkdir()
        for i in range(4):
            Image.new("RGB", size, (i, 0, 0)).save(tmp_path / folder / f"{i}.png")
    for folder, shape in (("small", (3, 16, 24)), ("edge", (3, 9, 256))):
        found = recipe(tmp_path / folder)
        assert "size" not in found.recorded()["pictures"]
        assert found.build().model.shape == shape
        assert capsys.readouterr().err == ""
    assert recipe(tmp_path / "small", size=8).build().model.shape == (3, 8, 8)
    assert recipe(tmp_path / "small", crop=True).recorded()["pictures"]["size"] == 16
    capsys.readouterr()
    found = recipe(tmp_path / "large")
    assert found.recorded()["pictures"]["size"] == 64
    assert "4 images of 300 x 257: each cropped to its centred square" in capsys.readouterr().err


def test_pixels_stay_in_files_where_that_is_asked_for(photographs: Path) -> None:
    for lazy, kind in (("yes", Pictures), ("no", np.ndarray), ("auto", np.ndarray)):
        data = recipe(photographs, lazy=lazy).build().data
        assert isinstance(data, Dataset)
        assert isinstance(data.values, kind)


def test_recipes_that_do_not_record_a_size_say_what_they_chose(
    photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_images(photographs, PictureOptions()).shape == (3, 16, 16)
    assert capsys.readouterr().err == SENTENCE


def test_a_run_that_is_resumed_chooses_nothing(photographs: Path) -> None:
    assert "size" not in Images.of(data=photographs, resume=True).settled().recorded()["pictures"]


def test_only_the_first_of_several_processes_speaks(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Processes, "current", lambda: Processes(1, 1))
    assert recipe(photographs).pictures.size == 16
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lazy", ["yes", "no"])
def test_a_photograph_that_cannot_be_decoded_is_named_or_left_out_aloud(
    photographs: Path, tmp_path: Path, lazy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    spoilt = data / "cats" / "08.jpg"
    spoilt.write_bytes(spoilt.read_bytes()[:-900])
    assert run(data, tmp_path / "run", "--lazy", lazy) == 1
    said = capsys.readouterr().err
    assert "cats/08.jpg" in said
    assert "--on-bad skip" in said or "on_bad" in said
    assert run(data, tmp_path / "other", "--lazy", lazy, "--on-bad", "skip") == 0
    said = capsys.readouterr().err
    assert said.count("cats/08.jpg") == 1
    assert "skipped" in said


def test_what_cannot_be_cut_at_random_is_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--lazy no"):
        recipe(photographs, crop=True, lazy="no").build()
    np.save(tmp_path / "a.npy", np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="crop"):
        recipe(tmp_path / "a.npy", crop=True).build()
