"""Energies, straightness and costs of flows against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pushforward as pf
from pushforward.evaluate.metrics.measured import Measured
from pushforward.evaluate.metrics.transport import (
    follow,
    normalised_path_energy,
    path_energy,
    straightness,
    transport_costs,
)
from pushforward.evaluate.metrics.wasserstein import wasserstein


def normals(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn((n, dim), generator=torch.Generator().manual_seed(seed)).double()


class Linear:
    """u(x, t) = x A^T + b: X_1 = expm(A) X_0 + ..., all in closed form."""

    path = pf.CondOT(gaussian_source=False)

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        self.matrix, self.shift = matrix, shift

    def __call__(self, x: Tensor, t, want="velocity", **cond) -> Tensor:
        scale = cond.get("scale", torch.ones(len(x), dtype=x.dtype))
        return scale[:, None] * (x @ self.matrix.T + self.shift)


TURN = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)


def test_a_translation_is_straight_and_costs_the_square_of_its_length() -> None:
    field = Linear(torch.zeros(2, 2).double(), torch.tensor([3.0, 4.0]).double())
    x0 = normals(100, 2, 0)
    assert straightness(field, x0).value == pytest.approx(0, abs=1e-12)
    energy = path_energy(field, x0)
    assert energy.value == pytest.approx(25, rel=1e-12)
    assert energy.standard_error == pytest.approx(0, abs=1e-12)
    assert normalised_path_energy(field, x0, 5.0).value == pytest.approx(0, abs=1e-12)
    assert normalised_path_energy(field, x0, 4.0).value == pytest.approx(25 / 16 - 1)
    assert normalised_path_energy(field, x0, 10.0).value == pytest.approx(0.75)


@pytest.mark.parametrize("angle", [0.5, 2.0])
def test_a_rotation_has_the_energy_of_its_arc_and_the_straightness_of_its_chord(
    angle: float,
) -> None:
    """|u| = w r: PE = w^2 E r^2; chord 2 r sin(w/2): S = PE - E |chord|^2, as int u dt is the chord."""
    x0 = normals(200, 2, 1)
    run = follow(Linear(angle * TURN, torch.zeros(2).double()), x0)
    r2 = float(x0.square().sum(1).mean())
    chord = 4 * math.sin(angle / 2) ** 2
    assert run.path_energy().value == pytest.approx(angle**2 * r2, rel=1e-6)
    assert run.straightness().value == pytest.approx((angle**2 - chord) * r2, rel=1e-5)
    relative = run.straightness(relative=True)
    assert relative.value == pytest.approx(angle**2 / chord - 1, rel=1e-5)
    assert relative.standard_error < 1e-6  # the same for every r
    costs = transport_costs(run.start, run.end)
    assert costs["l2 squared"].value == pytest.approx(chord * r2, rel=1e-7)
    # From N(0, I) to itself there is no other way to have NPE than against a W2 given.
    w2 = Measured(2.0, 0.1)
    npe = run.normalised_path_energy(w2)
    assert npe.value == pytest.approx(abs(angle**2 * r2 - 4) / 4, rel=1e-5)
    spread = math.hypot(run.path_energy().standard_error / 4, angle**2 * r2 * 2 * 2 * 0.1 / 16)
    assert npe.standard_error == pytest.approx(spread, rel=1e-5)


def test_growth_along_an_axis_is_straight_but_not_at_constant_speed() -> None:
    """u = k x: |X_t| = r e^(k t): PE = k (e^2k - 1)/2 r^2, displacement (e^k - 1) r, S = PE - its square."""
    k, x0 = 0.8, normals(100, 2, 2)
    run = follow(Linear(k * torch.eye(2).double(), torch.zeros(2).double()), x0)
    r2 = float(x0.square().sum(1).mean())
    energy = k * (math.exp(2 * k) - 1) / 2
    assert run.path_energy().value == pytest.approx(energy * r2, rel=1e-7)
    assert run.straightness().value == pytest.approx(
        (energy - (math.exp(k) - 1) ** 2) * r2, rel=1e-5
    )


class GaussianTransport:
    """The optimal transport between N(0, I) and N(m, diag(s^2)) by displacement: X_t = ((1 - t) + t s) x0 + t m."""

    path = pf.CondOT(gaussian_source=False)
    scale, shift = torch.tensor([2.0, 0.5]).double(), torch.tensor([1.0, -1.0]).double()

    def __call__(self, x: Tensor, t, want="velocity", **cond) -> Tensor:
        t = pf.as_time(t, x)[:, None]
        x0 = (x - t * self.shift) / (1 - t + t * self.scale)
        return (self.scale - 1) * x0 + self.shift


def test_the_optimal_transport_of_gaussians_is_straight_and_has_the_energy_of_w2() -> None:
    run = follow(GaussianTransport(), normals(4000, 2, 3))
    w2 = math.sqrt(2 + 1 + 0.25)
    assert run.straightness().value == pytest.approx(0, abs=1e-10)
    npe = run.normalised_path_energy(w2)
    assert npe.value < 3 * npe.standard_error < 0.1
    # Of its own pairs, exactly, and W2 of its own ends: a monotone map is the optimal one.
    pairs = transport_costs(run.start, run.end)["l2 squared"].value
    assert run.normalised_path_energy(math.sqrt(pairs)).value == pytest.approx(0, abs=1e-10)
    assert wasserstein(run.start[:500], run.end[:500]).value == pytest.approx(
        math.sqrt(transport_costs(run.start[:500], run.end[:500])["l2 squared"].value), rel=1e-9
    )


def test_path_energy_exceeds_the_cost_of_its_pairs_by_the_straightness() -> None:
    law = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.05)
    run = follow(law.field(pf.CondOT()), normals(300, 2, 4), steps=100)
    pairs = transport_costs(run.start, run.end)["l2 squared"].value
    gap = run.path_energy().value - pairs
    assert run.straightness().value == pytest.approx(gap, rel=1e-3)
    assert gap > 0.01
    fine = straightness(law.field(pf.CondOT()), normals(300, 2, 4), steps=400)
    assert run.straightness().value == pytest.approx(fine.value, rel=1e-3)


def test_a_flow_does_not_depend_on_batches_and_conditions_follow_their_rows() -> None:
    field = Linear(TURN, torch.ones(2).double())
    x0, scale = normals(50, 2, 5), torch.linspace(0.1, 2, 50).double()
    whole = follow(field, x0, scale=scale)
    parts = follow(field, x0, batch_size=7, scale=scale)
    assert torch.equal(whole.end, parts.end)
    assert torch.equal(whole.energy, parts.energy)
    alone = follow(field, x0[40:], scale=scale[40:])
    assert torch.equal(alone.energy, whole.energy[40:])


def test_models_keep_their_mode_and_gradients_are_left_alone() -> None:
    model = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT())
    model.train()
    run = follow(model, normals(6, 2, 0), steps=4)
    assert model.training
    assert (run.end.dtype, run.end.requires_grad) == (torch.float64, False)


def test_bad_flows_are_refused() -> None:
    with pytest.raises(pf.InputError, match="even number"):
        follow(GaussianTransport(), normals(4, 2, 0), steps=3)
    with pytest.raises(pf.InputError, match="w2"):
        normalised_path_energy(GaussianTransport(), normals(4, 2, 0), 0.0)
    still = Linear(torch.zeros(2, 2).double(), torch.zeros(2).double())
    with pytest.raises(pf.InputError, match="nothing moves"):
        straightness(still, normals(4, 2, 0), relative=True)
    with pytest.raises(pf.NonFiniteError, match="2 of 2 trajectories"):
        follow(Linear(torch.full((2, 2), math.inf).double(), torch.zeros(2)), normals(2, 2, 0))
    with pytest.raises(pf.InputError, match="one shape"):
        transport_costs(normals(4, 2, 0), normals(3, 2, 0))


def test_costs_are_those_of_the_displacements_and_one_may_bring_ones_own() -> None:
    x0 = torch.zeros(2, 1, 2)
    x1 = torch.tensor([[[3.0, -4.0]], [[0.0, 2.0]]])
    costs = transport_costs(x0, x1)
    assert {name: c.value for name, c in costs.items()} == {
        "l2": 3.5,
        "l2 squared": 14.5,
        "l1": 4.5,
    }
    assert costs["l2"].standard_error == pytest.approx(1.5)
    own = transport_costs(x0, x1, {"first": lambda d: d[:, 0]})
    assert own["first"].value == 1.5
