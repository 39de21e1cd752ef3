"""What the default values of models do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import randn
from pushforward.models.preconditioning import EDMPreconditioning


class Scaled(nn.Module):
    """A network that answers `weight x` and keeps how many samples it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))
        self.rows = list[int]()

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        self.rows.append(len(x))
        return self.weight * x


def diffflow() -> tuple[pf.DiffFlowModel, Scaled, Scaled]:
    score, drift = Scaled(), Scaled()
    return pf.DiffFlowModel(pf.Model(score, pf.VP(), "score", shape=(2,)), drift), score, drift


def test_diffflow_takes_eight_steps_on_256_samples_at_a_time_by_seed_0():
    model, score, _ = diffflow()
    x = model.sample(300)
    assert score.rows == [256] * 8 + [44] * 8
    assert torch.equal(model.sample(300, seed=0), x)
    assert not torch.equal(model.sample(300, seed=1), x)


def test_diffflow_answers_with_its_velocity():
    model = diffflow()[0]
    x = randn(4, 2)
    assert torch.equal(model(x, 0.4), model(x, 0.4, "velocity"))
    assert not torch.allclose(model(x, 0.4), model(x, 0.4, "score"))


def test_diffflows_bound_keeps_no_graph_of_its_steps():
    model, _, drift = diffflow()
    bound = model.bound(randn(4, 2), pf.Noise.batch(4))
    before = len(drift.rows)
    bound.sum().backward()
    # Each step is simulated again for its gradient.
    assert len(drift.rows) == before + 8


def test_a_flow_map_jumps_between_any_times():
    model = pf.FlowMapModel(pf.Model(Scaled(), pf.CondOT()))
    x = randn(3, 2)
    assert torch.allclose(model(x, 0.2, 0.6), x - 0.4 * 0.5 * x)
    assert torch.allclose(pf.InstantaneousField(model)(x, 0.2), -0.5 * x)


def test_edms_preconditioning_is_for_data_of_standard_deviation_one_half_whose_network_predicts_the_data():
    # Karras et al. 2022, table 1: at sigma = sigma_data half of the input is passed on, and the raw output has weight
    # sigma_data/sqrt 2.
    path = pf.EDM()
    t = path.time_of_edm_sigma(torch.tensor([0.5], dtype=torch.float64))
    wrap = EDMPreconditioning()(path, t)
    assert float(wrap.skip) == pytest.approx(0.5)
    assert float(wrap.out) == pytest.approx(0.5 / 2**0.5)
    assert EDMPreconditioning().prediction == "data"


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM()], ids=repr)
def test_edms_preconditioning_gives_the_network_inputs_and_targets_of_unit_variance_on_any_path(
    path,
):
    # Of data of variance 1/4: Var x_t = alpha^2/4 + sigma^2, and the target (x1 - c_skip x_t)/c_out.
    t = torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    alpha, sigma, wrap = path.alpha(t), path.sigma(t), EDMPreconditioning()(path, t)
    variance = alpha**2 / 4 + sigma**2
    one = torch.ones(3).double()
    assert torch.allclose(wrap.input**2 * variance, one, rtol=1e-9)
    rest = (1 - wrap.skip * alpha) ** 2 / 4 + (wrap.skip * sigma) ** 2
    assert torch.allclose(rest / wrap.out**2, one, rtol=1e-9)
