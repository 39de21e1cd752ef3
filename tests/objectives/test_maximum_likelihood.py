"""Maximum likelihood of a flow: the density of `pf.log_prob`, the gradient of backpropagation, and a known minimum."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.likelihood import source_log_prob
from pushforward.nets import MLP
from pushforward.objectives import MaximumLikelihood as Jittered
from pushforward.solvers import RK4, Euler, Heun, Midpoint, Multistep

MaximumLikelihood = partial(Jittered, jitter=False)


def network_model(dim=2, path=None, prediction="velocity", **extra):
    """A smooth field that is nobody's."""
    torch.manual_seed(0)
    net = MLP(dim, 16, 2, **extra).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return pf.Model(net, path or pf.CondOT(), prediction, shape=(dim,))


class Linear(nn.Module):
    """`A x + b`, at all times."""

    def __init__(self, a, b):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x, t, **cond):
        return x @ self.a.T + self.b


@pytest.mark.parametrize("solver", [RK4(), Heun(), Midpoint(), Euler()], ids=repr)
@pytest.mark.parametrize(
    "model",
    [network_model(), network_model(path=pf.VP(), prediction="noise"), network_model(path=pf.VE(0.1, 3.0))],
    ids=["CondOT", "VP-noise", "VE"],
)  # fmt: skip
def test_the_loss_is_minus_the_log_density_of_the_same_solver(model, solver):
    x, grid = randn(5, 2, seed=1), pf.times.quadratic(6)
    got = MaximumLikelihood(model, solver=solver, grid=grid)(x, pf.Noise.batch(5))["loss"]
    truth = -pf.log_prob(model, x, solver=solver, grid=grid)
    assert torch.allclose(got, truth, rtol=1e-12)
    uniform = MaximumLikelihood(model, 6, solver)(x, pf.Noise.batch(5))["loss"]
    truth = -pf.log_prob(model, x, solver=solver, grid=pf.times.uniform(6))
    assert torch.allclose(uniform, truth, rtol=1e-12)


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_with_probes_it_is_the_estimate_by_the_same_probes(kind):
    model, x = network_model(3), randn(5, 3, seed=1)
    noise = pf.Noise.batch(5, seed=7)
    got = MaximumLikelihood(model, 6, probes=4, kind=kind)(x, noise)["loss"]
    options = {"solver": RK4(), "grid": pf.times.uniform(6), "probes": 4, "kind": kind, "seed": 7}
    assert torch.allclose(got, -pf.log_prob(model, x, **options).log_prob, rtol=1e-12)
    # Other ones at another step of training; the mean over many is the exact loss.
    assert not torch.allclose(
        MaximumLikelihood(model, 6, probes=4, kind=kind)(x, noise.at(1))["loss"], got
    )
    x, noise = x[:1].expand(400, 3), pf.Noise.batch(400, seed=3)
    each = MaximumLikelihood(model, 2, Heun(), probes=1, kind=kind)(x, noise)["loss"].detach()
    exact = MaximumLikelihood(model, 2, Heun())(x[:1], noise[:1])["loss"].detach()
    assert abs(float(each.mean() - exact)) < 4.5 * float(each.std()) / 20
    assert float(each.std()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("probes", [None, 2])
def test_gradients_by_the_adjoint_are_those_of_plain_backpropagation(probes, dtype):
    model, x = network_model().to(dtype), randn(5, 2, seed=1).to(dtype)
    found = []
    for adjoint in (True, False):
        objective = MaximumLikelihood(
            model, 5, Heun(), probes, kinetic=0.3, jacobian=0.2, adjoint=adjoint
        )
        loss = objective(x, pf.Noise.batch(5, step=2))["loss"]
        assert loss.dtype == dtype
        found.append((loss, *torch.autograd.grad(loss.sum(), list(model.parameters()))))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for a, b in zip(*found, strict=True):
        assert float((a - b).detach().norm()) <= tolerance * float(b.detach().norm())
        assert float(b.detach().norm()) > 0


def test_the_gradient_is_that_of_finite_differences_of_the_log_density():
    model, x = network_model(), randn(5, 2, seed=1)
    weight = model.net.conv_in.weight
    options = {"solver": Heun(), "grid": pf.times.uniform(4)}
    loss = MaximumLikelihood(model, 4, Heun())(x, pf.Noise.batch(5))["loss"].mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    direction, h, values = randn(*weight.shape, seed=3), 1e-5, []
    with torch.no_grad():
        for sign in (1, -2, 1):
            weight.add_(sign * h * direction)
            values.append(float(-pf.log_prob(model, x, **options).mean()))
    slope = (values[0] - values[1]) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_the_maximum_likelihood_flow_of_a_gaussian_is_the_known_one():
    # x1 = e^a x0 + b (e^a - 1)/a: the best e^a and shift are standard deviation and mean of the data.
    x = 0.4 * randn(50, 1, seed=1) + 1.3
    model = pf.Model(Linear([[0.1]], [0.1]), pf.CondOT(), shape=(1,))
    objective = MaximumLikelihood(model, 8)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(x, pf.Noise.batch(50))["loss"].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    a, b = model.net.a.item(), model.net.b.item()
    assert math.exp(a) == pytest.approx(float(x.std(correction=0)), rel=1e-4)
    assert b * math.expm1(a) / a == pytest.approx(float(x.mean()), rel=1e-4)
    # The value is the entropy of that normal law.
    entropy = (1 + math.log(2 * math.pi * float(x.var(correction=0)))) / 2
    assert closure().item() == pytest.approx(entropy, abs=1e-5)


def test_the_energies_are_those_of_a_linear_flow():
    # x(t) = exp((t - 1) A) x(1): |u|^2 and |A|_F^2 along it, the first by quadrature of the matrix exponential.
    a = torch.tensor([[0.5, -1.2], [0.7, 0.3]], dtype=torch.float64)
    model = pf.Model(Linear(a.tolist(), [0.0, 0.0]), pf.CondOT(), shape=(2,))
    x, noise = randn(4, 2, seed=1), pf.Noise.batch(4)
    plain = MaximumLikelihood(model, 30)(x, noise)["loss"]
    kinetic = MaximumLikelihood(model, 30, kinetic=0.5)(x, noise)["loss"] - plain
    t = (torch.arange(2000).double() + 0.5) / 2000
    states = torch.linalg.matrix_exp((t - 1)[:, None, None] * a) @ x.T
    energy = ((a @ states) ** 2).sum(1).mean(0)
    assert torch.allclose(kinetic, 0.5 * energy, rtol=1e-5)
    jacobian = MaximumLikelihood(model, 30, jacobian=0.5)(x, noise)["loss"] - plain
    norm = float((a**2).sum())
    assert torch.allclose(jacobian, torch.full((4,), 0.5 * norm).double(), rtol=1e-9)
    both = MaximumLikelihood(model, 30, kinetic=0.5, jacobian=0.5)(x, noise)["loss"] - plain
    assert torch.allclose(both, kinetic + jacobian, rtol=1e-9)
    # Probes: |v^T A|^2 has the mean |A|_F^2.
    pair = [
        MaximumLikelihood(model, 1, probes=400, jacobian=j)(x[:1], noise[:1])["loss"]
        for j in (0.0, 1.0)
    ]
    spread = 2 * abs(float((a @ a.T)[0, 1])) / 20
    assert abs((pair[1] - pair[0]).item() - norm) < 4.5 * spread
    assert 0 < spread < 0.1 * norm


class Smooth(nn.Module):
    """A field that cannot tell the times of a grid from those between."""

    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, width), nn.Linear(width, 1)

    def forward(self, x, t, **cond):
        return self.outer(torch.tanh(self.inner(torch.cat((x, t[:, None]), 1))))


