"""Gaussian components seen along a path: the densities and posterior means of which exact fields are made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """The law of x_t at each sample."""

    log_prob: Tensor  # ln p_t(x), (B,)
    score: Tensor  # grad ln p_t(x), (B, D)
    data: Tensor  # E[x1 | x_t = x], (B, D)


class Traces(NamedTuple):
    """Second derivatives of the law of x_t at each sample, (B,) each."""

    laplacian: Tensor  # lap ln p_t(x)
    divergence: Tensor  # div E[x1 | x_t = x]


class Parts(NamedTuple):
    """Each component k by itself, N_k being its density at time t."""

    log_normal: Tensor  # ln N_k(x), (B, K)
    scores: Tensor  # s_k = grad ln N_k(x), (B, K, D)
    datas: Tensor  # D_k = E[x1 | x, k], less `origin`, (B, K, D)
    score_traces: Tensor  # div s_k, (B, K)
    data_traces: Tensor  # div D_k, (B, K)


class Components(ABC):
    """K Gaussian components in D dimensions, x_t from component k being N(alpha m_k, alpha^2 C_k + sigma^2 I).

    With posterior weights r_k, whose gradient is r_k (s_k - score):

        score = sum r_k s_k                data = sum r_k D_k
        lap ln p = sum r_k (div s_k + |s_k - score|^2)
        div data = sum r_k (div D_k + (s_k - score) . (D_k - data))

    Second moments are taken about the mean, and D_k relative to one of the m_k, so that they keep their digits for
    components that lie close together far from the origin.
    """

    means: Tensor  # (K, D)
    eigenvalues: Tensor  # of C_k, (K, D), or (K, 1) if all of a component are equal
    basis: Tensor | None  # (K, D, D) eigenvectors of C_k in columns; None for the coordinate axes
    spread: int  # numbers for each sample and component that `moments` holds at once; `traces` holds 4 D

    @property
    def origin(self) -> Tensor:
        """(D,) the point from which D_k is measured."""
        return self.means[0]

    @abstractmethod
    def parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Parts:
        """x: (B, D), alpha and sigma: (B,)."""

    @abstractmethod
    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        """A draw from each of the components (B,), from standard normals z (B, D)."""

    def smallest_variance(self) -> float:
        return float(self.eigenvalues.min())

    def stds(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Standard deviations of x_t along the eigenvectors, (B, K, D or 1)."""
        return (alpha[:, None, None] ** 2 * self.eigenvalues + sigma[:, None, None] ** 2).sqrt()

    def moments(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Moments:
        """x: (B, D), alpha and sigma: (B,), log_weights: (K,) or (B, K)."""
        parts = self.parts(x, alpha, sigma)
        log_prob, r = posterior(parts.log_normal + log_weights)
        return Moments(log_prob, average(r, parts.scores), self.origin + average(r, parts.datas))

    def traces(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Traces:
        """Arguments as of `moments`."""
        parts = self.parts(x, alpha, sigma)
        r = posterior(parts.log_normal + log_weights)[1]
        scores = parts.scores - average(r, parts.scores)[:, None]
        datas = parts.datas - average(r, parts.datas)[:, None]
        return Traces(
            (r * (parts.score_traces + scores.square().sum(2))).sum(1),
            (r * (parts.data_traces + (scores * datas).sum(2))).sum(1),
        )


def posterior(log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """ln p (B,) and the posterior weights r (B, K) from ln(w_k N_k) (B, K)."""
    log_prob = log_joint.logsumexp(1)
    return log_prob, (log_joint - log_prob[:, None]).exp()


def average(r: Tensor, values: Tensor) -> Tensor:
    """sum_k r_k v_k: (B, K) and (B, K, D) -> (B, D)."""
    return torch.bmm(r[:, None], values)[:, 0]


class Isotropic(Components):
    """C_k = v_k I."""

    def __init__(self, means: Tensor, variances: Tensor) -> None:
        self.means, self.variances = means, variances
        self.eigenvalues, self.basis = variances[:, None], None
        self.spread = 2 * means.shape[1]

    def _distances(
        self, x: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(y, var, gain, ln N): y = x - alpha m_k (B, K, D), var = alpha^2 v_k + sigma^2, D_k = m_k + gain y."""
        a, s = alpha[:, None], sigma[:, None]
        var = a**2 * self.variances + s**2
        y = x[:, None] - a[:, None] * self.means
        log_normal = -(y.square().sum(2) / var + x.shape[1] * (2 * math.pi * var).log()) / 2
        return y, var, a * self.variances / var, log_normal

    def parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Parts:
        y, var, gain, log_normal = self._distances(x, alpha, sigma)
        dim = x.shape[1]
        datas = self.means - self.origin + gain[..., None] * y
        return Parts(log_normal, -y / var[..., None], datas, -dim / var, gain * dim)

    def moments(self, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor) -> Moments:
        """The same without s_k and D_k: score and data are two averages of y."""
        y, var, gain, log_normal = self._distances(x, alpha, sigma)
        log_prob, r = posterior(log_normal + log_weights)
        sums = torch.bmm(torch.stack((-r / var, r * gain), 1), y)
        return Moments(
            log_prob, sums[:, 0], self.origin + r @ (self.means - self.origin) + sums[:, 1]
        )

    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        return self.means[component] + self.variances[component, None].sqrt() * z


class General(Components):
    """Any covariances, by their eigenvectors Q_k and eigenvalues l_k; diagonal ones need no Q."""

    def __init__(self, means: Tensor, eigenvalues: Tensor, basis: Tensor | None) -> None:
        self.means, self.eigenvalues, self.basis = means, eigenvalues, basis
        self.spread = means.shape[1] * 4

    def _turn(self, y: Tensor, back: bool) -> Tensor:
        if self.basis is None:
            return y
        return torch.einsum("kij,bkj->bki" if back else "kji,bkj->bki", self.basis, y)

    def parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Parts:
        a, s = alpha[:, None, None], sigma[:, None, None]
        var = a**2 * self.eigenvalues + s**2
        y = self._turn(x[:, None] - a * self.means, back=False)
        log_normal = -(y**2 / var + (2 * math.pi * var).log()).sum(2) / 2
        gain = a * self.eigenvalues / var
        return Parts(
            log_normal,
            self._turn(-y / var, back=True),
            self.means - self.origin + self._turn(gain * y, back=True),
            -(1 / var).sum(2),
            gain.sum(2),
        )

    def draw(self, component: Tensor, z: Tensor) -> Tensor:
        scaled = self.eigenvalues[component].sqrt() * z
        if self.basis is not None:
            scaled = torch.einsum("bij,bj->bi", self.basis[component], scaled)
        return self.means[component] + scaled
