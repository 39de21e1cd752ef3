"""Few steps: the law of what jumps arrive at, noise put back or not, and maps made of many steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import pushforward as pf
from contracts.members import Counted, UserPath, mixture, rand, randn
from pushforward.core.noise import SOLVER, START
from pushforward.core.spec import SamplingDefaults
from pushforward.solvers import (
    DDIM,
    DDPM,
    RK4,
    Euler,
    EulerMaruyama,
    FlowMapSampler,
    Heun,
    Multistep,
    SolverFlowMap,
)

LINE = mixture(1, 3)
GRIDS = [(0.0, 1.0), (0.0, 0.35, 1.0), (0.0, 0.2, 0.6, 1.0), (0.0, 0.1, 0.5, 0.9, 1.0)]


class Recorded:
    """A flow map that remembers its jumps."""

    def __init__(self, flow: pf.FlowMap) -> None:
        self.flow, self.path, self.jumps = flow, flow.path, flow.jumps
        self.asked = list[tuple[Tensor, Tensor, Tensor]]()

    def __call__(self, x, t, s, **cond):
        self.asked.append((x, torch.as_tensor(t), torch.as_tensor(s)))
        return self.flow(x, t, s, **cond)


def begin(law, path, n: int, seed: int = 0) -> Tensor:
    """Draws from the law of x_0, whatever is left of the data there."""
    return path.sample(randn(n, *law.shape, seed=seed), law.sample(n, seed=seed), 0.0)


def quantile_of(law: pf.GaussianMixture, path: pf.Path, x: Tensor, t: float) -> np.ndarray:
    """The distribution function of x_t at x, by scipy."""
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(path.alpha(at)), float(path.sigma(at))
    means, var = law.components.means[:, 0].numpy(), law.components.eigenvalues[:, 0].numpy()
    std = np.sqrt(alpha**2 * var + sigma**2)
    return stats.norm.cdf(x.numpy(), alpha * means, std) @ law.log_weights.exp().numpy()


# FlowMapSampler.


@pytest.mark.parametrize("renoise", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("path", "grid"),
    [
        *(pytest.param(pf.CondOT(), grid, id=f"CondOT-{len(grid) - 1}") for grid in GRIDS),
        pytest.param(pf.VP(), GRIDS[2], id="VP-3"),
        # At 0.95 there is so little noise left that r with less of it is the end of the path.
        pytest.param(pf.EDM(0.05, 10.0), (0.0, 0.5, 0.95, 1.0), id="EDM-3"),
    ],
)
def test_jumps_of_an_exact_map_have_the_law_of_the_path_at_every_time(path, renoise, grid):
    """A mixture on the line, by the test of Kolmogorov and Smirnov."""
    seen: list[tuple[float, Tensor]] = []
    pf.integrate(
        FlowMapSampler(renoise), LINE.flow_map(path), begin(LINE, path, 3000), torch.tensor(grid, dtype=torch.float64),
        seed=3, callback=lambda i, t, x: seen.append((float(t[0]), x)),
    )  # fmt: skip
    assert [t for t, _ in seen] == list(grid)
    for t, x in seen:
        test = stats.kstest(quantile_of(LINE, path, x, t), "uniform")
        assert test.pvalue > 1e-4, (t, test)


@pytest.mark.parametrize("renoise", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine(), pf.EDM(0.05, 10.0)], ids=repr)
def test_jumps_of_an_exact_map_have_the_moments_of_the_path(path, renoise):
    """One Gaussian in three dimensions: mean and covariance, at all times."""
    law, n = mixture(3, 1), 20000
    root = law.components.basis[0] * law.components.eigenvalues[0].sqrt()
    seen: list[tuple[Tensor, Tensor]] = []
    pf.integrate(
        FlowMapSampler(renoise), law.flow_map(path), begin(law, path, n), torch.tensor(GRIDS[2]).double(),
        seed=5, callback=lambda i, t, x: seen.append((t[:1], x)),
    )  # fmt: skip
    for t, x in seen:
        alpha, sigma = path.alpha(t), path.sigma(t)
        cov = alpha**2 * root @ root.T + sigma**2 * torch.eye(3, dtype=torch.float64)
        std = cov.diagonal().sqrt()
        gap = (x.mean(0) - alpha * law.components.means[0]) / std
        assert float(gap.abs().max()) < 4.5 / math.sqrt(n)
        # An entry of a sample covariance has variance (C_ii C_jj + C_ij^2)/n.
        error = ((torch.outer(std, std) ** 2 + cov**2) / n).sqrt()
        assert bool(((x.T.cov() - cov).abs() < 4.5 * error).all())


def test_noise_put_back_makes_samples_forget_where_they_came_from():
    """The correlation of x_0 and x_1 on CondOT for N(0, 1): 1 straight on, 0 by the data if the second jump is all.

    With renoise g, on one intermediate time s, it is that of x_r with x_s: sqrt of what is left of the variance.
    """
    law, path, n, s = pf.GaussianMixture([[0.0]], 1.0), pf.CondOT(), 20000, 0.4
    x = begin(law, path, n)
    grid = torch.tensor([0.0, s, 1.0]).double()
    for g in (0.0, 0.5, 0.9, 1.0):
        end = pf.integrate(FlowMapSampler(g), law.flow_map(path), x, grid, seed=1)
        got = float(torch.corrcoef(torch.cat((x, end), 1).T)[0, 1])
        # x_s = (alpha_s/alpha_r) x_r + sqrt(sigma_s^2 - (1 - g^2) sigma_s^2) z, all maps being linear.
        var = s**2 + (1 - s) ** 2
        truth = math.sqrt(1 - g**2 * (1 - s) ** 2 / var)
        assert abs(got - truth) < 4.5 * (1 - truth**2) / math.sqrt(n) + 1e-9


@pytest.mark.parametrize("path", [pf.CondOT(), pf.VP(), UserPath(), pf.EDM()], ids=repr)
def test_the_jump_goes_to_less_noise_by_the_factor_that_renoise_names(path):
    law, g = mixture(1, 1), 0.8
    flow = Recorded(law.flow_map(path))
    t, s = torch.tensor([0.1, 0.2, 0.3]).double(), torch.tensor([0.5, 0.4, 0.7]).double()
    noise = pf.Noise.batch(3, seed=2)
    got, _ = FlowMapSampler(g).step(flow, randn(3, 1), t, s, None, noise)
    (x, start, r), = flow.asked  # fmt: skip
    assert torch.equal(start, t)
    level = path.sigma(s) / path.alpha(s)
    torch.testing.assert_close(path.sigma(r) / path.alpha(r), 0.6 * level, rtol=1e-9, atol=0)
    # In units of the data, x/alpha: the jump, and noise of standard deviation g sigma/alpha on top (CTM, alg. 3).
    z = noise.normal((1,), SOLVER, torch.float64)
    truth = law.flow_map(path)(x, t, r) / path.alpha(r)[:, None] + g * level[:, None] * z
    torch.testing.assert_close(got / path.alpha(s)[:, None], truth, rtol=1e-9, atol=1e-12)


def test_jumps_over_the_data_are_the_multistep_sampling_of_consistency_models():
    """Song et al. 2023, alg. 1, written out on EDM's path."""
    law, path = mixture(2, 1), pf.EDM()
    f = law.flow_map(path)
    start = 80 * randn(7, 2, seed=1)
    grid = torch.tensor([0.0, 0.3, 0.55, 0.8, 1.0]).double()
    got = pf.integrate(FlowMapSampler(1.0), f, start, grid, seed=9)
    x = f(start, 0.0, 1.0)
    for i, t in enumerate(grid[1:-1].tolist()):
        level = (80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        z = pf.Noise.batch(7, seed=9, step=i).normal((2,), SOLVER, torch.float64)
        x = f(x + math.sqrt(level**2 - 0.002**2) * z, t, 1.0)
    torch.testing.assert_close(got, x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("renoise", [0.5, 1.0])
def test_a_sample_with_its_id_is_the_same_in_any_batch(renoise):
    path, law = pf.CondOT(), mixture(2, 1)
    x, grid = begin(law, path, 9), torch.tensor(GRIDS[3]).double()
    flow, ids = law.flow_map(path), torch.arange(20, 29)
    whole = pf.integrate(FlowMapSampler(renoise), flow, x, grid, ids=ids, seed=1)
    part = pf.integrate(FlowMapSampler(renoise), flow, x[4:6], grid, ids=ids[4:6], seed=1)
    torch.testing.assert_close(part, whole[4:6], rtol=1e-12, atol=1e-12)
    other = pf.integrate(FlowMapSampler(renoise), flow, x, grid, ids=ids, seed=2)
    assert float((other - whole).abs().min()) > 1e-5
    # Nor do those that end before the data share their noise with those that end there.
    mixed = grid.repeat(9, 1)
    mixed[::2] *= 0.7
    both = pf.integrate(FlowMapSampler(renoise), flow, x, mixed, ids=ids, seed=1)
    early = pf.integrate(FlowMapSampler(renoise), flow, x, 0.7 * grid, ids=ids, seed=1)
    torch.testing.assert_close(both[1::2], whole[1::2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[::2], early[::2], rtol=1e-12, atol=1e-12)


def test_straight_jumps_go_back_and_those_with_noise_do_not():
    path, law = pf.VP(), mixture(2, 1)
    flow, x = law.flow_map(path), begin(law, path, 5)
    grid = torch.tensor(GRIDS[2]).double()
    there = pf.integrate(FlowMapSampler(), flow, x, grid)
    torch.testing.assert_close(pf.integrate(FlowMapSampler(), flow, there, grid.flip(0)), x)
    with pytest.raises(pf.InputError, match=r"Jump with renoise > 0 goes .* increasing times"):
        pf.integrate(FlowMapSampler(0.5), flow, there, grid.flip(0))
    for bad in (-0.1, 1.5):
        with pytest.raises(pf.InputError, match=r"renoise is .* must lie in"):
            FlowMapSampler(bad)


def test_noise_is_put_back_only_where_the_source_is_gaussian_noise():
    law = mixture(2, 1)
    flow = law.flow_map(pf.CondOT(gaussian_source=False))
    x = randn(3, 2)
    with pytest.raises(pf.UndefinedError, match="noise that is put back between jumps"):
        pf.integrate(FlowMapSampler(1.0), flow, x, torch.tensor(GRIDS[1]))
    one = pf.integrate(FlowMapSampler(1.0), flow, x, torch.tensor(GRIDS[0]))  # none is put back
    torch.testing.assert_close(one, flow(x, 0.0, 1.0))
    torch.testing.assert_close(
        pf.integrate(FlowMapSampler(0.0), flow, x, torch.tensor(GRIDS[1])), one
    )


# generate.


class Drift(nn.Module):
    """A network of t, and of s if it is told."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        return torch.tanh(x) + t[:, None] - (0 if s is None else s[:, None] ** 2)


def student(jumps, path: pf.Path = pf.CondOT(), **extra) -> pf.FlowMapModel:  # noqa: B008
    return pf.FlowMapModel(pf.Model(Drift(), path, "data", shape=(2,), **extra), jumps)


def test_a_map_is_sampled_in_one_jump_or_in_as_many_as_are_asked_for():
    law, path = mixture(2, 1), pf.CondOT()
    flow = Recorded(law.flow_map(path))
    x = randn(5, 2, seed=1)
    one = pf.generate(flow, 5, source=x)
    assert [(float(t[0]), float(s[0])) for _, t, s in flow.asked] == [(0.0, 1.0)]
    torch.testing.assert_close(one, law.flow_map(path)(x, 0.0, 1.0))
    flow.asked.clear()
    torch.testing.assert_close(pf.generate(flow, 5, nfe=4, source=x), one)
    times = [(float(t[0]), float(s[0])) for _, t, s in flow.asked]
    assert times == [(0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)]
    told = student("any", sampling=SamplingDefaults(nfe=3))
    torch.testing.assert_close(pf.generate(told, 4), pf.generate(told, 4, nfe=3))
    assert float((pf.generate(told, 4) - pf.generate(told, 4, nfe=1)).abs().max()) > 1e-3


def test_a_map_of_its_own_grid_takes_its_own_steps():
    grid = (0.0, 0.3, 1.0)
    flow = student(grid)
    x = randn(4, 2, seed=2)
    truth = flow(flow(x, 0.0, 0.3), 0.3, 1.0)
    torch.testing.assert_close(pf.generate(flow, 4, source=x), truth)
    torch.testing.assert_close(pf.generate(flow, 4, nfe=2, source=x), truth)
    for nfe in (1, 3):
        with pytest.raises(pf.InputError, match="takes the 2 steps that it was distilled to"):
            pf.generate(flow, 4, nfe=nfe, source=x)
    with pytest.raises(pf.UndefinedError, match="2 steps of its own grid"):
        pf.generate(flow, 4, solver=FlowMapSampler(1.0), nfe=2, source=x)


def test_its_own_grid_can_be_told_to_a_map_as_errors_advise():
    for grid in ((0.0, 0.3, 1.0), (0.0, 0.25, 0.5, 1.0)):
        flow = student(grid)
        told = pf.generate(flow, 4, grid=torch.tensor(flow.jumps), seed=3)
        torch.testing.assert_close(told, pf.generate(flow, 4, seed=3), rtol=1e-6, atol=1e-6)
        with pytest.raises(pf.UndefinedError, match=r"pass grid=torch.tensor\(model.jumps\)"):
            pf.generate(flow, 4, grid=pf.times.uniform(len(grid) - 1))
    # For a map to the data, the same as by nfe: noise is put back.
    flow = student("data")
    told = pf.generate(flow, 4, grid=pf.times.straight(3, flow.path), seed=3)
    torch.testing.assert_close(told, pf.generate(flow, 4, nfe=3, seed=3))


def test_an_exact_map_knows_the_shape_of_its_samples():
    for law in (mixture(3, 1), LINE, pf.Empirical(randn(1, 2, 2, seed=1))):
        path = pf.CondOT()
        flow = law.flow_map(path)
        got = pf.generate(flow, 3, seed=2)
        assert got.shape == (3, *law.shape)
        x0 = pf.Noise.batch(3, seed=2).normal(law.shape, START, torch.float64)
        torch.testing.assert_close(got, flow(x0, 0.0, 1.0))


def test_a_map_to_the_data_alone_goes_on_by_noise():
    flow, x = student("data"), randn(4, 2, seed=3)
    torch.testing.assert_close(pf.generate(flow, 4, source=x), flow(x, 0.0, 1.0))
    z = pf.Noise.batch(4, seed=6).normal((2,), SOLVER, torch.float64)
    truth = flow(0.5 * flow(x, 0.0, 1.0) + 0.5 * z, 0.5, 1.0)
    torch.testing.assert_close(pf.generate(flow, 4, nfe=2, seed=6, source=x), truth)
    with pytest.raises(pf.UndefinedError, match="the way to the data alone"):
        pf.generate(flow, 4, nfe=2, solver=FlowMapSampler(0.0), source=x)


def test_a_map_takes_no_guidance_and_no_solver_of_velocities():
    flow = student("any")
    with pytest.raises(pf.InputError, match="guidance that it was trained with"):
        pf.generate(flow, 2, guidance=2.0)
    # A scale of 1 is no guidance.
    assert torch.equal(pf.generate(flow, 2, guidance=1.0), pf.generate(flow, 2))
    with pytest.raises(pf.InputError, match=r"\(scale 3\.0\)"):
        pf.generate(student("any", sampling=SamplingDefaults(guidance=3.0)), 2, guidance=2.0)
    for solver in (Heun(), DDIM(), Multistep("velocity", "time", 2)):
        with pytest.raises(pf.UndefinedError, match="follows a velocity, and this is a flow map"):
            pf.generate(flow, 2, solver=solver, nfe=2)
    with pytest.raises(pf.InputError, match="FlowMapSampler takes a flow map"):
        pf.generate(mixture(2, 1).field(pf.CondOT()), 2, solver=FlowMapSampler(), nfe=2)
    # As a field, it is sampled as fields are.
    x = randn(3, 2, seed=1)
    truth = pf.integrate(Heun(), pf.InstantaneousField(flow), x, pf.times.uniform(3))
    torch.testing.assert_close(
        pf.generate(pf.InstantaneousField(flow), 3, solver=Heun(), nfe=6, source=x), truth
    )


# SolverFlowMap.


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (DDIM(), 1), (Heun(), 2), (RK4(), 4)])
@pytest.mark.parametrize("kind", ["full", "line"])
@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine()], ids=repr)
def test_the_error_of_a_solved_map_falls_by_the_order_of_its_solver(path, kind, solver, order):
    """From times of each sample's own, towards the data, towards the noise, and nowhere, in one batch."""
    law = mixture(3, 1) if kind == "full" else LINE
    t, s = 0.1 + 0.8 * rand(16, seed=1), 0.1 + 0.8 * rand(16, seed=2)
    s[:3] = t[:3]
    assert bool((s > t).any()) and bool((s < t).any())  # noqa: PT018
    x = path.sample(randn(16, *law.shape, seed=3), law.sample(16, seed=4), t)
    truth = law.flow_map(path)(x, t, s)
    errors = []
    for steps in (32, 64):
        got = SolverFlowMap(law.field(path), solver, steps)(x, t, s)
        assert torch.equal(got[:3], x[:3])
        for rows in (s > t, s < t):
            errors.append(float((got - truth)[rows].norm()))
    for coarse, fine in (errors[::2], errors[1::2]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM(), Multistep("velocity", "time", 3)])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.2, 0.7), (0.9, 0.15)])
