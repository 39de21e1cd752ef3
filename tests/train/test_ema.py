"""The average of the weights: closed forms, an independent one, precision, and what is frozen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pushforward as pf
from pushforward.models.base import ModelBase
from pushforward.nets import MLP
from pushforward.train.ema import EMA


def model(dtype: torch.dtype = torch.float32) -> pf.Model:
    torch.manual_seed(0)
    return pf.Model(MLP(2, 8, 1, time="fourier").to(dtype), pf.CondOT())


def filled(weights: ModelBase, value: float) -> None:
    with torch.no_grad():
        for p in weights.parameters():
            p.fill_(value)


def share_of_the_start(decay: float, steps: int) -> float:
    """What is left of the first weights once they have jumped to others, 0 -> 1, and stayed there."""
    weights = model()
    filled(weights, 0.0)
    average = EMA(weights, decay)
    filled(weights, 1.0)
    for step in range(steps):
        average.update(weights, step)
    found = {float(1 - p.flatten()[0].double()) for p in average.model.parameters()}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_while_it_warms_up_the_start_is_forgotten_as_the_inverse_of_a_binomial(steps: int) -> None:
    """prod_{k < n} (1 + k)/(10 + k) = 1 / C(n + 9, 9)."""
    want = 1 / math.comb(steps + 9, 9)
    assert share_of_the_start(0.9999, steps) == pytest.approx(want, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("decay", "capped"), [(0.5, 8), (0.25, 2), (0.0, 0)])
def test_from_the_step_at_which_its_decay_is_reached_it_forgets_by_powers(
    decay: float, capped: int
) -> None:
    """(1 + k)/(10 + k) reaches 1/2 at k = 8, and 1/4 at k = 2."""
    for more in (0, 1, 5):
        want = decay**more / math.comb(capped + 9, 9)
        assert share_of_the_start(decay, capped + more) == pytest.approx(want, rel=1e-3, abs=1e-7)


def test_long_after_the_start_it_is_the_average_of_torch() -> None:
    weights = model()
    mine = EMA(weights, 0.95)
    theirs = AveragedModel(weights, multi_avg_fn=get_ema_multi_avg_fn(0.95))
    theirs.update_parameters(weights)  # a copy at first
    generator = torch.Generator().manual_seed(1)
    for step in range(1000, 1060):
        with torch.no_grad():
            for p in weights.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
        mine.update(weights, step)
        theirs.update_parameters(weights)
    for a, b in zip(mine.model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_average_of_bfloat16_weights_is_float32_and_moves_at_decay_0_9999() -> None:
    weights = model(torch.bfloat16)
    average = EMA(weights, 0.9999)
    filled(weights, 1.0)
    filled(average.model, 0.0)
    for step in range(100_000, 100_050):
        average.update(weights, step)
    want = 1 - 0.9999**50
    for p in average.model.parameters():
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, torch.full_like(p, want), rtol=1e-3, atol=0)
    assert all(p.dtype == torch.bfloat16 for p in weights.parameters())


def test_the_average_copies_buffers_and_neither_learns_nor_trains() -> None:
    weights = model().train()
    average = EMA(weights, 0.9)
    assert "net.conditioning.features.frequencies" in dict(weights.named_buffers())
    for buffer in weights.buffers():
        buffer.add_(1.0)
    average.update(weights, 0)
    for mine, theirs in zip(average.model.buffers(), weights.buffers(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in weights.parameters())
    assert weights.training


class Half(nn.Module):
    """A frozen layer, and a trained one with a frozen bias."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained = nn.Linear(2, 2), nn.Linear(2, 2)
        self.frozen.register_buffer("counter", torch.zeros(2, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.trained(self.frozen(x.bfloat16()).to(x.dtype))


def test_what_is_frozen_is_the_same_object_in_both_models_and_keeps_its_precision() -> None:
    net = Half()
    net.frozen.bfloat16().requires_grad_(False)
    net.trained.bias.requires_grad_(False)
    weights = pf.Model(net, pf.CondOT())
    average = EMA(weights, 0.9)
    copy = average.model.net
    assert copy.frozen is net.frozen
    assert copy.trained.bias is net.trained.bias
    assert copy.trained.weight is not net.trained.weight
    assert net.frozen.weight.dtype == net.frozen.counter.dtype == torch.bfloat16
    before = {name: x.clone() for name, x in net.frozen.state_dict().items()}
    with torch.no_grad():
        net.trained.weight.add_(1)
    average.update(weights, 0)
    assert all(torch.equal(x, before[name]) for name, x in net.frozen.state_dict().items())
    # d = 1/10 at the first step.
    torch.testing.assert_close(copy.trained.weight, net.trained.weight - 0.1)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_outside_0_1_is_refused(decay: float) -> None:
    with pytest.raises(pf.InputError, match="decay of the EMA"):
        EMA(model(), decay)
