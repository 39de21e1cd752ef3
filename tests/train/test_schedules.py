"""Learning rates over a run."""

from __future__ import annotations

import pytest

from pushforward.train.schedules import learning_rate


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine", "trapezoid", "inverse-root"])
def test_the_learning_rate_rises_linearly_to_its_peak(decay: str) -> None:
    rates = [learning_rate(step, 110, 3.0, 10, decay) for step in range(11)]
    assert rates == pytest.approx([0.3 * (k + 1) for k in range(10)] + [3.0])
    assert learning_rate(0, 110, 3.0, 0, decay) == 3.0


# Values at 0, 1/4, 1/2, 3/4 and the end of what comes after the warmup, over the peak.
FALLS = {
    "constant": (1, 1, 1, 1, 1),
    "linear": (1, 0.75, 0.5, 0.25, 0),
    "cosine": (1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0),
    "trapezoid": (1, 1, 1, 1, 0),
    "inverse-root": (1, 0.4**0.5, 0.2**0.5, (2 / 15) ** 0.5, 0.1**0.5),
}


@pytest.mark.parametrize("decay", FALLS)
def test_the_learning_rate_falls_in_closed_form(decay: str) -> None:
    rates = [learning_rate(step, 110, 3.0, 10, decay) / 3 for step in (10, 35, 60, 85, 110)]
    assert rates == pytest.approx(FALLS[decay], abs=1e-12)


def test_a_trapezoid_comes_down_in_a_line_over_its_last_fifth() -> None:
    rates = [learning_rate(step, 100, 1.0, 0, "trapezoid") for step in (79, 80, 85, 90, 95)]
    assert rates == pytest.approx([1, 1, 0.75, 0.5, 0.25])


def test_a_warmup_longer_than_the_run_still_gives_a_rate() -> None:
    assert [learning_rate(s, 5, 1.0, 10, "cosine") for s in range(5)] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    assert learning_rate(10, 5, 1.0, 10, "linear") == 1.0
