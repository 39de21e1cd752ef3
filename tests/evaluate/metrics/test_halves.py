"""How mapped cells are compared to halves of the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from pushforward.core.errors import InputError
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.halves import compare_to_halves


def normal(n: int, dim: int = 3, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) + shift


def v_statistic(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean()


def test_the_closed_forms_are_the_means_over_splits() -> None:
    mapped, target = normal(50, seed=1, shift=0.2), normal(60, seed=2)
    figures = compare_to_halves(mapped, target, splits=400)
    rng = np.random.default_rng(0)
    m, t = mapped.numpy(), target.numpy()
    to_target, halves = [], []
    for _ in range(4000):
        order = rng.permutation(60)
        h, other = t[order[:30]], t[order[30:]]
        to_target.append(v_statistic(rng.permutation(m)[:30], h))
        halves.append(v_statistic(h, other))
    for name, values in (("to_target", to_target), ("halves", halves)):
        error = np.std(values) / 4000**0.5
        assert abs(figures[name] - np.mean(values)) < 5 * error
        assert error < 0.02 * figures[name]
    assert figures["size"] == 30
    assert figures["ratio"] == pytest.approx(figures["to_target"] / figures["halves"])
    assert figures["energy"] == pytest.approx(energy_distance(mapped, target), abs=1e-5)
    # Means of roots, 400 splits here against 4000 there.
    roots = np.sqrt(to_target).mean() / np.sqrt(halves).mean()
    spread = (
        np.std(np.sqrt(to_target)) / np.sqrt(halves).mean()
        + np.std(np.sqrt(halves)) / np.sqrt(halves).mean()
    )
    assert abs(figures["root_ratio"] - roots) < 5 * spread / 20


def repeated(shift: float, count: int = 250) -> tuple[np.ndarray, np.ndarray]:
    """Ratios of new sets of cells, and the squares of their stated errors."""
    found = [
        compare_to_halves(normal(100, 4, 2 * k, shift), normal(200, 4, 2 * k + 1), splits=1)
        for k in range(count)
    ]
    return np.array([f["ratio"] for f in found]), np.array([f["ratio_error"] ** 2 for f in found])


def test_the_error_of_the_ratio_is_its_spread_over_repetitions() -> None:
    """The mean of squared errors is the variance, within three of the errors of their ratio."""
    ratio, squares = repeated(shift=0.5)
    deviations = (ratio - ratio.mean()) ** 2
    parts = [x.var() / x.mean() ** 2 for x in (squares, deviations)]
    error = (sum(parts) / len(ratio)) ** 0.5
    assert abs(squares.mean() / deviations.mean() - 1) < 3 * error < 0.3


def test_cells_of_the_target_law_have_ratio_one_and_no_smaller_error_than_its_spread() -> None:
    ratio, squares = repeated(shift=0.0)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5 < 0.1
    assert squares.mean() > ratio.var()


def test_a_shift_and_a_wrong_width_are_seen() -> None:
    target = normal(400, 5, 1)
    for mapped in (
        normal(400, 5, 2, shift=0.3),
        1.4 * normal(400, 5, 2),
        target[:1].expand(400, 5),
    ):
        figures = compare_to_halves(mapped, target)
        assert figures["ratio"] - 3 * figures["ratio_error"] > 1.3
        assert figures["root_ratio"] > 1.3
    # And the more so, the larger the sets: the distance stays and that of halves falls.
    shifted = [
        compare_to_halves(normal(n, 5, 3, shift=0.3), normal(n, 5, 4), splits=1)["ratio"] - 1
        for n in (200, 800)
    ]
    assert 2.5 < shifted[1] / shifted[0] < 6


def test_what_cannot_be_compared_is_refused() -> None:
    for mapped, target in (
        (normal(50, 3), normal(50, 2)),
        (normal(24), normal(50)),
        (normal(50), normal(30)),
    ):
        with pytest.raises(InputError, match="cells of one shape"):
            compare_to_halves(mapped, target)
