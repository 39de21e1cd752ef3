"""A perfect model of any prediction is the exact field: no time but a singular end is ever moved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import PATHS

MEANS = torch.tensor([[-1.0, 0.4], [0.9, -0.5], [0.2, 1.1]])
LAW = pf.GaussianMixture(MEANS, torch.tensor([0.2, 0.4, 0.1]), torch.tensor([0.3, 0.5, 0.2]))


class Perfect(nn.Module):
    """A network that gives a prediction of the exact law."""

    def __init__(self, path, prediction) -> None:
        super().__init__()
        self.field, self.prediction = LAW.field(path), prediction

    def forward(self, x, t):
        # Where the prediction itself does not exist at an end, anything will do: that point is not asked.
        return self.field(x, t, self.prediction)


def defined(path, prediction) -> bool:
    """Whether a prediction can be asked at all times of the path: a score is infinite at sigma = 0 in general."""
    return path.gaussian_source or prediction not in ("score", "noise")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_a_perfect_model_draws_the_samples_of_the_exact_field(path, prediction):
    if not defined(path, prediction):
        return
    model = pf.Model(Perfect(path, prediction), path, prediction, shape=(2,))
    x0 = path.source_std * pf.Noise.batch(4).normal((2,), dtype=torch.float64)
    solver = pf.solvers.Learned()
    grid = solver.grid(400, path)
    with torch.no_grad():
        want = pf.integrate(solver, LAW.field(path), x0, grid)
        got = pf.integrate(solver, model, x0, grid)
    assert float((got - want).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "path", [pf.CondOT(), pf.Cosine(), pf.VP(), pf.SubVP(), pf.EDM(0.01, 20.0)], ids=repr
)
@pytest.mark.parametrize("prediction", pf.PREDICTIONS)
def test_a_perfect_model_gives_the_log_density_of_the_exact_field(path, prediction):
    model = pf.Model(Perfect(path, prediction), path, prediction, shape=(2,))
    x = LAW.sample(4, seed=3)
    assert float((pf.log_prob(model, x) - pf.log_prob(LAW.field(path), x)).abs().max()) < 1e-6


@pytest.mark.parametrize(
    "path", [pf.CondOT(), pf.Cosine(), pf.VP(), pf.SubVP(), pf.EDM()], ids=repr
)
@pytest.mark.parametrize("want", pf.PREDICTIONS)
def test_a_transfer_to_the_own_path_changes_nothing_near_the_ends(path, want):
    field = LAW.field(path)
    x = pf.Noise.batch(6).normal((2,), dtype=torch.float64)
    for t in (1e-6, 1e-4, 0.3, 1 - 1e-4, 1 - 1e-6):
        got, truth = pf.ScheduleTransfer(field, path)(x, t, want), field(x, t, want)
        scale = float(truth.abs().max())
        assert float((got - truth).abs().max()) < 1e-6 * scale, t


def test_a_network_of_ones_own_gets_times_in_the_precision_of_its_states():
    seen = []

    class Own(nn.Module):
        def __init__(self, dtype) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).to(dtype)

        def forward(self, x, t):
            seen.append((x.dtype, t.dtype))
            return self.layer(torch.cat((x, t[:, None].to(x.dtype)), 1))

    for dtype, times in (
        (torch.float32, torch.float32), (torch.float64, torch.float64), (torch.bfloat16, torch.float32),
    ):  # fmt: skip
        model = pf.Model(Own(dtype), pf.CondOT(), shape=(2,))
        samples = pf.generate(model, 3, nfe=4)
        assert seen[-1] == (dtype, times)
        assert samples.dtype == torch.promote_types(dtype, torch.float32)
        # Points in another precision than the model's are brought to it.
        value = model(torch.zeros(3, 2, dtype=torch.float64), 0.5)
        assert seen[-1] == (dtype, times)
        assert value.dtype == torch.float64
