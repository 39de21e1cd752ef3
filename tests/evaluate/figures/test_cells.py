"""The figure of mapped cells."""

from __future__ import annotations

import io

import torch
from PIL import Image

from pushforward.data.asinh import Asinh
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.cells import cells, telling_channels


def test_the_telling_channels_are_of_two_detectors() -> None:
    channels = ("FSC-A", "V2-A", "B1-A", "B1-H", "SSC-A")
    a, b = torch.zeros(10, 5), torch.tensor([0.1, 0.5, -2.0, 1.9, 0.2]).expand(10, 5)
    assert telling_channels(a, b, channels) == (2, 1)
    # Names without a detector are all of their own; one channel is drawn against itself.
    assert telling_channels(a, b, ("a", "b", "c", "d", "e")) == (2, 3)
    assert telling_channels(a[:, :1], b[:, :1], ("a",)) == (0, 0)


def test_a_figure_is_a_png_that_says_how_it_was_made() -> None:
    measured = [
        100 * torch.randn(300, 3, generator=torch.Generator().manual_seed(k)).numpy()
        for k in range(3)
    ]
    scale = Asinh.fit(measured)
    sets = [scale(torch.from_numpy(c)) for c in measured]
    page = cells(*sets, ("V2-A", "B1-A", "SSC-A"), scale, ("a", "b"))  # type: ignore[misc]
    image = Image.open(io.BytesIO(png(page, {"seed": 5})))
    assert image.format == "PNG"
    assert '"seed": 5' in image.text["pushforward"]  # type: ignore[attr-defined]
