"""Densities of models in float32: as near to the truth as their precision allows, in few calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.solvers import DormandPrince


class Rough(nn.Module):
    """A network whose features of time are as fine as those of trained ones, with its calls counted."""

    double_times = True

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = pf.nets.MLP(2, 32, 2)
            for p in self.net.parameters():
                nn.init.normal_(p, std=0.12)
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        return self.net(x, t) - x


def test_the_default_in_float32_is_exact_to_a_thousandth_of_a_nat_in_eight_hundred_calls():
    net = Rough()
    model = pf.Model(net, pf.CondOT(), shape=(2,))
    x = pf.Noise.batch(20, seed=3).normal((2,))
    got = pf.log_prob(model, x)
    assert net.calls <= 800
    truth = pf.log_prob(
        pf.Model(Rough().double(), pf.CondOT(), shape=(2,)),
        x.double(),
        solver=DormandPrince(1e-9, 1e-10),
    )
    assert float((got - truth).abs().max()) < 1e-3


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), pf.EDM(0.01, 20.0)], ids=repr)
def test_the_default_in_float32_holds_on_narrow_laws_too(path):
    law = pf.GaussianMixture(torch.tensor([[4.0, 0], [0, 4], [-4, 0], [0, -4]]), 0.05**2)
    x = law.sample(10, seed=3)
    field = law.field(path)
    got, truth = pf.log_prob(field, x.float()), pf.log_prob(field, x)
    assert float((got - truth).abs().max()) < 1e-3


def test_points_may_be_arrays_and_come_in_another_precision_than_the_model():
    model = pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(), shape=(2,))
    x = pf.Noise.batch(3).normal((2,))
    want = pf.log_prob(model, x)
    assert torch.allclose(pf.log_prob(model, x.numpy()), want)
    assert torch.allclose(pf.log_prob(model, x.double()).float(), want, atol=1e-4)
    for bad, words in (
        (torch.zeros(3, 2, dtype=torch.int64), "floating numbers"), (torch.zeros(3, 5), "takes vectors"),
        (np.zeros((3, 2), dtype=np.int32), "floating numbers"),
    ):  # fmt: skip
        with pytest.raises(pf.InputError, match=words):
            pf.log_prob(model, bad)
