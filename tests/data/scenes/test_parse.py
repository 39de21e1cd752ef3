"""Captions of scenes read back: the inverse of how they are written, and nothing for anything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pushforward.data.scenes import captions, draw
from pushforward.data.scenes.graph import Group, Request
from pushforward.data.scenes.parse import Description, parse, parse_descriptive, parse_short
from pushforward.models.text import Words

NUMBER = 400


def test_descriptive_captions_are_read_back() -> None:
    counts = set()
    for i in range(NUMBER):
        scene, _ = draw(3, i)
        found = parse(captions.descriptive(scene))
        assert isinstance(found, Description)
        assert found.same_things(Description.of(scene))
        assert found.same_ground(Description.of(scene))
        assert all(found.agreement(Description.of(scene)).values())
        counts.add(len(found.things))
    assert counts == {1, 2, 3, 4}


def test_short_captions_are_read_back_and_true() -> None:
    for i in range(NUMBER):
        scene, request = draw(4, i)
        for asked in (request, captions.vague(request, np.random.default_rng(i))):
            found = parse(captions.short(asked))
            assert found == asked
            assert found.satisfied(scene.objects)


def test_captions_survive_being_ids_of_words() -> None:
    lines = [f(s, r) for s, r in (draw(5, i) for i in range(100)) for f in
             (lambda s, r: captions.descriptive(s), lambda s, r: captions.short(r))]  # fmt: skip
    words = Words.of(lines, end=True, length=80)
    tokens = words(lines)["words"]
    assert [words.text(row) for row in tokens.values.tolist()] == lines


WHOLE = "on a dark plain ground there is a small red circle at the top left and a large blue square in the centre"


def test_any_word_that_is_changed_changes_what_is_said() -> None:
    true = parse_descriptive(WHOLE)
    assert true is not None
    for old, new, wrong in (
        ("dark", "grey", None), ("plain", "striped", None), ("small", "large", "size"), ("red", "cyan", "colour"),
        ("circle", "cross", "shape"), ("top left", "top right", "place"), ("top left", "left", "place"),
    ):  # fmt: skip
        found = parse_descriptive(WHOLE.replace(old, new))
        assert found is not None
        assert found.same_ground(true) == (wrong is not None)
        assert found.same_things(true) == (wrong is None)
        parts = found.agreement(true)
        assert [name for name, same in parts.items() if not same] == ([wrong] if wrong else [])
    more = parse_descriptive(WHOLE.replace(" and ", ", a large red cross at the left and "))
    assert more is not None
    assert not more.same_things(true)
    assert not more.agreement(true)["count"]


def test_attributes_belong_to_their_objects_and_the_order_does_not_count() -> None:
    true = parse_descriptive(WHOLE)
    assert true is not None
    assert replace(true, things=true.things[::-1]).same_things(true)
    swapped = parse_descriptive(
        WHOLE.replace("red", "x").replace("blue", "red").replace("x", "blue")
    )
    assert swapped is not None
    assert not swapped.same_things(true)
    assert swapped.agreement(true)["colour"]


@pytest.mark.parametrize(
    "text",
    [
        "", "a", WHOLE.upper(), WHOLE + " ", WHOLE + ",", WHOLE + " and", WHOLE.replace(" and ", ", "),
        WHOLE.replace(" and ", " and and "), WHOLE.replace("a small", "small"), WHOLE.replace("top left", "middle"),
        WHOLE.replace("top left", "left top"), WHOLE.replace("at the top left", "at the top left in the centre"),
        WHOLE.replace("dark plain", "plain dark"), WHOLE.replace("red", "pink"),
        WHOLE + " and a small red circle at the top", "on a dark plain ground there is ",
        "a red circles", "two red circle", "five red circles", "a circle red", "a red circle above",
        "a red circle above a blue square above a cross", "a red circle and a blue square and a cross",
        "above a red circle", "free a red circle", "a red circle wallpaper", "a red red circle",
    ],
)  # fmt: skip
def test_anything_else_is_no_caption(text: str) -> None:
    assert parse(text) is None


def test_examples() -> None:
    group = Group(2, "cross", "red", "small")
    assert parse_short("two small red crosses") == Request((group,))
    pair = Request((Group(1, "circle"), Group(3, "square", None, "large")), "left of")
    assert parse_short("a circle left of three large squares") == pair
