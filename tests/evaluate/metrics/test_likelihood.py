"""How likely data are: in which unit, and of which bins."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.evaluate.metrics.likelihood import Settings, check_bins, judge

STD = 0.4


class Exact(torch.nn.Module):
    """The exact field of N(0, STD^2) as a network."""

    def __init__(self) -> None:
        super().__init__()
        self.field = pf.GaussianMixture(torch.zeros(1, 1, 2, 2), STD**2).field(pf.CondOT())
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, t):
        return self.field(x, t)


def model(**spec) -> pf.Model:
    return pf.Model(Exact(), pf.CondOT(), spec=DataSpec((1, 2, 2), **spec))


def quantised(width: float, n: int = 300) -> torch.Tensor:
    x = STD * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    return ((x + 1) / width).round() * width - 1


# In nats, of one dimension of N(0, STD^2).
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * STD**2)


@pytest.mark.parametrize("width", [2 / 255, 1 / 8])
def test_the_bits_of_quantised_data_are_those_of_the_bins_that_the_spec_has(width: float) -> None:
    """Entropy in bits, less log2 of the bin width. The first values may lie on a coarser grid: nothing is guessed."""
    x = quantised(width)
    x[:3] = 0 if width == 1 / 8 else x[0, 0, 0, 0]
    figures, facts = judge(
        model(bin_width=width, value_range=(-1.0, 1.0)), x, None, Settings(probes=None)
    )
    truth = (ENTROPY - math.log(width)) / math.log(2)
    assert abs(figures["ode"] - truth) < 4.5 * figures["ode_error"] + 0.01
    assert figures["ode_error"] < 0.1
    assert facts["bin_width"] == width


def test_data_without_bins_are_in_nats_of_their_density() -> None:
    x = STD * torch.randn(300, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    figures, facts = judge(model(), x, None, Settings())
    assert facts["bin_width"] is None
    assert abs(figures["ode"] - 4 * ENTROPY) < 4.5 * figures["ode_error"]


def test_data_on_another_grid_are_refused() -> None:
    check_bins(torch.tensor([-1.0, -0.75, 0.5, 1.0]), -1, 0.25)
    check_bins(torch.tensor([0.0, 3.0, 4.0, 255.0]) / 127.5 - 1, -1, 2 / 255)
    with pytest.raises(pf.InputError, match=r"not lie on the grid .* 0.4 of a bin"):
        judge(model(bin_width=0.25), quantised(0.25) + 0.1, None, Settings())


def test_one_sample_and_unknown_labels_are_refused() -> None:
    with pytest.raises(pf.InputError, match="hold 1 sample"):
        judge(model(), torch.zeros(1, 1, 2, 2), None, Settings())
    with pytest.raises(pf.InputError, match="a class 0 that the model does not know"):
        judge(model(), torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), Settings())
