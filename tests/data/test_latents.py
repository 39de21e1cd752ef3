"""Pictures that are encoded once."""

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError
from pushforward.data import Dataset
from pushforward.data.latents import encode_pictures, latent_data, statistics


def pictures(n=150, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, 1, 4, 4), dtype=np.uint8)
    return Dataset.from_arrays(values, labels=np.arange(n) % 3, captions=[f"no. {i}" for i in range(n)])  # fmt: skip


class Pool:
    """Means of 2 x 2 pixels in two channels; counts the pictures that it was asked about."""

    def __init__(self):
        self.asked = 0

    def __call__(self, x):
        self.asked += len(x)
        z = torch.nn.functional.avg_pool2d(x, 2)
        return torch.cat((z, 3 * z + 1), 1)


def test_pictures_are_encoded_once_whatever_asks(tmp_path):
    data, encode = pictures(), Pool()
    one = encode_pictures(data, encode, "k" * 64, tmp_path)
    asked = encode.asked
    two = encode_pictures(data, encode, "k" * 64, tmp_path)
    assert encode.asked == asked
    assert np.array_equal(one.values, two.values)
    assert isinstance(two.values, np.memmap)
    assert np.array_equal(two.values, Pool()(data[torch.arange(150)].x1).numpy())
    # Another autoencoder, or other data, are encoded anew.
    for other, key in (
        (data, "l" * 64),
        (pictures(seed=1), "k" * 64),
        (data.split(0.5)[0], "k" * 64),
    ):
        before = encode.asked
        encode_pictures(other, encode, key, tmp_path)
        assert encode.asked >= before + len(other)
    assert not list(tmp_path.glob(".*"))


def test_latents_have_the_labels_and_captions_of_their_pictures(tmp_path):
    data, _ = pictures().split(0.5, seed=3)
    found = encode_pictures(data, Pool(), "k" * 64, tmp_path)
    mean, std = statistics(found.values)
    latents = latent_data(data, found, torch.tensor(mean), torch.tensor(std))
    rows = torch.tensor([5, 0, 31])
    ours, theirs = latents[rows], data[rows]
    assert latents.shape == (2, 2, 2)
    assert len(latents) == len(data)
    expected = (Pool()(theirs.x1) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    assert torch.equal(ours.x1, expected)
    assert torch.equal(ours.cond["label"], theirs.cond["label"])
    assert ours.texts == theirs.texts
    every = latents[torch.arange(len(latents))].x1.double()
    assert every.mean((0, 2, 3)).abs().max() < 1e-5
    assert (every.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_where_a_picture_has_taken_the_place_of_another_all_else_is_its_own(tmp_path):
    data = pictures(10)
    found = encode_pictures(data, Pool(), "k" * 64, tmp_path)
    ids = found.ids.copy()
    ids[4] = 7
    moved = type(found)(found.values, ids)
    latents = latent_data(data, moved, torch.zeros(2), torch.ones(2))
    batch = latents[torch.tensor([4])]
    assert batch.texts["caption"] == ("no. 7",)
    assert int(batch.cond["label"]) == 7 % 3


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("")
    data = pictures()
    found = encode_pictures(data, Pool(), "k" * 64, tmp_path / "file")
    assert np.array_equal(found.values, Pool()(data[torch.arange(150)].x1).numpy())


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY rubbish"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    data = pictures()
    one = np.array(encode_pictures(data, Pool(), "k" * 64, tmp_path).values)
    (file,) = (f for f in tmp_path.glob("*.npy") if not f.name.endswith(".ids.npy"))
    file.write_bytes(damage)
    assert np.array_equal(encode_pictures(data, Pool(), "k" * 64, tmp_path).values, one)


def test_latents_that_are_not_finite_are_refused_and_not_kept(tmp_path):
    with pytest.raises(DataError, match="not finite"):
        encode_pictures(pictures(), lambda x: Pool()(x) / 0 * 0, "k" * 64, tmp_path)
    assert not list(tmp_path.iterdir())


def test_statistics_are_those_of_all_blocks(monkeypatch):
    monkeypatch.setattr("pushforward.data.latents.BLOCK", 7)
    x = np.random.default_rng(0).normal(1e3, 1e-2, (20, 3, 2, 5))
    mean, std = statistics(x)
    assert np.allclose(mean, x.mean((0, 2, 3)))
    assert np.allclose(std, x.std((0, 2, 3)), rtol=1e-6)
