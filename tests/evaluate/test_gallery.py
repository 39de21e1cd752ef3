"""The gallery: what is drawn is what was given, from any field."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pushforward as pf
from pushforward.evaluate.gallery import Entry, gallery, trace
from pushforward.solvers import Euler, EulerMaruyama

LAW = pf.GaussianMixture([[-3.0, 0.0], [3.0, 1.0]], 0.1)
FIELD = LAW.field(pf.CondOT())


def start(n: int = 60) -> Tensor:
    return pf.Noise.batch(n, 1).normal((2,)).double()


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_an_entry_holds_every_state_on_the_way() -> None:
    grid = torch.tensor([0.0, 0.3, 1.0])
    entry = trace("Euler", FIELD, start(), solver=Euler(), grid=grid, figures={"W2": 0.5})
    assert (entry.name, entry.states.shape, entry.figures) == ("Euler", (3, 60, 2), {"W2": 0.5})
    x0 = start()
    middle = x0 + 0.3 * FIELD(x0, 0.0)
    torch.testing.assert_close(entry.states[1], middle)
    torch.testing.assert_close(entry.states[2], middle + 0.7 * FIELD(middle, 0.3))
    assert len(trace("", FIELD, x0).states) == 101
    sde = [
        trace("", FIELD, x0, solver=EulerMaruyama(0.5), grid=grid, seed=seed).states
        for seed in (0, 0, 1)
    ]
    assert torch.equal(sde[0], sde[1])
    assert not torch.equal(sde[0][-1], sde[2][-1])


def test_conditions_go_to_the_field() -> None:
    law = pf.GaussianMixture([[-3.0, 0.0], [3.0, 1.0]], 0.01, labels=[0, 1])
    label = torch.arange(60) % 2
    ends = trace("", law.field(pf.CondOT()), start(), label=label).states[-1]
    assert ((ends[:, 0] > 0) == (label == 1)).all()


def test_the_figure_carries_its_settings_and_fills_bands_of_equal_width() -> None:
    entry, data = trace("flow", FIELD, start()), LAW.sample(100)
    two, three = (gallery([entry] * n, data, {"seed": 3}, columns=2) for n in (2, 3))
    assert json.loads(picture(two).text["pushforward"])["seed"] == 3
    assert picture(three).width == pytest.approx(picture(two).width, abs=8)
    assert picture(three).height > 1.8 * picture(two).height
    moved = Entry("flow", torch.cat((entry.states[:-1], entry.states[-1:].flip(1))))
    assert gallery([entry] * 2, data, {"seed": 3}, columns=2) == two
    assert gallery([entry, moved], data, {"seed": 3}, columns=2) != two


def test_densities_show_where_the_ends_are() -> None:
    """Blue on the side of the box where all samples end: in the left half of the density panel, not in the right."""
    states = torch.stack((start(400), start(400) * 0.3 - torch.tensor([3.0, 0.0])))
    data = torch.cat((states[1], states[1] + torch.tensor([6.0, 0.0])))
    pixels = np.asarray(picture(gallery([Entry("left", states)], data, {})).convert("RGB")).astype(
        int
    )
    height, width = pixels.shape[:2]
    panel = pixels[int(0.72 * height) : int(0.97 * height), int(0.56 * width) : int(0.97 * width)]
    dark = panel[..., 2] - panel[..., 0] > 60
    half = dark.shape[1] // 2
    assert dark[:, :half].sum() > 100
    assert dark[:, half:].sum() < 0.02 * dark[:, :half].sum()
    # Lines of the coupling are green and yellow, and run from the middle to where the ends are.
    coupling = pixels[int(0.36 * height) : int(0.66 * height), int(0.56 * width) :]
    red, green, blue = coupling[..., 0], coupling[..., 1], coupling[..., 2]
    line = (green - red > 30) & (green - blue > 0)
    assert line.sum() > 100
    assert line[:, : line.shape[1] // 2].sum() > 5 * line[:, line.shape[1] // 2 :].sum()


def test_what_cannot_be_drawn_is_refused() -> None:
    entry = trace("flow", FIELD, start())
    with pytest.raises(pf.InputError, match=r"states must be \(T, N, 2\)"):
        Entry("cube", torch.zeros(3, 4, 3))
    with pytest.raises(pf.InputError, match="lost: the states hold NaN"):
        Entry("lost", torch.full((3, 4, 2), torch.nan))
    with pytest.raises(pf.InputError, match="at least one method"):
        gallery([], LAW.sample(10), {})
    with pytest.raises(pf.InputError, match="data must have shape"):
        gallery([entry], torch.zeros(10, 3), {})
    still = Entry("still", torch.zeros(2, 5, 2))
    assert picture(gallery([still], torch.zeros(10, 2), {})).width > 100
