"""What the default values of likelihoods do, and the parts of bounds that only quantised data reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.likelihood import bits, continuous_bound, log_prob, variational_bound

CHAIN = pf.DDPMPath.linear(8)
# All bytes, one in a row, as numbers in [-1, 1].
BYTES = (torch.arange(256).double() / 127.5 - 1)[:, None]
SAME = torch.zeros(256, dtype=torch.int64)


class Told:
    """A field that answers `share` of the state, whatever it is asked for, and keeps the times."""

    def __init__(self, path: pf.Path, share: float = 0.0) -> None:
        self.path, self.share, self.times = path, share, list[Tensor]()

    def __call__(self, x: Tensor, t, want: str = "velocity") -> Tensor:
        self.times.append(torch.as_tensor(t, dtype=torch.float64).expand(len(x)))
        return self.share * x


def normal(variance: float) -> torch.distributions.Normal:
    scale = torch.tensor(variance, dtype=torch.float64).sqrt()
    return torch.distributions.Normal(torch.zeros_like(scale), scale)


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_the_last_term_of_the_bound_is_a_law_of_all_256_bytes(share):
    # One and the same noise for all: where the answer does not depend on x_t their masses add up to one, and with a
    # width of any other size they would not, nor would all bytes lie on their values.
    bound = variational_bound(Told(CHAIN), BYTES, ids=SAME)
    assert float((-bound.decoder).exp().sum()) == pytest.approx(1, abs=1e-10)
    limit = continuous_bound(Told(pf.VP(), share), BYTES, terms=2, ids=SAME)
    assert limit.decoder.isfinite().all()
    for estimate in (variational_bound, continuous_bound):
        field = Told(CHAIN if estimate is variational_bound else pf.VP())
        for wrong in (BYTES + 0.4 / 255, BYTES * 0.9, BYTES + 20 / 255):
            with pytest.raises(pf.InputError, match=r"do not lie on the values -1, -0\.992157"):
                estimate(field, wrong)


def test_a_byte_of_the_last_term_has_the_mass_between_the_edges_of_its_bin():
    bound = variational_bound(Told(CHAIN), BYTES, ids=SAME)
    # The decoder is N(0, b~ of the step before), data being 0.
    last, before = (
        CHAIN.sigma(torch.tensor([1 - 1 / 8, 1 - 2 / 8], dtype=torch.float64)).square().tolist()
    )
    alpha = CHAIN.alpha(torch.tensor([1 - 1 / 8, 1 - 2 / 8], dtype=torch.float64))
    added = before - float(alpha[1] / alpha[0]) ** 2 * last
    law = normal(added * last / before)
    edges = law.cdf((torch.arange(257).double() - 0.5) / 127.5 - 1)
    edges[0], edges[-1] = 0.0, 1.0
    inner = slice(122, 134)  # whose masses are no differences of numbers near 1
    assert torch.allclose((-bound.decoder).exp()[inner], edges.diff()[inner], rtol=1e-6, atol=0)


def test_the_steps_of_the_bound_have_the_variance_of_the_posterior():
    # Where the data are known exactly, v = b~ leaves no divergence at all.
    x = randn(5, 2)

    class Knows(Told):
        def __call__(self, x_t: Tensor, t, want: str = "velocity") -> Tensor:
            return x

    bound = variational_bound(Knows(CHAIN), x, bin_width=None)
    assert float(bound.terms.abs().max()) < 1e-12
    other = variational_bound(Knows(CHAIN), x, bin_width=None, variance="beta")
    assert float(other.terms.min()) > 1e-3


def test_a_variance_of_ones_own_is_asked_for_from_each_state_to_the_next_and_at_last_to_the_data():
    asked = []

    def variance(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        asked.append((float(t.flatten()[0]), float(s.flatten()[0])))
        return torch.full_like(x_t, 0.03)

    x = randn(4, 1)
    bound = variational_bound(Told(CHAIN), x, bin_width=None, variance=variance)
    expected = torch.stack((torch.arange(8) / 8, torch.arange(1, 9) / 8), 1).double()
    assert torch.allclose(torch.tensor(sorted(asked), dtype=torch.float64), expected)
    truth = -normal(0.03).log_prob(x)[:, 0]
    assert torch.allclose(bound.decoder, truth, rtol=1e-9)


def test_the_limit_of_many_steps_is_taken_at_a_hundred_times_up_to_a_thousandth_before_the_data():
    field, path = Told(pf.VP()), pf.VP()
    bound = continuous_bound(field, BYTES[:3])
    times = torch.stack(field.times)
    assert times.shape == (100, 3)
    ends = path.log_snr(torch.tensor([0.0, 0.999], dtype=torch.float64))
    # One draw in each of a hundred equal parts of the log-SNR.
    part = (path.log_snr(times) - ends[0]) / (ends[1] - ends[0]) * 100
    assert torch.equal(part.floor().long(), torch.arange(100)[:, None].expand(-1, 3))
    assert bound.terms.shape == (3, 100)


class Turning:
    """A velocity whose Jacobian is diagonal: one probe of signs has its trace exactly."""

    path = pf.CondOT()
    rates = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64)

    def __call__(self, x: Tensor, t, want: str = "velocity") -> Tensor:
        return self.rates * x


def test_probes_are_signs():
    x = randn(4, 3)
    estimate = log_prob(Turning(), x, probes=1)
    assert torch.allclose(estimate.log_prob, log_prob(Turning(), x), atol=1e-6)
    samples, value = pf.sample_with_log_prob(Turning(), 4, probes=1, shape=(3,))
    assert torch.allclose(value.log_prob, log_prob(Turning(), samples), atol=1e-5)


def test_bits_are_of_one_draw_for_each_sample():
    seen = []

    class Kept(Turning):
        def __call__(self, x: Tensor, t, want: str = "velocity") -> Tensor:
            if float(torch.as_tensor(t).flatten()[0]) == 1:
                seen.append(x.detach())
            return super().__call__(x, t, want)

    grid = pf.times.uniform(2)
    bits(Kept(), randn(4, 3), 0.1, solver=pf.solvers.Euler(), grid=grid)
    assert len(seen) == 1


def test_two_samples_have_a_standard_error_and_one_has_none():
    x, options = randn(2, 3), {"solver": pf.solvers.Euler(), "grid": pf.times.uniform(2)}
    both, alone = (bits(Turning(), data, 0.1, **options) for data in (x, x[:1]))
    assert both.standard_error == pytest.approx(float((both.each[0] - both.each[1]).abs()) / 2)
    assert alone.standard_error == float("inf")


def test_of_a_mixture_the_default_log_density_is_exact_to_a_thousandth():
    law = mixture(2, 3)
    x = law.sample(20, seed=3)
    error = log_prob(law.field(pf.CondOT()), x) - law.log_prob(x)
    assert float(error.abs().max()) < 1e-3
