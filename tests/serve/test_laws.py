"""The laws that the page offers are those of the library, with classes."""

from __future__ import annotations

import pytest
import torch

from pushforward.laws import EightGaussians, Moons, SCurve, Spirals
from pushforward.serve import laws
from pushforward.serve.settings import Component


@pytest.mark.parametrize(
    ("name", "law"),
    [("8gaussians", EightGaussians()), ("moons", Moons()), ("s-curve", SCurve()), ("spirals", Spirals())],
)  # fmt: skip
def test_few_gaussians_are_the_law_of_the_library(name, law):
    x = law.sample(2000, seed=1).double()
    difference = laws.LAWS[name].make().log_prob(x) - law.log_prob(x)
    # Less than a thousandth off for nearly all samples: only at the ends of a curve are parts cut.
    assert difference.abs().quantile(0.9) < 1e-3
    assert difference.abs().mean() < 3e-3


@pytest.mark.parametrize("name", laws.LAWS)
def test_classes_have_names_and_samples_of_their_own(name):
    offered = laws.LAWS[name]
    law = offered.make()
    assert set(law.labels.tolist()) == set(range(len(offered.classes)))
    x = law.sample(2000)
    assert (x.abs().amax(1) < offered.extent).double().mean() > 0.99  # the window holds them
    if len(offered.classes) > 1:
        parts = [law.log_prob(x, torch.full((2000,), c)) for c in range(len(offered.classes))]
        assert torch.allclose(
            torch.logsumexp(torch.stack(parts) + law_weights(law), 0), law.log_prob(x), atol=1e-9
        )


def law_weights(law) -> torch.Tensor:
    """ln of the share of each class, (C, 1)."""
    shares = [law.log_weights[law.labels == c].logsumexp(0) for c in law.labels.unique()]
    return torch.stack(shares)[:, None]


def test_a_law_of_ones_own_has_relative_weights():
    law = laws.own((Component(x=0.0, y=0.0, weight=3.0), Component(x=9.0, y=0.0, label=4)))
    assert law.log_weights.exp().tolist() == pytest.approx([0.75, 0.25])
    assert law.labels.tolist() == [0, 4]
