"""Priors: the law of a Gaussian pair, and the better of several draws."""

from __future__ import annotations

import math

import pytest
import torch
from tinysystem import (
    DIM,
    LINES,
    Conditional,
    bucket_prior,
    clip,
    decoder,
    deviations,
    diffusion_prior,
)
from torch import Tensor

import pushforward as pf
from pushforward.core.errors import InputError
from pushforward.models.prior import CLIPTexts
from pushforward.systems.priors import DiffusionPrior, as_prior, expected, nearest

N = 2000


class PriorNet(Conditional):
    """The exact network of z ~ N(m + G y, C), y the vector of the text."""

    def forward(self, x: Tensor, t: Tensor, text: dict | None = None) -> Tensor:
        return self.denoise(x, t, text["pooled"].to(x.dtype))


def gaussian() -> tuple[DiffusionPrior, Tensor, Tensor, Tensor]:
    """A prior of a jointly Gaussian pair (z, y), its mean and covariance for LINES[0], and y."""
    texts = CLIPTexts(clip())
    torch.manual_seed(5)
    gain = 0.4 * torch.randn(DIM, DIM, dtype=torch.float64)
    root = 0.5 * torch.randn(DIM, DIM, dtype=torch.float64)
    cov = root @ root.T + 0.1 * torch.eye(DIM, dtype=torch.float64)
    mean = torch.randn(DIM, dtype=torch.float64)
    model = pf.Model(
        PriorNet(mean, gain, cov), pf.CondOT(), "data", shape=(DIM,), encoders={"prompt": texts}
    )
    y = texts([LINES[0]])["text"]["pooled"][0].double()
    return DiffusionPrior(model, nfe=16), mean + gain @ y, cov, y


def test_a_prior_draws_the_conditional_law_of_a_gaussian_pair() -> None:
    prior, mean, cov, _ = gaussian()
    z = prior.vectors([LINES[0]] * N, seed=1)
    assert deviations(z, mean, cov).abs().max() < 4.5
    # Of another text it is another law.
    other = prior.vectors([LINES[1]] * N, seed=1)
    assert deviations(other, mean, cov).abs().max() > 20


def test_the_better_of_two_has_the_mean_of_the_larger_of_two_normals_along_the_text() -> None:
    prior, mean, cov, y = gaussian()
    for of, share in ((1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi))):
        z = nearest(prior, [LINES[0]] * N, of=of, seed=3)
        along = z @ y
        std = math.sqrt(float(y @ cov @ y))
        error = std / math.sqrt(N)
        assert abs(float(along.mean()) - float(mean @ y) - share * std) < 4 * error
        # What is independent of the product with the text is drawn as ever.
        rest = z - along[:, None] * (cov @ y / (y @ cov @ y))
        left = cov - torch.outer(cov @ y, cov @ y) / (y @ cov @ y)
        basis = torch.linalg.eigh(left).eigenvectors[:, 1:]
        want = mean - (mean @ y) * (cov @ y) / (y @ cov @ y)
        assert deviations(rest @ basis, want @ basis, basis.T @ left @ basis).abs().max() < 4.5


@pytest.mark.parametrize("make", [diffusion_prior, bucket_prior])
def test_priors_of_both_kinds_give_the_draw_that_is_nearest_to_the_text(make) -> None:
    prior = make(clip())
    lines = [LINES[i % 3] for i in range(12)]
    text = prior.encoders["prompt"](lines)["text"]["pooled"]
    every = torch.stack(
        [prior.vectors(lines, seed=pf.Noise.chained(7, k), start=2) for k in range(3)]
    )
    assert not torch.allclose(every[0], every[1], atol=1e-3)
    best = nearest(prior, lines, of=3, seed=7, start=2)
    products = (every * text).sum(2)
    assert torch.allclose((best * text).sum(1), products.amax(0))
    assert len(products.argmax(0).unique()) == 3
    assert torch.allclose(expected(prior, lines, of=3, seed=7, start=2), every.mean(0))
    # A draw is a function of (seed, start + row) alone.
    assert torch.allclose(nearest(prior, lines[4:6], of=3, seed=7, start=6), best[4:6], atol=1e-5)
    assert not torch.allclose(nearest(prior, lines, of=3, seed=8, start=2), best, atol=1e-3)


def test_what_is_no_prior_is_refused() -> None:
    with pytest.raises(InputError, match="this is a Model: train one"):
        as_prior(decoder(clip()))
    with pytest.raises(InputError, match="of is 0"):
        nearest(diffusion_prior(clip()), LINES, of=0)
    flow = pf.Model(pf.nets.MLP(3, 8, 1), pf.CondOT(), shape=(3,))
    with pytest.raises(InputError, match="text tower of a CLIP"):
        as_prior(flow)
