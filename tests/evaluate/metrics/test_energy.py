"""The energy distance against the plainest possible code."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.frechet import frechet_distance


def normals(n: int, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed)).double()


def test_the_energy_distance_is_the_plain_double_sum() -> None:
    a, b = normals(7, (2, 2), 6), normals(9, (2, 2), 7) + 1
    a, b = a.float(), b.float()

    def mean(x, y, same: bool) -> float:
        distances = [
            math.dist(p.flatten().tolist(), q.flatten().tolist())
            for i, p in enumerate(x)
            for j, q in enumerate(y)
            if not (same and i == j)
        ]
        return sum(distances) / len(distances)

    want = 2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)
    assert energy_distance(a, b) == pytest.approx(want, rel=1e-9)
    assert energy_distance(b, a) == pytest.approx(want, rel=1e-9)


def test_the_energy_distance_of_points_of_two_atoms_is_exact() -> None:
    a, b = torch.zeros(4, 1), torch.full((3, 1), 5.0)
    assert energy_distance(a, b) == 10.0
    assert energy_distance(a, torch.zeros(9, 1)) == 0.0


def test_the_energy_distance_of_two_sets_from_one_law_is_0_on_average() -> None:
    values = torch.tensor(
        [energy_distance(normals(8, (2,), 2 * k), normals(8, (2,), 2 * k + 1)) for k in range(1500)]
    )
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert values.std() / math.sqrt(len(values)) < 0.01
    assert (values < 0).any()


def test_the_energy_distance_does_not_depend_on_how_rows_are_cut() -> None:
    a, b = normals(2100, (2,), 8), normals(2050, (2,), 9) + 0.5
    plain = 2 * torch.cdist(a, b).mean()
    for x in (a, b):
        plain -= torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").sum() / (
            len(x) * (len(x) - 1)
        )
    assert energy_distance(a, b) == pytest.approx(float(plain), rel=1e-6)


@pytest.mark.parametrize("distance", [energy_distance, frechet_distance])
def test_distances_refuse_sets_that_cannot_be_compared(distance) -> None:
    with pytest.raises(pf.InputError):
        distance(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(pf.InputError):
        distance(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(pf.InputError):
        distance(torch.zeros(5, 2), torch.zeros(1, 2))
