"""Scenes: functions of their seed, and combinations that are held out; captions that say what is there."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    Group,
    Request,
    draw,
    load_scenes,
    read,
    render,
    scenes,
)
from pushforward.data.scenes.captions import descriptive, noisy, short, vague
from pushforward.data.scenes.graph import GAP, REACH, ROLES, generator, is_held_out

NUMBER = 1500
SEEN = list(scenes(NUMBER))
APART = list(scenes(300, held_out=True))


def combinations(request: Request) -> set[tuple[str, str, str]]:
    return {
        (str(g.colour), g.shape, r) for g, r in zip(request.groups, request.roles(), strict=True)
    }


def test_scenes_are_functions_of_seed_and_number() -> None:
    forward = [draw(3, i) for i in range(30)]
    assert [draw(3, i) for i in reversed(range(30))] == forward[::-1]
    assert list(scenes(10, 3, start=20)) == forward[20:]
    assert not set(map(str, forward)) & {str(draw(4, i)) for i in range(30)}
    part, whole = load_scenes(12, seed=3), load_scenes(30, seed=3)
    assert part.captions == (whole.captions or ())[:12]
    rows = torch.tensor([11, 2, 5])
    assert torch.equal(part[rows].x1, whole[rows].x1)
    assert torch.equal(whole[rows].x1[1], whole[torch.tensor([2])].x1[0])


def test_held_out_combinations_are_never_trained_on_and_their_parts_are() -> None:
    every = set(product(COLOURS, SHAPES, ROLES))
    apart = {c for c in every if is_held_out(*c)}
    assert len(every) == 168
    assert len(apart) == 28
    # Models that were trained on the others are judged by these, and no others.
    assert {c for c in apart if c[2] == "alone"} == {
        ("red", "circle", "alone"), ("purple", "square", "alone"), ("blue", "triangle", "alone"),
        ("red", "cross", "alone"),
    }  # fmt: skip
    found = set().union(*(combinations(request) for _, request in SEEN))
    assert not found & apart
    assert found == every - apart
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(c[i], c[j]) for c in apart} <= {(c[i], c[j]) for c in found}
    assert all(combinations(request) & apart for _, request in APART)
    # Each of them is asked for.
    assert set().union(*(combinations(request) for _, request in APART)) & apart == apart


def test_scenes_satisfy_their_request_and_objects_lie_apart_within_the_picture() -> None:
    for scene, request in SEEN[:400] + APART[:100]:
        assert request.satisfied(scene.objects)
        at = np.array([(o.x, o.y) for o in scene.objects])
        reach = np.array([o.r * REACH[o.shape] for o in scene.objects])
        assert (at - reach[:, None] > 0).all()
        assert (at + reach[:, None] < 1).all()
        between = np.hypot(*(at[:, None] - at).transpose(2, 0, 1)) - reach - reach[:, None]
        assert (between[~np.eye(len(at), dtype=bool)] >= GAP - 1e-9).all()


def parsed(text: str) -> Request:
    """A short caption as a request: written from the words alone."""
    relation = next((name for name in RELATIONS if f" {name} " in text), "beside")
    parts = text.split(" and " if relation == "beside" else f" {relation} ")
    groups = []
    for part in parts:
        count, *words, noun = part.split()
        shape = noun if noun in SHAPES else "cross" if noun == "crosses" else noun.removesuffix("s")
        size = next((w for w in words if w in ("small", "large")), None)
        colour = next((w for w in words if w in COLOURS), None)
        assert len(words) == (size is not None) + (colour is not None)
        number = {"a": 1, "two": 2, "three": 3, "four": 4}[count]
        groups.append(Group(number, shape, colour, size))
    return Request(tuple(groups), relation)


def test_short_captions_say_what_is_there() -> None:
    random = generator(0, 0)
    for scene, request in SEEN[:300] + APART[:100]:
        assert parsed(short(request)) == request
        less = vague(request, random)
        assert parsed(short(less)) == less
        assert less.satisfied(scene.objects)
    assert parsed("a red circle left of two blue squares") == Request(
        (Group(1, "circle", "red"), Group(2, "square", "blue")), "left of"
    )


def test_descriptive_captions_say_every_object_and_its_place() -> None:
    for scene, _ in SEEN[:200]:
        text = descriptive(scene)
        said = re.findall(
            r"a (small|large) (\w+) (\w+) (in the centre|at the [a-z ]+?)(?=,| and|$)", text
        )
        assert Counter(s[:3] for s in said) == Counter(
            (o.size, o.colour, o.shape) for o in scene.objects
        )
        for size, colour, shape, place in said:
            alike = [
                o for o in scene.objects if (o.size, o.colour, o.shape) == (size, colour, shape)
            ]
            words = place.split()
            assert any(
                ("top" in words) == (o.y < 1 / 3) and ("bottom" in words) == (o.y >= 2 / 3)
                and ("left" in words) == (o.x < 1 / 3) and ("right" in words) == (o.x >= 2 / 3)
                for o in alike
            )  # fmt: skip


def test_noisy_captions_are_often_wrong_and_often_right() -> None:
    right = []
    for i, (scene, request) in enumerate(SEEN[:600]):
        text = noisy(request, generator(5, i))
        for word in ("picture of ", "image: ", "free ", " wallpaper", " stock photo", " clip art"):
            text = text.replace(word, "")
        right.append(parsed(text).satisfied(scene.objects))
    assert 0.25 < np.mean(right) < 0.75


def test_the_data_set_has_what_its_captions_say() -> None:
    data = load_scenes(60, 32, captioned="short")
    assert data.shape == (3, 32, 32)
    assert set(data.texts) == {"caption", "short", "descriptive", "noisy"}
    x = ((data[torch.arange(60)].x1 + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for picture, caption in zip(x, data.captions or (), strict=True):
        assert parsed(caption).satisfied(read(picture))
    mixed = load_scenes(300)
    kinds = Counter(
        next(k for k in ("descriptive", "short", "noisy") if mixed.texts[k][i] == mixed.captions[i])
        for i in range(300)
    )
    # Of Binomial(300, .3), four standard deviations; some noisy ones say what short ones do.
    assert abs(kinds["descriptive"] - 90) < 32
    assert kinds["noisy"] > 8
    assert load_scenes(20, held_out=True).captions != load_scenes(20).captions


def test_pictures_are_means_over_finer_ones() -> None:
    """Antialiased: a picture is the mean of the pixels of one eight times as fine."""
    drawn = [scene for scene, _ in SEEN[:20]]
    coarse, fine = (render(drawn, size).astype(float) for size in (32, 256))
    means = fine.reshape(20, 32, 8, 32, 8, 3).mean((2, 4))
    assert np.abs(coarse - means).mean() < 1
    # A corner within a pixel is taken for a straight edge: a quarter of the range, not half as without antialiasing.
    assert np.abs(coarse - means).max() < 64


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(InputError, match="cannot be read back"):
        load_scenes(10, 8)
    for number in (0, -3):
        with pytest.raises(InputError, match="it takes at least 1"):
            load_scenes(number)
        with pytest.raises(InputError, match="it takes at least 1"):
            list(scenes(number))
