"""Variations, interpolations and changes by words: which vector, and which noise."""

from __future__ import annotations

import pytest
import torch
from tinysystem import DIM, LINES, system

from pushforward.core.errors import InputError
from pushforward.solvers import DDIM
from pushforward.systems.variations import between, text_diff, variations


def pictures(n: int = 2) -> torch.Tensor:
    torch.manual_seed(7)
    return torch.rand(n, 3, 8, 8) * 2 - 1


def test_variations_have_the_vector_of_the_picture_and_noise_of_their_own() -> None:
    whole, x = system(), pictures()
    found = variations(whole, x, 3, seed=4, nfe=3)
    assert found.shape == (2, 3, 3, 8, 8)
    z = whole.pictures.vectors(x)
    for i in range(2):
        for k in range(3):
            want = whole.decode(z[i : i + 1], None, seed=4, start=3 * i + k, nfe=3)
            assert torch.allclose(found[i, k], want[0], atol=1e-5)
    assert (found[0, 0] - found[0, 1]).abs().max() > 0.1
    said = variations(whole, x, 3, LINES[:2], seed=4, nfe=3)
    want = whole.decode(z[1:], LINES[1:2], seed=4, start=3, nfe=3)
    assert torch.allclose(said[1, 0], want[0], atol=1e-5)
    later = variations(whole, x[1:], 3, seed=4, start=1, nfe=3)
    assert torch.allclose(later[0], found[1], atol=1e-5)


def test_an_interpolation_has_the_arc_of_vectors_and_one_noise_a_row() -> None:
    whole, x = system(), pictures()
    found = between(whole, x[:1], x[1:], columns=5, rows=2, seed=4, nfe=3)
    assert found.shape == (2, 5, 3, 8, 8)
    a, b = whole.pictures.vectors(x).double()
    angle = torch.acos((a @ b) / (a.norm() * b.norm()))
    for k, w in enumerate((0, 0.25, 0.5, 0.75, 1)):
        z = (torch.sin((1 - w) * angle) * a + torch.sin(w * angle) * b) / torch.sin(angle)
        assert float(z.norm()) == pytest.approx(DIM**0.5, rel=1e-5)
        for row in range(2):
            want = whole.decode(z.float()[None], None, seed=4, start=row, nfe=3)
            assert torch.allclose(found[row, k], want[0], atol=1e-4)
    assert (found[0] - found[1]).abs().amax((1, 2, 3)).min() > 0.1


def test_a_change_by_words_keeps_the_noise_and_turns_the_vector() -> None:
    whole, x = system().double(), pictures(1).double()
    amounts = (0.0, 0.25, 0.5)
    found = text_diff(whole, x, LINES[0], LINES[2], amounts, nfe=8, seed=2)
    assert found.shape == (1, 3, 3, 8, 8)
    assert torch.allclose(found[:, 0], x, atol=1e-6)
    v = whole.clip.texts([LINES[0], LINES[2]]).double()
    z = whole.pictures.vectors(x).double()[0]
    d = (v[1] - v[0]) / (v[1] - v[0]).norm() * DIM**0.5
    angle = torch.acos((z @ d) / DIM)
    noises = whole.invert(x, nfe=8, seed=2)
    for k, w in ((1, 0.25), (2, 0.5)):
        turned = (torch.sin((1 - w) * angle) * z + torch.sin(w * angle) * d) / torch.sin(angle)
        want = whole.decode(
            turned[None], None, sources=noises, solver=DDIM(), nfe=8, seed=2, guidance=1.0
        )
        assert torch.allclose(found[:, k], want, atol=1e-5)
    steps = (found[:, 1:] - found[:, :-1]).flatten(2).norm(dim=2)
    assert (steps > 1e-2).all()
    # Back and forth between the same words is no change, and neither are words that say nothing.
    said = text_diff(whole, x, LINES[0], LINES[2], (0.0, 0.5), nfe=8, seed=2, prompted=True)
    assert torch.allclose(said[:, 0], x, atol=1e-6)
    assert not torch.allclose(said[:, 1], found[:, 2], atol=1e-3)


def test_what_cannot_be_varied_is_said() -> None:
    whole, x = system(), pictures()
    with pytest.raises(InputError, match="num is 0"):
        variations(whole, x, 0)
    with pytest.raises(InputError, match="one picture and another, got 2 and 1"):
        between(whole, x, x[:1])
    with pytest.raises(InputError, match="columns is 1"):
        between(whole, x[:1], x[1:], columns=1)
    with pytest.raises(InputError, match="say the same to this CLIP"):
        text_diff(whole, x, LINES[0], LINES[0])
    with pytest.raises(InputError, match="the target text is empty"):
        text_diff(whole, x, LINES[0], " ")
    with pytest.raises(InputError, match="shares of the arc"):
        text_diff(whole, x, LINES[0], LINES[1], (1.5,))
    with pytest.raises(InputError, match="at least one pixel"):
        variations(whole, x[:0])
