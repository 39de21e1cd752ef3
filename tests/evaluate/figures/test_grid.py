"""Grids of images: what a pixel says, and what travels with it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pages import enlarged, pixels, places
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.grid import GAP, class_grid, grid, square, to_rgb, to_uint8


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_the_ends_of_the_range_are_black_and_white_and_all_bytes_round_trip(
    low: float, high: float
) -> None:
    byte = torch.arange(256, dtype=torch.float64).reshape(1, 1, 16, 16)
    x = low + byte / 255 * (high - low)
    assert to_uint8(x, (low, high))[0, :, :, 0].flatten().tolist() == list(range(256))
    beyond = torch.tensor([low - 9, high + 9]).reshape(1, 1, 1, 2)
    assert to_uint8(beyond, (low, high)).flatten().tolist() == [0, 255]
    step = (high - low) / 255
    between = torch.tensor([low + 10.4 * step, low + 10.6 * step]).reshape(1, 1, 1, 2)
    assert to_uint8(between, (low, high)).flatten().tolist() == [10, 11]


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(pf.InputError, match="value_range"):
        to_uint8(torch.zeros(1, 1, 1, 1), (1.0, 1.0))


def test_opacity_is_over_white_and_other_channels_lie_side_by_side() -> None:
    half = torch.tensor([1.0, -1.0, -1.0, 0.0]).reshape(1, 4, 1, 1)  # red, opaque by 128/255
    assert to_rgb(half)[0, 0, 0].tolist() == [255, 127, 127]
    two = torch.tensor([-1.0, 1.0]).reshape(1, 2, 1, 1)
    assert to_rgb(two).tolist() == [[[[0, 0, 0], [255, 255, 255]]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns"), [(6, 3), (7, 3), (1, 4)])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_grid_has_its_images_row_by_row_pixel_by_pixel(
    channels: int, n: int, columns: int, labelled: bool
) -> None:
    bytes_ = torch.randint(0, 200, (n, channels, 5, 7), generator=torch.Generator().manual_seed(0))
    names = {"title": "All of them", "row_labels": ["one", "two", "three"], "column_labels": ["a"]}
    page = pixels(grid(bytes_ / 127.5 - 1, columns, cell=21, **(names if labelled else {})))
    found = [places(page, enlarged(image, 3)) for image in bytes_]
    assert all(len(at) == 1 for at in found)
    top, left = found[0][0]
    for i, at in enumerate(found):
        row, column = divmod(i, columns)
        assert at[0] == (top + row * (15 + GAP), left + column * (21 + GAP))
    painted = (page != 255).any(2).sum()
    assert (painted == n * 15 * 21) != labelled


def test_labels_stand_beside_their_rows_and_above_their_columns() -> None:
    x = torch.zeros(4, 1, 8, 8)
    page = pixels(grid(x, 2, title="title", column_labels=["a", "b"], row_labels=["one", "two"]))
    dark = (page < 100).all(2)
    black = places(page, np.full((48, 48, 3), 128, np.uint8))
    (top, left), (lower, right) = black[0], black[-1]
    assert lower - top == right - left == 48 + GAP
    for row in (top, lower):
        assert dark[row : row + 48, : left - 2].any()
    for column in (left, right):
        assert dark[top - 20 : top, column : column + 48].any()
    assert not dark[top - 3 : top].any()
    # Nothing is cut off at the edges.
    assert not dark[:2].any()
    assert not dark[:, :2].any()
    assert not dark[:, -2:].any()


def test_a_long_title_makes_room_for_itself() -> None:
    page = pixels(grid(torch.zeros(1, 1, 8, 8), 1, title="a title that is wider than the image"))
    assert page.shape[1] > 150
    assert (page[:, -3:] == 255).all()


def test_a_class_grid_has_a_class_a_row() -> None:
    x = torch.linspace(-1, 0.5, 6).reshape(6, 1, 1, 1).expand(6, 1, 4, 4)
    page = pixels(class_grid(x, ["a", "b"], 3))
    found = [
        places(page, np.full((48, 48, 3), int(v), np.uint8))[0] for v in to_uint8(x)[:, 0, 0, 0]
    ]
    assert [row for row, _ in found] == [found[0][0]] * 3 + [found[3][0]] * 3
    assert found[3][0] > found[0][0]


@pytest.mark.parametrize(("shape", "columns"), [((4, 4), 1), ((2, 1, 4, 4), 0), ((0, 1, 4, 4), 1)])
def test_what_is_no_grid_is_refused(shape: tuple[int, ...], columns: int) -> None:
    with pytest.raises(pf.InputError, match="a grid takes images"):
        grid(torch.zeros(shape), columns)


def test_square_is_the_side_of_the_least_square_that_holds_n() -> None:
    assert [square(n) for n in (1, 2, 4, 5, 9, 10, 64, 65)] == [1, 2, 2, 3, 3, 4, 8, 9]


def test_a_png_carries_how_it_was_made_and_repeats_byte_for_byte() -> None:
    settings = {"seed": 7, "label": [0, 1], "guidance": None}
    content = png(grid(torch.zeros(2, 1, 4, 4), 2), settings)
    opened = Image.open(io.BytesIO(content))
    assert json.loads(opened.text["pushforward"]) == {"version": pf.__version__, **settings}  # type: ignore[attr-defined]
    assert png(grid(torch.zeros(2, 1, 4, 4), 2), dict(reversed(settings.items()))) == content


def test_the_users_own_settings_of_matplotlib_change_nothing() -> None:
    import matplotlib

    plain = png(grid(torch.zeros(2, 1, 4, 4), 2, title="t"), {})
    with matplotlib.rc_context({"savefig.dpi": 33, "font.size": 30, "text.color": "red"}):
        assert png(grid(torch.zeros(2, 1, 4, 4), 2, title="t"), {}) == plain
        assert matplotlib.rcParams["font.size"] == 30
