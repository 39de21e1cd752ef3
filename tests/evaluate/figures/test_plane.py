"""Points of the plane: dots, densities, and where y is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.evaluate.figures.plane import DOTS, plane
from pushforward.laws import EightGaussians


def test_few_points_are_dots_at_their_places_over_the_density_of_their_law() -> None:
    law = EightGaussians()
    points = law.sample(200)
    axis = plane(points, 5.0, "samples", law=law).axes[0]
    (dots,) = axis.collections
    assert np.allclose(np.asarray(dots.get_offsets()), points.numpy())
    (image,) = axis.get_images()
    behind = np.asarray(image.get_array())
    assert image.get_extent() == [-5, 5, -5, 5]
    rows, columns = (
        ((x + 5) / 10 * 199).round().long().numpy() for x in (points[:, 1], points[:, 0])
    )
    # The density where the points are, beside that of the square.
    assert behind[rows, columns].mean() > 5 * behind.mean()
    assert axis.get_xlim() == axis.get_ylim() == (-5, 5)
    assert axis.get_title(loc="left") == "samples"
    assert len(axis.get_xticks()) > 2


def test_many_points_are_a_density_that_is_darkest_where_most_lie_with_y_upwards() -> None:
    points = torch.cat((torch.tensor([[1.5, 0.5]]).repeat(DOTS, 1), torch.tensor([[-1.5, -0.5]])))
    axis = plane(points, 2.0).axes[0]
    (image,) = axis.get_images()
    values = np.asarray(image.get_array())

    def at(x: float, y: float) -> float:
        return values[int((y + 2) / 4 * len(values)), int((x + 2) / 4 * len(values))]

    assert image.origin == "lower"
    assert at(1.5, 0.5) > at(-1.5, -0.5) > at(1.5, -0.5) == at(0.5, 1.5) == 0
    assert not axis.collections


def test_points_beyond_the_square_are_counted() -> None:
    points = torch.tensor([[9.0, 0.0], [0.0, -9.0], [0.5, 0.5]])
    assert plane(points, 2.0).axes[0].get_xlabel() == "2 of 3 points lie outside"
    assert plane(points).axes[0].get_xlabel() == ""


def test_classes_have_colours_and_names() -> None:
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    label = torch.arange(30) % 3 - 1
    axis = plane(points, label=label, names=("left", "right")).axes[0]
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["none", "left", "right"]
    colours = {tuple(c.get_facecolor()[0][:3]) for c in axis.collections}
    assert len(colours) == 3
    for c, dots in zip((-1, 0, 1), axis.collections, strict=True):
        assert np.allclose(np.asarray(dots.get_offsets()), points[label == c].numpy())


def test_other_shapes_are_refused() -> None:
    with pytest.raises(pf.InputError, match="points must have shape"):
        plane(torch.zeros(3, 3))
