"""Retrieval and zero-shot classification, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from pushforward.core.errors import InputError
from pushforward.data.scenes.captions import descriptive
from pushforward.data.scenes.graph import draw
from pushforward.evaluate.clip import in_range, retrieval, scene_texts, zero_shot


def test_retrieval_counts_ranks_by_hand() -> None:
    torch.manual_seed(3)
    u = normalize(torch.randn(40, 6), dim=1)
    v = normalize(u + 0.7 * torch.randn(40, 6), dim=1)
    lines = [f"text {i}" for i in range(40)]
    found = retrieval(u, v, lines, group=20)
    want = dict.fromkeys(("text_R@1", "text_R@5", "image_R@1", "image_R@5"), 0.0)
    for start in (0, 20):
        for i in range(start, start + 20):
            for name, a, b in (("text", u, v), ("image", v, u)):
                better = sum(
                    float(a[i] @ b[j]) > float(a[i] @ b[i]) for j in range(start, start + 20)
                )
                want[f"{name}_R@1"] += (better < 1) / 40
                want[f"{name}_R@5"] += (better < 5) / 40
    assert found["of"] == 20
    for name, value in want.items():
        assert found[name] == pytest.approx(value)
        assert found[f"{name}_error"] == pytest.approx(math.sqrt(value * (1 - value) / 40))
    assert want["text_R@5"] != want["image_R@5"]  # else the two could be one


def test_equal_texts_are_as_good_as_each_other() -> None:
    u = torch.eye(3)
    v = torch.eye(3)[[1, 0, 2]]
    assert retrieval(u, v, ["a", "b", "c"])["text_R@1"] == pytest.approx(1 / 3)
    assert retrieval(u, v, ["a", "a", "c"])["text_R@1"] == 1
    assert retrieval(u, v, ["a", "a", "c"])["image_R@1"] == 1


def test_what_is_left_over_from_whole_groups_does_not_count() -> None:
    u = torch.eye(5)
    v = torch.eye(5).clone()
    v[4] = -v[4]
    assert retrieval(u, v, list("abcde"), group=2)["text_R@1"] == 1
    assert retrieval(u, v, list("abcde"), group=10)["of"] == 5
    assert retrieval(u, v, list("abcde"), group=10)["text_R@1"] == pytest.approx(4 / 5)
    with pytest.raises(InputError, match="two or more pictures"):
        retrieval(u[:1], v[:1], ["a"])


def test_a_class_is_the_direction_of_the_mean_of_its_texts() -> None:
    vectors = {"a1": [1.0, 0.2], "a2": [0.6, 0.8], "b1": [-0.2, 1.0]}

    class Model:
        def texts(self, lines):
            return torch.stack([normalize(torch.tensor(vectors[line]), dim=0) for line in lines])

        def images(self, x):
            return normalize(x, dim=1)

    texts = {"a": ["a1", "a2"], "b": ["b1"]}
    a = normalize(Model().texts(["a1", "a2"]).mean(0), dim=0)
    b = Model().texts(["b1"])[0]
    angles = torch.linspace(0, 2, 50)
    x = torch.stack((angles.cos(), angles.sin()), 1)
    want = (x @ b > x @ a).long()
    assert torch.equal(zero_shot(Model(), x, texts), want)
    assert 0 < want.sum() < 50


def test_pictures_are_brought_to_the_range_of_the_network_and_clipped() -> None:
    x = torch.tensor([0.0, 0.25, 1.0, 3.0])
    assert in_range(x, (0.0, 1.0)).tolist() == [-1.0, -0.5, 1.0, 1.0]
    assert in_range(x, (-1.0, 1.0)).tolist() == [0.0, 0.25, 1.0, 1.0]


def test_the_texts_of_classes_are_captions_that_scenes_have() -> None:
    texts = scene_texts()
    assert len(texts) == 24
    seen = {line for lines in texts.values() for line in lines}
    plain = 0
    for i in range(300):
        scene, _ = draw(5, i, False, {"one": 1.0})
        if scene.texture == "plain":
            plain += 1
            thing = scene.objects[0]
            assert descriptive(scene) in texts[thing.colour, thing.shape]
    assert plain > 30
    assert len(seen) == sum(map(len, texts.values()))
