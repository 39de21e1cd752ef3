"""Posterior fields: of Gaussian laws by closed form, at every time, path and prediction; operators by definition."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import mixture, randn
from guidance.gaussians import COV, MEAN, STD, A, Y, conditioned, gaussian
from pushforward.core.predictions import convert
from pushforward.guidance import ClassifierFree, Diagonal, Full, Isotropic, NoSpread, Posterior
from pushforward.guidance.operators import Blur, Downsample, Linear, Mask
from pushforward.guidance.posterior import krylov

PATHS = {"condot": pf.CondOT(), "vp": pf.VP(), "cosine": pf.Cosine()}
X = 1.5 * randn(6, 3, seed=5)
T = torch.tensor([0.0, 0.1, 0.4, 0.7, 0.95, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("want", ["velocity", "data", "noise", "v"])
@pytest.mark.parametrize("name", PATHS)
def test_with_the_full_covariance_a_gaussian_posterior_is_exact_at_all_times(name, want):
    path = PATHS[name]
    got = Posterior(gaussian(MEAN, COV).field(path), Linear(A), STD, Y, Full(2))(X, T, want)
    exact = conditioned(MEAN, COV, A, Y[0]).field(path)
    inner = slice(1, 5)
    want_there = exact(X[inner], T[inner], want)
    assert torch.allclose(got[inner], want_there, atol=1e-9 * float(want_there.abs().max()))
    # At the ends, where a conversion has no value, times are moved by 1e-6.
    assert got.isfinite().all()
    first = exact(X[:1], 1e-6, want)
    assert torch.allclose(got[:1], first, atol=1e-4 * max(1.0, float(first.abs().max())))


def test_of_independent_coordinates_the_diagonal_is_exact():
    path, cov = pf.CondOT(), torch.diag(torch.tensor([0.5, 2.0, 1.0]).double())
    mask = torch.tensor([True, False, True])
    y = randn(1, 2, seed=6)
    got = Posterior(gaussian(MEAN, cov).field(path), Mask(mask), STD, y, Diagonal())(X[1:5], T[1:5])
    exact = conditioned(MEAN, cov, torch.eye(3).double()[mask], y[0]).field(path)
    assert torch.allclose(got, exact(X[1:5], T[1:5]), atol=1e-9)
    # Of dependent ones it is not.
    got = Posterior(gaussian(MEAN, COV).field(path), Mask(mask), STD, y, Diagonal())(X[1:5], T[1:5])
    exact = conditioned(MEAN, COV, torch.eye(3).double()[mask], y[0]).field(path)
    assert not torch.allclose(got, exact(X[1:5], T[1:5]), atol=1e-2)


@pytest.mark.parametrize("std", [1.0, 0.6])
def test_of_equal_independent_coordinates_the_isotropic_spread_is_exact(std):
    path, cov = pf.VP(), std**2 * torch.eye(3).double()
    field = gaussian(MEAN, cov).field(path)
    got = Posterior(field, Linear(A), STD, Y, Isotropic(std))(X[1:5], T[1:5])
    exact = conditioned(MEAN, cov, A, Y[0]).field(path)
    assert torch.allclose(got, exact(X[1:5], T[1:5]), atol=1e-9)


@pytest.mark.parametrize("zeta", [None, 0.7])
def test_without_spread_the_push_is_the_gradient_of_the_difference(zeta):
    path, law = pf.CondOT(), mixture(3, 4, "full")
    field = law.field(path)
    operator = lambda x: torch.stack((x[:, 0] * x[:, 1], x[:, 2].tanh()), 1)  # noqa: E731
    x = X[1:5].clone().requires_grad_()
    difference = Y - operator(field(x, T[1:5], "data"))
    if zeta is None:
        energy = -(difference**2).sum() / (2 * STD**2)
    else:
        energy = -zeta * difference.norm(dim=1).sum()
    (gradient,) = torch.autograd.grad(energy, x)
    got = Posterior(field, operator, STD, Y, NoSpread(zeta))(x.detach(), T[1:5], "score")
    assert torch.allclose(got, field(x.detach(), T[1:5], "score") + gradient, atol=1e-9)


def test_a_curved_operator_is_taken_by_its_tangent():
    # Where A is curved, S has its derivative at D: the field of the linear operator with that tangent, and D's y moved.
    path, law = pf.CondOT(), gaussian(MEAN, COV)
    field, at = law.field(path), X[2:3]
    curved = lambda x: torch.stack((x[:, 0] ** 2, x[:, 1] * x[:, 2]), 1)  # noqa: E731
    data = field(at, 0.5, "data")
    tangent = torch.autograd.functional.jacobian(lambda x: curved(x[None])[0], data[0])
    moved = Y - curved(data) + data @ tangent.T
    got = Posterior(field, curved, STD, Y, Full(2))(at, 0.5)
    want = Posterior(field, Linear(tangent), STD, moved, Full(2))(at, 0.5)
    assert torch.allclose(got, want, atol=1e-9)


def test_each_sample_is_by_itself_and_has_its_own_observation():
    field = mixture(3, 4, "full").field(pf.CondOT())
    rows = randn(6, 2, seed=8)
    guided = Posterior(field, Linear(A), STD)
    got = guided(X, T, observation=rows)
    alone = [guided(X[k : k + 1], T[k], observation=rows[k : k + 1]) for k in range(6)]
    assert torch.allclose(got, torch.cat(alone), atol=1e-10)


def test_labels_pass_through_and_guidance_may_be_inside():
    law = mixture(3, 3, "full", labels=[0, 1, 0])
    field, label = law.field(pf.CondOT()), torch.tensor([0, 1, 0, 1])
    got = Posterior(field, Linear(A), STD, Y)(X[1:5], T[1:5], label=label)
    assert torch.allclose(
        Posterior(ClassifierFree(field, 1.0), Linear(A), STD, Y)(X[1:5], T[1:5], label=label), got
    )
    assert not torch.allclose(got, Posterior(field, Linear(A), STD, Y)(X[1:5], T[1:5]), atol=1e-3)


def test_krylov_solves_systems_that_are_not_symmetric_and_those_that_end_early():
    matrix = randn(4, 5, 5, seed=9) + 3 * torch.eye(5).double()
    b = randn(4, 5, seed=10)
    system = lambda v: (matrix @ v[..., None]).squeeze(-1)  # noqa: E731
    assert torch.allclose(system(krylov(system, b, 5)), b, atol=1e-10)
    # The best of a Krylov space: no other combination leaves less.
    two = torch.stack((b, system(b)), 2)
    best = torch.linalg.lstsq(
        torch.stack((system(two[..., 0]), system(two[..., 1])), 2), b[..., None]
    )
    assert torch.allclose(krylov(system, b, 2), (two @ best.solution).squeeze(-1), atol=1e-9)
    # An eigenvector, nothing, and a system of one eigenvalue, in more steps than they need.
    assert torch.allclose(krylov(lambda v: 2 * v, b, 5), b / 2, atol=1e-12)
    assert torch.equal(krylov(lambda v: 2 * v, 0 * b, 3), 0 * b)


def test_operators_are_what_they_say():
    x = randn(2, 3, 12, 8, seed=11)
    assert torch.allclose(Downsample(2)(x)[1, 2, 3, 1], x[1, 2, 6:8, 2:4].mean())
    spot = torch.zeros(1, 1, 11, 11).double()
    spot[0, 0, 5, 5] = 1
    blurred = Blur(1.2)(spot)[0, 0]
    place = torch.arange(11).double() - 5
    assert torch.allclose(blurred.sum(), torch.tensor(1.0).double())
    assert torch.allclose(blurred[5, 7] / blurred[5, 5], torch.exp(-(place[7] ** 2) / 2 / 1.2**2))
    assert torch.allclose(blurred, blurred.T)
    assert torch.allclose(Blur(1.0)(torch.ones_like(x)), torch.ones_like(x))
    mask = torch.rand(1, 12, 8) > 0.5
    assert torch.equal(Mask(mask)(x)[1], x[1][mask.expand(3, 12, 8)])
    assert torch.allclose(Linear(A)(X), X @ A.T)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Posterior(FIELD, Linear(A), 0.0, Y), "noise_std is 0.0"),
        (lambda: Posterior(FIELD, Linear(A), STD, Y * float("nan")), "not finite"),
        (lambda: Posterior(FIELD, Linear(A), STD)(X, T), "give the observation"),
        (lambda: Posterior(FIELD, Linear(A), STD, Y[:, :1])(X, T), "the operator makes"),
        (lambda: Posterior(FIELD, lambda x: x.sign().detach(), STD, X[:1])(X, T), "no gradient"),
        (lambda: Mask(torch.ones(3)), "a mask is bool"),
        (lambda: Mask(torch.zeros(3, dtype=torch.bool)), "shows nothing"),
        (lambda: Mask(torch.ones(4, dtype=torch.bool))(X), "the mask has shape"),
        (lambda: Linear(A[:, :2])(X), "3 numbers"),
        (lambda: Downsample(5)(randn(1, 1, 8, 8)), "no multiples of 5"),
        (lambda: Blur(4.0)(randn(1, 1, 8, 8)), "too wide"),
        (lambda: Blur(0.0), "must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(make, why):
    with pytest.raises(pf.InputError, match=why):
        make()


FIELD = gaussian(MEAN, COV).field(pf.CondOT())


def test_converted_predictions_agree():
    guided = Posterior(mixture(3, 4, "full").field(pf.VP()), Linear(A), STD, Y)
    velocity = guided(X[1:5], T[1:5])
    data = guided(X[1:5], T[1:5], "data")
    got = convert(data, X[1:5], T[1:5], pf.VP(), "data", "velocity")
    assert torch.allclose(got, velocity, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Posterior(FIELD, Linear(A), torch.tensor([0.3, 0.2]), Y), "it is one number"),
        (lambda: Full(0), "at least 1"),
        (lambda: Isotropic(1.0, 0), "at least 1"),
        (lambda: Isotropic(-1.0), "std is -1.0"),
        (lambda: NoSpread(-1.0), "zeta is -1.0"),
        (lambda: Posterior(FIELD, lambda x: x.sum(0, True), STD, Y)(X, T), "keep them apart"),
        (lambda: Posterior(Detached(), Linear(A), STD, Y)(X, T), "cannot be differentiated"),
        (lambda: pf.log_prob(Posterior(FIELD, Linear(A), STD, Y), X), "no derivatives"),
        (lambda: Posterior(Posterior(FIELD, Linear(A), STD, Y), Linear(A), STD, Y)(X, T), "one operator gives both"),
    ],
)  # fmt: skip
def test_what_would_be_wrong_without_a_word_is_refused(make, why):
    with pytest.raises(pf.InputError, match=why):
        make()


class Detached:
    path = pf.CondOT()

    def __call__(self, x, t, want="velocity", **cond):
        return x.detach()


def test_inference_mode_is_refused_and_no_grad_is_not():
    guided = Posterior(FIELD, Linear(A), STD, Y)
    with torch.no_grad():
        assert guided(X, T).isfinite().all()
    with torch.inference_mode(), pytest.raises(pf.InputError, match="inference_mode"):
        guided(X, T)


@pytest.mark.parametrize("spread", [Full(3), Diagonal(), Isotropic(), NoSpread(), NoSpread(0.5)])
def test_an_observation_of_one_number_may_have_no_dimension(spread):
    row = A[:1]
    with_one = Posterior(FIELD, Linear(row), STD, Y[:, :1], spread)(X, T)
    without = Posterior(FIELD, lambda x: x @ row[0], STD, Y[:, 0], spread)(X, T)
    assert torch.allclose(with_one, without, atol=1e-10)


def test_no_samples_give_no_samples_and_numbers_may_be_tensors():
    noise = torch.tensor(STD, dtype=torch.float64)
    guided = Posterior(FIELD, Linear(A), noise, Y)
    assert guided(X[:0], T[:1]).shape == (0, 3)
    assert torch.equal(guided(X, T[:1]), Posterior(FIELD, Linear(A), STD, Y)(X, T[:1]))
    assert torch.equal(guided(X, T[1]), guided(X, T[1:2]))


def test_a_sample_that_has_diverged_leaves_the_others_alone():
    guided = Posterior(FIELD, Linear(A), STD, Y)
    bad = X.clone()
    bad[1] = torch.nan
    got = guided(bad, T)
    keep = torch.arange(6) != 1
    assert torch.equal(got.isfinite().all(1), keep)
    assert torch.allclose(got[keep], guided(X, T)[keep], atol=1e-12)


@pytest.mark.parametrize("spread", [Full(2), Diagonal(), Isotropic(0.8), NoSpread(0.5)])
def test_a_padded_sample_is_the_one_that_it_is_alone(spread):
    class Pooled:
        """Not 0 at padding; what is data depends on what else is data."""

        path = pf.VP()

        def __call__(self, x, t, want="data", *, mask):
            inside = torch.where(mask, x, 0)
            return torch.tanh(x) + 1 + inside.sum(1, keepdim=True) / mask.sum(1, keepdim=True)

    # An observation of padding too: sums, the operator itself linear in all entries.
    operator = lambda x: torch.stack((x.sum(1), (x**2).sum(1)), 1)  # noqa: E731
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    x = randn(2, 5, seed=3) * mask
    guided = Posterior(Pooled(), operator, STD, Y, spread)
    got = guided(x, 0.4, "data", mask=mask)
    alone = guided(x[:1, :3], 0.4, "data", mask=mask[:1, :3])
    assert torch.allclose(got[:1, :3], alone, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken(dtype):
    torch.manual_seed(0)
    model = pf.Model(pf.nets.MLP(3, 16, 1), pf.CondOT(), shape=(3,))
    want = Posterior(model, Linear(A), STD, Y)(X.float(), 0.5)
    got = Posterior(model.to(dtype), Linear(A), STD, Y)(X.to(dtype), 0.5)
    assert got.dtype == dtype
    assert torch.allclose(got.float(), want, rtol=0.1, atol=0.1 * float(want.abs().max()))


def test_krylov_goes_on_where_little_is_left_and_a_blur_ends_at_three_sigma():
    scale = torch.tensor([[1.0, 1 + 1e-8]]).double()
    b = torch.ones(1, 2).double()
    assert torch.allclose(krylov(lambda v: scale * v, b, 2), b / scale, rtol=0, atol=1e-12)
    spot = torch.zeros(1, 1, 11, 11).double()
    spot[0, 0, 5, 5] = 1
    assert torch.equal(Blur(1.2)(spot)[0, 0, 5] > 0, (torch.arange(11) - 5).abs() <= 4)


def test_in_float32_the_end_of_time_is_moved_by_a_hundredth():
    guided = Posterior(gaussian(MEAN.float(), COV.float()).field(pf.CondOT()), Linear(A), STD, Y)
    x = X.float()
    first = guided(x, 0.0, "data")
    margins = Posterior(guided.field, Linear(A), STD, Y, margin=0.01)(x, 0.0, "data")
    assert torch.equal(first, margins)
