"""Random draws are those of seed 0, from sample 0 on, unless others are asked for; other seeds give other numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.core.chain import Steps
from pushforward.likelihood import bits, continuous_bound, log_prob, variational_bound
from pushforward.objectives import important_steps
from pushforward.solvers import EulerMaruyama, langevin

LAW = mixture(2, 3)
FIELD = LAW.field(pf.CondOT())
CHAIN = pf.DDPMPath.linear(8)
X = randn(6, 2, seed=1)
PIXELS = (torch.arange(12).reshape(6, 2) * 17 % 256).double() / 127.5 - 1
FEW = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(4, 0.1, 0.9)}

DRAWS = {
    "Noise.batch": lambda **k: pf.Noise.batch(6, **k).normal((2,)),
    "mixture": lambda **k: LAW.sample(6, **k),
    "plane": lambda **k: pf.laws.Moons().sample(6, **k),
    "integrate": lambda **k: pf.integrate(EulerMaruyama(0.7), FIELD, X, pf.times.uniform(3), **k),
    "langevin": lambda **k: langevin(FIELD, X, 0.4, 2, **k),
    "log_prob": lambda **k: log_prob(FIELD, X, probes=1, **FEW, **k).log_prob,
    "bits": lambda **k: bits(FIELD, PIXELS, 2 / 255, **FEW, **k).each,
    "variational_bound": lambda **k: variational_bound(LAW.field(CHAIN), PIXELS, **k).total,
    "continuous_bound": lambda **k: continuous_bound(LAW.field(pf.VP()), PIXELS, terms=3, **k).total,
    "important_steps": lambda **k: important_steps(LAW.field(CHAIN), X, Steps(CHAIN), bin_width=None, **k).shares,
    "generate": lambda **k: pf.generate(FIELD, 6, nfe=3, **k),
    "generate_batches": lambda **k: torch.cat(list(pf.generate_batches(FIELD, 6, nfe=3, **k))),
    "sample_with_log_prob": lambda **k: pf.sample_with_log_prob(FIELD, 6, **FEW, **k)[0],
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_the_seed_is_0_unless_another_is_asked_for(name):
    draw = DRAWS[name]
    plain = draw()
    assert isinstance(plain, Tensor)
    assert torch.equal(draw(seed=0), plain)
    assert not torch.equal(draw(seed=1), plain)


@pytest.mark.parametrize(
    "name", ["Noise.batch", "generate", "generate_batches", "sample_with_log_prob"]
)
def test_the_first_sample_is_number_0_unless_another_is_asked_for(name):
    draw = DRAWS[name]
    plain = draw()
    assert torch.equal(draw(start=0), plain)
    # From sample 2 on, the rest of the same row of samples.
    assert torch.allclose(draw(start=2)[:-2], plain[2:], rtol=1e-9, atol=1e-12)


def test_noise_is_that_of_step_0():
    noise = pf.Noise.batch(3)
    assert torch.equal(noise.normal((2,)), noise.at(0).normal((2,)))
    assert not torch.equal(noise.normal((2,)), noise.at(1).normal((2,)))
    assert torch.equal(pf.Noise(0, torch.arange(3)).normal((2,)), noise.normal((2,)))
