"""Quality by network calls: who is asked at which, and what is drawn."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn

import pushforward as pf
from pushforward.evaluate.fewstep import DRAWN, Quality, figure, known, quality


class Still(nn.Module):
    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        return x


def model(**info: Any) -> pf.Model:
    return pf.Model(Still(), pf.CondOT(), shape=(2,), info=info)


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
    with pytest.raises(pf.InputError, match="takes 3 steps"):
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


# What is drawn.


class Drawn:
    """The panels of a figure as they were drawn, before they are a picture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from matplotlib import pyplot as plt

        self.panels: list[Any] = []
        subplots = plt.subplots

        def caught(*args: Any, **kwargs: Any) -> Any:
            made, axes = subplots(*args, **kwargs)
            self.panels = list(axes[0])
            return made, axes

        monkeypatch.setattr(plt, "subplots", caught)

    def lines(self, panel: int) -> list[tuple[list[float], list[float]]]:
        """Lines with marks: (calls, values)."""
        return [
            (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
            for line in self.panels[panel].get_lines()
            if line.get_marker() == "o"
        ]

    def across(self, panel: int) -> list[float]:
        """Heights of the lines across."""
        lines = self.panels[panel].get_lines()
        return [float(line.get_ydata()[0]) for line in lines if line.get_linestyle() == "--"]

    def names(self, panel: int) -> set[str]:
        return {text.get_text() for text in self.panels[panel].texts}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def full(nfes: tuple[int, ...] = (1, 2, 4)) -> Quality:
    def rows(scale: float, calls: tuple[int, ...]) -> dict[int, dict[str, float]]:
        return {n: {"w2": scale / n, "energy": scale / n**2, "agreement": 1 - 0.5 / n} for n in calls}  # fmt: skip

    return Quality(
        {"teacher": rows(4, (*nfes, 100)), "fast": rows(1, nfes), "two steps": rows(0.5, (2,))}, 100
    )


def picture(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return image


def test_every_figure_has_a_panel_with_a_line_for_each_model_and_the_teachers_best_across(
    drawn: Drawn,
) -> None:
    found, settings = full(), {"seed": 3, "students": {"fast": "ab"}}
    image = picture(figure(found, settings))
    kept = json.loads(image.info["pushforward"])
    assert {key: kept[key] for key in settings} == settings
    assert kept["version"] == pf.__version__
    assert len(drawn.panels) == 3
    for panel, (key, title, less) in enumerate(found.names()):
        assert drawn.panels[panel].get_title(loc="left") == title
        assert drawn.panels[panel].get_yscale() == ("log" if less else "linear")
        want = [
            ([float(n) for n in rows if n != 100], [rows[n][key] for n in rows if n != 100])
            for rows in found.figures.values()
        ]
        assert drawn.lines(panel) == want
        assert drawn.across(panel) == [found.figures["teacher"][100][key]]
        assert drawn.names(panel) == {"teacher", "fast", "two steps", "teacher, 100 calls"}


def test_one_panel_is_about_a_third_as_wide_as_three(drawn: Drawn) -> None:
    three = picture(figure(full(), {}))
    only = {
        name: {n: {"w2": row["w2"]} for n, row in rows.items()}
        for name, rows in full().figures.items()
    }
    one = picture(figure(Quality(only, 100), {}))
    assert len(drawn.panels) == 1
    assert one.height == three.height
    assert 0.3 < one.width / three.width < 0.4
    # There is something on it, and it is a function of what it shows.
    assert np.asarray(one.convert("L")).min() < 50
    assert figure(Quality(only, 100), {}) == figure(Quality(only, 100), {})
    only["fast"][2] = {"w2": 0.9}
    assert not np.array_equal(np.asarray(picture(figure(Quality(only, 100), {}))), np.asarray(one))


def test_distances_that_are_not_positive_have_no_place_on_a_logarithmic_axis(drawn: Drawn) -> None:
    """An unbiased energy distance may be negative; a share of samples may be 0."""
    found = full()
    found.figures["fast"][2] |= {"energy": -1e-4, "agreement": 0.0}
    found.figures["fast"][4] |= {"energy": float("nan")}
    found.figures["two steps"][2] |= {"energy": 0.0, "w2": float("inf")}
    found.figures["teacher"][100] |= {"energy": -3e-5, "agreement": 0.0}
    picture(figure(found, {}))
    w2, energy, agreement = (drawn.lines(k) for k in range(3))
    assert energy == [([1.0, 2.0, 4.0], [4.0, 1.0, 0.25]), ([1.0], [1.0])]
    assert drawn.across(1) == []
    assert drawn.names(1) == {"teacher", "fast"}
    assert [calls for calls, _ in w2] == [[1.0, 2.0, 4.0]] * 2
    assert ([1.0, 2.0, 4.0], [0.5, 0.0, 0.875]) in agreement
    assert drawn.across(2) == [0.0]
    low, high = drawn.panels[1].get_ylim()
    assert 0 < low < high


@pytest.mark.parametrize("nfes", [(1,), (3,), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_any_calls_can_be_drawn(nfes: tuple[int, ...], drawn: Drawn) -> None:
    picture(figure(full(nfes), {}))
    shown = sorted({*nfes, 2})
    for axis in drawn.panels:
        assert list(axis.get_xticks()) == shown
        low, high = axis.get_xlim()
        assert low < shown[0] <= shown[-1] < high


def test_more_students_than_colours_are_all_drawn(drawn: Drawn) -> None:
    rows = {1: {"w2": 1.0}, 2: {"w2": 0.5}}
    many = {f"s{k}": {n: {"w2": (k + 1) / n} for n in (1, 2)} for k in range(16)}
    picture(figure(Quality({"teacher": rows | {100: {"w2": 0.1}}, **many}, 100), {}))
    assert len(drawn.lines(0)) == 17
    assert len(drawn.names(0)) == 18
