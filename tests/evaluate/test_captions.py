"""Captions of scenes judged against the scenes themselves."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward.core.errors import InputError
from pushforward.data import Dataset
from pushforward.data.scenes import captions, draw, load_scenes
from pushforward.evaluate import captions as judging
from pushforward.evaluate.captions import judge_captioner, judge_scene_captions, scenes_of


def test_true_captions_are_right_and_each_fault_is_counted_where_it_is() -> None:
    drawn = [draw(6, i) for i in range(50)]
    scenes = [scene for scene, _ in drawn]
    lines = [captions.descriptive(scene) for scene in scenes]
    found = judge_scene_captions(lines, scenes)
    assert all(
        found[name] == 1 for name in ("right", "understood", "descriptive", "ground", "place")
    )
    colour = lines[:]
    changed = [i for i, line in enumerate(lines[:-1]) if " red " in line][:10]
    for i in changed:
        colour[i] = lines[i].replace(" red ", " green ", 1)
    colour[-1] = "nonsense"
    found = judge_scene_captions(colour, scenes)
    bad = len(changed) + 1
    assert found["right"] == found["colour"] == pytest.approx(1 - bad / 50)
    assert found["right_error"] == pytest.approx(math.sqrt((1 - bad / 50) * bad / 50 / 50))
    for name in ("understood", "descriptive", "ground", "count", "shape", "size", "place"):
        assert found[name] == pytest.approx(0.98)


def test_short_captions_are_right_where_the_scene_satisfies_them() -> None:
    drawn = [draw(7, i) for i in range(40)]
    scenes = [scene for scene, _ in drawn]
    lines = [captions.short(request) for _, request in drawn]
    found = judge_scene_captions(lines, scenes)
    assert found["right"] == found["understood"] == 1
    assert set(found) == {"right", "right_error", "understood", "understood_error"}
    turned = lines[1:] + lines[:1]
    true = sum(
        request.satisfied(scene.objects)
        for (_, request), scene in zip(drawn[1:] + drawn[:1], scenes, strict=True)
    )
    assert judge_scene_captions(turned, scenes)["right"] == pytest.approx(true / 40)
    with pytest.raises(InputError, match="39 captions for 40 scenes"):
        judge_scene_captions(lines[1:], scenes)


def test_scenes_of_some_of_the_data_are_those_of_these_rows() -> None:
    data = load_scenes(30, 16, captioned="descriptive")
    some = data.subset(torch.tensor([7, 3, 20]))
    assert [captions.descriptive(s) for s in scenes_of(some)] == list(some.captions or ())
    assert len(scenes_of(data)) == 30
    with pytest.raises(InputError, match="no scenes"):
        scenes_of(Dataset.from_arrays(torch.zeros(2, 3)))


def test_a_captioner_that_says_what_is_there_is_perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    held_out = load_scenes(40, 16, 1, "descriptive", held_out=True)
    apart = held_out.sample(24)
    x = apart[torch.arange(24)].x1
    asked = []

    def said(model, pictures, decoder, *, seed, start, batch_size):
        rows = range(start, start + len(pictures))
        assert torch.equal(pictures, x[list(rows)])
        asked.append((start, seed))
        return [apart.captions[i] for i in rows]

    class Model:
        def images(self, pictures):
            return torch.nn.functional.normalize(pictures.flatten(1)[:, ::5], dim=1)

        def texts(self, lines):
            return self.images(x)

    monkeypatch.setattr(judging, "captions", said)
    monkeypatch.setattr(judging, "ROWS", 10)
    figures, lines = judge_captioner(Model(), held_out, 24, seed=9)
    assert asked == [(0, 9), (10, 9), (20, 9)]
    assert lines == list(apart.captions)
    for name, best in (
        ("right", 1),
        ("BLEU4", 1),
        ("CIDEr", 10),
        ("text_R@1", 1),
        ("image_R@1", 1),
    ):
        assert figures[name] == pytest.approx(best), name
