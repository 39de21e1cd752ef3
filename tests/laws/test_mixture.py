"""The exact laws, on which all else is tested, against autograd, scipy, quadrature and the Fokker-Planck equation."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

import pushforward as pf
from contracts.members import PATHS, mixture, rand, randn, relative
from pushforward.core import conditions
from pushforward.laws import finite_mixture

KINDS = ["full", "diagonal", "isotropic"]


def gradient(f, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def trace_of_jacobian(f, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    out = f(x).flatten(1)
    rows = [
        torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i]
        for i in range(out.shape[1])
    ]
    return torch.stack(rows).sum(0)


def states(path: pf.Path, law, t: Tensor) -> Tensor:
    """x_t of the law, away from any grid."""
    x1 = law.sample(len(t), seed=5)
    return path.sample(randn(*x1.shape, seed=6), x1, t)


LAWS = [pytest.param(mixture(2, 3, kind), id=kind) for kind in KINDS] + [
    pytest.param(mixture(3, 4, "full", seed=20, labels=[0, 1, 0, 2]), id="labelled"),
    pytest.param(pf.Empirical(randn(7, 2, seed=8)), id="empirical"),
    pytest.param(
        pf.Empirical(randn(3, 1, 2, 2, seed=8), weights=[1 / 6, 2 / 6, 3 / 6]), id="images"
    ),
    pytest.param(
        pf.GaussianMixture(randn(2, 2, 1, 2, seed=9), 0.3 * torch.ones(2)), id="blurred-images"
    ),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("law", LAWS)
def test_the_score_is_the_gradient_and_the_divergence_the_trace(law, path):
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    field, x = law.field(path), states(path, law, t)
    score = gradient(lambda x: field.log_prob(x, t), x)
    assert relative(field(x, t, "score"), score) < 1e-8
    laplacian = trace_of_jacobian(lambda x: field(x, t, "score"), x)
    assert relative(field.laplacian(x, t), laplacian) < 1e-8
    assert relative(field.divergence(x, t), trace_of_jacobian(lambda x: field(x, t), x)) < 1e-8


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_law_of_x_t_is_the_mixture_of_moved_and_blurred_components(kind, path):
    law, t = mixture(3, 3, kind), torch.linspace(0.05, 1, 7, dtype=torch.float64)
    x = states(path, law, t)
    log_prob = law.field(path).log_prob(x, t)
    m, w = law.components.means, law.log_weights.exp()
    truth = []
    for i, time in enumerate(t):
        a, s = float(path.alpha(time)), float(path.sigma(time))
        density = 0.0
        for k in range(3):
            c = reference_covariances(kind)[k].numpy()
            density += float(w[k]) * multivariate_normal(
                a * m[k].numpy(), a**2 * c + s**2 * np.eye(3)
            ).pdf(x[i].numpy())
        truth.append(math.log(density))
    assert np.allclose(log_prob, truth, rtol=1e-9, atol=1e-9)


def reference_covariances(kind: str) -> Tensor:
    """Those that `mixture(3, 3, kind)` was given, as matrices."""
    root = 0.4 * randn(3, 3, 3, seed=2) + 0.5 * torch.eye(3, dtype=torch.float64)
    full = root @ root.mT + 0.05 * torch.eye(3, dtype=torch.float64)
    return {
        "full": full,
        "diagonal": torch.diag_embed(full.diagonal(dim1=1, dim2=2)),
        "isotropic": full[:, :1, :1] * torch.eye(3, dtype=torch.float64),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_of_the_data_matches_scipy_and_integrates_to_one(kind):
    law = mixture(3, 3, kind)
    x = law.sample(20, seed=3)
    density = sum(
        float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy())
        for w, m, c in zip(
            law.log_weights.exp(), law.components.means, reference_covariances(kind), strict=True
        )
    )
    assert np.allclose(law.log_prob(x), np.log(density), rtol=1e-9, atol=1e-9)
    plane = mixture(2, 3, kind)
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    cell = float(axis[1] - axis[0]) ** 2
    assert float(plane.log_prob(grid).exp().sum() * cell) == pytest.approx(1, abs=1e-6)
    for t in (0.2, 0.7):
        assert float(
            plane.field(pf.CondOT()).log_prob(grid, t).exp().sum() * cell
        ) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("law", ["mixture", "points"])
def test_every_prediction_is_the_posterior_mean_of_its_pair(law, path):
    # E[f(x0, x1) | x_t] as an integral over x1 on a line: p(x1) N(x_t; alpha x1, sigma^2) by the trapezoidal rule.
    means, stds = torch.tensor([-1.2, 0.4, 1.9]).double(), torch.tensor([0.3, 0.6, 0.2]).double()
    weights = torch.tensor([0.5, 0.2, 0.3]).double()
    for time in (0.2, 0.6, 0.9):
        t = torch.tensor(time, dtype=torch.float64)
        one = torch.ones_like(t)
        alpha, d_alpha = torch.func.jvp(path.alpha, (t,), (one,))
        sigma, d_sigma = torch.func.jvp(path.sigma, (t,), (one,))
        x = alpha * torch.linspace(-2.5, 2.5, 5, dtype=torch.float64)[:, None] + 0.3 * sigma
        if law == "points":
            field, x1 = pf.Empirical(means[:, None], weights=weights).field(path), means
            log_prior = weights.log()
        else:
            field = pf.GaussianMixture(means[:, None], stds**2, weights).field(path)
            # Fine enough for the narrowest factor, around each x_t/alpha and over the whole prior.
            x1 = torch.linspace(-5, 5, 400001, dtype=torch.float64)
            log_prior = sum(
                w / s * torch.exp(-((x1 - m) ** 2) / (2 * s**2))
                for w, m, s in zip(weights, means, stds, strict=True)
            ).log()
        r = (log_prior - (x - alpha * x1) ** 2 / (2 * sigma**2)).softmax(1)
        x0 = (x - alpha * x1) / sigma
        truth = {
            "data": x1.expand_as(r), "noise": x0, "score": -x0 / sigma, "v": alpha * x0 - sigma * x1,
            "velocity": d_alpha * x1 + d_sigma * x0,
        }  # fmt: skip
        for name, value in truth.items():
            want = (r * value).sum(1, keepdim=True)
            assert relative(field(x, t, name), want) < 1e-8, (name, time)


# Far from the origin: against the same formulas with 50 digits.

FAR = [
    pytest.param(("full", 1000.0), id="full"),
    pytest.param(("diagonal", 1000.0), id="diagonal"),
    pytest.param(("isotropic", 1000.0), id="isotropic"),
    pytest.param(("points", 1000.0), id="points"),
]
# (path, t, relative error allowed). At t = 1/2 alpha m is exact on CondOT; elsewhere x - alpha m itself carries
# 1e-16 |m|, which is 1e-12 of a distance of 0.1.
FAR_TIMES = [
    (pf.CondOT(), 0.5, 1e-12),
    (pf.CondOT(), 0.75, 1e-12),
    (pf.VP(), 0.6, 1e-11),
    (pf.VE(), 0.5, 1e-11),
]


def exactly(kind, means, cov, weights, alpha, sigma, x):
    """(score, data, laplacian of ln p, divergence of the data) at x with 50 digits, by differences."""
    mp.mp.dps = 50
    dim, count = len(x), len(means)
    a, s = mp.mpf(alpha), mp.mpf(sigma)
    m = [[mp.mpf(v) for v in row] for row in means.tolist()]
    c = [mp.matrix([[mp.mpf(v) for v in row] for row in matrix]) for matrix in cov.tolist()]
    total = [a**2 * ck + s**2 * mp.eye(dim) for ck in c]
    inverse, det = [t**-1 for t in total], [mp.det(t) for t in total]

    def joint(x):
        y = [mp.matrix([x[i] - a * m[k][i] for i in range(dim)]) for k in range(count)]
        n = [
            mp.mpf(weights[k]) * mp.exp(-(y[k].T * inverse[k] * y[k])[0] / 2) / mp.sqrt(det[k])
            for k in range(count)
        ]
        return n, y

    def log_p(*x):
        return mp.log(mp.fsum(joint(x)[0]))

    def data(*x):
        n, y = joint(x)
        d = [mp.matrix(m[k]) + a * c[k] * inverse[k] * y[k] for k in range(count)]
        return [mp.fsum(n[k] * d[k][i] for k in range(count)) / mp.fsum(n) for i in range(dim)]

    def along(f, i, order):
        """The first or second difference of f along axis i, which is the derivative to 1e-30."""
        h = mp.mpf(10) ** -15
        low, middle, high = (
            f(*[v + k * h * (j == i) for j, v in enumerate(x)]) for k in (-1, 0, 1)
        )
        return (high - low) / (2 * h) if order == 1 else (high - 2 * middle + low) / h**2

    x = [mp.mpf(float(v)) for v in x]
    score = [along(log_p, i, 1) for i in range(dim)]
    laplacian = mp.fsum(along(log_p, i, 2) for i in range(dim))
    divergence = mp.fsum(along(lambda *x, i=i: data(*x)[i], i, 1) for i in range(dim))
    return (
        [float(v) for v in score],
        [float(v) for v in data(*x)],
        float(laplacian),
        float(divergence),
    )


@pytest.mark.parametrize("case", FAR)
def test_nothing_loses_digits_far_from_the_origin(case):
    kind, distance = case
    dim, count = 2, 3
    # Float32 numbers times a half, so that alpha m has no rounding; two components close together, and one far away.
    means = randn(count, dim, seed=3).float().double()
    means[:2] += distance
    means[2] -= distance
    root = 0.4 * randn(count, dim, dim, seed=2)
    full = root @ root.mT + 0.1 * torch.eye(dim, dtype=torch.float64)
    cov = {
        "full": full,
        "diagonal": torch.diag_embed(full.diagonal(dim1=1, dim2=2)),
        "isotropic": full[:, :1, :1] * torch.eye(dim, dtype=torch.float64),
        "points": 0 * full,
    }[kind]
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    if kind == "points":
        law = pf.Empirical(means, weights=weights)
    else:
        given = {"full": cov, "diagonal": cov.diagonal(dim1=1, dim2=2), "isotropic": cov[:, 0, 0]}[
            kind
        ]
        law = pf.GaussianMixture(means, given, weights)
    for path, time, tolerance in FAR_TIMES:
        t = torch.full((3,), time, dtype=torch.float64)
        alpha, sigma, d_alpha, d_sigma = (c[0] for c in path.coefficients(t))
        x = alpha * means[[0, 1, 2]] + 0.3 * sigma * randn(3, dim, seed=5)
        field, a, s = law.field(path), float(alpha), float(sigma)
        for i in range(3):
            score, data, laplacian, divergence = exactly(
                kind, means, cov, weights.tolist(), a, s, x[i]
            )
            score, data = (torch.tensor(v, dtype=torch.float64) for v in (score, data))
            truth = {
                "score": score,
                "data": data,
                "noise": -s * score,
                "v": -a * s * score - s * data,
                "velocity": d_alpha * data - d_sigma * s * score,
            }
            row, when = x[i : i + 1], t[:1]
            for want, value in truth.items():
                assert relative(field(row, when, want), value[None]) < tolerance, (want, time)
            lap = float(field.laplacian(row, when))
            div = float(field.divergence(row, when))
            expected = float(d_alpha) * divergence - float(sigma * d_sigma) * laplacian
            # Relative to the terms of which each is a sum.
            size = dim / s**2
            assert abs(lap - laplacian) < tolerance * size, time
            terms = abs(float(d_alpha)) * (abs(divergence) + dim) + abs(float(d_sigma)) * s * size
            assert abs(div - expected) < tolerance * terms, time


@pytest.mark.parametrize("kind", KINDS)
def test_moving_the_law_moves_its_field_and_nothing_else(kind):
    # By a power of two at t = 1/2 and coordinates of few digits, every sum is exact: so are divergences.
    means = (64 * randn(3, 2, seed=1)).round() / 64
    cov = {
        "full": reference(2),
        "diagonal": reference(2).diagonal(dim1=1, dim2=2),
        "isotropic": reference(2)[:, 0, 0],
    }
    x, shift = (64 * randn(20, 2, seed=4)).round() / 64, 4096.0
    near = pf.GaussianMixture(means, cov[kind]).field(pf.CondOT())
    far = pf.GaussianMixture(means + shift, cov[kind]).field(pf.CondOT())
    y = x + shift / 2
    for f in ("divergence", "laplacian", "log_prob"):
        assert torch.allclose(
            getattr(far, f)(y, 0.5), getattr(near, f)(x, 0.5), rtol=1e-13, atol=1e-13
        ), f
    assert torch.allclose(far(y, 0.5, "score"), near(x, 0.5, "score"), rtol=1e-12, atol=1e-13)
    assert torch.allclose(far(y, 0.5, "data") - shift, near(x, 0.5, "data"), rtol=0, atol=1e-12)


def reference(dim: int) -> Tensor:
    root = 0.4 * randn(3, dim, dim, seed=2)
    return root @ root.mT + 0.1 * torch.eye(dim, dtype=torch.float64)


LEVELS = [
    pytest.param(lambda path: 0.0, id="none"),
    pytest.param(lambda path: 0.7, id="constant"),
    pytest.param(lambda path: lambda t: 1.3 * path.sigma(t), id="sigma"),
    pytest.param(lambda path: path.reverse_noise_level, id="reverse"),
]


def fokker_planck_residual(field, drift, g2: Tensor, x: Tensor, t: Tensor) -> float:
    """|d_t ln p + div b + b . grad ln p - g^2/2 (lap ln p + |grad ln p|^2)| over the size of its terms."""
    clock = t.detach().requires_grad_()
    d_t = torch.autograd.grad(field.log_prob(x, clock).sum(), clock)[0]

    def score(x: Tensor) -> Tensor:
        inner = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(field.log_prob(inner, t).sum(), inner, create_graph=True)[0]

    s = score(x).detach()
    laplacian = trace_of_jacobian(score, x)
    b = drift(x, t).detach()
    terms = [
        d_t, trace_of_jacobian(lambda x: drift(x, t), x), (b * s).sum(1),
        -g2 / 2 * laplacian, -g2 / 2 * (s**2).sum(1),
    ]  # fmt: skip
    scale = torch.stack([term.abs() for term in terms]).amax(0) + 1e-6
    return float((sum(terms).abs() / scale).max())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("level", LEVELS)
def test_the_marginals_solve_the_fokker_planck_equation_of_every_noise_level(level, path):
    law = mixture(2, 3, "full")
    field, g = law.field(path), level(path)
    solver = pf.solvers.EulerMaruyama(g)
    t = torch.linspace(0.15, 0.85, 8, dtype=torch.float64)
    x = states(path, law, t)
    g2 = (g(t) if callable(g) else torch.full_like(t, g)) ** 2
    assert fokker_planck_residual(field, lambda x, t: solver.drift(field, x, t), g2, x, t) < 1e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("g", [0.3, 2.0])
def test_the_drift_of_the_slide_with_g_in_place_of_its_square_breaks_the_fokker_planck_equation(
    path, g
):
    law = mixture(2, 3, "full")
    field = law.field(path)
    t = torch.linspace(0.15, 0.85, 8, dtype=torch.float64)
    x = states(path, law, t)
    residual = fokker_planck_residual(
        field,
        lambda x, t: field(x, t) + g / 2 * field(x, t, "score"),
        torch.full_like(t, g**2),
        x,
        t,
    )
    assert residual > 1e-4


@pytest.mark.parametrize("path", [pf.VP(), pf.DDPMPath.linear(), pf.DDPMPath.cosine(50)], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_the_velocity_of_a_smooth_law_is_finite_at_both_ends_and_the_limit_there(kind, path):
    law = mixture(2, 3, kind)
    field, x = law.field(path), randn(4, 2, seed=3)
    for end, near in ((0.0, 1e-7), (1.0, 1 - 1e-7)):
        for f in (field, field.divergence, field.log_prob, lambda x, t: field(x, t, "score")):
            at, by = f(x, end), f(x, near)
            assert at.isfinite().all()
            assert relative(at, by) < 1e-4
        trace = trace_of_jacobian(lambda x, end=end: field(x, end), x)
        assert relative(field.divergence(x, end), trace) < 1e-8


@pytest.mark.parametrize("path", PATHS)
def test_the_gradient_of_the_field_is_finite_at_both_ends(path):
    law = mixture(2, 3)
    for t in (0.0, 1.0):
        x = randn(4, 2, seed=3)
        assert gradient(lambda x: law.field(path)(x, t), x).isfinite().all()  # noqa: B023
        assert gradient(lambda x: law.field(path).divergence(x, t), x).isfinite().all()  # noqa: B023


@pytest.mark.parametrize("law", LAWS)
def test_single_precision_states_get_single_precision_answers(law):
    x = torch.zeros(2, *law.shape)
    field = law.field(pf.CondOT())
    for value in (field(x, 0.5), field.log_prob(x, 0.5), field.divergence(x, 0.5)):
        assert value.dtype == torch.float32


def test_a_mixture_takes_its_covariances_in_any_of_their_forms():
    means, v = randn(3, 2, seed=1), torch.tensor([0.2, 0.5, 1.1]).double()
    x = randn(5, 2, seed=2)
    eye = torch.eye(2, dtype=torch.float64)
    laws = [
        pf.GaussianMixture(means, v), pf.GaussianMixture(means, v[:, None].expand(3, 2)),
        pf.GaussianMixture(means, v[:, None, None] * eye),
    ]  # fmt: skip
    fields = [law.field(pf.VP()) for law in laws]
    for field in fields[1:]:
        assert torch.allclose(field(x, 0.4), fields[0](x, 0.4), rtol=1e-10)
        assert torch.allclose(field.log_prob(x, 0.4), fields[0].log_prob(x, 0.4), rtol=1e-10)
        assert torch.allclose(field.divergence(x, 0.4), fields[0].divergence(x, 0.4), rtol=1e-10)
    one = pf.GaussianMixture(means, 0.7)
    assert torch.allclose(
        one.log_prob(x), pf.GaussianMixture(means, torch.full((3,), 0.7)).log_prob(x), rtol=1e-6
    )
    standard = pf.GaussianMixture(torch.zeros(1, 2))
    assert torch.allclose(standard.log_prob(x), -(x**2).sum(1) / 2 - math.log(2 * math.pi))


@pytest.mark.parametrize("law", LAWS)
def test_an_evaluation_in_parts_is_the_evaluation_at_once(law, monkeypatch):
    x, t = randn(11, *law.shape, seed=4), 0.1 + 0.8 * rand(11, seed=5)
    label = None if law.labels is None else torch.arange(11) % 3
    extra = {} if label is None else {"label": label}
    field = law.field(pf.VP())
    whole = field(x, t, **extra), field.divergence(x, t, **extra)
    monkeypatch.setattr(finite_mixture, "BUDGET", 60)
    assert torch.allclose(field(x, t, **extra), whole[0], rtol=1e-12, atol=1e-14)
    assert torch.allclose(field.divergence(x, t, **extra), whole[1], rtol=1e-12, atol=1e-14)


def test_the_law_given_a_label_is_the_mixture_of_that_labels_components():
    law = mixture(2, 4, "full", labels=[0, 1, 0, 2])
    cov = (
        law.components.basis
        @ torch.diag_embed(law.components.eigenvalues)
        @ law.components.basis.mT
    )
    w = law.log_weights.exp()
    zero = pf.GaussianMixture(
        law.components.means[[0, 2]], cov[[0, 2]], w[[0, 2]] / w[[0, 2]].sum()
    )
    x, label = randn(6, 2, seed=3), torch.tensor([0, 0, 0, -1, -1, -1])
    for path in (pf.CondOT(), pf.VP()):
        whole, part = law.field(path), zero.field(path)
        for want in pf.PREDICTIONS:
            got = whole(x, 0.6, want, label=label)
            assert torch.allclose(got[:3], part(x[:3], 0.6, want), rtol=1e-9, atol=1e-12)
            assert torch.allclose(got[3:], whole(x[3:], 0.6, want), rtol=1e-12)
        got = whole.log_prob(x, 0.6, label)
        assert torch.allclose(got[:3], part.log_prob(x[:3], 0.6), rtol=1e-10)
        assert torch.allclose(
            whole.divergence(x, 0.6, label)[:3], part.divergence(x[:3], 0.6), rtol=1e-9
        )
    assert torch.allclose(law.log_prob(x, label)[:3], zero.log_prob(x[:3]), rtol=1e-10)
    drawn = law.draw(pf.Noise.batch(4000, 3), label=torch.full((4000,), 0))
    mean = (w[[0, 2], None] * law.components.means[[0, 2]]).sum(0) / w[[0, 2]].sum()
    assert ((drawn.mean(0) - mean).abs() < 5 * drawn.std(0) / math.sqrt(4000)).all()
    assert torch.equal(
        law.draw(pf.Noise.batch(9, 3), label=torch.full((9,), -1)), law.draw(pf.Noise.batch(9, 3))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_of_the_law(kind):
    n, law = 20000, mixture(3, 3, kind)
    x = law.sample(n, seed=7)
    w, m, c = law.log_weights.exp(), law.components.means, reference_covariances(kind)
    mean = (w[:, None] * m).sum(0)
    second = (w[:, None, None] * (c + m[:, :, None] * m[:, None])).sum(0)
    outer = x[:, :, None] * x[:, None]
    assert ((x.mean(0) - mean).abs() < 4.5 * x.std(0) / math.sqrt(n)).all()
    assert ((outer.mean(0) - second).abs() < 4.5 * outer.std(0) / math.sqrt(n)).all()
    # And its density is the one it was drawn from: the mean of grad ln p is 0, that of x . grad ln p is -D.
    score = gradient(law.log_prob, x)
    stein = (x * score).sum(1)
    assert (score.mean(0).abs() < 4.5 * score.std(0) / math.sqrt(n)).all()
    assert abs(float(stein.mean()) + 3) < 4.5 * float(stein.std()) / math.sqrt(n)


def test_a_finite_data_set_is_drawn_from_by_its_weights():
    data, weights = randn(4, 1, 2, seed=1), torch.tensor([0.1, 0.2, 0.3, 0.4])
    x = pf.Empirical(data, weights=weights).sample(20000, seed=2)
    hits = (x[:, None] == data).flatten(2).all(2)
    assert (hits.sum(1) == 1).all()
    share = weights.double()
    assert (
        (hits.double().mean(0) - share).abs() < 4.5 * (share * (1 - share) / 20000).sqrt()
    ).all()


def test_a_sample_is_a_function_of_its_seed_and_place():
    law = mixture()
    assert torch.equal(law.sample(10, seed=3)[:4], law.sample(4, seed=3))
    assert not torch.equal(law.sample(4, seed=3), law.sample(4, seed=4))
    assert law.sample(4).dtype == torch.float64


def test_a_law_without_density_has_a_field_wherever_there_is_noise():
    points = randn(5, 2, seed=1)
    law = pf.Empirical(points)
    with pytest.raises(pf.UndefinedError, match="no density"):
        law.log_prob(points)
    field = law.field(pf.CondOT())
    for want in ("velocity", "score", "noise", "v"):
        with pytest.raises(pf.UndefinedError, match="sigma = 0"):
            field(points, 1.0, want)
    with pytest.raises(pf.UndefinedError):
        field.divergence(points, 1.0)
    with pytest.raises(pf.UndefinedError):
        field.log_prob(points, 1.0)
    assert torch.allclose(field(points, 1.0, "data"), points)
    assert field(points, 0.999).isfinite().all()
    singular = pf.GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]))
    with pytest.raises(pf.UndefinedError):
        singular.log_prob(points)
    x = singular.sample(100, seed=1)
    assert torch.allclose(x[:, 0], x[:, 1], atol=1e-6)
    assert singular.field(pf.VP())(points, 0.5).isfinite().all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: pf.GaussianMixture(torch.zeros(3)),
        lambda: pf.GaussianMixture(torch.zeros(0, 2)),
        lambda: pf.GaussianMixture(torch.tensor([[float("inf"), 0.0]])),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), torch.ones(3)),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), -torch.ones(2)),
        lambda: pf.GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])),
        lambda: pf.GaussianMixture(torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), 1.0, [1.0, 0.0]),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), 1.0, [1.0]),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), 1.0, [1.5, -0.5]),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), 1.0, [1.0, float("inf")]),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), labels=[0]),
        lambda: pf.GaussianMixture(torch.zeros(2, 2), labels=[0, -1]),
        lambda: pf.Empirical(torch.zeros(3)),
        lambda: pf.Empirical(torch.tensor([[float("nan")]])),
    ],
)
def test_arguments_that_give_no_law_are_errors(make):
    with pytest.raises(pf.InputError):
        make()


def test_weights_that_do_not_sum_to_one_are_errors_that_say_what_to_pass():
    for weights in ([1.0, 3.0], [0.3, 0.3], torch.tensor([2, 2])):
        with pytest.raises(pf.InputError, match=r"sum to \d.*weights / weights.sum\(\)"):
            pf.GaussianMixture(torch.zeros(2, 2), 1.0, weights)
        with pytest.raises(pf.InputError, match="weights must sum to 1"):
            pf.Empirical(torch.zeros(2, 2), weights=weights)
    third = pf.GaussianMixture(randn(3, 2), 1.0, torch.full((3,), 1 / 3))
    assert torch.allclose(third.log_weights.exp(), torch.full((3,), 1 / 3).double(), rtol=1e-12)


def test_without_weights_all_components_weigh_the_same():
    law = pf.GaussianMixture([[0.0], [3.0], [100.0]], 1.0)
    at = law.log_prob(torch.tensor([[0.0], [3.0], [100.0]], dtype=torch.float64))
    alone = -math.log(3 * math.sqrt(2 * math.pi))
    assert float(at[2]) == pytest.approx(alone, rel=1e-12)
    assert float(at[0]) == pytest.approx(float(at[1]), rel=1e-12)


def test_what_stands_for_no_label_is_minus_one_and_gives_the_whole_law():
    assert mixture(2, 3).field(pf.CondOT()).nulls == {}
    field = mixture(2, 3, labels=[0, 1, 1]).field(pf.CondOT())
    x, cond = randn(4, 2, seed=1), {"label": torch.tensor([0, 1, 1, 0])}
    without = conditions.drop(cond, field.nulls)
    assert without["label"].tolist() == [-1] * 4
    assert torch.equal(field(x, 0.5, **without), field(x, 0.5))
    assert not torch.allclose(field(x, 0.5, **cond), field(x, 0.5))


LABELLED = mixture(2, 3, labels=[0, 1, 1])
ASKED = [
    pytest.param(lambda x, **k: LABELLED.field(pf.VP())(x, 0.5, **k), id="field"),
    pytest.param(lambda x, **k: LABELLED.field(pf.VP()).divergence(x, 0.5, **k), id="divergence"),
    pytest.param(lambda x, **k: LABELLED.field(pf.VP()).log_prob(x, 0.5, **k), id="log-prob-at-t"),
    pytest.param(lambda x, **k: LABELLED.log_prob(x, **k), id="log-prob"),
]


@pytest.mark.parametrize("ask", ASKED)
def test_points_of_any_other_kind_get_one_clear_sentence(ask):
    x = randn(4, 2)
    with pytest.raises(pf.InputError, match=r"numpy.ndarray; pass a tensor, torch.as_tensor\(x\)"):
        ask(x.numpy())
    with pytest.raises(pf.InputError, match=r"torch.int64.*pass x.float\(\)"):
        ask(torch.zeros(4, 2, dtype=torch.int64))
    for wrong in (randn(4, 3), randn(4), randn(4, 2, 1), torch.tensor(0.5)):
        with pytest.raises(pf.InputError, match=r"shape \(2,\): pass \(B, 2\)"):
            ask(wrong)
    with pytest.raises(pf.InputError, match="x is on meta and the law on cpu"):
        ask(x.to("meta"))
    for label in (torch.zeros(4), 1, torch.zeros(4, 1, dtype=torch.int64), ["a"] * 4):
        with pytest.raises(pf.InputError, match="label is a tensor"):
            ask(x, label=label)
    with pytest.raises(pf.InputError, match="label has 3 entries for 4 samples"):
        ask(x, label=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(pf.InputError, match="single number"):
        ask(x, label=torch.tensor(1))
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert ask(x.to(dtype)).dtype == dtype


def test_times_outside_the_path_are_errors():
    field = mixture(2, 3).field(pf.CondOT())
    for t in (-0.1, 1.5, math.nan, torch.tensor([0.5, 0.5, 0.5, 2.0])):
        with pytest.raises(pf.InputError, match=r"lie in \[0, 1\]"):
            field(randn(4, 2), t)


def test_no_points_get_no_answers():
    field, none = mixture(2, 3).field(pf.VP()), torch.zeros(0, 2)
    assert field(none, 0.5).shape == (0, 2)
    assert field.divergence(none, 0.5).shape == (0,)


def test_states_and_labels_that_do_not_fit_are_errors():
    law = mixture(2, 3)
    with pytest.raises(pf.InputError, match="shape"):
        law.field(pf.CondOT())(torch.zeros(4, 3), 0.5)
    with pytest.raises(pf.InputError, match="no labels"):
        law.field(pf.CondOT())(torch.zeros(4, 2), 0.5, label=torch.zeros(4, dtype=torch.int64))
    labelled = mixture(2, 3, labels=[0, 1, 1])
    with pytest.raises(pf.InputError, match="must be one of"):
        labelled.field(pf.CondOT())(torch.zeros(2, 2), 0.5, label=torch.tensor([0, 7]))
    with pytest.raises(pf.InputError, match="no prediction"):
        law.field(pf.CondOT())(torch.zeros(4, 2), 0.5, "flow")
