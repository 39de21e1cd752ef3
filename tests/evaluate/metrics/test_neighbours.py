"""Nearest training data: exact, and copies are told from new data."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pushforward as pf
from pushforward.evaluate.metrics import distances, neighbours
from pushforward.evaluate.metrics.neighbours import (
    Memorisation,
    Nearest,
    memorisation,
    nearest,
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
