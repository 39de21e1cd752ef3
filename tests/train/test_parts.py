"""The average of the weights and the learning rate."""

from __future__ import annotations

import math

import pytest
import torch

import pushforward as pf
from pushforward.nets import MLP
from pushforward.train.ema import EMA
from pushforward.train.schedules import learning_rate


def model(dtype: torch.dtype = torch.float32) -> pf.Model:
    torch.manual_seed(0)
    return pf.Model(MLP(2, 8, 1, time="fourier").to(dtype), pf.CondOT())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9999])
def test_the_average_follows_its_recurrence_in_float64(decay: float) -> None:
    weights = model()
    average = EMA(weights, decay)
    want = [p.detach().double() for p in weights.parameters()]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for step in range(60):
            for p in weights.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
            average.update(weights, step)
            d = min(decay, (1 + step) / (10 + step))
            want = [d * w + (1 - d) * p.double() for w, p in zip(want, weights.parameters(), strict=True)]  # fmt: skip
    for mine, theirs in zip(average.model.parameters(), want, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


def test_the_average_of_bfloat16_weights_is_float32_and_moves_at_decay_0_9999() -> None:
    weights = model(torch.bfloat16)
    average = EMA(weights, 0.9999)
    with torch.no_grad():
        for p in weights.parameters():
            p.fill_(1.0)
        for p in average.model.parameters():
            assert p.dtype == torch.float32
            p.fill_(0.0)
        for step in range(100_000, 100_050):
            average.update(weights, step)
    want = 1 - 0.9999**50
    for p in average.model.parameters():
        torch.testing.assert_close(p, torch.full_like(p, want), rtol=1e-3, atol=0)
    assert all(p.dtype == torch.bfloat16 for p in weights.parameters())


def test_the_average_copies_buffers_and_neither_learns_nor_trains() -> None:
    weights = model().train()
    average = EMA(weights, 0.9)
    weights.net.get_buffer("conditioning.time.frequencies") if False else None
    for buffer in weights.buffers():
        buffer.add_(1.0)
    average.update(weights, 0)
    for mine, theirs in zip(average.model.buffers(), weights.buffers(), strict=True):
        assert torch.equal(mine, theirs)
        assert mine is not theirs
    assert len(list(weights.buffers())) > 0
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert all(p.requires_grad for p in weights.parameters())
    assert weights.training


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_a_decay_outside_0_1_is_refused(decay: float) -> None:
    with pytest.raises(pf.InputError, match="decay of the EMA"):
        EMA(model(), decay)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_learning_rate_rises_linearly_and_falls_in_closed_form(decay: str) -> None:
    peak, warmup, steps = 3.0, 10, 110
    for step in range(steps):
        rate = learning_rate(step, steps, peak, warmup, decay)
        if step < warmup:
            assert rate == pytest.approx(0.3 * (step + 1))
        else:
            s = (step - 10) / 100
            want = {"constant": 3.0, "linear": 3 * (1 - s), "cosine": 3 * math.cos(math.pi * s / 2) ** 2}  # fmt: skip
            assert rate == pytest.approx(want[decay])
    assert learning_rate(warmup - 1, steps, peak, warmup, decay) == peak
    assert learning_rate(warmup, steps, peak, warmup, decay) == peak
    assert learning_rate(0, steps, peak, 0, decay) == peak
    assert learning_rate(steps, steps, peak, warmup, decay) == (peak if decay == "constant" else 0)


def test_a_warmup_longer_than_the_run_still_gives_a_rate() -> None:
    assert [learning_rate(s, 5, 1.0, 10, "cosine") for s in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    assert learning_rate(10, 5, 1.0, 10, "linear") == 1.0
