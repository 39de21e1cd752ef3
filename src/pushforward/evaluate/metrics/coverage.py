"""How much of the data samples look like, and how much of the samples data look like."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.evaluate.metrics.distances import check_points, row_blocks, squared_distances


class Coverage(NamedTuple):
    """precision, recall, coverage in [0, 1]; density from 0 on, about 1 for samples of the law of the data."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Tensor, fake: Tensor, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage of features real x (N, D) and fake y (M, D).

    With B(x_i) the closed ball to the k-th nearest of the other real samples, B(y_j) that of the fake ones:

        precision = mean_j 1[y_j in some B(x_i)]             recall   = mean_i 1[x_i in some B(y_j)]
        density   = mean_j sum_i 1[y_j in B(x_i)] / k        coverage = mean_i 1[some y_j in B(x_i)]

    One sample far from all others has a large ball, which precision counts in full and density as a k-th. For two sets
    of one continuous law E density = 1, and E coverage is `expected_coverage`.

    Distances are computed in float64, in blocks; memory goes with N + M.

    Kynkaanniemi et al. 2019 (arXiv 1904.06991), eq. 1 and 2; Naeem et al. 2020 (arXiv 2002.09797), eq. 3 to 5.
    """
    if k < 1:
        raise InputError(f"k is {k}; it must be positive")
    check_points(k + 1, real, fake)
    real, fake = real.double(), fake.double()
    centre = real.mean(0)
    real, fake = real - centre, fake - centre
    around_real, around_fake = _radii(real, k), _radii(fake, k)
    counts = real.new_zeros(len(fake))
    recalled, covered = 0, 0
    for rows in row_blocks(len(real), len(fake)):
        squared = squared_distances(real[rows], fake)
        inside = squared <= around_real[rows, None]
        counts += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared <= around_fake).any(1).sum())
    return Coverage(
        float((counts > 0).double().mean()),
        recalled / len(real),
        float(counts.mean()) / k,
        covered / len(real),
    )


def expected_coverage(real: int, fake: int, k: int = 5) -> float:
    """`1 - prod_{i=0}^{k-1} (N - 1 - i)/(N + M - 1 - i)`: of N real and M fake samples of one continuous law.

    A real sample is not covered if its k nearest among the N - 1 + M others are all real. With M = N it is
    1 - (N-1) ... (N-k) / ((2N-1) ... (2N-k)). Naeem et al. 2020 (arXiv 2002.09797), lemma 2.
    """
    missed = 1.0
    for i in range(k):
        missed *= max(0, real - 1 - i) / (real + fake - 1 - i)
    return 1 - missed


def _radii(x: Tensor, k: int) -> Tensor:
    """(N,) squared distances to the k-th nearest of the other points."""
    found = []
    for rows in row_blocks(len(x), len(x)):
        squared = squared_distances(x[rows], x)
        place = torch.arange(rows.start, rows.stop, device=x.device)
        squared[place - rows.start, place] = torch.inf
        found.append(squared.kthvalue(k, dim=1).values)
    return torch.cat(found)
