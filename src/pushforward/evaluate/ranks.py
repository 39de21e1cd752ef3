"""Where the true vector stands among others, by what was drawn for its text."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pushforward.core.errors import InputError


def ranks(drawn: Tensor, true: Tensor) -> Tensor:
    """(N,) float64, the rank of each row of `true` (N, D) among all rows, by its cosine with the same row of `drawn`.

    1 is nearest and N farthest; with ties it is the mean of the ranks that they could have. Vectors that say nothing
    have a mean rank of (N + 1)/2.
    """
    if drawn.shape != true.shape or drawn.ndim != 2 or len(drawn) < 2:
        raise InputError(
            f"ranks are of two or more vectors and as many true ones, got {tuple(drawn.shape)} and {tuple(true.shape)}"
        )
    cosines = normalize(drawn.double(), dim=1) @ normalize(true.double(), dim=1).T
    own = cosines.diagonal()[:, None]
    tied = ((cosines - own).abs() <= 1e-12).sum(1) - 1
    nearer = (cosines > own + 1e-12).sum(1)
    return 1 + nearer + tied / 2


def judge_ranks(drawn: Tensor, true: Tensor) -> dict[str, float]:
    """mean_rank with its standard error, median_rank, and within_10: the share of ranks up to 10. of: how many."""
    found = ranks(drawn, true)
    n = len(found)
    p = float((found <= 10).double().mean())
    return {
        "of": float(n),
        "mean_rank": float(found.mean()),
        "mean_rank_error": float(found.std() / math.sqrt(n)),
        "median_rank": float(torch.quantile(found, 0.5)),
        "within_10": p,
        "within_10_error": math.sqrt(p * (1 - p) / n),
    }
