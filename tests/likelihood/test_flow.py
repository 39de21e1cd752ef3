"""Log densities along the flow: the change of variables, its random estimate, and what it is reported in."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS, Counted, generator, mixture, randn
from pushforward.likelihood import (
    EXACT_DIMENSIONS,
    bits_per_dimension,
    dequantise,
    divergence,
    log_prob,
    source_log_prob,
    traces,
)
from pushforward.likelihood.flow import _draw, _WithTrace
from pushforward.nets import MLP

LAW = mixture(2)
INNER = torch.tensor([0.05, 0.95], dtype=torch.float64)


def small_model(dim: int = 2, seed: int = 0, **extra) -> pf.Model:
    """A smooth field that is nobody's: an MLP at random weights, its last layer not zero."""
    torch.manual_seed(seed)
    net = MLP(dim, 16, 2, **extra).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator(seed)))
    return pf.Model(net, pf.CondOT(), shape=(dim,), classes=extra.get("classes"))


@pytest.mark.parametrize("path", PATHS)
def test_from_the_density_at_the_start_follows_that_at_the_end_on_every_path(path):
    field, x = LAW.field(path), LAW.sample(4, seed=3)
    start, end = 0.01, 0.99
    # The velocity along an arbitrary schedule has kinks, at which small steps are taken for nothing.
    kinks = isinstance(path, pf.DDPMPath)
    got = log_prob(
        field,
        x,
        grid=torch.tensor([start, end], dtype=torch.float64),
        source=lambda x0: field.log_prob(x0, start),
        solver=pf.solvers.DormandPrince(1e-6, 1e-7) if kinks else None,
    )
    atol = 2e-3 if kinks else 1e-5
    assert torch.allclose(got, field.log_prob(x, end), atol=atol, rtol=0)


@pytest.mark.parametrize("path", [pf.CondOT(), pf.Cosine()], ids=repr)
def test_where_the_source_is_exact_so_is_the_density_of_the_data(path):
    x = LAW.sample(8, seed=3)
    got = log_prob(LAW.field(path), x)
    assert torch.allclose(got, LAW.log_prob(x), atol=1e-5, rtol=0)
    grid = pf.times.uniform(60)
    by_rk4 = log_prob(LAW.field(path), x, solver=pf.solvers.RK4(), grid=grid)
    assert torch.allclose(by_rk4, LAW.log_prob(x), atol=1e-3, rtol=0)


def test_a_fixed_step_solver_without_a_grid_takes_a_hundred_steps():
    field, x = Counted(LAW.field(pf.CondOT())), LAW.sample(4, seed=3)
    got = log_prob(field, x, solver=pf.solvers.Heun())
    assert field.calls == 200
    assert torch.allclose(got, LAW.log_prob(x), atol=5e-3)


def test_without_a_source_it_is_the_density_of_what_is_sampled_from_noise():
    # On VP a trace of the data is left at t = 0: the law sampled from N(0, sigma(0)^2 I) is another, and known.
    path, mean, variance = pf.VP(0.1, 4.0), torch.tensor([[0.7, -1.1]]), torch.tensor([[0.4, 1.7]])
    mean, variance = mean.double(), variance.double()
    field, zero = pf.GaussianMixture(mean, variance).field(path), torch.zeros(()).double()
    alpha, sigma = path.alpha(zero), path.sigma(zero)
    start = alpha**2 * variance + sigma**2
    # x1 = m + sqrt(v/v0) (x0 - alpha m), x0 ~ N(0, sigma^2)
    centre, spread = mean - (variance / start).sqrt() * alpha * mean, variance / start * sigma**2
    x = randn(6, 2, seed=5)
    truth = torch.distributions.Normal(centre, spread.sqrt()).log_prob(x).sum(1)
    assert torch.allclose(log_prob(field, x), truth, atol=1e-5)
    assert (truth - field.law.log_prob(x)).abs().max() > 0.05


def test_the_source_is_the_normal_law_of_its_standard_deviation():
    for path in (pf.CondOT(), pf.VE(0.01, 50.0)):
        x = path.source_std * randn(5, 2, 3, seed=1)
        truth = torch.distributions.Normal(0 * x, path.source_std).log_prob(x).sum((1, 2))
        assert torch.allclose(source_log_prob(path, x), truth, rtol=1e-12)


