"""The reader: right on true renders, noise and JPEG included; nothing where there is nothing; blends are no objects."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from pushforward.core.errors import InputError
from pushforward.data.scenes import COLOURS, SHAPES, Object, Scene, read, read_all, render, scenes
from pushforward.data.scenes.graph import TEXTURES
from pushforward.data.scenes.read import UNKNOWN
from pushforward.data.scenes.render import coverage

RANDOM = np.random.default_rng(0)


def noisy(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture / 255 + 0.02 * RANDOM.normal(size=picture.shape), 0, 1)


def compressed(picture: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return np.asarray(Image.open(buffer))


def right(scene: Scene, seen: tuple[Object, ...]) -> bool:
    """Each object found once, with shape, colour, size and place (to a pixel of 32), and no other."""
    left = list(seen)
    for o in scene.objects:
        near = [
            s for s in left
            if (s.shape, s.colour, s.size) == (o.shape, o.colour, o.size) and np.hypot(s.x - o.x, s.y - o.y) < 1 / 32
        ]  # fmt: skip
        if not near:
            return False
        left.remove(near[0])
    return not left


def share_right(size: int, change, number: int) -> float:
    held_out = number // 10
    drawn = [s for s, _ in scenes(number - held_out, 7)]
    drawn += [s for s, _ in scenes(held_out, 7, held_out=True)]
    return float(
        np.mean(
            [right(s, read(change(p))) for s, p in zip(drawn, render(drawn, size), strict=True)]
        )
    )


CHANGES = [lambda picture: picture, noisy, compressed]


@pytest.mark.parametrize(("size", "number"), [(32, 2000), (64, 600)])
def test_true_renders_are_read(size: int, number: int) -> None:
    assert share_right(size, CHANGES[0], number) >= 0.995


@pytest.mark.parametrize("change", CHANGES[1:], ids=["noise", "jpeg"])
@pytest.mark.parametrize(("size", "number"), [(32, 600), (64, 200)])
def test_noise_and_compression_change_nothing(size: int, number: int, change) -> None:
    assert share_right(size, change, number) >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=["true", "noise", "jpeg"])
@pytest.mark.parametrize("size", [32, 64])
def test_two_thousand_of_each_are_read(size: int, change) -> None:
    assert share_right(size, change, 2000) >= 0.995


@pytest.mark.parametrize("size", [32, 64])
def test_an_empty_ground_is_nothing(size: int) -> None:
    empty = [
        Scene((), ground, texture, phase)
        for ground in (0.06, 0.14, 0.22) for texture in TEXTURES for phase in (0.0, 0.3, 0.8)
    ]  # fmt: skip
    for change in CHANGES:
        assert read_all(map(change, render(empty, size))) == [()] * len(empty)


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    at = (np.arange(size) + 0.5) / size
    return np.meshgrid(at, at)


def painted(
    cover: np.ndarray, colour: np.ndarray | tuple[int, ...], ground: float = 0.15
) -> np.ndarray:
    """A picture of what `cover` (H, H) says, in a colour, or one for each pixel."""
    return ground + cover[..., None] * (np.asarray(colour) / 255 - ground)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("pair", list(combinations(COLOURS, 2)), ids="-".join)
def test_one_shape_of_two_colours_is_no_object(size: int, pair: tuple[str, str]) -> None:
    x, y = grid(size)
    a, b = (np.array(COLOURS[name], float) for name in pair)
    for shape in SHAPES:
        cover = coverage(shape, x - 0.5, y - 0.5, 0.16, 1 / size)
        halves = np.where((x < 0.5)[..., None], a, b)
        seen = read(painted(cover, halves))
        assert [o for o in seen if o.shape != UNKNOWN] == []


def shapes(size: int) -> dict[str, np.ndarray]:
    x, y = grid(size)
    u, v = x - 0.5, y - 0.5
    disc = coverage("circle", u, v, 0.16, 1 / size)
    soft = np.hypot(u, v)
    return {
        "bar": coverage("square", u / 2.2, v * 2, 0.15, 1 / size),
        "ring": disc * (1 - coverage("circle", u, v, 0.1, 1 / size)),
        "two in one": np.maximum(
            coverage("circle", u - 0.09, v, 0.11, 1 / size), coverage("square", u + 0.09, v, 0.13, 1 / size)
        ),
        "upside down": coverage("triangle", u, -v, 0.16, 1 / size),
        "crescent": disc * (1 - coverage("circle", u - 0.1, v, 0.14, 1 / size)),
        "haze": np.clip(1.1 - soft / 0.3, 0, 1),
        "huge": coverage("circle", u, v, 0.3, 1 / size),
        "tiny": coverage("circle", u, v, 0.07, 1 / size),
    }  # fmt: skip


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", shapes(32))
def test_what_is_none_of_the_shapes_is_not_taken_for_one(size: int, name: str) -> None:
    for colour in ("red", "cyan", "yellow"):
        seen = read(painted(shapes(size)[name], COLOURS[colour]))
        assert all(o.shape == UNKNOWN for o in seen)


def test_what_is_no_square_picture_is_refused() -> None:
    for shape in ((32, 32), (32, 30, 3), (32, 32, 4)):
        with pytest.raises(InputError, match=r"a picture of a scene is \(H, H, 3\)"):
            read(np.zeros(shape))
