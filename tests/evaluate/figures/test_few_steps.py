"""Quality by network calls: what is drawn."""

from __future__ import annotations

import io
import itertools
import json

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import pushforward as pf
from pushforward.evaluate.few_steps import Quality
from pushforward.evaluate.figures import png
from pushforward.evaluate.figures.few_steps import few_steps


def lines(axis: Axes) -> list[tuple[list[float], list[float]]]:
    """Lines with marks: (calls, values)."""
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())))
        for line in axis.get_lines()
        if line.get_marker() == "o"
    ]


def across(axis: Axes) -> list[float]:
    """Heights of the lines across."""
    return [float(line.get_ydata()[0]) for line in axis.get_lines() if line.get_linestyle() == "--"]


def names(axis: Axes) -> set[str]:
    return {text.get_text() for text in axis.texts}


def bars(axis: Axes) -> list[list[float]]:
    """Lower and upper ends of error bars, line by line."""
    segments = [c.get_segments() for c in axis.collections if hasattr(c, "get_segments")]
    return [[float(y) for segment in line for y in segment[:, 1]] for line in segments]


def full(nfes: tuple[int, ...] = (1, 2, 4)) -> Quality:
    def rows(scale: float, calls: tuple[int, ...]) -> dict[int, dict[str, float]]:
        return {n: {"w2": scale / n, "energy": scale / n**2, "agreement": 1 - 0.5 / n} for n in calls}  # fmt: skip

    return Quality(
        {"teacher": rows(4, (*nfes, 100)), "fast": rows(1, nfes), "two steps": rows(0.5, (2,))}, 100
    )


def test_every_figure_has_a_panel_with_a_line_for_each_model_and_the_teachers_best_across() -> None:
    found = full()
    drawn = few_steps(found)
    assert len(drawn.axes) == 3
    for axis, (key, title, less) in zip(drawn.axes, found.names(), strict=True):
        assert axis.get_title(loc="left") == title
        assert axis.get_yscale() == ("log" if less else "linear")
        want = [
            ([float(n) for n in rows if n != 100], [rows[n][key] for n in rows if n != 100])
            for rows in found.figures.values()
        ]
        assert lines(axis) == want
        assert across(axis) == [found.figures["teacher"][100][key]]
        assert names(axis) == {"teacher", "fast", "two steps", "teacher, 100 calls"}
    settings = {"seed": 3, "students": {"fast": "ab"}}
    kept = json.loads(Image.open(io.BytesIO(png(drawn, settings))).info["pushforward"])
    assert kept == settings | {"version": pf.__version__}


def test_a_logarithmic_axis_has_numbers_that_can_be_read() -> None:
    """At least two numbers stand on each axis, however narrow its range, and none of them overlap."""
    for scale in (1.02, 1.3, 3.0, 30.0, 1e5):
        rows = {1: {"w2": scale}, 2: {"w2": 1.0}}
        drawn = few_steps(Quality({"teacher": rows | {100: {"w2": 1.0}}, "s": rows}, 100))
        png(drawn, {})
        (axis,) = drawn.axes
        low, high = axis.get_ylim()
        shown = [
            label.get_window_extent()
            for label, at in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)
            if low <= at <= high and label.get_text()
        ]
        assert len(shown) >= 2, scale
        shown.sort(key=lambda box: box.y0)
        assert all(a.y1 <= b.y0 for a, b in itertools.pairwise(shown)), scale


def test_distances_that_may_be_negative_are_drawn_with_their_errors_around_zero() -> None:
    """An unbiased energy distance may be negative; nothing of it is lost, and two standard errors are shown."""
    found = full()
    for rows in found.figures.values():
        for row in rows.values():
            row["energy_error"] = 0.01
    found.figures["fast"][4] |= {"energy": -1e-3}
    found.figures["teacher"][100] |= {"energy": -3e-3}
    axis = few_steps(found).axes[1]
    assert lines(axis)[1] == ([1.0, 2.0, 4.0], [1.0, 0.25, -1e-3])
    assert across(axis) == [-3e-3]
    assert bars(axis)[1] == pytest.approx([0.98, 1.02, 0.23, 0.27, -0.021, 0.019])
    low, high = axis.get_ylim()
    assert low < -0.021
    assert high > 4
    assert 0 in axis.get_yticks()
    # Figures that are clear of zero keep their logarithmic axis, and need no bars.
    assert few_steps(full()).axes[1].get_yscale() == "log"
    assert bars(few_steps(full()).axes[1]) == []


def test_what_is_not_finite_is_not_drawn() -> None:
    found = full()
    found.figures["fast"][4] |= {"energy": float("nan")}
    found.figures["two steps"][2] |= {"w2": float("inf")}
    found.figures["teacher"][100] |= {"agreement": float("nan")}
    w2, energy, agreement = few_steps(found).axes
    assert [calls for calls, _ in lines(w2)] == [[1.0, 2.0, 4.0]] * 2
    assert lines(energy)[1] == ([1.0, 2.0], [1.0, 0.25])
    assert across(agreement) == []


@pytest.mark.parametrize("nfes", [(1,), (3,), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_any_calls_can_be_drawn(nfes: tuple[int, ...]) -> None:
    shown = sorted({*nfes, 2})
    for axis in few_steps(full(nfes)).axes:
        assert list(axis.get_xticks()) == shown
        low, high = axis.get_xlim()
        assert low < shown[0] <= shown[-1] < high


def outside(figure: Figure) -> list[str]:
    """Texts that reach beyond the edges of the figure."""
    png(figure, {})
    wide, high = figure.bbox.size
    boxes = [
        (text.get_text(), text.get_window_extent()) for axis in figure.axes for text in axis.texts
    ]
    return [t for t, b in boxes if b.x0 < 0 or b.x1 > wide or b.y0 < 0 or b.y1 > high]


def test_the_names_beside_the_lines_lie_within_the_figure() -> None:
    long = {"a student with a name as long as a folder of runs": full().figures["fast"]}
    assert outside(few_steps(full())) == []
    assert outside(few_steps(Quality(full().figures | long, 100))) == []


def test_more_students_than_colours_are_all_drawn() -> None:
    rows = {1: {"w2": 1.0}, 2: {"w2": 0.5}}
    many = {f"s{k}": {n: {"w2": (k + 1) / n} for n in (1, 2)} for k in range(16)}
    (axis,) = few_steps(Quality({"teacher": rows | {100: {"w2": 0.1}}, **many}, 100)).axes
    assert len(lines(axis)) == 17
    assert len(names(axis)) == 18


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(pf.InputError, match="no figures"):
        few_steps(Quality({"teacher": {1: {}, 100: {}}, "s": {1: {}}}, 100))