def test_images_and_labels_and_single_precision():
    means = randn(3, 1, 3, 3, seed=2)
    law = pf.GaussianMixture(means, [0.3, 0.8, 0.5], labels=[0, 1, 1])
    x, label = law.sample(5, seed=1), torch.tensor([0, 1, -1, 1, 0])
    for cond in ({}, {"label": label}):
        got = log_prob(law.field(pf.CondOT()), x, **cond)
        assert got.shape == (5,)
        assert torch.allclose(got, law.log_prob(x, **cond), atol=1e-5)
        loose = pf.solvers.DormandPrince(1e-4, 1e-5)
        single = log_prob(law.field(pf.CondOT()), x.float(), solver=loose, **cond)
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), got, atol=1e-2)
    estimate = log_prob(law.field(pf.CondOT()), x, probes=64, label=label)
    # A single isotropic component has a Jacobian that is a multiple of 1, which signs see without error.
    assert estimate.standard_error[[0, 4]].max() < 1e-9
    error = (estimate.log_prob - law.log_prob(x, label=label)).abs()
    assert (error < 4.5 * estimate.standard_error + 1e-5).all()


def test_the_divergence_is_the_trace_of_the_jacobian():
    field = small_model(4, seed=2)
    for t in (0.0, 0.3, 1.0):
        x = randn(3, 4, seed=1)
        u, div = divergence(field, x, t)
        assert torch.equal(u, field(x, t).detach())
        for i in range(3):
            jacobian = torch.autograd.functional.jacobian(
                lambda row, t=t: field(row[None], t)[0], x[i]
            )
            assert float(div[i]) == pytest.approx(float(jacobian.trace()), rel=1e-10, abs=1e-12)
            probes = randn(3, 2, 4, seed=7)
            u, rows = traces(field, x, t, probes)
            for k in range(2):
                v = probes[i, k]
                assert float(rows[i, k]) == pytest.approx(float(v @ jacobian @ v), rel=1e-10)
        # Over all unit probes the traces sum to the divergence.
        axes = (2.0 * torch.eye(4, dtype=torch.float64)).expand(3, 4, 4)
        assert torch.allclose(traces(field, x, t, axes)[1].mean(1), div, rtol=1e-10)
    law = LAW.field(pf.Cosine())
    x = randn(3, 2, seed=1)
    assert torch.allclose(divergence(law, x, 0.4)[1], law.divergence(x, 0.4), rtol=1e-9)


def test_the_density_of_a_network_integrates_to_one():
    field, n, width = small_model(seed=3), 121, 12.0
    axis = torch.linspace(-width, width, n, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    p = log_prob(field, x, solver=pf.solvers.RK4(), grid=pf.times.uniform(15)).exp()
    assert abs(float(p.sum()) * (2 * width / (n - 1)) ** 2 - 1) < 1e-3
    # And it is no standard normal law, to begin with.
    assert (p - source_log_prob(field.path, x).exp()).abs().max() > 0.02


def test_the_density_of_a_linear_flow_is_its_change_of_variables():
    # u = a x on one axis and b on the other: ln p_1 = ln p_0(e^-a x) - (a + b).
    rates = torch.tensor([0.8, -0.3], dtype=torch.float64)

    class Linear:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return x * rates

    x = randn(5, 2, seed=1)
    truth = source_log_prob(pf.CondOT(), x * (-rates).exp()) - 0.5
    assert torch.allclose(log_prob(Linear(), x), truth, atol=1e-6)
    # A diagonal Jacobian is seen by signs without any error.
    estimate = log_prob(Linear(), x, probes=2)
    assert torch.allclose(estimate.log_prob, truth, atol=1e-6)
    assert estimate.standard_error.max() < 1e-9
    half = log_prob(Linear(), x, grid=torch.tensor([0.0, 0.5]))
    truth = source_log_prob(pf.CondOT(), x * (-rates / 2).exp()) - 0.25
    assert torch.allclose(half, truth, atol=1e-6)


# Hutchinson's estimate.

RK4 = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(12, 0.05, 0.95)}


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_the_estimate_is_unbiased_and_its_standard_error_is_what_it_says(kind):
    law = mixture(3, 3, seed=5)
    field, x = law.field(pf.CondOT()), law.sample(400, seed=3)
    exact = log_prob(field, x, **RK4)
    estimate = log_prob(field, x, probes=16, kind=kind, seed=1, **RK4)
    error = estimate.log_prob - exact
    # The solver makes the same error with probes as without.
    inside = (error.abs() < 1.96 * estimate.standard_error).double().mean()
    assert 0.88 < float(inside) < 0.99
    total = float(error.sum() / (estimate.standard_error**2).sum().sqrt())
    assert abs(total) < 4
    assert float(error.std()) > 0.01


