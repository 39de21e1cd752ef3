"""The quasi-Newton step by which a solver's own step is inverted."""

from __future__ import annotations

import torch

from contracts.members import randn
from pushforward.solvers.inverse import _anderson


def test_as_many_changes_as_dimensions_solve_a_linear_equation_whatever_their_lengths():
    """Anderson's step is the secant method on the changes seen: exact where the residual is linear and they span the
    space, though each is orders of magnitude shorter than the one before."""
    dim, lengths = 3, (1e-7, 1e-4, 1e-1)
    matrix = torch.eye(dim, dtype=torch.float64) + 0.3 * randn(4, dim, dim, seed=1)
    newest = 1e-7 * randn(4, dim, seed=3)
    directions = torch.linalg.qr(randn(4, dim, dim, seed=4))[0].unbind(1)
    # The solution lies at 0, so that differences lose no digits.
    states = [newest, *(newest + s * d for s, d in zip(lengths, directions, strict=True))]
    before = [torch.stack((y, -(matrix @ y[..., None])[..., 0])) for y in states]
    assert float(_anderson(before).abs().max()) < 1e-6 * float(newest.abs().max())
