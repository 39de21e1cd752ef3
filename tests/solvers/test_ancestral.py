"""DDIM and DDPM: the posterior of the noising process, term by term and in law."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS, THREE_PATHS, mixture, randn
from pushforward.solvers import DDIM, DDPM

LAW = mixture(2, 3, "full", seed=4)
X = randn(5, 2, seed=1)
T, S = torch.tensor(0.35, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)


class Fixed:
    """Noise whose normals are given, to read off the affine map of one step."""

    def __init__(self, z: torch.Tensor) -> None:
        self.z = z

    def normal(self, shape, stream, dtype):
        assert stream == pf.noise.SOLVER
        return self.z.to(dtype)


def step(solver, field, x, t, s, z):
    ends = [torch.full((len(x),), float(v), dtype=torch.float64) for v in (t, s)]
    return solver.step(field, x, *ends, None, Fixed(z))[0]


def posterior(path, x, x1, t, s):
    """Mean and variance of q(x_s | x_t, x1), as the product of two Gaussians in x_s.

    x_t = r x_s + noise of variance b, r = alpha_t/alpha_s;  x_s ~ N(alpha_s x1, sigma_s^2).
    """
    r = path.alpha(t) / path.alpha(s)
    b = path.sigma(t) ** 2 - r**2 * path.sigma(s) ** 2
    precision = r**2 / b + 1 / path.sigma(s) ** 2
    mean = (r * x / b + path.alpha(s) * x1 / path.sigma(s) ** 2) / precision
    return mean, 1 / precision, b


@pytest.mark.parametrize("path", PATHS)
def test_one_step_is_a_draw_from_the_posterior_of_the_noising_process(path):
    field, z = LAW.field(path), randn(5, 2, seed=8)
    x = path.source_std * X
    mean, tilde, b = posterior(path, x, field(x, T, "data"), T, S)
    for solver, variance in ((DDPM(), tilde), (DDPM("beta"), b), (DDIM(1.0), tilde)):
        got = step(solver, field, x, T, S, z)
        assert torch.allclose(got, mean + variance.sqrt() * z, rtol=1e-8, atol=1e-8), solver
    assert torch.allclose(
        pf.solvers.ancestral.posterior_variance(path, T[None], S[None]), tilde, rtol=1e-8
    )


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8])
def test_one_step_of_ddim_is_its_formula(eta, path):
    # Song et al. 2021, eq. 12 and 16: sigma_eta = eta sqrt((1 - a_s)/(1 - a_t)) sqrt(1 - a_t/a_s) where alpha^2 = a.
    field, z = LAW.field(path), randn(5, 2, seed=8)
    data, noise = field(X, T, "data"), field(X, T, "noise")
    spread = eta * posterior(path, X, data, T, S)[1].sqrt()
    want = path.alpha(S) * data + (path.sigma(S) ** 2 - spread**2).sqrt() * noise + spread * z
    assert torch.allclose(step(DDIM(eta), field, X, T, S, z), want, atol=1e-12)
    if not isinstance(path, pf.CondOT):
        a_t, a_s = path.alpha(T) ** 2, path.alpha(S) ** 2
        paper = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)).sqrt()
        assert torch.allclose(spread, paper, rtol=1e-10)


@pytest.mark.parametrize("steps", ["linear", "cosine"])
def test_between_neighbouring_steps_it_is_the_formula_of_ho_et_al(steps):
    path, z = getattr(pf.DDPMPath, steps)(50), randn(5, 2, seed=8)
    field = LAW.field(path)
    beta = torch.as_tensor(path.betas, dtype=torch.float64)
    bar = (1 - beta).cumprod(0)
    for k in (2, 3, 20, 49):  # x_k -> x_{k-1}, steps counted from 1
        t, s = (path.time_of_step(torch.tensor(float(v), dtype=torch.float64)) for v in (k, k - 1))
        eps = field(X, t, "noise")
        mean = (X - beta[k - 1] / (1 - bar[k - 1]).sqrt() * eps) / (1 - beta[k - 1]).sqrt()
        tilde = (1 - bar[k - 2]) / (1 - bar[k - 1]) * beta[k - 1]
        for name, variance in (("beta", beta[k - 1]), ("beta-tilde", tilde)):
            got = step(DDPM(name), field, X, t, s, z)
            assert torch.allclose(got, mean + variance.sqrt() * z, rtol=1e-7, atol=1e-7), (k, name)


def test_ddim_with_eta_one_and_ddpm_are_the_same_samples():
    for path in (pf.CondOT(), pf.Cosine(), pf.VP(), pf.EDM()):
        x, times = path.source_std * X, pf.times.uniform(12)
        runs = [pf.integrate(v, LAW.field(path), x, times, seed=4) for v in (DDIM(1.0), DDPM())]
        assert torch.allclose(*runs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [*THREE_PATHS, pytest.param(pf.EDM(), id="EDM")])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_for_a_single_point_ddpm_is_exact_on_any_grid(n, path):
    # No sampling: a step is x -> A x + c + sqrt(v) z, so mean and variance of the marginals follow.
    point = torch.tensor([[1.3]], dtype=torch.float64)
    field, grid = pf.Empirical(point).field(path), pf.times.straight(n, path, 0.0, 0.97)
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    zero, one = torch.zeros(2, 1), torch.ones(2, 1)
    for solver in (DDPM(), DDIM(1.0), DDIM(0.4), DDIM(0.0)):
        mean = float(path.alpha(grid[:1])) * 1.3
        variance = float(path.sigma(grid[:1])) ** 2
        for t, s in itertools.pairwise(grid):
            still, moved = (step(solver, field, probe, t, s, z) for z in (zero, one))
            slope, offset = float(still[1] - still[0]), float(still[0])
            mean = slope * mean + offset
            variance = slope**2 * variance + float(moved[0] - still[0]) ** 2
            assert mean == pytest.approx(float(path.alpha(s)) * 1.3, rel=1e-7, abs=1e-7)
            assert variance == pytest.approx(float(path.sigma(s)) ** 2, rel=1e-7)


def after(solver, field, grid, mean, variance):
    """Mean and variance that the affine steps on a one-dimensional Gaussian law lead to."""
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t, s in itertools.pairwise(grid):
        still = step(solver, field, probe, t, s, torch.zeros(2, 1))
        moved = step(solver, field, probe, t, s, torch.ones(2, 1))
        slope, offset = float(still[1] - still[0]), float(still[0])
        mean = slope * mean + offset
        variance = slope**2 * variance + float(moved[0] - still[0]) ** 2
    return mean, variance


@pytest.mark.parametrize("path", THREE_PATHS)
@pytest.mark.parametrize("solver", [DDPM(), DDPM("beta"), DDIM(0.5), DDIM(1.0), DDIM()], ids=repr)
def test_small_steps_keep_the_marginals_with_an_error_of_first_order(solver, path):
    field = pf.GaussianMixture([[0.8]], 0.3).field(path)
    ends = torch.tensor([0.1, 0.9], dtype=torch.float64)
    means = 0.8 * path.alpha(ends)
    variances = 0.3 * path.alpha(ends) ** 2 + path.sigma(ends) ** 2
    errors = []
    for n in (60, 120):
        m, v = after(
            solver,
            field,
            pf.times.straight(n, path, 0.1, 0.9),
            float(means[0]),
            float(variances[0]),
        )
        errors.append((abs(m - float(means[1])), abs(v - float(variances[1]))))
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 0.02
        assert coarse < 1e-9 or 2**0.8 < coarse / fine < 2**1.2


def test_white_data_are_drawn_exactly_with_beta_for_variance():
    # Ho et al. 2020, sec. 3.2: beta is right for x1 ~ N(0, I), on variance-preserving paths.
    for path in (pf.VP(), pf.Cosine()):
        field = pf.GaussianMixture([[0.0]], 1.0).field(path)
        m, v = after(DDPM("beta"), field, pf.times.straight(5, path, 0.05, 0.9), 0.0, 1.0)
        assert m == pytest.approx(0, abs=1e-12)
        assert v == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("solver", [DDPM(), DDPM("beta"), DDIM(0.5)], ids=repr)
def test_sampling_ends_in_the_mean_and_variance_of_the_data(solver):
    n, mean, variance = 4000, torch.tensor([0.7, -1.1]).double(), torch.tensor([0.4, 1.7]).double()
    path = pf.Cosine()
    field = pf.GaussianMixture(mean[None], variance[None]).field(path)
    x = pf.integrate(solver, field, randn(n, 2, seed=3), pf.times.straight(100, path), seed=5)
    assert ((x.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt() + 0.01).all()
    assert ((x.var(0) / variance - 1).abs() < 4.5 * math.sqrt(2 / n) + 0.03).all()


def test_the_last_step_is_the_data_prediction_without_noise():
    for path in (pf.CondOT(), pf.Cosine(), pf.VP()):
        field, end = LAW.field(path), torch.ones((), dtype=torch.float64)
        data = field(X, T, "data")
        for solver in (DDPM(), DDPM("beta"), DDIM(), DDIM(1.0), DDIM(0.4)):
            got = step(solver, field, X, T, end, randn(5, 2, seed=8))
            assert torch.allclose(got, data, atol=1e-12), solver


@pytest.mark.parametrize("path", THREE_PATHS)
def test_inversion_and_back_reconstructs_the_data(path):
    law = mixture(2)
    field, x1 = law.field(path), law.sample(6, seed=4)
    errors = []
    for n in (50, 200):
        times = pf.times.straight(n, path)
        x0 = pf.integrate(DDIM(), field, x1, times.flip(0))
        errors.append(float((pf.integrate(DDIM(), field, x0, times) - x1).abs().max()))
        assert x0.isfinite().all()
    # Each way is of first order.
    assert errors[1] < 0.15
    assert errors[1] < errors[0] / 2.5, errors


@pytest.mark.parametrize("path", THREE_PATHS)
def test_with_noise_every_ratio_of_steps_is_finite_at_both_ends(path):
    for solver, n in itertools.product(
        (DDPM(), DDPM("beta"), DDIM(0.5), DDIM(1.0), DDIM()), (1, 2, 7)
    ):
        out = pf.integrate(solver, LAW.field(path), X, pf.times.uniform(n))
        assert out.isfinite().all(), solver
    for n in (1, 2, 7):
        back = pf.integrate(DDIM(), LAW.field(path), X, pf.times.uniform(n).flip(0))
        assert back.isfinite().all()


def test_what_is_not_defined_is_an_error():
    field, times = LAW.field(pf.CondOT()), pf.times.uniform(3)
    for solver in (DDPM(), DDPM("beta"), DDIM(0.2), DDIM(1.0)):
        with pytest.raises(pf.InputError, match="increasing times"):
            pf.integrate(solver, field, X, times.flip(0))
    other = LAW.field(pf.CondOT(gaussian_source=False))
    for solver in (DDPM(), DDIM(), DDIM(0.5)):
        with pytest.raises(pf.UndefinedError, match="Gaussian"):
            pf.integrate(solver, other, X, times)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(pf.InputError, match="eta"):
            DDIM(eta)
    with pytest.raises(pf.InputError, match="beta"):
        DDPM("gamma")
    with pytest.raises(pf.InputError, match="no variance to give"):
        pf.integrate(DDPM("learned"), field, X, times)


class WithVariance:
    """An exact field that gives the interpolation v(t) which makes the steps of a grid scatter as they should."""

    def __init__(self, field, v) -> None:
        self.field, self.path, self.v, self.calls = field, field.path, v, 0

    def __call__(self, x, t, want="velocity", **cond):
        raise AssertionError("one call for both")

    def with_variance(self, x, t, want="data", **cond):
        self.calls += 1
        value = self.field(x, t, want, **cond)
        return value, self.v(t)[:, None].expand_as(value)


@pytest.mark.parametrize("path", [*THREE_PATHS, pytest.param(pf.EDM(), id="EDM")])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_learned_variance_makes_steps_of_any_length_exact_for_a_gaussian(n, path):
    # x_s given x_t scatters by beta-tilde, and by what is not known of x1: (alpha_s b/sigma_t^2)^2 Var[x1 | x_t].
    spread = 0.3
    grid = pf.times.straight(n, path, 0.1, 0.9)

    def v(t):
        s = grid[(grid[:, None] == t).int().argmax(0) + 1]
        alpha, sigma = path.alpha(t), path.sigma(t)
        tilde, b = posterior(path, t, t, t, s)[1:]
        unknown = spread * sigma**2 / (spread * alpha**2 + sigma**2)
        true = tilde + (path.alpha(s) * b / sigma**2) ** 2 * unknown
        return (true / tilde).log() / (b / tilde).log()

    field = pf.GaussianMixture([[0.8]], spread).field(path)
    alpha, sigma = path.alpha(grid), path.sigma(grid)
    means, variances = 0.8 * alpha, spread * alpha**2 + sigma**2
    start = float(means[0]), float(variances[0])
    learned = WithVariance(field, v)
    got = after(DDPM("learned"), learned, grid, *start)
    assert learned.calls == 2 * n
    assert got == pytest.approx((float(means[-1]), float(variances[-1])), rel=1e-7)
    for fixed in ("beta", "beta-tilde"):
        assert after(DDPM(fixed), field, grid, *start)[1] != pytest.approx(
            float(variances[-1]), rel=1e-3
        )


@pytest.mark.parametrize("path", PATHS)
def test_learned_variance_runs_from_beta_tilde_to_beta(path):
    field, z, x = LAW.field(path), randn(5, 2, seed=8), path.source_std * X
    for s in (S, torch.ones((), dtype=torch.float64)):
        for v, name in ((0.0, "beta-tilde"), (1.0, "beta")):
            got = step(DDPM("learned"), WithVariance(field, lambda t, v=v: 0 * t + v), x, T, s, z)
            assert torch.allclose(got, step(DDPM(name), field, x, T, s, z), rtol=1e-9, atol=1e-12)
    # Nichol & Dhariwal, eq. 15, v different for every number of a sample.
    v = randn(5, 2, seed=9)
    mean, tilde, b = posterior(path, x, field(x, T, "data"), T, S)
    want = mean + (v * b.log() + (1 - v) * tilde.log()).exp().sqrt() * z
    both = WithVariance(field, None)
    both.with_variance = lambda x, t, want: (field(x, t, want), v)
    assert torch.allclose(step(DDPM("learned"), both, x, T, S, z), want, rtol=1e-8, atol=1e-8)


def test_learned_variance_is_the_same_step_along_another_path():
    # Both paths have alpha^2 + sigma^2 = 1: equal log-SNRs have equal states.
    old, new = pf.Cosine(), pf.VP()
    field = WithVariance(LAW.field(old), lambda t: t**2)
    moved = pf.ScheduleTransfer(field, new)
    there = new.time_of_log_snr(old.log_snr(torch.stack((T, S.expand_as(T)))))
    z = randn(5, 2, seed=8)
    got = step(DDPM("learned"), moved, X, *there, z)
    assert torch.allclose(got, step(DDPM("learned"), field, X, T, S, z), rtol=1e-9, atol=1e-11)
    for path, want in itertools.product((new, pf.CondOT()), pf.PREDICTIONS):
        t = path.time_of_log_snr(old.log_snr(T))
        value, v = pf.ScheduleTransfer(field, path).with_variance(X, t, want)
        truth = LAW.field(path)(X, t, want)  # the law is the same on every path
        assert torch.allclose(value, truth, rtol=1e-8, atol=1e-10)
        assert torch.allclose(v, (T**2).expand_as(X), rtol=1e-9)
    with pytest.raises(pf.InputError, match="no variance to give"):
        step(DDPM("learned"), pf.ScheduleTransfer(LAW.field(old), new), X, *there, z)


class Doubled(torch.nn.Module):
    """A network with two outputs for each channel: a linear map, and the v of the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x, t):
        self.calls += 1
        return torch.cat((0.5 * x, 0.1 * x + 0.2), dim=1)


