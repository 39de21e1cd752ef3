"""Batches with coarse pictures made worse: keyed by seed, step and place, whoever computes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import pushforward as pf
from pushforward.core.augmentation import NoiseAugmentation
from pushforward.core.errors import InputError
from pushforward.data.dataset import Dataset
from pushforward.data.images.coarse import Small
from pushforward.streams.augmented import Augmented
from pushforward.streams.drawn import Drawn
from pushforward.streams.shuffled import Shuffled


def data() -> Dataset:
    torch.manual_seed(0)
    whole = Dataset.from_arrays(torch.randn(11, 1, 4, 4).numpy(), kind="image")
    return replace(whole, hints={"coarse": Small(2)})


def test_a_share_of_a_batch_is_that_of_the_whole_and_only_the_coarse_picture_changes() -> None:
    plain = Shuffled(data(), 6, seed=3)
    stream = Augmented(plain, NoiseAugmentation(), seed=3)
    for step in (0, 4):
        batch, before = stream.at(step), plain.at(step)
        part = stream.part(slice(2, 5)).at(step)
        assert torch.equal(batch.x1, before.x1)
        assert torch.equal(part.x1, batch.x1[2:5])
        assert torch.equal(part.cond["augment_level"], batch.cond["augment_level"][2:5])
        coarse = batch.cond["control"]["coarse"]
        assert torch.equal(part.cond["control"]["coarse"], coarse[2:5])
        level = batch.cond["augment_level"].double()
        want = NoiseAugmentation()(
            before.cond["control"]["coarse"], level, pf.Noise.batch(6, 3, step)
        )
        assert torch.allclose(coarse, want, atol=1e-6)
        assert 0 < float(level.min()) <= float(level.max()) < 0.5
    assert not torch.equal(stream.at(0).cond["augment_level"], stream.at(1).cond["augment_level"])


def test_the_noise_is_none_that_the_objective_draws() -> None:
    # x0 of training and the noise of the coarse picture, both keyed by seed, step and place.
    n = 4000
    zeros = Dataset.from_arrays(torch.zeros(n, 1, 2, 2).numpy(), kind="image")
    zeros = replace(zeros, hints={"coarse": Small(1)})
    batch = Augmented(Shuffled(zeros, n, 1), NoiseAugmentation(1.0), 1).at(2)
    z = batch.cond["control"]["coarse"] / batch.cond["augment_level"][:, None, None, None]
    noise = pf.Noise.batch(n, 1, 2)
    x0, t = noise.normal((1, 2, 2)), noise.uniform()
    assert ((x0 * z).mean(0) * n**0.5).abs().max() < 4.5
    level = batch.cond["augment_level"].double()
    assert abs(float(torch.corrcoef(torch.stack((level, t)))[0, 1])) < 4.5 / n**0.5


def test_a_stream_without_coarse_pictures_is_refused() -> None:
    stream = Augmented(Drawn(pf.laws.Moons(), 4, 0), NoiseAugmentation(), 0)
    with pytest.raises(InputError, match="no low-resolution pictures"):
        stream.at(0)
