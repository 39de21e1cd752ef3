"""Whether pictures keep to their hints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pushforward.data.scenes import Object, Scene, read, render, scenes
from pushforward.evaluate.control import edge_f1, judge_edges, share, shows


def line(column: int, rows: slice = slice(2, 18), size: int = 20) -> torch.Tensor:
    out = torch.zeros(1, 1, size, size)
    out[0, 0, rows, column] = 1
    return out


def test_edges_within_a_pixel_agree_and_others_do_not():
    wanted = line(8)
    for shift, value in ((0, 1), (1, 1), (-1, 1), (2, 0), (5, 0)):
        assert edge_f1(line(8 + shift), wanted) == value
    assert edge_f1(line(9), wanted, tolerance=0) == 0
    # Half of the line: all that is found is right, and 9 of 16 pixels are within one of it.
    assert edge_f1(line(8, slice(2, 10)), wanted).item() == pytest.approx(2 * 9 / 16 / (1 + 9 / 16))
    # With as many that are wrong: precision 1/2, recall 1.
    assert edge_f1(line(8) + line(14), wanted).item() == pytest.approx(2 / 3)
    none = torch.zeros(1, 1, 20, 20)
    assert edge_f1(none, none) == 1
    assert edge_f1(none, wanted) == edge_f1(wanted, none) == 0
    # In pictures of a few pixels all is next to an edge.
    assert edge_f1(line(3, slice(1, 7), 8), line(4, slice(1, 7), 8)) == 0


def test_a_mean_of_pictures_has_its_standard_error():
    samples = torch.cat([line(8), line(9), line(15), line(8)])
    value = judge_edges(samples, line(8).expand(4, -1, -1, -1), lambda x: x)
    assert value.value == 0.75
    assert value.standard_error == pytest.approx(0.25)
    assert share([True, True, False, True]).standard_error == pytest.approx(
        (0.75 * 0.25 / 4) ** 0.5
    )


def test_a_picture_shows_its_own_scene_and_no_other():
    drawn = [scene for scene, _ in scenes(30)]
    seen = [read(picture) for picture in render(drawn, 64)]
    right = [[shows(objects, scene) for scene in drawn] for objects in seen]
    assert sum(right[k][k] for k in range(30)) >= 29
    assert sum(map(sum, right)) == sum(right[k][k] for k in range(30))


def test_each_thing_counts():
    things = (Object("circle", "red", 0.3, 0.3, 0.11), Object("square", "blue", 0.7, 0.6, 0.16))
    scene = Scene(things)
    assert shows(things[::-1], scene)
    for change in ({"shape": "cross"}, {"x": 0.45}, {"y": 0.45}, {"r": 0.16}):
        assert not shows((replace(things[0], **change), things[1]), scene)
    blue = (replace(things[0], colour="blue"), things[1])
    assert not shows(blue, scene)
    assert shows(blue, scene, colours=False)
    assert shows((replace(things[0], x=0.35), things[1]), scene)
    assert not shows(things[:1], scene)
    assert not shows((*things, things[1]), scene)
    assert not shows((things[0], things[0]), scene)
    assert shows((), Scene(()))
    # One object is not two that are near to one another.
    pair = Scene((things[0], replace(things[0], x=0.36)))
    assert shows(pair.objects, pair)
    assert not shows((replace(things[0], x=0.33), replace(things[0], x=0.9)), pair)
