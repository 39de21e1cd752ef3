"""Emoji: a made-up package in the layout of the real one, read in all its forms."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pushforward.core.errors import DataError, InputError
from pushforward.data import Dataset, emoji, load_emoji, split_by_name

LIST = [
    {"name": "RED HEART", "category": "Symbols", "image": "2764.png", "has_img_twitter": True},
    {"name": "DOG FACE", "category": "Animals", "image": "1f436.png", "has_img_twitter": True},
    {"name": "Cat", "category": "Animals", "image": "1f431.png", "has_img_twitter": True},
    {"name": "NOWHERE", "category": "Symbols", "image": "0.png", "has_img_twitter": False},
]


def drawn(value: int) -> Image.Image:
    """Colour (value, 10, 200), opaque on the left, half covered on the right, clear in the last row."""
    pixels = np.empty((64, 64, 4), np.uint8)
    pixels[:] = (value, 10, 200, 255)
    pixels[:, 32:, 3] = 128
    pixels[-1, :, 3] = 0
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    (root / emoji.PICTURES).mkdir(parents=True)
    (root / emoji.NAMES).write_text(json.dumps(LIST))
    for i, entry in enumerate(LIST[:3]):
        drawn(50 * i).save(root / emoji.PICTURES / str(entry["image"]))
    return root


def packed(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "package")
    return path


def test_pictures_stand_on_white_with_their_names_and_categories(folder: Path) -> None:
    data = load_emoji(path=folder)
    assert data.captions == ("red heart", "dog face", "cat")
    assert data.class_names == ("Animals", "Symbols")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 0]
    x = ((data[torch.arange(3)].x1 + 1) * 127.5).round()
    for i in range(3):
        colour = torch.tensor([50.0 * i, 10, 200])
        assert torch.equal(x[i, :, 0, 0], colour)
        # Half covered: colour a + white (1 - a), to a grey level.
        half = colour * 128 / 255 + 127
        assert (x[i, :, 0, 63] - half).abs().max() <= 1
        assert (x[i, :, 63] == 255).all()
    assert "CC-BY 4.0" in data.notes[0]


def test_archive_folder_and_array_are_the_same_data(folder: Path, tmp_path: Path) -> None:
    want = load_emoji(path=folder)
    x = ((want[torch.arange(3)].x1 + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(
        tmp_path / "e.npz", image=x, caption=["Red heart", "dog face", "cat"],
        category=["Symbols", "Animals", "Animals"],
    )  # fmt: skip
    for path in (packed(folder, tmp_path / "e.tgz"), tmp_path, tmp_path / "e.npz"):
        assert load_emoji(path=path).fingerprint() == want.fingerprint()


def test_smaller_pictures_are_means_of_larger_ones(folder: Path) -> None:
    small = load_emoji(16, folder)
    assert small.shape == (3, 16, 16)
    x = ((small[torch.arange(3)].x1 + 1) * 127.5).round()
    assert torch.equal(x[2, :, 3, 2], torch.tensor([100.0, 10, 200]))
    with pytest.raises(InputError, match="size is at most 64, not 128"):
        load_emoji(128, folder)


def test_what_is_not_the_package_is_said(folder: Path, tmp_path: Path) -> None:
    def refused(path: Path, words: str) -> None:
        with pytest.raises(DataError, match=words):
            load_emoji(path=path)

    refused(tmp_path / "none.tgz", "there is no file")
    refused(tmp_path / "none.npz", "cannot be read as an .npz file")
    (tmp_path / "noise.tgz").write_bytes(b"\x1f\x8bnoise")
    refused(tmp_path / "noise.tgz", "cannot be read as an archive")
    whole = packed(folder, tmp_path / "e.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.tgz", "cannot be read as an archive")
    np.savez(tmp_path / "odd.npz", image=np.zeros((3, 8, 8, 3)), caption=["a"], category=["b"])
    refused(tmp_path / "odd.npz", "emoji are uint8")
    np.savez(tmp_path / "less.npz", image=np.zeros((3, 8, 8, 3)))
    refused(tmp_path / "less.npz", "needs image, caption and category")
    picture = folder / emoji.PICTURES / "1f431.png"
    picture.write_bytes(picture.read_bytes()[:60])
    refused(folder, "1f431.png cannot be decoded")
    Image.new("RGB", (32, 64)).save(picture)
    refused(folder, "32 x 64 pixels, not 64 x 64")
    picture.unlink()
    refused(folder, "has no img/twitter/64/1f431.png.*or not all of it")
    for content, words in (
        ("[]", "lists no emoji"), ("{", "is not the list"), ("[3]", "is not the list"),
        (json.dumps([{**LIST[0], "image": "../a.png"}]), "leads out"),
        (json.dumps([{**LIST[0], "name": 3}]), "no name, category or image"),
    ):  # fmt: skip
        (folder / emoji.NAMES).write_text(content)
        refused(folder, words)


def test_the_archive_comes_from_the_public_registry_and_is_checked(
    monkeypatch, folder, tmp_path
) -> None:
    asked = []

    def fetched(address: str, into: Path, sha256: str | None, instead: str) -> Path:
        asked.append((address, sha256, into))
        return packed(folder, tmp_path / "e.tgz")

    monkeypatch.setattr(emoji, "fetch", fetched)
    monkeypatch.setenv("PUSHFORWARD_CACHE", str(tmp_path / "cache"))
    assert len(load_emoji()) == 3
    ((address, sha256, into),) = asked
    assert address.startswith("https://registry.npmjs.org/emoji-datasource-twitter/")
    assert "16.0.0" in address
    assert len(sha256) == 64
    assert into == tmp_path / "cache" / "emoji"


def named(names: list[str]) -> Dataset:
    return Dataset.from_arrays(np.zeros((len(names), 2), np.float32), captions=names)


def test_names_are_held_out_by_themselves() -> None:
    names = [f"thing {i}" for i in range(2000)]
    train, apart = split_by_name(named(names), 0.1)
    train_names, apart_names = set(train.captions or ()), set(apart.captions or ())
    assert train_names | apart_names == set(names)
    assert not train_names & apart_names
    # Binomial(2000, 0.1) has a standard deviation of 13.4.
    assert abs(len(apart) - 200) < 4 * 13.4
    # In another order, each twice, beside others: the same.
    again, apart_again = split_by_name(named([*names[::-1], *names, "one more"]), 0.1)
    assert set(apart_again.captions or ()) - {"one more"} == apart_names
    assert set(split_by_name(named(names), 0.1, seed=1)[1].captions or ()) != apart_names
    with pytest.raises(DataError, match="leaves one part empty"):
        split_by_name(named(names[:2]), 1e-9)
    with pytest.raises(DataError, match="without captions"):
        split_by_name(Dataset.from_arrays(np.zeros((3, 2), np.float32)))
    assert len(again) + len(apart_again) == 4001
