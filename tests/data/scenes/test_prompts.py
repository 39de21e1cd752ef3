"""Prompts: their tasks, what satisfies them and what does not, and the standard error of a score."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pushforward.core.errors import InputError
from pushforward.data.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TASKS,
    Object,
    Prompt,
    prompts,
    scores,
)
from pushforward.data.scenes.captions import short
from pushforward.data.scenes.graph import Group, Request, generator, place


def fitting(request: Request, index: int) -> tuple[Object, ...]:
    """Objects as a request asks, what it does not say being small and of some colour, the groups told apart."""
    colours = tuple(COLOURS)
    groups = tuple(
        replace(g, colour=g.colour or colours[(index + 3 * i) % 6], size=g.size or "small")
        for i, g in enumerate(request.groups)
    )
    found = place(replace(request, groups=groups), generator(1, index), tries=5000)
    assert found is not None
    return found


def instead(objects: tuple[Object, ...], i: int, **new) -> tuple[Object, ...]:
    return (*objects[:i], replace(objects[i], **new), *objects[i + 1 :])


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_drawn_to_fit_satisfy_and_each_change_of_them_does_not(held_out: bool) -> None:
    changed: Counter[str] = Counter()
    for index, prompt in enumerate(prompts(90, 2, held_out)):
        request = prompt.request
        objects = fitting(request, index)
        assert prompt.satisfied(objects)
        assert prompt.satisfied(objects[::-1])
        # Beside one more thing of a kind that nobody asked for, too.
        assert not prompt.satisfied((*objects, replace(objects[0], shape="unknown")))
        group_of = [g for g in request.groups for _ in range(g.count)]
        wrong: dict[str, list[tuple[Object, ...]]] = {
            "count": [objects[1:], (*objects, objects[0]), ()]
        }
        for i, (thing, group) in enumerate(zip(objects, group_of, strict=True)):
            wrong.setdefault("shape", []).extend(
                instead(objects, i, shape=s) for s in (*SHAPES, "unknown") if s != thing.shape
            )
            if group.colour is not None:
                wrong.setdefault("colour", []).extend(
                    instead(objects, i, colour=c) for c in COLOURS if c != thing.colour
                )
            if group.size is not None:
                other = "large" if group.size == "small" else "small"
                wrong.setdefault("size", []).append(instead(objects, i, r=sum(SIZES[other]) / 2))
        if request.relation in RELATIONS:
            mirrored = tuple(replace(o, x=1 - o.x, y=1 - o.y) for o in objects)
            wrong["relation"] = [mirrored]
        for kind, scenes in wrong.items():
            changed[kind] += len(scenes)
            assert not any(prompt.satisfied(scene) for scene in scenes), (kind, prompt.text)
    assert set(changed) >= {"count", "shape", "colour", "relation"}
    assert ("size" in changed) == held_out


def test_beside_is_anyhow_and_what_is_not_said_is_free() -> None:
    request = Request((Group(1, "circle"), Group(1, "square")))
    objects = (Object("circle", "red", 0.2, 0.5, 0.1), Object("square", "red", 0.8, 0.5, 0.1))
    for colour in COLOURS:
        assert request.satisfied((replace(objects[0], colour=colour, r=0.16), objects[1]))
    assert request.satisfied((replace(objects[0], x=0.9), objects[1]))
    left = replace(request, relation="left of")
    assert left.satisfied(objects)
    assert not left.satisfied((replace(objects[0], x=0.9), objects[1]))
    # Of two groups each object must lie so.
    several = Request((Group(1, "circle"), Group(2, "square")), "left of")
    third = Object("square", "blue", 0.1, 0.2, 0.1)
    assert several.satisfied((*objects, replace(third, x=0.5)))
    assert not several.satisfied((*objects, third))


def test_prompts_are_the_six_tasks_in_turn_seen_or_held_out() -> None:
    for held_out in (False, True):
        asked = prompts(60, 5, held_out)
        assert [p.task for p in asked] == [*TASKS] * 10
        assert all(p.request.held_out == held_out for p in asked)
        assert all(p.text == short(p.request) for p in asked)
        assert prompts(30, 5, held_out) == asked[:30]
        assert prompts(60, 6, held_out) != asked
    by_task = {p.task: p.request for p in prompts(6)}
    assert [len(by_task[t].groups) for t in TASKS] == [1, 2, 1, 1, 2, 2]
    assert by_task["counting"].groups[0].count > 1
    assert by_task["position"].relation in RELATIONS
    assert all(g.colour for t in ("colors", "color_attr") for g in by_task[t].groups)
    assert len({g.colour for g in by_task["color_attr"].groups}) == 2
    with pytest.raises(InputError, match="it takes at least 1"):
        prompts(0)


CIRCLE = Request((Group(1, "circle"),))
THERE = (Object("circle", "red", 0.5, 0.5, 0.1),)


def test_standard_errors_are_those_of_a_bootstrap() -> None:
    random = np.random.default_rng(0)
    flags = {
        task: random.random(n) < p
        for task, n, p in zip(
            TASKS, (40, 50, 60, 40, 70, 50), (0.9, 0.5, 0.3, 0.7, 0.1, 0.4), strict=True
        )
    }
    asked = [Prompt("a circle", CIRCLE, task) for task, right in flags.items() for _ in right]
    seen = [THERE if flag else () for right in flags.values() for flag in right]
    order = random.permutation(len(asked))
    found = scores([asked[i] for i in order], [seen[i] for i in order])
    assert list(found) == [*TASKS, "mean"]
    draws = {t: random.choice(f, (20_000, len(f))).mean(1) for t, f in flags.items()}
    draws["mean"] = np.mean([draws[t] for t in TASKS], 0)
    for name, drawn in draws.items():
        score = found[name]
        # The spread of 20 000 draws is known to half a percent, four of these.
        assert score.error == pytest.approx(drawn.std(), rel=0.02)
        assert score.value == pytest.approx(drawn.mean(), abs=4 * score.error / 20_000**0.5)
    assert found["mean"].number == 310
    assert found["colors"].number == 40


def test_scores_need_a_picture_for_each_prompt() -> None:
    with pytest.raises(InputError, match="1 pictures for 2 prompts"):
        scores([Prompt("a circle", CIRCLE, "colors")] * 2, [THERE])