def test_on_a_common_grid_a_solved_map_is_integrate(solver, ends):
    path, law = pf.CondOT(), mixture(2, 3)
    field, x = law.field(path), randn(5, 2, seed=1)
    times = torch.linspace(*ends, 6, dtype=torch.float64)
    truth = pf.integrate(solver, field, x, times)
    got = SolverFlowMap(field, solver, 5)(x, *ends)
    torch.testing.assert_close(got, truth, rtol=1e-12, atol=1e-12)


def test_samples_that_stay_do_so_at_any_time_and_change_nothing_for_others():
    field = Counted(mixture(2, 3).field(pf.VP()))
    flow = SolverFlowMap(field, Heun(), 2)
    t = torch.tensor([0.0, 0.5, 1.0, 0.3, 0.2]).double()
    s = torch.tensor([0.0, 0.5, 1.0, 0.6, 0.1]).double()
    x = randn(5, 2, seed=1)
    got = flow(x, t, s)
    assert torch.equal(got[:3], x[:3])
    # Of those that stay, too, the field is asked at times that there are.
    asked = torch.stack(field.times)
    assert bool(((asked >= 0) & (asked <= 1)).all())
    torch.testing.assert_close(got[3:], flow(x[3:], t[3:], s[3:]), rtol=1e-12, atol=1e-12)


