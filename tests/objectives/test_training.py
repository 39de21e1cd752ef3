"""A small network trained on a law whose field is known comes close to that field."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import mixture
from pushforward.nets import MLP
from pushforward.objectives import FlowMatching, Matching

LAW = mixture(2, 3, "isotropic", seed=4)


@pytest.mark.parametrize(
    ("path", "prediction", "objective", "bound"),
    [
        pytest.param(pf.CondOT(), "velocity", FlowMatching, 0.05, id="flow-matching"),
        pytest.param(pf.VP(), "noise", Matching, 0.05, id="noise-prediction"),
    ],
)
def test_a_trained_network_approaches_the_exact_field(path, prediction, objective, bound):
    torch.manual_seed(0)
    model = pf.Model(MLP(2, 64, 2), path, prediction)
    loss_of = objective(model, times=pf.times.Uniform(low_discrepancy=True))
    steps, size = 400, 256
    data = LAW.sample(20000, seed=1).float()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for k in range(steps):
        noise = pf.Noise.batch(size, seed=2, step=k)
        x1 = data[noise.uniform().mul(len(data)).long()]
        loss = loss_of(x1, noise)["loss"].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    # Error of the prediction over the law of x_t, relative to the prediction's own size.
    t = torch.linspace(0.1, 0.9, 4000, dtype=torch.float64)
    noise = pf.Noise.batch(4000, seed=3)
    x = path.sample(noise.normal((2,), 0, torch.float64), LAW.draw(noise), t).float()
    with torch.no_grad():
        got, truth = model(x, t, prediction), LAW.field(path)(x, t, prediction)
    assert float(((got - truth) ** 2).mean() / (truth**2).mean()) < bound
