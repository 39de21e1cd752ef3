"""Pictures: what a pixel says, and what travels with it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.evaluate.pictures import (
    GAP,
    PAPER,
    class_grid,
    density,
    grid,
    png,
    square,
    to_uint8,
)
from pushforward.recipes.experiment import draw


def test_a_png_carries_how_it_was_made_and_repeats_byte_for_byte() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    content = png(image, {"seed": 7, "label": [0, 1], "guidance": None})
    opened = Image.open(io.BytesIO(content))
    assert json.loads(opened.text["pushforward"]) == {
        "version": pf.__version__, "seed": 7, "label": [0, 1], "guidance": None,
    }  # fmt: skip
    assert opened.size == (3, 2)
    assert opened.getpixel((2, 1)) == (1, 2, 3)
    assert png(image, {"guidance": None, "label": [0, 1], "seed": 7}) == content


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns"), [(6, 3), (7, 3), (1, 4)])
def test_a_grid_has_its_pictures_row_by_row_at_a_whole_magnification(
    channels: int, n: int, columns: int
) -> None:
    bytes_ = torch.randint(0, 200, (n, channels, 5, 7), generator=torch.Generator().manual_seed(0))
    page = np.array(grid(bytes_ / 127.5 - 1, columns, cell=21))
    height, width = 5 * 3, 7 * 3
    rows = -(-n // columns)
    assert page.shape == (
        2 * GAP + rows * (height + GAP) + GAP,
        GAP + GAP + columns * (width + GAP) + GAP,
        3,
    )
    for i in range(n):
        row, column = divmod(i, columns)
        top, left = 2 * GAP + row * (height + GAP), 2 * GAP + column * (width + GAP)
        cell = page[top : top + height, left : left + width]
        want = bytes_[i].expand(3, 5, 7).movedim(0, -1).repeat_interleave(3, 0).repeat_interleave(3, 1)  # fmt: skip
        assert np.array_equal(cell, want)
        assert (page[top : top + height, left + width] == PAPER).all()
    painted = (page != PAPER).any(2).sum()
    assert painted == n * height * width


def test_titles_and_labels_make_room_for_themselves() -> None:
    x = torch.zeros(4, 1, 8, 8)
    plain = grid(x, 2)
    titled = grid(x, 2, title="title", column_labels=["a", "b"], row_labels=["one", "two"])
    assert titled.width > plain.width
    assert titled.height > plain.height
    assert plain.tobytes() == grid(x, 2).tobytes()


def test_a_class_grid_has_a_class_a_row() -> None:
    x = torch.linspace(-1, 0.5, 6).reshape(6, 1, 1, 1).expand(6, 1, 4, 4)
    page = np.array(class_grid(x, ["a", "b"], 3))
    left = page.shape[1] - 3 * (48 + GAP) - GAP
    values = [
        [int(page[2 * GAP + r * (48 + GAP) + 24, left + c * (48 + GAP) + 24, 0]) for c in range(3)]
        for r in range(2)
    ]
    assert values == to_uint8(x)[:, 0, 0, 0].reshape(2, 3).tolist()


@pytest.mark.parametrize(("shape", "columns"), [((2, 2, 4, 4), 1), ((4, 4), 1), ((2, 1, 4, 4), 0)])
def test_what_is_no_grid_is_refused(shape: tuple[int, ...], columns: int) -> None:
    with pytest.raises(pf.InputError, match="a grid takes images"):
        grid(torch.zeros(shape), columns)


def test_a_density_is_darkest_where_most_points_are_with_y_upwards() -> None:
    points = torch.cat((torch.tensor([[1.5, 0.5]]).repeat(100, 1), torch.tensor([[-1.5, -0.5]])))
    page = np.array(density(points, 2.0)).astype(int).sum(2)
    framed = page[3 * GAP : 3 * GAP + 420, 3 * GAP : 3 * GAP + 420]

    def at(x: float, y: float) -> int:
        return framed[int((2 - y) / 4 * 420), int((x + 2) / 4 * 420)]

    assert (
        at(1.5, 0.5) < at(-1.5, -0.5) < at(1.5, -0.5) == at(0.5, 1.5) == at(-0.5, -1.5) == 3 * 255
    )


def test_a_density_of_points_that_all_lie_outside_is_blank() -> None:
    page = np.array(density(torch.full((5, 2), 9.0), 2.0))
    assert (page[3 * GAP : 3 * GAP + 419, 3 * GAP : 3 * GAP + 419] == PAPER).all()
    with pytest.raises(pf.InputError, match="points must have shape"):
        density(torch.zeros(3, 3), 1.0)


def test_square_is_the_side_of_the_least_square_that_holds_n() -> None:
    assert [square(n) for n in (1, 2, 4, 5, 9, 10, 64, 65)] == [1, 2, 2, 3, 3, 4, 8, 9]


def test_samples_in_equal_shares_are_drawn_a_class_a_row_whatever_their_order() -> None:
    x = torch.tensor([0.9, -0.9, 0.8, -0.8]).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    info = {"class_names": ["dark", "light"]}
    want = class_grid(x[[1, 3, 0, 2]], ["dark", "light"], 2)
    label = torch.tensor([1, 0, 1, 0])
    assert draw(x, info, label, "").tobytes() == want.tobytes()
    unequal = draw(x, info, torch.tensor([1, 0, 1, 1]), "")
    assert unequal.tobytes() == grid(x, 2).tobytes()
    assert draw(x, {}, None, "").tobytes() == grid(x, 2).tobytes()
    named = draw(x, {}, torch.tensor([1, -1, 1, -1]), "")
    assert named.tobytes() == class_grid(x[[1, 3, 0, 2]], ["none", "1"], 2).tobytes()


def test_samples_of_other_shapes_cannot_be_drawn() -> None:
    for shape in ((4, 3), (4, 2, 8, 8), (4, 1, 8)):
        with pytest.raises(pf.InputError, match="cannot be drawn"):
            draw(torch.zeros(shape), {}, None, "")