def test_a_model_with_twice_the_channels_gives_prediction_and_variance_by_one_call():
    class Half(torch.nn.Module):
        def forward(self, x, t):
            return 0.5 * x

    x = randn(3, 2, 4, 4, seed=1)
    for path, conditioning in ((pf.VP(), None), (pf.CondOT(), pf.EDMPreconditioning())):
        prediction = "noise" if conditioning is None else "data"
        model = pf.Model(
            Doubled(), path, prediction, conditioning, outputs=("prediction", "variance")
        )
        plain = pf.Model(Half(), path, prediction, conditioning)
        for want in pf.PREDICTIONS:
            assert torch.equal(model(x, 0.4, want), plain(x, 0.4, want))
        data, v = model.with_variance(x, 0.4)
        assert torch.equal(data, plain(x, 0.4, "data"))
        if conditioning is None:
            assert torch.equal(v, 0.1 * x + 0.2)
        model.net.calls = 0
        out = pf.integrate(DDPM("learned"), model, x, pf.times.straight(4, path), seed=2)
        assert model.net.calls == 4
        assert out.isfinite().all()
        with pytest.raises(pf.InputError, match="gives no variance"):
            pf.integrate(DDPM("learned"), plain, x, pf.times.straight(4, path))
        # Gradients of both pass, also through the last step, which has no variance.
        x.requires_grad_()
        out = pf.integrate(DDPM("learned"), model, x, pf.times.straight(3, path), seed=2)
        assert torch.autograd.grad(out.sum(), x)[0].isfinite().all()
        x = x.detach()
