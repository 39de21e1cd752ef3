"""The Frechet distance between Gaussian fits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pushforward.core.errors import InputError

# Eigenvalues of a covariance of more dimensions than this take minutes.
MAX_DIMENSIONS = 4096


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) of samples (N, ...), flattened, in float64, and `X = (x - m)/sqrt(N - 1)` (N, D).

    `X^T X` is the unbiased covariance.
    """
    flat = x.flatten(1).double()
    if len(flat) < 2:
        raise InputError("a covariance takes at least two samples")
    mean = flat.mean(0)
    return mean, (flat - mean) / math.sqrt(len(flat) - 1)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2})` of samples a (N, ...) and b (M, ...).

    The squared 2-Wasserstein distance between the Gaussians with their moments (Dowson & Landau 1982); on features of a
    network it is the FID (Heusel et al. 2017, arXiv 1706.08500). Biased upwards by about 1/N + 1/M: compare only values
    from equal numbers of samples. With centred samples X, so that `C = X^T X`, the trace of the root is the sum of the
    singular values of `X_a X_b^T` (N, M), which is how it is found where one of the sets has fewer samples than
    dimensions; elsewhere as the sum of the roots of the eigenvalues of `C_a^{1/2} C_b C_a^{1/2}`, which is symmetric.
    """
    if a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"samples of shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be compared"
        )
    (mean_a, x_a), (mean_b, x_b) = centred(a), centred(b)
    if min(len(a), len(b)) < len(mean_a):
        cross = torch.linalg.svdvals(x_a @ x_b.T).sum()
    else:
        values, vectors = torch.linalg.eigh(x_a.T @ x_a)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        cross = torch.linalg.eigvalsh(root @ (x_b.T @ x_b) @ root).clamp(min=0).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + x_a.square().sum() + x_b.square().sum() - 2 * cross
    return max(0.0, float(squared))