def test_training_reaches_the_entropy_of_the_law():
    law = pf.GaussianMixture([[-1.0], [1.0]], 0.1, [0.3, 0.7])
    torch.manual_seed(0)
    model = pf.Model(Smooth(24).double(), pf.CondOT(), shape=(1,))
    objective = MaximumLikelihood(model, 4, Heun(), adjoint=False)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for step in range(150):
        noise = pf.Noise.batch(256, step=step)
        loss = objective(law.draw(noise), noise)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test, options = law.sample(2000, seed=5), {"solver": RK4(), "grid": pf.times.uniform(20)}
    gap = law.log_prob(test) - pf.log_prob(model, test, **options)
    # The relative entropy to the law, which is not negative; at the start it was 0.35.
    assert -0.01 < float(gap.mean()) < 0.05
    assert float((law.log_prob(test) - source_log_prob(model.path, test)).mean()) > 0.3


def test_jitter_moves_inner_times_by_up_to_half_a_step_and_keeps_the_ends():
    model, n = network_model(), 4000
    grid = torch.tensor([0.0, 0.1, 0.4, 1.0], dtype=torch.float64)
    objective = Jittered(model, grid=grid)
    times = objective._times(pf.Noise.batch(n, seed=1)).flip(0)
    assert torch.equal(times[0], torch.zeros(n).double())
    assert torch.equal(times[-1], torch.ones(n).double())
    for row, centre, room in ((times[1], 0.1, 0.1), (times[2], 0.4, 0.3)):
        shift = (row - centre) / room
        assert -0.5 < float(shift.min()) < -0.49
        assert 0.49 < float(shift.max()) < 0.5
        assert abs(float(shift.mean())) < 4.5 / math.sqrt(12 * n)
    x, noise = randn(5, 2, seed=1), pf.Noise.batch(5, seed=1)
    loss = objective(x, noise)["loss"]
    assert torch.allclose(objective(x[2:4], noise[2:4])["loss"], loss[2:4], rtol=1e-12)
    assert not torch.allclose(objective(x, noise.at(1))["loss"], loss)
    for i, row in enumerate(times.T[:5]):
        alone = -pf.log_prob(model, x[i : i + 1], solver=RK4(), grid=row)
        assert torch.allclose(loss[i], alone[0], rtol=1e-12)