def test_gaussian_probes_spread_as_the_frobenius_norm_says():
    # Var v.Jv = 2 |J_s|^2 for normal v and 2 (|J_s|^2 - sum J_ii^2) for signs (Hutchinson 1990).
    field, x, k = small_model(3, seed=4), randn(1, 3, seed=2), 40000
    jacobian = torch.autograd.functional.jacobian(lambda r: field(r[None], 0.5)[0], x[0])
    symmetric = (jacobian + jacobian.T) / 2
    for kind, variance in (
        ("gaussian", 2 * (symmetric**2).sum()),
        ("rademacher", 2 * ((symmetric**2).sum() - (symmetric.diagonal() ** 2).sum())),
    ):
        probes = _draw(x.expand(k, -1), 1, kind, pf.Noise.batch(k))
        got = traces(field, x.expand(k, -1), 0.5, probes)[1]
        assert float(got.var()) == pytest.approx(float(variance), rel=0.05)
        assert abs(float(got.mean() - jacobian.trace())) < 4.5 * float(variance / k) ** 0.5
        if kind == "rademacher":
            assert probes.abs().unique().tolist() == [1.0]


@pytest.mark.parametrize("solver", [None, pf.solvers.RK4()])
def test_probes_are_drawn_once_for_the_whole_trajectory(solver):
    # Were they drawn anew at each call or interval, a finer grid would give another number and a smaller spread.
    field, x = LAW.field(pf.CondOT()), LAW.sample(3, seed=3)
    n = 1 if solver is None else 40
    runs = [
        log_prob(
            field, x, probes=2, solver=solver, grid=pf.times.uniform(k * n, 0.05, 0.95), seed=4
        )
        for k in (1, 2)
    ]
    assert torch.allclose(runs[0].log_prob, runs[1].log_prob, atol=2e-4)
    assert torch.allclose(runs[0].standard_error, runs[1].standard_error, atol=2e-4)
    again = log_prob(
        field, x, probes=2, solver=solver, grid=pf.times.uniform(n, 0.05, 0.95), seed=4
    )
    assert torch.equal(again.log_prob, runs[0].log_prob)
    other = log_prob(
        field, x, probes=2, solver=solver, grid=pf.times.uniform(n, 0.05, 0.95), seed=5
    )
    assert not torch.allclose(other.log_prob, again.log_prob)


def test_an_estimate_does_not_depend_on_the_rows_after_it():
    field, x = LAW.field(pf.CondOT()), LAW.sample(6, seed=3)
    many, few = (log_prob(field, v, probes=3, grid=INNER, seed=4) for v in (x, x[:4]))
    assert torch.allclose(many.log_prob[:4], few.log_prob, atol=1e-10)


def test_the_standard_error_is_that_of_the_mean_over_the_probes():
    field, x = LAW.field(pf.CondOT()), LAW.sample(3, seed=3)
    probes = _draw(x, 5, "rademacher", pf.Noise.batch(3, 2))
    drawn = _WithTrace(field, (2,))
    start = torch.cat((x, torch.zeros(3, 5).double()), 1)
    end = pf.integrate(RK4["solver"], drawn, start, RK4["grid"].flip(0), _probes=probes)
    each = source_log_prob(field.path, end[:, :2])[:, None] + end[:, 2:]
    got = log_prob(field, x, probes=5, seed=2, **RK4)
    assert torch.allclose(got.log_prob, each.mean(1), atol=1e-12)
    assert torch.allclose(got.standard_error, each.std(1) / math.sqrt(5), atol=1e-12)
    one = log_prob(field, x, probes=1, **RK4)
    assert torch.isinf(one.standard_error).all()


# Bits.


