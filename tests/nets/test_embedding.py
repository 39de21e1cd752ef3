"""Tokens of a picture's vector: linear in it, and none of a vector of zeros."""

from __future__ import annotations

import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.nets import EmbeddingTokens


def test_a_vector_becomes_tokens_that_are_linear_in_it() -> None:
    torch.manual_seed(0)
    net = EmbeddingTokens(5, 8, 3)
    z = torch.randn(4, 5)
    z[2] = 0
    tokens, pooled = net(z)
    assert tokens.values.shape == (4, 3, 8)
    assert torch.equal(pooled, z)
    assert tokens.mask.tolist() == [[True] * 3, [True] * 3, [False] * 3, [True] * 3]
    both, _ = net(z[:1] + z[1:2])
    alone, _ = net(torch.zeros(1, 5))
    assert torch.allclose(
        both.values, tokens.values[:1] + tokens.values[1:2] - alone.values, atol=1e-5
    )
    assert (tokens.values[0, 0] - tokens.values[0, 1]).abs().max() > 0.1
    with pytest.raises(InputError, match=r"vectors \(B, 5\), got \(4, 6\)"):
        net(torch.randn(4, 6))