def test_conditions_images_sources_and_weights_of_ones_own():
    x, noise = randn(4, 2, seed=1), pf.Noise.batch(4)
    model, label = network_model(classes=3), torch.tensor([0, 1, 2, -1])
    got = MaximumLikelihood(model, 4)(pf.Batch(x, {"label": label}), noise)["loss"]
    truth = -pf.log_prob(model, x, solver=RK4(), grid=pf.times.uniform(4), label=label)
    assert torch.allclose(got, truth, rtol=1e-12)

    law = mixture(2)
    free = pf.Model(network_model().net, pf.CondOT(gaussian_source=False), shape=(2,))
    got = MaximumLikelihood(free, 4, source=law.log_prob)(x, noise)["loss"]
    options = {"solver": RK4(), "grid": pf.times.uniform(4), "source": law.log_prob}
    assert torch.allclose(got, -pf.log_prob(free, x, **options), rtol=1e-12)

    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(2, 2, 3, padding=1).double()

        def forward(self, x, t, **cond):
            return torch.tanh(self.inner(x))

    torch.manual_seed(0)
    image = pf.Model(Convolution(), pf.CondOT(), shape=(2, 3, 3))
    x = randn(3, 2, 3, 3, seed=2)
    got = MaximumLikelihood(image, 3)(x, noise[:3])["loss"]
    truth = -pf.log_prob(image, x, solver=RK4(), grid=pf.times.uniform(3))
    assert torch.allclose(got, truth, rtol=1e-12)


def test_losses_do_not_depend_on_the_batch():
    model, x, noise = network_model(), randn(7, 2, seed=1), pf.Noise.batch(7, seed=2)
    objective = MaximumLikelihood(model, 4, probes=1)
    whole = objective(x, noise)["loss"]
    assert torch.allclose(objective(x[2:5], noise[2:5])["loss"], whole[2:5], rtol=1e-12)


def test_a_velocity_without_x_in_it_has_no_divergence():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

        def forward(self, x, t, **cond):
            return self.b.expand_as(x)

    model, x = pf.Model(Constant(), pf.CondOT(), shape=(2,)), randn(5, 2, seed=1)
    loss = MaximumLikelihood(model, 2)(x, pf.Noise.batch(5))["loss"]
    normal = torch.distributions.Normal(0.0, 1.0)
    assert torch.allclose(loss, -normal.log_prob(x - model.net.b).sum(1), rtol=1e-12)
    loss.sum().backward()
    assert torch.allclose(model.net.b.grad, -(x - model.net.b).sum(0).detach(), rtol=1e-12)


def test_what_does_not_fit_is_an_error():
    model = network_model()
    with pytest.raises(pf.InputError, match="Runge-Kutta"):
        MaximumLikelihood(model, solver=Multistep("velocity", "time", 2))
    with pytest.raises(pf.InputError, match="at least 1"):
        MaximumLikelihood(model, probes=0)
    with pytest.raises(pf.InputError, match="rademacher"):
        MaximumLikelihood(model, probes=1, kind="uniform")
    for bad in ({"kinetic": -1.0}, {"jacobian": -0.1}):
        with pytest.raises(pf.InputError, match="not negative"):
            MaximumLikelihood(model, **bad)
    with pytest.raises(pf.UndefinedError, match="density of the source"):
        MaximumLikelihood(pf.Model(model.net, pf.CondOT(gaussian_source=False)))
    with pytest.raises(pf.InputError, match="noise ids"):
        MaximumLikelihood(model)(randn(3, 2), pf.Noise.batch(2))
    with pytest.raises(pf.InputError, match="probes=1"):
        MaximumLikelihood(network_model(65))(randn(2, 65), pf.Noise.batch(2))
    with pytest.raises(pf.InputError, match="at least 1"):
        MaximumLikelihood(model, steps=0)(randn(3, 2), pf.Noise.batch(3))
    with pytest.raises(pf.InputError, match="source samples"):
        MaximumLikelihood(model)(pf.Batch(randn(2, 2), x0=randn(2, 2)), pf.Noise.batch(2))
