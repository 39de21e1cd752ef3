"""Nearest training data: exact, and copies are told from new data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.data import Dataset
from pushforward.evaluate import distances, neighbours
from pushforward.evaluate.neighbours import (
    COPY,
    FAINT,
    Memorisation,
    Nearest,
    memorisation,
    nearest,
    picture,
    pixels,
)


def normals(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
def test_the_nearest_are_those_of_all_pairs(seed: int, k: int) -> None:
    queries, data = normals(6, 3, seed), normals(11, 3, seed + 1)
    found = nearest(queries, data, k)
    for row, query in enumerate(queries.tolist()):
        far = [math.dist(query, point) for point in data.tolist()]
        order = sorted(range(11), key=far.__getitem__)[:k]
        assert found.indices[row].tolist() == order
        assert found.distances[row].tolist() == pytest.approx([far[i] for i in order], rel=1e-6)


def test_blocks_of_data_and_of_queries_change_nothing(monkeypatch) -> None:
    queries, data = normals(50, 4, 0), normals(83, 4, 1)
    want = nearest(queries, data, 5)
    for got in (nearest(queries, data.split(3), 5), nearest(queries, iter(data.split(20)), 5)):
        assert torch.equal(got.indices, want.indices)
        assert torch.allclose(got.distances, want.distances, rtol=1e-9)
    seen = []

    def watched(a, b):
        seen.append(len(a) * len(b))
        return distances.squared_distances(a, b)

    monkeypatch.setattr(neighbours, "squared_distances", watched)
    monkeypatch.setattr(neighbours, "BLOCK", 10)
    monkeypatch.setattr(distances, "CELLS", 70)
    got = nearest(queries, data, 5)
    assert torch.equal(got.indices, want.indices)
    assert max(seen) <= 70
    assert sum(seen) == 50 * 83


def test_a_copy_is_at_distance_0_also_far_from_the_origin_and_in_single_precision() -> None:
    data = (normals(40, 6, 2) + 200).float()
    found = nearest(data[[7, 3, 39]], data, 2)
    assert found.indices[:, 0].tolist() == [7, 3, 39]
    assert found.distances[:, 0].tolist() == [0, 0, 0]
    assert (found.distances[:, 1] > 0).all()


def test_more_nearest_than_there_are_data_are_refused() -> None:
    with pytest.raises(pf.InputError, match="4 nearest of 3 points"):
        nearest(normals(2, 2, 0), normals(3, 2, 1), 4)
    with pytest.raises(pf.InputError, match="must be positive"):
        nearest(normals(2, 2, 0), normals(3, 2, 1), 0)
    with pytest.raises(pf.InputError, match="of one D"):
        nearest(normals(2, 2, 0), normals(3, 3, 1))


def test_new_data_are_as_near_as_held_out_data_and_copies_are_not() -> None:
    train, held_out = normals(800, 3, 0), normals(3000, 3, 1)
    new = memorisation(normals(3000, 3, 2), held_out, train)
    assert new.ratio == pytest.approx(1, abs=0.08)
    # 30 of 3000 lie below the 1 % quantile of as many others.
    assert abs(new.copied - 0.01) < 4 * math.sqrt(2 * 0.01 / 3000)
    copies = memorisation(train, held_out, train)
    assert (copies.ratio, copies.copied) == (0, 1)
    half = memorisation(torch.cat((train[:400], normals(400, 3, 3))), held_out, train)
    assert half.copied == pytest.approx(0.505, abs=0.015)
    near = memorisation(train + 0.003 * normals(800, 3, 4), held_out, train)
    assert near.copied > 0.95
    assert near.samples.indices.shape == (800, 5)
    assert near.samples.indices[:, 0].tolist() == list(range(800))


def test_the_figures_are_medians_and_shares_of_the_distances() -> None:
    def of(values: list[float]) -> Nearest:
        column = torch.tensor(values).double()[:, None]
        return Nearest(column, torch.zeros(len(values), 1, dtype=torch.int64))

    held_out = of([float(i) for i in range(1, 102)])  # The 1 % quantile is 2, the median 51.
    found = Memorisation(of([1.0, 2.0, 2.1, 17.0, 60.0]), held_out)
    assert found.threshold == pytest.approx(2)
    assert found.figures("x") == pytest.approx({"nearest_ratio_x": 2.1 / 51, "copied_x": 0.4})
    assert Memorisation(of([0.0, 0.0]), of([0.0, 0.0])).figures("x") == {
        "nearest_ratio_x": 1, "copied_x": 1,
    }  # fmt: skip


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3)).astype(np.uint8)


def test_pixels_are_the_data_in_order() -> None:
    data = Dataset.from_arrays(images(7, 0))
    whole = torch.cat(list(pixels(data)))
    assert torch.equal(whole, data[torch.arange(7)].x1.flatten(1))


def test_the_picture_has_the_nearest_samples_first_and_beside_each_its_training_images() -> None:
    train = Dataset.from_arrays(images(30, 0))
    x = train[torch.arange(30)].x1
    held_out = Dataset.from_arrays(images(40, 1))[torch.arange(40)].x1
    # Sample 2 is a copy of entry 11, sample 0 nearly one of entry 4, the others are new.
    new = held_out[:3].sign()
    samples = torch.cat((0.97 * x[4:5], new[:1], x[11:12], new[1:]))
    found = memorisation(samples.flatten(1), held_out.flatten(1), pixels(train), 3)
    page = np.array(picture(samples, found, train, rows=3, cell=18))
    side = 18

    def places(image: torch.Tensor) -> list[tuple[int, int]]:
        """Where an image is on the page, from the top left."""
        shown = ((image + 1) * 127.5).round().clamp(0, 255).movedim(0, -1).numpy().astype(np.uint8)
        big = shown.repeat(3, 0).repeat(3, 1)
        rows, columns = page.shape[0] - side + 1, page.shape[1] - side + 1
        return [
            (r, c)
            for r in range(rows)
            for c in range(columns)
            if (page[r, c] == big[0, 0]).all()
            and np.array_equal(page[r : r + side, c : c + side], big)
        ]

    near = found.samples
    assert near.distances[:, 0].argsort()[:2].tolist() == [2, 0]
    third = int(near.distances[:, 0].argsort()[2])
    tops = []
    for sample in (2, 0, third):
        at = {i: places(x[i]) for i in near.indices[sample].tolist()}
        mine = places(samples[sample])
        tops.append(mine[0][0])
        # The entry that sample 2 is a copy of is found at the place of the sample, too.
        columns = [max(c for r, c in at[i] if r == tops[-1]) for i in near.indices[sample].tolist()]
        assert min(c for _, c in mine) < columns[0] < columns[1] < columns[2]
    assert tops == sorted(tops)
    assert tops[0] < tops[1] < tops[2]

    def painted(colour: tuple[int, int, int], row: int) -> bool:
        strip = page[tops[row] + side : tops[row] + side + 22]
        return bool((strip == colour).all(2).any())

    assert found.samples.distances[2, 0] == 0
    assert painted(COPY, 0)
    assert not painted(COPY, 2)
    assert painted(FAINT, 2)


def test_a_picture_is_of_images_only() -> None:
    train = Dataset.from_arrays(images(9, 0))
    flat = torch.zeros(3, 108)
    found = memorisation(flat, flat, pixels(train), 2)
    with pytest.raises(pf.InputError, match="neighbours are drawn of images"):
        picture(flat, found, train)
    one = picture(torch.zeros(3, 3, 6, 6), found, train, rows=99)
    assert one.height > picture(torch.zeros(3, 3, 6, 6), found, train, rows=1).height