def test_uniform_bytes_take_eight_bits_each():
    # Density 1/2 on [-1, 1] in each of D dimensions; a bin is 2/256 wide.
    for dimensions in (1, 12):
        log_p = torch.full((3,), -dimensions * math.log(2.0)).double()
        bits = bits_per_dimension(log_p, dimensions, 2 / 256)
        assert torch.allclose(bits, torch.full((3,), 8.0).double(), atol=1e-12)
    # One nat less of log density is 1/(D ln 2) bits more.
    more = bits_per_dimension(log_p - 1, 12, 2 / 256) - bits
    assert torch.allclose(more, torch.full((3,), 1 / (12 * math.log(2))).double())
    # The unit in which x is measured plays no part: x -> 127.5 x makes bins and densities as much wider and thinner.
    wide = bits_per_dimension(log_p - 12 * math.log(127.5), 12, 2 / 256 * 127.5)
    assert torch.allclose(wide, bits)


def test_dequantised_values_are_uniform_over_their_own_bins():
    x = torch.arange(4.0).double()[:, None].expand(4, 20000) * 0.5
    shift = (dequantise(x, 0.5, pf.Noise.batch(4, 3)) - x) / 0.5
    assert -0.5 < shift.min() < -0.499
    assert 0.499 < shift.max() < 0.5
    assert shift.mean().abs() < 4.5 / math.sqrt(12 * 80000)
    assert float(shift.var()) == pytest.approx(1 / 12, rel=0.02)
    noise = pf.Noise.batch(4, 3)
    again = dequantise(x[2:], 0.5, pf.Noise(3, torch.tensor([2, 3])))
    assert torch.equal(dequantise(x, 0.5, noise)[2:], again)
    assert dequantise(x.float(), 0.5, noise).dtype == torch.float32


# Errors.


def test_what_has_no_density_or_would_take_too_long_is_an_error():
    field = LAW.field(pf.CondOT(gaussian_source=False))
    x = LAW.sample(3)
    with pytest.raises(pf.UndefinedError, match="density of the source"):
        log_prob(field, x)
    given = log_prob(field, x, source=lambda x0: source_log_prob(field.path, x0))
    assert torch.allclose(given, LAW.log_prob(x), atol=1e-5)
    limit = EXACT_DIMENSIONS
    big = pf.GaussianMixture(torch.zeros(1, limit + 1), 1.0).field(pf.CondOT())
    with pytest.raises(pf.InputError, match="probes"):
        log_prob(big, randn(2, limit + 1))
    assert log_prob(big, randn(2, limit + 1), probes=2, grid=INNER).log_prob.isfinite().all()
    fits = pf.GaussianMixture(torch.zeros(1, limit), 1.0).field(pf.CondOT())
    x = randn(2, limit)
    got = log_prob(fits, x, solver=pf.solvers.RK4(), grid=pf.times.uniform(12))
    assert torch.allclose(got, fits.law.log_prob(x), atol=1e-2)
    for bad in (0, -1):
        with pytest.raises(pf.InputError, match="at least 1"):
            log_prob(LAW.field(pf.CondOT()), LAW.sample(2), probes=bad)
    with pytest.raises(pf.InputError, match="rademacher"):
        log_prob(LAW.field(pf.CondOT()), LAW.sample(2), probes=2, kind="uniform")


class Constant:
    """A velocity that does not depend on x."""

    path = pf.CondOT()

    def __call__(self, x, t, want="velocity", **cond):
        return torch.ones_like(x)


def test_a_constant_velocity_has_no_divergence_and_shifts_the_source() -> None:
    x = torch.tensor([[0.5, -0.2], [1.0, 2.0]], dtype=torch.float64)
    want = torch.distributions.Normal(0.0, 1.0).log_prob(x - 1).sum(1)
    assert torch.allclose(pf.log_prob(Constant(), x), want, atol=1e-9)
    assert torch.allclose(pf.log_prob(Constant(), x, probes=2).log_prob, want, atol=1e-9)


# Shards, batches, masks.


