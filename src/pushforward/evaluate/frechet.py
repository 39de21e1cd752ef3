"""The Frechet distance between Gaussian fits."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.errors import InputError


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of samples (N, ...), flattened, in float64."""
    flat = x.flatten(1).double()
    if len(flat) < 2:
        raise InputError("a covariance takes at least two samples")
    return flat.mean(0), flat.T.cov()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """`|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2})` of samples a (N, ...) and b (M, ...).

    The squared 2-Wasserstein distance between the Gaussians with their moments (Dowson & Landau 1982); on features of a
    network it is the FID (Heusel et al. 2017, arXiv 1706.08500). Biased upwards by about 1/N + 1/M: compare only values
    from equal numbers of samples. The trace of the root is the sum of the roots of the eigenvalues of
    C_a^{1/2} C_b C_a^{1/2}, which is symmetric.
    """
    if a.shape[1:] != b.shape[1:]:
        raise InputError(
            f"samples of shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be compared"
        )
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(squared))
