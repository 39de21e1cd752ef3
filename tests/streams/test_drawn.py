"""Draws from laws, of data and of source samples."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.core.noise import DATA
from pushforward.laws import EightGaussians
from pushforward.streams import Coupled, Drawn, Sourced


def test_draws_from_a_law_are_a_pure_function_of_the_seed_and_the_step() -> None:
    law = EightGaussians()
    stream = Drawn(law, 16, seed=5)
    assert torch.equal(stream.at(7).x1, Drawn(law, 16, seed=5).at(7).x1)
    assert torch.equal(stream.at(7).x1, Drawn(law, 64, seed=5).at(7).x1[:16])
    assert torch.equal(stream.at(7).x1, law.draw(pf.Noise.batch(16, 5, 7)).float())
    assert not torch.equal(stream.at(7).x1, stream.at(8).x1)
    assert not torch.equal(stream.at(7).x1, Drawn(law, 16, seed=6).at(7).x1)
    assert stream.at(7).x1.dtype == torch.float32
    assert torch.equal(stream.at(7).ids, torch.arange(16))


def test_data_and_noise_of_a_step_are_independent() -> None:
    """The draws of a law and the source noise of the same step use streams of their own."""
    noise = pf.Noise.batch(20_000, 0, 0)
    law = pf.GaussianMixture(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1))
    drawn, source = law.draw(noise).double(), noise.normal((2,)).double()
    correlation = (drawn * source).mean(0) / (drawn.std(0) * source.std(0))
    assert correlation.abs().max() < 0.03
    assert DATA != 0


def law():
    return pf.GaussianMixture([[2.0, 0.0], [-2.0, 1.0]], 0.1)


def coupled(coupling=None, **more):
    stream = Drawn(law(), 16, seed=3)
    return Coupled(stream, coupling or pf.couplings.OptimalTransport(), seed=3, **more)


def test_source_samples_follow_their_law_and_are_independent_of_the_data():
    # The same law, the same seed: draws that shared numbers would be equal.
    stream = Sourced(Drawn(law(), 500, seed=3), law(), seed=3)
    pairs = [stream.at(step) for step in range(8)]
    x0, x1 = torch.cat([b.x0 for b in pairs]).double(), torch.cat([b.x1 for b in pairs]).double()
    assert pairs[0].x0.dtype == pairs[0].x1.dtype == torch.float32
    n = len(x0)
    truth = torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert ((x0.mean(0) - truth).abs() < 4.5 * x0.std(0) / n**0.5).all()
    correlation = torch.corrcoef(torch.cat((x0, x1), 1).T)[:2, 2:]
    assert (correlation.abs() < 4.5 / n**0.5).all()
    assert not torch.equal(stream.at(0).x0, stream.at(1).x0)
    assert torch.equal(stream.at(4).x0, pairs[4].x0)
    both = coupled(source=law()).at(4)
    plain = Sourced(Drawn(law(), 16, seed=3), law(), seed=3).at(4)
    assert torch.equal(both.x1, plain.x1)
    assert torch.equal(both.x0.sort(0).values, plain.x0.sort(0).values)


def test_source_laws_that_do_not_fit_are_errors():
    stream = Sourced(Drawn(law(), 4, seed=0), law(), seed=0)
    with pytest.raises(pf.InputError, match="source samples of its own"):
        Sourced(stream, law(), seed=0).at(0)
    with pytest.raises(pf.InputError, match=r"shape \(3,\), and the data have \(2,\)"):
        Sourced(Drawn(law(), 4, seed=0), pf.GaussianMixture([[0.0] * 3], 1.0), seed=0).at(0)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_samples_is_refused(size: int) -> None:
    with pytest.raises(pf.InputError, match="batch_size"):
        Drawn(EightGaussians(), size, 0)
