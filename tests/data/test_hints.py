"""Hints of pictures: edges, masks and order, each against what is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.data import Dataset
from pushforward.data.hints import Edges, MaskFiles, SceneHint, brightness, open_grey
from pushforward.data.images.augment import Augment
from pushforward.data.scenes import Object, Scene, load_scenes, render
from pushforward.data.scenes.render import Graphs

pytest.importorskip("skimage")


def square(size=24, low=6, high=17, channels=1):
    x = torch.full((1, channels, size, size), -1.0)
    x[..., low:high, low:high] = 1.0
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_are_the_outline_of_a_square_one_pixel_wide(channels):
    found = Edges()(square(channels=channels))
    assert found.shape == (1, 1, 24, 24)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    where = found[0, 0].nonzero().float()
    # Each within a pixel of the outline, all of its four sides seen, and nothing inside or outside of it.
    away = ((where - 11).abs().amax(1) - 5.5).abs()
    assert away.max() <= 1
    for axis in (0, 1):
        for side in (6, 16):
            assert ((where[:, axis] - side).abs() <= 1).sum() >= 9
    assert found.sum() <= 48
    assert Edges()(torch.full((1, channels, 24, 24), 0.3)).sum() == 0


def test_edges_depend_on_the_range_of_values_and_not_on_how_it_is_called():
    x = square()
    bytes_ = (x + 1) * 127.5
    assert torch.equal(Edges(value_range=(0.0, 255.0))(bytes_), Edges()(x))
    assert torch.equal(Edges(decode=lambda z: -z)(-x), Edges()(x))
    faint = x * 0.04  # a step of 0.04 in brightness is below the thresholds
    assert Edges()(faint).sum() == 0
    assert Edges(low=0.001, high=0.002)(faint).sum() > 0
    with pytest.raises(pf.InputError, match="1 or 3 channels, and these have 2"):
        brightness(torch.zeros(1, 2, 4, 4))


THINGS = (Object("circle", "red", 0.3, 0.4, 0.15), Object("square", "blue", 0.4, 0.4, 0.15))


def test_masks_and_order_of_a_scene_are_where_its_objects_are():
    apart = Scene(
        (Object("cross", "green", 0.25, 0.25, 0.11), Object("circle", "cyan", 0.7, 0.7, 0.16)), 0.1
    )
    graphs = Graphs.of([Scene(THINGS, 0.1), apart])
    rows = torch.tensor([1, 0])
    masks, order = (
        SceneHint(graphs, 48, what)(torch.empty(2, 3, 48, 48), rows) for what in ("masks", "order")
    )
    pictures = torch.from_numpy(render([apart, Scene(THINGS, 0.1)], 48)).movedim(3, 1)
    ground = (pictures == round(0.1 * 255)).all(1, keepdim=True)
    # Coverage of less than 1/255 of a pixel does not show in it.
    assert ((masks < 0.02) == ground).float().mean() > 0.995
    # Areas of pi r^2, of pixels covered in part, too.
    area = float(masks[0].sum()) / 48**2
    assert area == pytest.approx(np.pi * (0.11**2 + 0.16**2), rel=0.02)
    # The second object is in front of the first one, and each has its own level.
    assert order[0, 0, 12, 12] == 0.25
    assert order[0, 0, 33, 33] == 0.5
    assert order[1, 0, 19, 20] == 0.5  # where they overlap
    assert order[1, 0, 19, 9] == 0.25
    assert masks[1].max() == 1


def test_graphs_give_their_scenes_back():
    scenes = [Scene(THINGS, 0.1, "striped", 0.25), Scene(THINGS[1:], 0.2)]
    again = Graphs.of(scenes).scenes()
    assert [len(s.objects) for s in again] == [2, 1]
    assert np.array_equal(render(again, 32), render(scenes, 32))
    (one,) = Graphs.of(scenes).scenes(np.array([1]))
    assert (one.texture, one.objects[0].shape, one.objects[0].size) == ("plain", "square", "large")
    assert one.ground == pytest.approx(0.2)


def test_a_data_set_has_hints_of_its_own_pictures_in_any_part_and_order():
    data = load_scenes(12, 32)
    graphs = data.values.graphs
    both = replace(data, hints={"edges": Edges(), "masks": SceneHint(graphs, 32, "masks")})
    assert both.fingerprint() == data.fingerprint()
    part = both.subset(torch.tensor([7, 2, 9])).subset(torch.tensor([2, 0]))
    batch, rows = part[torch.tensor([1, 0])], torch.tensor([7, 9])
    control = batch.cond["control"]
    assert torch.equal(batch.x1, data[rows].x1)
    assert torch.equal(control["edges"], Edges()(batch.x1))
    assert torch.equal(control["masks"][:, 0], torch.from_numpy(graphs.levels(32, rows.numpy())))


def test_hints_follow_what_training_does_to_a_picture():
    pixels = np.zeros((1, 1, 16, 16), np.uint8)
    pixels[..., 4:12, 3:8] = 255
    data = Dataset.from_arrays(pixels)
    seen = replace(data, augment=Augment(flip=True, shift=2), hints={"edges": Edges()})
    rows, moved = torch.zeros(20, dtype=torch.int64), 0
    batch = seen.drawn(rows, pf.Noise.batch(20, 3))
    assert torch.equal(batch.cond["control"]["edges"], Edges()(batch.x1))
    moved = (batch.x1 != data[rows].x1).flatten(1).any(1)
    assert moved.sum() > 10


def test_masks_in_files_are_found_by_name_and_brought_to_size(tmp_path):
    (tmp_path / "a").mkdir()
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    Image.fromarray((pixels > 100).astype(np.uint8) * 255).save(tmp_path / "2.b.png")
    files = MaskFiles(tmp_path, ["a/1.jpg", "2.b.jpg"], (8, 8))
    found = files(torch.empty(2, 3, 8, 8), torch.tensor([1, 0]))
    assert torch.equal(found[1, 0], torch.from_numpy(pixels).float() / 255)
    assert torch.equal(found[0, 0], torch.from_numpy(pixels > 100).float())
    large, had = open_grey(tmp_path / "2.b.png", (16, 24))
    assert had == (8, 8)
    assert set(large.unique().tolist()) == {0.0, 1.0}  # a mask stays one
    with pytest.raises(pf.DataError, match=r"there is no mask for a/2.jpg in .*2.png is missing"):
        files.find("a/2.jpg")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(pf.DataError, match="cannot read the picture"):
        open_grey(tmp_path / "bad.png", (8, 8))
