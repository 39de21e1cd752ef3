"""Descriptive prompts judged by what is seen in the pictures."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data.scenes import Object, Scene, draw, read_all, render
from pushforward.data.scenes.captions import descriptive
from pushforward.evaluate import prompts as judging
from pushforward.evaluate.prompts import described_scenes, judge_descriptions, shown_as_described

A = Object("circle", "red", 0.2, 0.2, 0.1)
B = Object("square", "blue", 0.7, 0.5, 0.16)


def right(*seen: Object) -> tuple[bool, bool]:
    found = shown_as_described([Scene((A, B))], [seen])
    return bool(found["described"][0]), bool(found["described_but_for_places"][0])


def test_a_picture_is_right_if_all_objects_are_there_and_no_others() -> None:
    assert right(A, B) == right(B, A) == (True, True)
    assert right(A, Object("square", "blue", 0.7, 0.2, 0.16)) == (False, True)
    for other in (
        Object("square", "green", 0.7, 0.5, 0.16), Object("cross", "blue", 0.7, 0.5, 0.16),
        Object("square", "blue", 0.7, 0.5, 0.1), Object("unknown", "blue", 0.7, 0.5, 0.16),
    ):  # fmt: skip
        assert right(A, other) == (False, False)
    assert right(A) == right(A, B, B) == right() == (False, False)
    # Attributes of one object on the other.
    mixed = (Object("circle", "blue", 0.2, 0.2, 0.1), Object("square", "red", 0.7, 0.5, 0.16))
    assert right(*mixed) == (False, False)
    with pytest.raises(InputError, match="1 pictures for 2 scenes"):
        shown_as_described([Scene((A,))] * 2, [[A]])


def test_pictures_of_the_scenes_themselves_are_right() -> None:
    scenes = described_scenes(200, seed=3)
    found = shown_as_described(scenes, read_all(render(scenes, 64)))
    # The reader is off by a twentieth of a pixel, and some centres lie as near to a border of two places.
    assert float(found["described"].double().mean()) > 0.95
    assert float(found["described_but_for_places"].double().mean()) > 0.99


def test_prompts_are_those_of_scenes_that_no_data_set_has() -> None:
    lines = {
        kind: [descriptive(s) for s in described_scenes(30, 1, kind)] for kind in (True, False)
    }
    assert not set(lines[True]) & set(lines[False])
    for kind, some in lines.items():
        assert some == [descriptive(s) for s in described_scenes(40, 1, kind)][:30]
        assert some != [descriptive(s) for s in described_scenes(30, 2, kind)]
        assert some != [descriptive(draw(1, i, kind)[0]) for i in range(30)]


def test_figures_are_shares_with_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def drawn(model: None, num: int, prompt: list[str], **sampling: object) -> torch.Tensor:
        asked.append(prompt)
        scenes = described_scenes(num, 5, held_out=len(asked) == 2)
        if len(asked) == 2:  # One of the held-out pictures shows something else.
            scenes[2] = Scene((Object("cross", "cyan", 0.5, 0.5, 0.11),))
        return torch.tensor(render(scenes, 64)).movedim(-1, 1).float() / 127.5 - 1

    monkeypatch.setattr(judging, "drawn", drawn)
    figures, rights = judge_descriptions(None, 8, seed=5)
    assert asked == [[descriptive(s) for s in described_scenes(8, 5, k)] for k in (False, True)]
    assert figures["seen_described_but_for_places"] == 1
    assert figures["held_out_described_but_for_places"] == pytest.approx(7 / 8)
    assert figures["held_out_described_but_for_places_error"] == pytest.approx(math.sqrt(7 / 8**3))
    assert rights["held_out_described_but_for_places"].tolist() == [True] * 2 + [False] + [True] * 5
