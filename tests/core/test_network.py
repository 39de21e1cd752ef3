"""In which precision a network is asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pushforward as pf
from contracts.members import randn
from pushforward.core.network import ask


class Heard(nn.Module):
    """A network that keeps the dtypes that it is given."""

    def __init__(self, dtype: torch.dtype, double_times: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.double_times = double_times

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor | None = None, size: Tensor | None = None
    ) -> Tensor:
        self.heard = [v if v is None else v.dtype for v in (x, t, s, size)]
        return self.weight * x


T = torch.full((3,), 0.3, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_network_gets_both_times_in_its_own_precision_but_not_below_float32(dtype):
    net = Heard(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = randn(3, 2)
    # A condition of one number for each sample is no time, and one of another shape neither.
    size = randn(3)
    assert ask(net, x, T, {"s": T + 0.1, "size": size}).dtype == torch.float64
    assert net.heard == [dtype, wide, wide, torch.float64]
    ask(net, x, T, {"s": T[:, None]})
    assert net.heard[2] == torch.float64
    ask(net, x, T, {"s": T.to(torch.float16)})
    assert net.heard[2] == torch.float16


def test_a_network_that_asks_for_double_times_gets_them():
    net = Heard(torch.float32, double_times=True)
    ask(net, randn(3, 2), T, {"s": T})
    assert net.heard == [torch.float32, torch.float64, torch.float64, None]


@pytest.mark.parametrize(("dtype", "margin"), [(torch.float32, 1e-3), (torch.float64, 1e-6)])
def test_a_singular_end_is_asked_a_thousandth_away_in_single_precision_and_a_millionth_in_double(
    dtype, margin
):
    asked = []

    class Data(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            asked.append(float(t[0]))
            return 0 * x

    model = pf.Model(Data(), pf.CondOT(), "data")
    for t in (0.999999, 1.0):
        model(randn(3, 2).to(dtype), t)
    # No time is moved but the end itself.
    assert 1 - asked[0] == pytest.approx(1e-6, rel=0.1)
    assert 1 - asked[1] == pytest.approx(margin, rel=0.1)
