"""Gaussian mixtures and finite data sets: laws whose velocity, score, density and divergence are known exactly.

They give Fields on any Gaussian path. Whatever takes a model takes these, so that a solver, an objective or a
likelihood can be tested against the truth.

    law = GaussianMixture(means, covariances, weights)
    field = law.field(path)
    field(x, t, "score"), field.log_prob(x, t), field.divergence(x, t)

If x1 comes from component k with mean m_k and covariance C_k, x_t is N(alpha m_k, alpha^2 C_k + sigma^2 I), and
given x_t both x1 and x0 are Gaussian; mixing over k with the posterior weights r_k(x_t) gives the marginal field.
Everything is computed in float64 and returned in x's dtype.
"""

from __future__ import annotations

from typing import Any

import torch

from pushforward.core.errors import InputError
from pushforward.core.paths import Path
from pushforward.laws.components import General, Isotropic
from pushforward.laws.exact_field import ExactField
from pushforward.laws.finite_mixture import FiniteMixture
from pushforward.laws.flow_map import ExactMap


class _WithField(FiniteMixture):
    def field(self, path: Path) -> ExactField:
        """The exact Field of this law on `path`."""
        return ExactField(self, path)

    def flow_map(self, path: Path) -> ExactMap:
        """The exact flow map of this law on `path`: of one Gaussian, or on the line."""
        return ExactMap(self, path)


class GaussianMixture(_WithField):
    """A mixture of Gaussians with any covariances.

    means:       (K, D), or (K, *shape) for data of any shape, D being its size.
    covariances: (K, D, D); or variances (K, D) of diagonal ones, (K,) of isotropic ones, or one number.
                 Singular ones are allowed; the law then has no density, but its fields exist where sigma > 0.
    weights:     (K,) positive, of sum 1; 1/K by default.
    labels:      (K,) class of each component, for fields and samples under a condition `label`.

    Raises InputError for shapes that do not fit, values that are not finite, covariances that are not positive
    semi-definite, and weights that are not positive or do not sum to 1.
    """

    def __init__(
        self, means: Any, covariances: Any = 1.0, weights: Any = None, labels: Any = None
    ) -> None:
        centres = torch.as_tensor(means, dtype=torch.float64).detach()
        if centres.ndim < 2 or 0 in centres.shape:
            raise InputError(
                f"means must have shape (K, D) or (K, *shape), got {tuple(centres.shape)}"
            )
        if not bool(centres.isfinite().all()):
            raise InputError("means must be finite")
        flat = centres.flatten(1)
        count, dim = flat.shape
        cov = torch.as_tensor(covariances, dtype=torch.float64).detach().to(flat.device)
        if cov.ndim == 0:
            cov = cov.expand(count)
        if cov.shape not in ((count,), (count, dim), (count, dim, dim)):
            raise InputError(
                f"covariances of {count} components in {dim} dimensions must have shape (), ({count},), "
                f"({count}, {dim}) or ({count}, {dim}, {dim}), got {tuple(cov.shape)}"
            )
        values, basis = cov, None
        if cov.ndim == 3:
            if not torch.allclose(cov, cov.mT, rtol=1e-9, atol=1e-12):
                raise InputError("covariances must be symmetric matrices")
            values, basis = torch.linalg.eigh((cov + cov.mT) / 2)
            # Rounding alone makes the zero eigenvalues of a singular matrix slightly negative.
            floor = 1e-12 * values.abs().amax(1, keepdim=True)
            values = torch.where(values.abs() <= floor, 0.0, values)
        if not bool(values.isfinite().all()) or bool((values < 0).any()):
            raise InputError("covariances must be finite and positive semi-definite")
        self.components = (
            Isotropic(flat, values) if values.ndim == 1 else General(flat, values, basis)
        )
        self._setup(tuple(centres.shape[1:]), weights, labels)


class Empirical(_WithField):
    """A finite data set: what a network of unlimited capacity would learn.

    data: (N, *shape). labels: (N,) class of each point, optional. weights: (N,) positive, of sum 1; 1/N by default.
    Its denoiser is the softmax-weighted mean `sum_i r_i x1_i`, r_i ~ w_i exp(-|x - alpha x1_i|^2 / 2 sigma^2) (Karras
    et al. 2022, app. B.3).
    """

    def __init__(self, data: Any, labels: Any = None, weights: Any = None) -> None:
        points = torch.as_tensor(data, dtype=torch.float64).detach()
        if points.ndim < 2 or 0 in points.shape:
            raise InputError(f"data must have shape (N, *shape), got {tuple(points.shape)}")
        if not bool(points.isfinite().all()):
            raise InputError("data must be finite")
        flat = points.flatten(1)
        self.components = Isotropic(flat, flat.new_zeros(len(flat)))
        self._setup(tuple(points.shape[1:]), weights, labels)
