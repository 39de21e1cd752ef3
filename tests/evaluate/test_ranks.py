"""Ranks of true vectors: of perfect and of empty guesses, and of Gaussian ones in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.evaluate.ranks import judge_ranks, ranks


def test_a_rank_counts_those_that_are_nearer() -> None:
    true = torch.eye(4)
    drawn = torch.tensor([[3.0, 0, 0, 0], [2, 1, 0, 0], [0, 0, 0, 1.0], [1, 1, 1, 1]])
    # The last two: two others tie behind the nearest, and all four tie.
    assert ranks(drawn, true).tolist() == [1, 2, 3, 2.5]
    # Lengths say nothing.
    assert ranks(10 * drawn, 0.1 * true).tolist() == [1, 2, 3, 2.5]


def test_what_says_nothing_has_the_mean_rank_of_chance() -> None:
    torch.manual_seed(0)
    n = 1000
    figures = judge_ranks(torch.randn(n, 8), torch.randn(n, 8))
    assert abs(figures["mean_rank"] - (n + 1) / 2) < 4 * figures["mean_rank_error"]
    assert figures["mean_rank_error"] == pytest.approx(n / math.sqrt(12 * n), rel=0.1)
    assert abs(figures["within_10"] - 10 / n) < 4 * math.sqrt(0.01 * 0.99 / n)
    assert judge_ranks(torch.ones(n, 8), torch.ones(n, 8))["mean_rank"] == (n + 1) / 2


def test_sets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="as many true ones"):
        ranks(torch.randn(3, 2), torch.randn(4, 2))
