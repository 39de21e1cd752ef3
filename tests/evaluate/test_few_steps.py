"""Quality by network calls: who is asked at which, and what is drawn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.spec import SamplingDefaults
from pushforward.evaluate.few_steps import DRAWN, Quality, known, quality


class Still(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        return x


def model(nfe: int | None = None) -> pf.Model:
    return pf.Model(Still(), pf.CondOT(), shape=(2,), sampling=SamplingDefaults(nfe=nfe))


TEACHER = model()
STUDENTS = {
    "meanflow": pf.FlowMapModel(model()),
    "consistency": pf.FlowMapModel(model(), "data"),
    "progressive": pf.FlowMapModel(model(), (0.0, 0.2, 0.5, 1.0)),
    "reflow": model(nfe=1),
    "straightened": model(),
    "exact": pf.GaussianMixture([[0.0, 1.0]], 0.3).flow_map(pf.CondOT()),
}


# Who is asked.


def test_each_model_is_asked_once_at_each_number_of_calls_that_it_knows() -> None:
    asked: list[tuple[str, int]] = []
    names = {id(one): name for name, one in {"teacher": TEACHER, **STUDENTS}.items()}

    def judge(one: Any, nfe: int) -> dict[str, float]:
        asked.append((names[id(one)], nfe))
        return {"energy": len(asked) / nfe}

    found = quality(TEACHER, STUDENTS, judge, (1, 2, 8), calls=50)
    want = {
        "teacher": [1, 2, 8, 50], "meanflow": [1, 2, 8], "consistency": [1, 2, 8], "progressive": [3], "reflow": [1],
        "straightened": [1, 2, 8], "exact": [1, 2, 8],
    }  # fmt: skip
    assert asked == [(name, nfe) for name, nfes in want.items() for nfe in nfes]
    # What was said is what is kept, each at its place.
    for place, (name, nfe) in enumerate(asked, 1):
        assert found.figures[name][nfe] == {"energy": place / nfe}
    assert {name: list(rows) for name, rows in found.figures.items()} == want
    assert found.calls == 50


def test_the_calls_that_a_student_knows_are_those_at_which_it_can_be_sampled() -> None:
    for name, student in STUDENTS.items():
        for nfe in known(student, (1, 2, 5)):
            assert pf.generate(student, 3, nfe=nfe).shape == (3, 2), name
    with pytest.raises(pf.InputError, match="3 steps"):
        pf.generate(STUDENTS["progressive"], 3, nfe=2)


def test_a_ratio_is_over_the_teacher_at_its_full_number_of_calls() -> None:
    values = {(0, 1): 8.0, (0, 2): 6.0, (0, 100): 0.5, (1, 1): 3.0, (1, 2): 0.25}

    def judge(one: Any, nfe: int) -> dict[str, float]:
        w2 = values[int(one is not TEACHER), nfe]
        return {"w2": w2, "energy": w2**2}

    found = quality(TEACHER, {"s": STUDENTS["meanflow"]}, judge, (1, 2))
    assert found.ratio("s", 1, "w2") == 6
    assert found.ratio("s", 2, "w2") == 0.5
    assert found.ratio("s", 1, "energy") == 36
    assert found.ratio("teacher", 2, "w2") == 12
    assert found.ratio("teacher", 100, "energy") == 1
    assert [name for name, _, _ in found.names()] == ["w2", "energy"]
    kept = json.loads(json.dumps(found.as_json()))
    assert kept == {
        "teacher_calls": 100,
        "figures": {
            "teacher": {
                n: {"w2": values[0, int(n)], "energy": values[0, int(n)] ** 2}
                for n in ("1", "2", "100")
            },
            "s": {"1": {"w2": 3.0, "energy": 9.0}, "2": {"w2": 0.25, "energy": 0.0625}},
        },
    }


def test_what_was_found_is_named_in_the_order_of_drawing_and_by_whether_less_is_better() -> None:
    rows = {"agreement": 0.5, "log_density": -2.0, "energy": 0.1}
    found = Quality({"teacher": {100: {"frechet": 1.0}}, "s": {1: rows}}, 100)
    assert found.names() == [entry for entry in DRAWN if entry[0] in ("energy", "frechet", "agreement")]  # fmt: skip
    assert {name: less for name, _, less in found.names()} == {
        "energy": True, "frechet": True, "agreement": False,
    }  # fmt: skip