def test_batches_shards_and_the_whole_give_the_same_numbers():
    law = mixture(2, 3, labels=[0, 1, 1])
    field, x, label = law.field(pf.CondOT()), law.sample(7, seed=3), torch.arange(7) % 2
    options = {"probes": 3, "seed": 5, **RK4}
    whole = log_prob(field, x, label=label, **options)
    batched = log_prob(field, x, label=label, batch_size=3, **options)
    shard = log_prob(field, x[4:], label=label[4:], ids=torch.arange(4, 7), **options)
    for a, b, c in zip(whole, batched, shard, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)
        assert torch.allclose(a[4:], c, rtol=1e-9)
    assert not torch.allclose(log_prob(field, x[4:], label=label[4:], **options)[0], shard[0])
    exact = log_prob(field, x, batch_size=2, **RK4)
    assert torch.allclose(exact, log_prob(field, x, **RK4), rtol=1e-9)
    with pytest.raises(pf.InputError, match="batch_size"):
        log_prob(field, x, batch_size=0)
    with pytest.raises(pf.InputError, match="ids must have shape"):
        log_prob(field, x, ids=torch.arange(3))


class Padded:
    """An exact field on the first two entries of (2, 2), and something else in the padding."""

    path = pf.CondOT()

    def __init__(self, law):
        self.inner = law.field(self.path)

    def __call__(self, x, t, want="velocity", **cond):
        flat = x.flatten(1)
        out = self.inner(flat[:, :2], t, want)
        return torch.cat((out, 3 * flat[:, 2:] * flat[:, :2]), 1).reshape(x.shape)


def test_what_is_masked_is_no_dimension_and_does_not_move():
    field, x = Padded(LAW), LAW.sample(4, seed=3)
    padded = torch.cat((x, 7 + randn(4, 2)), 1).reshape(4, 2, 2)
    mask = torch.tensor([True, True, False, False]).reshape(2, 2).expand(4, 2, 2)
    got = log_prob(field, padded, mask=mask, solver=pf.solvers.DormandPrince(1e-5, 1e-6))
    assert torch.allclose(got, LAW.log_prob(x), atol=1e-3)
    estimate = log_prob(field, padded, probes=30, mask=mask, **RK4)
    exact = log_prob(field, padded, mask=mask, **RK4)
    error = (estimate.log_prob - exact).abs()
    assert (error < 4.5 * estimate.standard_error).all()
    plain = log_prob(LAW.field(pf.CondOT()), x, probes=30, **RK4)
    assert float(estimate.standard_error.mean()) < 1.5 * float(plain.standard_error.mean())
    # Masks of each sample's own: a 1-D law where the second entry is padding.
    line = pf.GaussianMixture([[0.5], [-1.0]], 0.3).field(pf.CondOT())

    class Both:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return torch.cat((line(x[:, :1], t, want), line(x[:, 1:], t, want)), 1)

    own = torch.tensor([[True, False], [False, True], [True, True]])
    each = line.law.log_prob(x[:3].reshape(6, 1)).reshape(3, 2)
    truth = (each * own).sum(1)
    loose = pf.solvers.DormandPrince(1e-5, 1e-6)
    assert torch.allclose(log_prob(Both(), x[:3], mask=own, solver=loose), truth, atol=1e-3)
    batched = log_prob(Both(), x[:3], mask=own, batch_size=1, solver=loose)
    assert torch.allclose(batched, truth, atol=1e-3)
    for bad in (mask[:, 0], mask.double()):
        with pytest.raises(pf.InputError, match="mask"):
            log_prob(field, padded, mask=bad)


def test_probes_do_not_see_what_is_masked():
    # The first entry moves by the second, which is padding: nothing of that is divergence, for any probe.
    class Sheared:
        path = pf.CondOT()

        def __call__(self, x, t, want="velocity", **cond):
            return torch.stack((5 * x[:, 1], x[:, 0]), 1)

    x, mask = randn(3, 2, seed=1), torch.tensor([True, False]).expand(3, 2)
    got = log_prob(Sheared(), x, probes=3, mask=mask, **RK4)
    assert float(got.standard_error.max()) < 1e-12
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0] - 0.9 * 5 * x[:, 1])
    assert torch.allclose(got.log_prob, truth, atol=1e-9)


# Samples with their density.

SHORT = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(20)}


