"""The variational bound, on laws for which every term of it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pushforward as pf
from contracts.members import Counted, mixture, randn
from pushforward.likelihood import (
    bin_log_prob,
    continuous_bound,
    normal_log_prob,
    variational_bound,
)

MEAN, C = torch.tensor([0.4, -0.7], dtype=torch.float64), 0.6
GAUSS = pf.GaussianMixture(MEAN[None], C)
POINT = torch.tensor([0.9, 0.1], dtype=torch.float64)
DENSITY = {"bin_width": None}


def copies(x, n):
    return x.expand(n, *x.shape)


def close(got, truth, sigmas=4.5):
    """Draws (B, ...) whose mean is `truth` within their own error."""
    error = got.std(0) / math.sqrt(len(got))
    assert ((got.mean(0) - truth).abs() <= sigmas * error + 1e-9).all(), (got.mean(0), truth, error)


class Off:
    """A field whose predicted data is wrong by a constant."""

    def __init__(self, field, by):
        self.field, self.path, self.by = field, field.path, by

    def __call__(self, x, t, want="velocity", **cond):
        data = self.field(x, t, "data", **cond) + self.by
        return pf.convert(data, x, pf.as_time(t, x), self.path, "data", want)


def closed_form(path, times, x, variance, by=0.0):
    """(prior, KLs, decoder) in expectation, term by term, for GAUSS; from alpha and sigma alone, in float64.

    x - E[x1 | x_t] - by = (1 - g alpha)(x - m) - by - g sigma eps,   g = alpha c/(alpha^2 c + sigma^2)
    """
    a = [float(path.alpha(t)) for t in times]
    s = [float(path.sigma(t)) for t in times]
    size = x.numel()

    def square(k):
        g = a[k] * C / (a[k] ** 2 * C + s[k] ** 2)
        away = (1 - g * a[k]) * (x - MEAN) - by
        return float((away**2).sum()) + size * (g * s[k]) ** 2

    prior = a[0] ** 2 * float((x**2).sum()) / (2 * s[0] ** 2)
    kls, tilde = [], 0.0
    for k in range(len(times) - 1):
        b = s[k] ** 2 - (a[k] / a[k + 1]) ** 2 * s[k + 1] ** 2
        tilde = b * s[k + 1] ** 2 / s[k] ** 2
        v = b if variance == "beta" else tilde
        # The KL of two normal laws, from scipy's own normal entropies and second moments.
        shift = (a[k + 1] * b / s[k] ** 2) ** 2 * square(k)
        kl = size * (math.log(math.sqrt(v / tilde)) + tilde / (2 * v) - 0.5) + shift / (2 * v)
        kls.append(kl)
    v = s[-1] ** 2 if variance == "beta" else tilde
    decoder = size / 2 * math.log(2 * math.pi * v) + square(len(times) - 1) / (2 * v)
    return prior, torch.tensor(kls, dtype=torch.float64), decoder


@pytest.mark.parametrize("variance", ["beta", "beta-tilde"])
@pytest.mark.parametrize(
    ("path", "grid"),
    [
        (pf.DDPMPath.linear(12, 0.01, 0.5), None),
        (pf.CondOT(), pf.times.uniform(6)),
        (pf.VE(0.1, 5.0), pf.times.uniform(5)),
        (pf.VP(), pf.times.uniform(5, 0.0, 0.9)),
    ],
    ids=["DDPM", "CondOT", "VE", "VP-stops-short"],
)
@pytest.mark.parametrize("by", [0.0, 0.3])
def test_every_term_is_its_closed_form_for_gaussian_data(path, grid, variance, by):
    field = GAUSS.field(path)
    field = Off(field, by) if by else field
    got = variational_bound(field, copies(POINT, 4000), grid=grid, variance=variance, **DENSITY)
    times = pf.times.uniform(path.steps) if grid is None else grid
    times = times[path.sigma(times) > 0]
    prior, kls, decoder = closed_form(path, times, POINT, variance, by)
    assert got.steps == len(times) - 1 == got.terms.shape[1]
    assert torch.allclose(got.prior, torch.full_like(got.prior, prior), rtol=1e-9)
    close(got.terms, kls)
    close(got.decoder, decoder)
    close(got.total, prior + float(kls.sum()) + decoder)
    assert (got.standard_error == 0).all()
    assert (got.terms > 0).all()


def test_for_white_data_and_variance_beta_the_bound_is_tight_at_any_number_of_steps():
    # The reverse of q is then Gaussian with variance beta exactly, and only L_T is lost.
    white = pf.GaussianMixture(torch.zeros(1, 3), 1.0)
    x = randn(3, seed=4)
    for path in (pf.DDPMPath.linear(4, 0.2, 0.9), pf.DDPMPath([0.3, 0.5])):
        got = variational_bound(white.field(path), copies(x, 6000), variance="beta", **DENSITY)
        # sum of KLs and decoder against -ln p of the law that is sampled from N(0, sigma(0)^2 I).
        close(got.total - got.prior, _nll(white, path, x))


def _nll(law, path, x):
    """-ln p of x under the chain of exact reverse steps started in N(0, sigma_0^2 I), less KL of the start given x."""
    # ELBO = ln p(x) - KL(q(x_T | x) || q(x_T)) + [KL(q(x_T|x) || q(x_T)) is taken out, and q(x_T) is N(0, I) here].
    alpha, sigma = (f(torch.zeros(()).double()) for f in (path.alpha, path.sigma))
    kl = (alpha**2 * (x**2).sum() + len(x) * (sigma**2 - 1 - (sigma**2).log())) / 2
    return float(-law.log_prob(x[None])[0] - kl)


def test_the_bound_is_above_the_truth_and_goes_to_it_as_steps_grow():
    x = GAUSS.sample(3000, seed=2)
    truth = -GAUSS.log_prob(x)
    gaps = []
    for steps in (4, 16, 128):
        betas = (
            1 - (1 - torch.linspace(1e-4, 0.3, 128).double()).log().reshape(steps, -1).sum(1).exp()
        )
        field = GAUSS.field(pf.DDPMPath(betas))
        got = variational_bound(field, x, variance="beta", **DENSITY)
        gap = got.total - truth
        gaps.append((float(gap.mean()), float(gap.std()) / math.sqrt(len(x))))
    means, errors = zip(*gaps, strict=True)
    assert all(mean > -4.5 * error for mean, error in gaps)
    assert means[0] > means[1] + 0.03 > 0.03
    assert abs(means[2]) < 0.02 + 4.5 * errors[2]
    assert errors[2] < 0.05


def test_a_wrong_field_costs_more_than_the_right_one():
    path, x = pf.DDPMPath.linear(20, 0.01, 0.4), GAUSS.sample(1000, seed=2)
    right = variational_bound(GAUSS.field(path), x, variance="beta", **DENSITY).total
    wrong = variational_bound(Off(GAUSS.field(path), 0.3), x, variance="beta", **DENSITY).total
    assert float((wrong - right).mean()) > 0.1


def test_two_values_take_their_entropy():
    # P(-1) = 0.3 and P(1) = 0.7, in bins of width 2.
    law = pf.Empirical([[-1.0], [1.0]], weights=[0.3, 0.7])
    x = law.sample(4000, seed=1)
    truth = torch.where(x[:, 0] < 0, -math.log(0.3), -math.log(0.7))
    gaps = []
    few = pf.DDPMPath([0.3] * 5 + [0.7, 0.8])
    for path, terms in ((few, None), (pf.DDPMPath.linear(300, 1 / 300, 5 / 300), 25)):
        got = variational_bound(law.field(path), x, bin_width=2.0, terms=terms)
        gap = got.total - truth
        gaps.append((float(gap.mean()), 4.5 * float(gap.std()) / math.sqrt(len(x))))
    assert gaps[0][0] > gaps[0][1] > 0
    assert abs(gaps[1][0]) < gaps[1][1] + 0.02
    assert gaps[1][1] < 0.1


def test_random_terms_are_unbiased_with_the_error_they_say():
    path, n = pf.DDPMPath.linear(30, 0.01, 0.4), 3000
    field, x = GAUSS.field(path), copies(POINT, 3000)
    kls = closed_form(path, pf.times.uniform(30)[:-1], POINT, "beta-tilde")[1]
    got = variational_bound(field, x, terms=4, **DENSITY)
    assert got.terms.shape == (n, 4)
    middle = got.steps * got.terms.mean(1)
    close(middle, float(kls.sum()))
    assert float((got.standard_error**2).mean()) == pytest.approx(float(middle.var()), rel=0.1)
    one = variational_bound(field, x[:3], terms=1, **DENSITY)
    assert torch.isinf(one.standard_error).all()
    assert torch.allclose(got.bits(2), got.total / (2 * math.log(2)))


def test_a_subset_of_terms_costs_as_many_calls():
    field = Counted(GAUSS.field(pf.DDPMPath.linear(30, 0.01, 0.4)))
    variational_bound(field, GAUSS.sample(3), terms=4, **DENSITY)
    assert field.calls == 5
    variational_bound(field, GAUSS.sample(3), **DENSITY)
    assert field.calls == 5 + 30


def test_shards_and_batches_give_the_numbers_of_the_whole():
    law = mixture(2, 3, labels=[0, 1, 1])
    field, x, label = (
        law.field(pf.DDPMPath.linear(8, 0.05, 0.6)),
        law.sample(7),
        torch.arange(7) % 2,
    )
    for terms in (None, 3):
        whole = variational_bound(field, x, terms=terms, seed=3, label=label, **DENSITY)
        batched = variational_bound(
            field, x, terms=terms, seed=3, label=label, batch_size=3, **DENSITY
        )
        shard = variational_bound(
            field, x[4:], terms=terms, seed=3, label=label[4:], ids=torch.arange(4, 7), **DENSITY
        )
        for a, b, c in zip(whole[:3], batched[:3], shard[:3], strict=True):
            assert torch.allclose(a, b, rtol=1e-9)
            assert torch.allclose(a[4:], c, rtol=1e-9)
    other = variational_bound(field, x, seed=4, label=label, **DENSITY)
    assert not torch.allclose(other.terms, whole.terms[:, :1])


class Learned:
    """A field with a learned variance: beta^v beta-tilde^(1 - v) at v = share."""

    def __init__(self, field, share):
        self.field, self.path, self.share = field, field.path, share

    def __call__(self, x, t, want="velocity", **cond):
        return self.field(x, t, want, **cond)

    def with_variance(self, x, t, want="data", **cond):
        return self.field(x, t, want, **cond), torch.full_like(x, self.share)


def test_a_learned_variance_lies_between_the_two_and_functions_are_taken_as_they_are():
    path = pf.DDPMPath.linear(8, 0.05, 0.6)
    field, x = GAUSS.field(path), GAUSS.sample(5)
    for share, name in ((0.0, "beta-tilde"), (1.0, "beta")):
        got = variational_bound(Learned(field, share), x, variance="learned", **DENSITY)
        truth = variational_bound(field, x, variance=name, **DENSITY)
        assert torch.allclose(got.total, truth.total, rtol=1e-9)

    def middle(x_t, t, s):
        b = path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(s)) ** 2 * path.sigma(s) ** 2
        return pf.expand((b * b * (path.sigma(s) / path.sigma(t)) ** 2).sqrt(), x_t)

    got = variational_bound(Learned(field, 0.5), x, variance="learned", **DENSITY)
    with_function = variational_bound(
        field, x, variance=lambda x_t, t, s: middle(x_t, t, s).clamp(min=1e-9), **DENSITY
    )
    assert torch.allclose(got.terms, with_function.terms, rtol=1e-9)
    with pytest.raises(pf.InputError, match="no learned variance"):
        variational_bound(field, x, variance="learned", **DENSITY)


# The decoder.


@pytest.mark.parametrize("width", [2 / 255, 2 / 16])
@pytest.mark.parametrize("std", [1e-4, 0.01, 0.3, 20.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.123, 0.999, 40.0])
def test_the_masses_of_all_bins_add_up_to_one(width, std, mean):
    values = -1 + width * torch.arange(round(2 / width) + 1).double()
    log = bin_log_prob(
        values[:, None], torch.full((len(values), 1), mean).double(),
        torch.full((1, 1), std**2).double(), width, (-1.0, 1.0),
    )  # fmt: skip
    assert not log.isnan().any()
    assert float(log.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_the_mass_of_a_bin_is_the_difference_of_two_probabilities_however_small():
    width, mean, std = 0.5, 0.1, 0.4
    for value, low, high in ((-1.0, -np.inf, -0.75), (0.0, -0.25, 0.25), (1.0, 0.75, np.inf)):
        got = bin_log_prob(
            *(torch.full((1, 1), v, dtype=torch.float64) for v in (value, mean, std**2)),
            width,
            (-1.0, 1.0),
        )
        law = stats.norm(mean, std)
        assert float(got.exp()) == pytest.approx(law.cdf(high) - law.cdf(low), rel=1e-12)
    # 30 and 60 standard deviations off on either side, where probabilities round to 1 or vanish.
    for sign in (-1.0, 1.0):
        for far in (30.0, 60.0):
            centre, v = sign * (0.25 + 0.1 * far), 0.01
            got = bin_log_prob(
                *(torch.full((1, 1), number, dtype=torch.float64) for number in (0.0, centre, v)),
                width,
                (-1.0, 1.0),
            )
            assert float(got) == pytest.approx(stats.norm.logsf(far), rel=1e-9)
    image = torch.tensor([[0.0, 0.5], [-1.0, 1.0]]).double().reshape(1, 1, 2, 2)
    flat = image.reshape(4, 1)
    args = (
        torch.full((4, 1), mean).double(),
        torch.full((4, 1), std**2).double(),
        width,
        (-1.0, 1.0),
    )
    whole = bin_log_prob(image, args[0].reshape(1, 1, 2, 2), args[1].reshape(1, 1, 2, 2), *args[2:])
    assert float(whole) == pytest.approx(float(bin_log_prob(flat, *args).sum()))


def test_the_density_is_that_of_the_normal_law():
    x, mean, variance = randn(4, 2, 3, seed=1), randn(4, 2, 3, seed=2), randn(4, 2, 3, seed=3) ** 2
    truth = torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).sum((1, 2))
    assert torch.allclose(normal_log_prob(x, mean, variance), truth)


def test_data_off_their_bins_are_an_error():
    for x in (0.1, 1.5, -1.5):
        with pytest.raises(pf.InputError, match="do not lie on the values"):
            bin_log_prob(torch.full((1, 1), x), torch.zeros(1, 1), torch.ones(1, 1), 0.5, (-1, 1))


# Continuous time.


@pytest.mark.parametrize("path", [pf.VP(), pf.VE(0.01, 50.0)], ids=repr)
def test_in_continuous_time_the_exact_field_attains_the_truth(path):
    law = mixture(2, 3)
    x = law.sample(5, seed=3)
    n = 400
    many = x.repeat_interleave(n, 0)
    end = 0.999 if isinstance(path, pf.VP) else 1.0
    got = continuous_bound(law.field(path), many, terms=50, end=end, **DENSITY)
    each = got.total.reshape(5, n).T
    truth = -law.log_prob(x)
    # L_T is the KL to N(0, sigma^2 I), not to the law of x_T: above by what is left of the data there.
    error = each.std(0) / math.sqrt(n)
    assert ((each.mean(0) - truth).abs() < 4.5 * error + 0.02).all(), (each.mean(0), truth, error)
    assert float(error.max()) < 0.15


def test_many_steps_go_to_the_limit_of_continuous_time():
    # For the exact Gaussian: 1/2 int |x - D|^2 dSNR against the sum of L_k of variance beta-tilde, by quadrature.
    path, n = pf.VP(), 4000
    field, x = GAUSS.field(path), copies(POINT, n)
    got = continuous_bound(field, x, terms=16, start=0.1, end=0.9, **DENSITY)
    times = pf.times.uniform(800, 0.1, 0.9)
    kls = closed_form(path, times, POINT, "beta-tilde")[1]
    close(got.terms.mean(1), float(kls.sum()), 5)
    alpha, sigma = path.alpha(times[0]), path.sigma(times[0])
    prior = float((alpha / sigma) ** 2 * (POINT**2).sum() / 2)
    assert torch.allclose(got.prior, torch.full_like(got.prior, prior))
    v = float((path.sigma(times[-1]) / path.alpha(times[-1])) ** 2)
    close(got.decoder, math.log(2 * math.pi * v) + 1)
    assert float((got.terms.mean(1)).std()) <= float(got.standard_error.mean()) * 1.1


def test_what_cannot_be_bounded_is_an_error():
    field, x = GAUSS.field(pf.DDPMPath.linear(4, 0.1, 0.5)), GAUSS.sample(2)
    with pytest.raises(pf.UndefinedError, match="variational bound"):
        variational_bound(GAUSS.field(pf.CondOT(gaussian_source=False)), x)
    wrong = (
        {"terms": 0},
        {"grid": torch.tensor([0.5, 1.0])},
        {"grid": torch.tensor([0.5, 0.2, 1.0])},
        {"variance": "gamma"},
        {"batch_size": 0},
        {"ids": torch.arange(3)},
    )
    for options in wrong:
        with pytest.raises(pf.InputError):
            variational_bound(field, x, **DENSITY, **options)
    for options in ({"end": 1.0}, {"terms": 1}, {"start": 0.9, "end": 0.5}):
        with pytest.raises(pf.InputError, match="finite at both"):
            continuous_bound(field, x, **DENSITY, **options)
