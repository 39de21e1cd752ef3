"""Samples beside the training images nearest to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pages import enlarged, places
from pages import pixels as pixels_of
from pushforward.data import Dataset
from pushforward.evaluate.figures.neighbours import neighbours
from pushforward.evaluate.metrics.neighbours import (
    memorisation,
)


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3)).astype(np.uint8)


def test_the_picture_has_the_nearest_samples_first_and_beside_each_its_training_images() -> None:
    train = Dataset.from_arrays(images(30, 0))
    x = train[torch.arange(30)].x1
    held_out = Dataset.from_arrays(images(40, 1))[torch.arange(40)].x1
    # Sample 2 is a copy of entry 11, sample 0 nearly one of entry 4, the others are new.
    new = held_out[:3].sign()
    samples = torch.cat((0.97 * x[4:5], new[:1], x[11:12], new[1:]))
    found = memorisation(
        samples.flatten(1), held_out.flatten(1), train[torch.arange(len(train))].x1.flatten(1), 3
    )
    page = pixels_of(neighbours(samples, found, train, rows=3, cell=18))
    side = 18

    def at(image: torch.Tensor) -> list[tuple[int, int]]:
        """Where an image is on the page, from the top left."""
        return places(page, enlarged(((image + 1) * 127.5).round().clamp(0, 255), 3))

    near = found.samples
    assert near.distances[:, 0].argsort()[:2].tolist() == [2, 0]
    third = int(near.distances[:, 0].argsort()[2])
    tops = []
    for sample in (2, 0, third):
        copies = {i: at(x[i]) for i in near.indices[sample].tolist()}
        mine = at(samples[sample])
        tops.append(mine[0][0])
        # The entry that sample 2 is a copy of is found at the place of the sample, too.
        columns = [
            max(c for r, c in copies[i] if r == tops[-1]) for i in near.indices[sample].tolist()
        ]
        assert min(c for _, c in mine) < columns[0] < columns[1] < columns[2]
    assert tops == sorted(tops)
    assert tops[0] < tops[1] < tops[2]

    def red(row: int) -> bool:
        """Whether a number below this row is in the colour of copies."""
        strip = page[tops[row] + side : tops[row] + side + 20].astype(int)
        return bool((strip[..., 0] - strip[..., 1] > 80).any())

    assert found.samples.distances[2, 0] == 0
    assert red(0)
    assert not red(2)


def test_a_picture_is_of_images_only() -> None:
    train = Dataset.from_arrays(images(9, 0))
    flat = torch.zeros(3, 108)
    found = memorisation(flat, flat, train[torch.arange(len(train))].x1.flatten(1), 2)
    with pytest.raises(pf.InputError, match="neighbours are drawn of images"):
        neighbours(flat, found, train)
    many, one = (neighbours(torch.zeros(3, 3, 6, 6), found, train, rows=rows) for rows in (99, 1))
    assert many.get_figheight() > one.get_figheight()