def test_samples_come_with_the_density_that_they_have():
    adaptive = pf.solvers.DormandPrince(1e-5, 1e-6)
    for path in (pf.CondOT(), pf.Cosine()):
        x, log_p = pf.sample_with_log_prob(LAW.field(path), 4, seed=2, solver=adaptive)
        assert torch.allclose(log_p, LAW.log_prob(x), atol=1e-3)
    model = small_model(seed=3)
    fine = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(100)}
    x, log_p = pf.sample_with_log_prob(model, 6, seed=2, **fine)
    assert torch.allclose(log_p, log_prob(model, x, **fine), atol=1e-3)
    assert torch.allclose(x, pf.generate(model, 6, seed=2, **fine), rtol=1e-9)
    # The mean of -ln p over samples is the entropy, and that of q/p is 1.
    law = pf.GaussianMixture([[0.3, 1.0]], 0.4)
    x, log_p = pf.sample_with_log_prob(law.field(pf.CondOT()), 300, **SHORT)
    entropy = 1 + math.log(2 * math.pi * 0.4)
    assert abs(float(-log_p.mean()) - entropy) < 4.5 * float(log_p.std()) / math.sqrt(300) + 1e-3


def test_estimates_along_the_trajectory_are_those_of_the_same_probes():
    field = LAW.field(pf.CondOT())
    options = {"probes": 5, "solver": pf.solvers.RK4(), "grid": pf.times.uniform(60, 0.0, 0.98)}
    x, estimate = pf.sample_with_log_prob(field, 4, seed=2, **options)
    back = log_prob(field, x, seed=2, **options)
    assert torch.allclose(estimate.log_prob, back.log_prob, atol=1e-3)
    assert torch.allclose(estimate.standard_error, back.standard_error, atol=1e-3)


def test_shares_of_samples_are_those_of_the_whole():
    law = mixture(2, 3, labels=[0, 1, 1])
    field, label = law.field(pf.CondOT()), torch.arange(7) % 2
    options = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(9), "seed": 4, "probes": 2}
    x, whole = pf.sample_with_log_prob(field, 7, label=label, **options)
    y, part = pf.sample_with_log_prob(field, 3, start=4, label=label[4:], batch_size=2, **options)
    assert torch.allclose(x[4:], y, rtol=1e-9)
    for a, b in zip(whole, part, strict=True):
        assert torch.allclose(a[4:], b, rtol=1e-9)
    with pytest.raises(pf.InputError, match="count from 0"):
        pf.sample_with_log_prob(field, 3, start=-1)
    with pytest.raises(pf.InputError, match="shape"):
        pf.sample_with_log_prob(Constant(), 3)
    with pytest.raises(pf.UndefinedError, match="density of the source"):
        pf.sample_with_log_prob(LAW.field(pf.CondOT(gaussian_source=False)), 3)


def test_a_source_of_ones_own_is_drawn_from_and_counted():
    source = pf.GaussianMixture([[1.0, -2.0]], 0.2)
    x, log_p = pf.sample_with_log_prob(Constant(), 5, source=source, shape=(2,))
    assert torch.allclose(x - 1, source.sample(5), atol=1e-6)
    assert torch.allclose(log_p, source.log_prob(x - 1), atol=1e-6)


# Bits of a data set.


class Uniform:
    """No flow at all, from a source that is uniform on [-1, 1 + w)^D."""

    path = pf.CondOT(gaussian_source=False)

    def __call__(self, x, t, want="velocity", **cond):
        return torch.zeros_like(x)


def test_bits_of_data_are_those_of_their_bins():
    width, levels = 0.25, 8
    x = -1 + width / 2 + width * torch.randint(0, levels, (6, 3, 2)).double()

    def source(x0):
        inside = (x0.abs() <= 1).all(2).all(1)
        return torch.where(inside, -6 * math.log(2.0), -math.inf)

    got = pf.likelihood.bits(Uniform(), x, width, source=source, draws=2)
    assert torch.allclose(got.each, torch.full((6,), 3.0).double(), atol=1e-9)
    assert got.mean == pytest.approx(3.0)
    assert got.standard_error == pytest.approx(0.0, abs=1e-9)
    mask = (torch.arange(6) < 4).reshape(3, 2).expand(6, 3, 2)
    got = pf.likelihood.bits(
        Uniform(), x, width, mask=mask, source=lambda x0: torch.full((6,), -4 * math.log(2.0))
    )
    assert torch.allclose(got.each, torch.full((6,), 3.0).double(), atol=1e-6)


