"""A field of one path along another: what it passes on besides its prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pushforward as pf
from contracts.members import mixture, randn
from pushforward.guidance import Autoguidance

LAW, X = mixture(2, 3), randn(5, 2, seed=1)


class Learned:
    """The exact field with a variance that tells the state and the time at which it was asked."""

    def __init__(self, path: pf.Path) -> None:
        self.field, self.path = LAW.field(path), path

    def __call__(self, x: Tensor, t, want: str = "velocity", **cond) -> Tensor:
        return self.field(x, t, want)

    def with_variance(self, x: Tensor, t, want: str = "data", **cond) -> tuple[Tensor, Tensor]:
        return self.field(x, t, want), x + torch.as_tensor(t)[:, None]


@pytest.mark.parametrize("path", [pf.CondOT(), pf.EDM(0.01, 20.0), pf.Cosine()], ids=repr)
def test_the_variance_is_asked_for_at_the_state_of_equal_log_snr_and_the_data_are_the_same(path):
    old = pf.VP()
    t = torch.full((5,), 0.6, dtype=torch.float64)
    data, variance = pf.ScheduleTransfer(Learned(old), path).with_variance(X, t)
    assert torch.allclose(data, LAW.field(path)(X, t, "data"), rtol=1e-9)
    there = old.time_of_log_snr(path.log_snr(t))
    # alpha^2 + sigma^2 = 1 on the old path: the state there is x over the length on the new one.
    state = X / (path.alpha(t) ** 2 + path.sigma(t) ** 2).sqrt()[:, None]
    assert torch.allclose(variance, state + there[:, None], rtol=1e-9)


def test_the_breaks_of_a_field_are_at_the_times_of_equal_log_snr():
    old, new = pf.CondOT(), pf.Cosine()
    field = Autoguidance(LAW.field(old), mixture(2, 2, seed=9).field(old), 2.0, (0.3, 0.8))
    moved = pf.ScheduleTransfer(field, new)
    truth = new.time_of_log_snr(old.log_snr(torch.tensor([0.3, 0.8], dtype=torch.float64)))
    assert moved.breaks == pytest.approx(truth.tolist())
    assert pf.ScheduleTransfer(LAW.field(old), new).breaks == ()
    between = moved.within(*moved.breaks)
    assert between.field.interval == (0.0, 1.0)
    assert torch.allclose(between(X, 0.5), moved(X, 0.5))
