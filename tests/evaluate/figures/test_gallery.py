"""The gallery: what is drawn is what was given, from any field."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import pushforward as pf
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.gallery import Entry, gallery, trace
from pushforward.solvers import Euler, EulerMaruyama

LAW = pf.GaussianMixture([[-3.0, 0.0], [3.0, 1.0]], 0.1)
FIELD = LAW.field(pf.CondOT())


def start(n: int = 60) -> Tensor:
    return pf.Noise.batch(n, 1).normal((2,)).double()


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


def panel(figure: Figure, title: str) -> Axes:
    """The first axes of a method, below which its other ones lie."""
    return next(axis for axis in figure.axes if axis.get_title() == title)


def mass(axis: Axes, points: Tensor) -> float:
    """The share of an image's mass in the cells of these points, all on one side of x = 0 or the other."""
    image = axis.get_images()[0]
    values = np.asarray(image.get_array()) ** 2
    low, high = image.get_extent()[:2]
    centres = low + (np.arange(values.shape[1]) + 0.5) * (high - low) / values.shape[1]
    left = float(values[:, centres < 0].sum() / values.sum())
    return left if float(points[:, 0].mean()) < 0 else 1 - left


def test_each_method_is_drawn_from_its_own_source_to_its_own_ends() -> None:
    """Two methods that start and end on opposite sides: each panel has its mass where its own states are."""
    ends = start(400) * 0.3 - torch.tensor([3.0, 0.0])
    one, other = torch.stack((ends + torch.tensor([6.0, 0.0]), ends)), torch.stack((ends, -ends))
    figure = gallery([Entry("one", one), Entry("other", other)], ends)
    axes = figure.axes
    for name, states in (("one", one), ("other", other)):
        top = axes.index(panel(figure, name))
        rows = [top + 3 * k for k in range(4)]  # the figure is laid out row by row, three to a row
        for row, points in ((rows[0], states[0]), (rows[3], states[1])):
            assert mass(axes[row], points) > 0.99


def test_lines_of_a_coupling_join_starts_with_their_own_ends() -> None:
    states = torch.stack((start(30), start(30).flip(0) + 2))
    figure = gallery([Entry("pairs", states)], states[1], lines=20)
    lines = [c for axis in figure.axes for c in axis.collections if isinstance(c, LineCollection)]
    (collection,) = [c for c in lines if len(c.get_segments()) == 20]
    drawn = {
        tuple(np.round(np.asarray(segment).flatten(), 9)) for segment in collection.get_segments()
    }
    want = torch.cat((states[0, :20], states[1, :20]), 1)
    assert drawn == {tuple(np.round(row.numpy(), 9)) for row in want}
    lengths = (states[1, :20] - states[0, :20]).norm(dim=1).sort().values
    assert np.allclose(np.asarray(collection.get_array()), lengths.numpy())


def test_bands_have_equal_width_and_a_png_says_how_it_was_made() -> None:
    entry, data = trace("flow", FIELD, start()), LAW.sample(100)
    two, three = (gallery([entry] * n, data, columns=2) for n in (2, 3))
    assert three.get_figwidth() == two.get_figwidth()
    assert three.get_figheight() == pytest.approx(2 * two.get_figheight())
    content = png(two, {"seed": 3})
    assert json.loads(Image.open(io.BytesIO(content)).text["pushforward"])["seed"] == 3  # type: ignore[attr-defined]
    assert png(gallery([entry] * 2, data, columns=2), {"seed": 3}) == content


def test_what_cannot_be_drawn_is_refused() -> None:
    entry = trace("flow", FIELD, start())
    with pytest.raises(pf.InputError, match=r"states must be \(T, N, 2\)"):
        Entry("cube", torch.zeros(3, 4, 3))
    with pytest.raises(pf.InputError, match="lost: the states hold NaN"):
        Entry("lost", torch.full((3, 4, 2), torch.nan))
    with pytest.raises(pf.InputError, match="at least one method"):
        gallery([], LAW.sample(10))
    with pytest.raises(pf.InputError, match="data must have shape"):
        gallery([entry], torch.zeros(10, 3))
    still = Entry("still", torch.zeros(2, 5, 2))
    assert len(png(gallery([still], torch.zeros(10, 2)), {})) > 1000