def test_bits_of_a_gaussian_are_above_those_of_its_bins_and_near_them():
    width, n = 0.1, 300
    law = pf.GaussianMixture([[0.0, 0.3]], 0.4)
    x = (law.sample(n, seed=1) / width).round() * width
    normal = torch.distributions.Normal(torch.tensor([0.0, 0.3]).double(), math.sqrt(0.4))
    truth = -(normal.cdf(x + width / 2) - normal.cdf(x - width / 2)).log2().mean(1)
    options = {"solver": pf.solvers.RK4(), "grid": pf.times.uniform(20)}
    one = pf.likelihood.bits(law.field(pf.CondOT()), x, width, seed=3, **options)
    many = pf.likelihood.bits(law.field(pf.CondOT()), x, width, draws=8, seed=3, **options)
    assert one.standard_error == pytest.approx(float(one.each.std()) / math.sqrt(n))
    assert float((one.each - truth).std()) > 2 * float((many.each - truth).std())
    for got in (one, many):
        difference = got.each - truth
        assert abs(float(difference.mean())) < 4.5 * float(difference.std()) / math.sqrt(n) + 2e-3
    probed = pf.likelihood.bits(law.field(pf.CondOT()), x, width, probes=2, seed=3, **options)
    assert probed.mean == pytest.approx(one.mean, abs=1e-6)  # signs see an isotropic flow exactly
    shard = pf.likelihood.bits(
        law.field(pf.CondOT()), x[200:], width, seed=3, ids=torch.arange(200, n), **options
    )
    assert torch.allclose(shard.each, one.each[200:], atol=1e-9)
    for bad in ({"draws": 0}, {"bin_width": 0.0}):
        with pytest.raises(pf.InputError, match="positive"):
            pf.likelihood.bits(law.field(pf.CondOT()), x, **({"bin_width": width} | bad))


# Several processes.

WORKER = """
import sys, torch, torch.distributed as dist
import pushforward as pf
from contracts.members import mixture
torch.set_num_threads(1)
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
law = mixture(2)
x = law.sample(7, seed=3)
rows = slice(0, 5) if rank == 0 else slice(5, 7)
found = pf.log_prob(
    law.field(pf.CondOT()), x[rows], probes=2, ids=torch.arange(7)[rows], seed=1,
    grid=torch.tensor([0.05, 0.95], dtype=torch.float64),
)
bound = pf.variational_bound(
    law.field(pf.CondOT()), x[rows], ids=torch.arange(7)[rows], seed=1, bin_width=None,
    grid=pf.times.uniform(5),
)
dist.barrier()
torch.save((found.log_prob, found.standard_error, bound.total), out)
"""


def test_two_processes_with_unequal_shards_give_the_numbers_of_one(tmp_path):
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store"), str(tmp_path / f"{rank}.pt")],
            env=place,
        )
        for rank in range(2)
    ]  # fmt: skip
    for worker in workers:
        assert worker.wait(120) == 0
    shards = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    field, x = LAW.field(pf.CondOT()), LAW.sample(7, seed=3)
    whole = log_prob(field, x, probes=2, seed=1, grid=INNER)
    bound = pf.variational_bound(field, x, seed=1, bin_width=None, grid=pf.times.uniform(5))
    for truth, a, b in zip((*whole, bound.total), *shards, strict=True):
        assert (len(a), len(b)) == (5, 2)
        assert torch.allclose(torch.cat((a, b)), truth, rtol=1e-9)


def test_the_density_of_a_trained_network_integrates_to_one():
    torch.manual_seed(0)
    model = pf.Model(MLP(2, 32, 2), pf.CondOT(), shape=(2,))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    objective = pf.objectives.FlowMatching(model)
    for step in range(200):
        noise = pf.Noise.batch(128, step=step)
        loss = objective(LAW.draw(noise).float(), noise)["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    n, width = 81, 6.0
    axis = torch.linspace(-width, width, n, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    p = log_prob(model.double(), x, **SHORT).exp()
    assert abs(float(p.sum()) * (2 * width / (n - 1)) ** 2 - 1) < 1e-3
    # It has learned something: nearer to the law than a normal one, in ln p at the law's draws.
    draws = LAW.sample(200, seed=4)
    got = log_prob(model, draws, **SHORT).mean()
    assert float(got) > float(source_log_prob(model.path, draws).mean()) + 0.03
