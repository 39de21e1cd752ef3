"""Kinds of data: which one a model has, how many samples it draws, and what is drawn of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pushforward as pf
from pages import pixels, places
from pushforward.core.spec import DataSpec
from pushforward.evaluate import kinds
from pushforward.evaluate.figures.grid import class_grid, grid
from pushforward.evaluate.kinds.volume import middle_slices


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((2,), "plane"), ((3,), "vector"), ((1, 50), "signal"), ((3, 8, 8), "image"), ((1, 4, 8, 8), "volume"),
        ((2, 3, 4, 5, 6), "unknown"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_say_has_the_usual_kind_of_its_shape(shape, name) -> None:
    assert kinds.of(DataSpec(shape)).name == name


def test_what_a_model_says_goes_before_its_shape() -> None:
    assert kinds.of(DataSpec((2,), kind="vector")).name == "vector"
    assert kinds.of(DataSpec((40, 3), kind="sequence")).noun == "sequences"
    assert kinds.of(DataSpec((3, 8, 8))).noun == "images"
    assert not kinds.of(DataSpec((40, 3), kind="chain")).drawable


def test_as_many_samples_are_drawn_as_can_be_looked_at() -> None:
    """8 images of each class that has data; points are many, whatever their classes."""
    image = kinds.of(DataSpec((3, 8, 8)))
    assert image.number(DataSpec((3, 8, 8))) == 64
    assert image.number(DataSpec((3, 8, 8), classes=5)) == 40
    assert image.number(DataSpec((3, 8, 8), classes=5, class_counts=(0, 3, 0, 9, 1))) == 24
    plane = kinds.of(DataSpec((2,)))
    assert plane.number(DataSpec((2,), classes=5)) == plane.number(DataSpec((2,)))


EVERY = [
    DataSpec((3, 6, 6)), DataSpec((2, 6, 6)), DataSpec((2,)), DataSpec((1,)), DataSpec((4,)), DataSpec((30,)),
    DataSpec((2, 40)), DataSpec((12, 40)), DataSpec((1, 3, 4, 5)), DataSpec((9, 3), kind="sequence"),
]  # fmt: skip


@pytest.mark.parametrize("spec", EVERY, ids=lambda spec: f"{spec.kind} {spec.shape}")
def test_one_sample_and_several_by_class_of_any_kind_become_a_picture(spec: DataSpec) -> None:
    x = torch.randn(7, *spec.shape, generator=torch.Generator().manual_seed(0))
    kind, named = kinds.of(spec), spec.with_(classes=3, class_names=("a", "b", "c"))
    for figure in (kind.draw(x[:1], spec), kind.draw(x, named, torch.arange(7) % 3 - 1, "title")):
        assert len(np.unique(pixels(figure).reshape(-1, 3), axis=0)) > 1
    with pytest.raises(pf.InputError, match="cannot be drawn as"):
        kind.draw(x[None], spec)
    with pytest.raises(pf.InputError, match="labels for"):
        kind.draw(x, named, torch.zeros(8, dtype=torch.int64))


def test_images_in_equal_shares_are_drawn_a_class_a_row_whatever_their_order() -> None:
    x = torch.tensor([0.9, -0.9, 0.8, -0.8]).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    spec = DataSpec((1, 8, 8), classes=2, class_names=("dark", "light"))

    def drawn(label: list[int] | None) -> np.ndarray:
        return pixels(kinds.of(spec).draw(x, spec, None if label is None else torch.tensor(label)))

    assert np.array_equal(
        drawn([1, 0, 1, 0]), pixels(class_grid(x[[1, 3, 0, 2]], ["dark", "light"], 2))
    )
    assert np.array_equal(drawn([1, 0, 1, 1]), pixels(grid(x, 2)))
    assert np.array_equal(drawn(None), pixels(grid(x, 2)))
    assert np.array_equal(
        drawn([1, -1, 1, -1]), pixels(class_grid(x[[1, 3, 0, 2]], ["none", "light"], 2))
    )


def test_images_are_drawn_between_what_they_were_made_of_and_the_truth() -> None:
    """A column for each: the coarse one enlarged above, the true one below."""
    spec = DataSpec((1, 8, 8))
    fine, truth = torch.full((3, 1, 8, 8), 0.5), torch.full((3, 1, 8, 8), 0.9)
    coarse = torch.full((3, 1, 4, 4), -0.5)
    page = pixels(kinds.of(spec).draw(fine, spec, beside={"truth": truth, "coarse": coarse}))
    tops = {}
    for name, value in (("coarse", 64), ("sample", 191), ("truth", 242)):
        found = places(page, np.full((64, 64, 3), value, np.uint8))
        assert len(found) == 3
        tops[name] = found[0][0]
    assert tops["coarse"] < tops["sample"] < tops["truth"]
    with pytest.raises(pf.InputError, match="smaller by a whole factor"):
        kinds.of(spec).draw(fine, spec, beside={"coarse": coarse[..., :3]})


def test_a_sequence_ends_where_its_mask_does() -> None:
    x = torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(0))
    spec = DataSpec((9, 2), kind="sequence")
    lengths = torch.tensor([9, 1, 4, 7])
    mask = (torch.arange(9) < lengths[:, None])[..., None]
    figure = kinds.of(spec).draw(x, spec, mask=mask)
    for axis, length, sample in zip(figure.axes, lengths.tolist(), x, strict=True):
        lines = axis.get_lines()
        assert len(lines) == 2
        for k, line in enumerate(lines):
            y = np.asarray(line.get_ydata(), float)
            assert np.isfinite(y).sum() == length
            np.testing.assert_allclose(y[:length], sample[:length, k])


def test_signals_of_a_class_stand_in_a_row() -> None:
    x = torch.arange(4.0)[:, None, None].expand(4, 1, 5)
    spec = DataSpec((1, 5), classes=2, class_names=("slow", "fast"))
    axes = kinds.of(spec).draw(x, spec, torch.tensor([1, 0, 1, 0])).axes
    assert [float(axis.get_lines()[0].get_ydata()[0]) for axis in axes] == [1, 3, 0, 2]
    assert [axis.get_ylabel() for axis in axes] == ["slow", "", "fast", ""]


def test_the_middle_slices_of_a_volume() -> None:
    x = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 1, 3, 4, 6)
    cuts = middle_slices(x, -1.0)
    assert cuts.shape == (2, 3, 1, 6, 6)
    assert torch.equal(cuts[1, 0, 0, 1:5], x[1, 0, 1])
    assert torch.equal(cuts[1, 1, 0, 1:4], x[1, 0, :, 2])
    assert torch.equal(cuts[1, 2, 0, 1:4, 1:5], x[1, 0, :, :, 3])
    assert (cuts[:, 0, :, 0] == -1).all()


def test_what_no_kind_knows_is_not_drawn() -> None:
    spec = DataSpec((2, 3, 4, 5, 6))
    with pytest.raises(pf.InputError, match="cannot be drawn as a picture"):
        kinds.of(spec).draw(torch.zeros(2, 2, 3, 4, 5, 6), spec)