def test_a_solved_map_passes_conditions_on_and_is_a_flow_map():
    law = mixture(2, 4, labels=[0, 1, 0, 1])
    flow = SolverFlowMap(law.field(pf.CondOT()), RK4(), 40)
    assert isinstance(flow, pf.FlowMap)
    assert flow.jumps == "any"
    assert not isinstance(law.field(pf.CondOT()), pf.FlowMap)
    x, label = randn(4, 2, seed=1), torch.tensor([0, 1, 1, 0])
    got = flow(x, 0.2, 0.8, label=label)
    means, cov = law.components.means, law.components
    for k in (0, 1):
        keep = law.labels == k
        parts = cov.basis[keep] @ torch.diag_embed(cov.eigenvalues[keep]) @ cov.basis[keep].mT
        part = pf.GaussianMixture(means[keep], parts, law.log_weights[keep].softmax(0))
        truth = SolverFlowMap(part.field(pf.CondOT()), RK4(), 40)(x, 0.2, 0.8)
        torch.testing.assert_close(got[label == k], truth[label == k], rtol=1e-9, atol=1e-9)


def test_a_solver_with_noise_makes_no_map():
    field, x = mixture(2, 2).field(pf.CondOT()), randn(3, 2)
    for solver in (EulerMaruyama(0.7), DDPM(), DDIM(1.0)):
        with pytest.raises(pf.InputError, match="SolverFlowMap take solvers without noise"):
            SolverFlowMap(field, solver, 2)(x, 0.2, 0.6)
    for steps in (0, -1):
        with pytest.raises(pf.InputError, match="at least 1"):
            SolverFlowMap(field, Heun(), steps)


def test_a_flow_map_asked_for_what_takes_a_velocity_says_where_to_find_one():
    law, path = mixture(2, 1), pf.CondOT()
    flow, x = law.flow_map(path), randn(4, 2, seed=1)
    for ask in (
        lambda: pf.integrate(Heun(), flow, x, pf.times.uniform(4)),
        lambda: pf.log_prob(flow, x),
        lambda: pf.sample_with_log_prob(flow, 4),
    ):
        with pytest.raises(pf.UndefinedError, match=r"InstantaneousField\(model\)"):
            ask()
    # And there it is: the density of the law itself.
    found = pf.log_prob(pf.InstantaneousField(flow), x)
    torch.testing.assert_close(found, law.log_prob(x), rtol=1e-5, atol=1e-5)
