"""What comes over the websocket is what the library computes."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch
from talk import ask, head, opened, points, until

import pushforward as pf
from pushforward.core.noise import START
from pushforward.serve import laws

POINTS, FIELD, DENSITY, PICTURES = 1, 2, 3, 4


def of_kind(frames, kind):
    return [frame for frame in frames if frame[0] == kind]


def test_points_are_those_of_integrate_step_by_step(served):
    with opened(served.live) as socket:
        ask(socket, subject="moons", solver="heun", calls=12, num=50, seed=3, curve=False)
        about, _, frames = until(socket, "done")
    field = laws.LAWS["moons"].make().field(pf.CondOT())
    x0 = pf.Noise.batch(50, seed=3).normal((2,), START, torch.float64)
    states = []
    pf.integrate(
        pf.solvers.Heun(), field, x0, pf.times.uniform(6), callback=lambda i, t, x: states.append(x)
    )
    got = of_kind(frames, POINTS)
    assert [head(f)["step"] for f in got] == list(range(7))
    for frame, state in zip(got, states, strict=True):
        ours = points(frame)
        assert np.abs(ours - state.numpy()).max() <= 1.01 * head(frame)["scale"] / 65534
    assert about["calls"] == 12
    assert np.allclose([head(f)["t"] for f in got], np.linspace(0, 1, 7))


@pytest.mark.parametrize("show", ["velocity", "score"])
def test_arrows_are_the_guided_field_at_the_middles_of_the_cells(served, show):
    with opened(served.live) as socket:
        ask(
            socket, subject="pair", solver="euler", calls=4, num=10, label=1, guidance=2.5, show=show,
            curve=False,
        )  # fmt: skip
        _, _, frames = until(socket, "done")
    offered = laws.LAWS["pair"]
    field = pf.guidance.ClassifierFree(offered.make().field(pf.CondOT()), 2.5)
    for frame in of_kind(frames, FIELD)[:4]:
        about, n = head(frame), head(frame)["n"]
        line = (np.arange(n) + 0.5) * 2 * offered.extent / n - offered.extent
        x = torch.from_numpy(np.stack(np.meshgrid(line, -line), -1).reshape(-1, 2))
        label = torch.ones(len(x), dtype=torch.long)
        truth = field(x, about["t"], show, label=label).numpy()
        got = np.frombuffer(frame, "<i1", offset=32).reshape(-1, 2) * about["scale"] / 127
        assert np.abs(got - truth).max() <= 0.51 * about["scale"] / 127 + 1e-5


def test_the_density_is_that_of_the_law_at_the_time_of_the_frame(served):
    with opened(served.live) as socket:
        ask(socket, subject="gaussian", path="vp", solver="euler", calls=5, num=10, curve=False)
        _, _, frames = until(socket, "done")
    offered = laws.LAWS["gaussian"]
    field = offered.make().field(pf.VP())
    got = of_kind(frames, DENSITY)
    assert len(got) == 6
    for frame in got:
        about, n = head(frame), head(frame)["n"]
        line = (np.arange(n) + 0.5) * 2 * offered.extent / n - offered.extent
        x = torch.from_numpy(np.stack(np.meshgrid(line, -line), -1).reshape(-1, 2))
        truth = field.log_prob(x, about["t"]).numpy()
        values = np.frombuffer(frame, "<u1", offset=32)
        shown = about["scale"] - 12 * (255 - values.astype(float)) / 255
        seen = truth > about["scale"] - 12
        assert seen.sum() > 100
        assert np.abs(shown - truth)[seen].max() < 12 / 255


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_the_curve_falls_with_the_order_of_the_solver(served, solver, order):
    with opened(served.live) as socket:
        ask(socket, subject="gaussian", solver=solver, grid="uniform", calls=4, num=10)
        _, texts, _ = until(socket, "done")
    curve = [t for t in texts if t["type"] == "curve"]
    assert curve[0]["closed"]  # of one Gaussian the flow is known
    error = {t["calls"]: t["error"] for t in curve[1:]}
    assert np.log2(error[48] / error[96]) == pytest.approx(order, abs=0.35)


def test_a_solver_with_noise_has_no_curve_but_a_reason(served):
    with opened(served.live) as socket:
        ask(socket, subject="pair", solver="euler-maruyama", calls=20, num=400)
        about, texts, _ = until(socket, "done")
    assert any("does not follow the flow" in t.get("none", "") for t in texts)
    assert about["stochastic"]


def test_noise_in_between_is_the_first_the_second_and_normal_in_the_middle(served):
    def start(**settings):
        with opened(served.live) as socket:
            ask(socket, subject="pair", solver="euler", calls=1, num=4000, curve=False, **settings)
            _, _, frames = until(socket, "done")
        return points(of_kind(frames, POINTS)[0])

    first, second = start(seed=5), start(seed=9)
    assert np.abs(start(seed=5, second=9, mix=1.0) - second).max() < 1e-3
    assert np.abs(start(seed=5, second=9, mix=0.0) - first).max() == 0
    middle = start(seed=5, second=9, mix=0.5)
    assert np.abs(middle - (first + second) / 2**0.5).max() < 2e-3
    # Variance of 8000 normal numbers: 5 standard deviations of its estimate.
    assert abs(middle.var() - 1) < 5 * (2 / 8000) ** 0.5


def test_noise_of_any_size_is_shown_within_the_window(served):
    with opened(served.live) as socket:
        ask(socket, subject="pair", path="edm", solver="dpm++2m", calls=30, num=200, curve=False)
        about, _, frames = until(socket, "done")
    extents = [np.abs(points(f)).max() for f in of_kind(frames, POINTS)]
    assert max(extents) < 2 * laws.LAWS["pair"].extent
    assert about["log_p"] == pytest.approx(about["log_p_law"], abs=0.3)


def test_pictures_are_those_of_generate(served, runs):
    with opened(served.live) as socket:
        ask(socket, subject="run:marks", solver="auto", calls=6, num=6, seed=2, curve=False)
        _, texts, frames = until(socket, "done")
    last = of_kind(frames, PICTURES)[-1]
    got = np.frombuffer(last, "u1", offset=32).reshape(6, 8, 8)
    label = torch.arange(6) % 3  # all classes in turn
    x = pf.generate(pf.load(runs[0]), 6, nfe=6, seed=2, label=label)
    ours = ((x[:, 0] + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    assert np.abs(got.astype(int) - ours).max() <= 1
    assert [t["done"] for t in texts if t["type"] == "progress"] == list(range(7))


def test_prompts_negatives_and_guidance_arrive(served, runs):
    with opened(served.live) as socket:
        ask(
            socket, subject="run:scenes", solver="auto", calls=4, num=2, prompt="a red circle",
            negative="a blue square", guidance=3.0, curve=False,
        )  # fmt: skip
        _, _, frames = until(socket, "done")
    got = np.frombuffer(of_kind(frames, PICTURES)[-1], "u1", offset=32).reshape(2, 16, 16, 3)
    x = pf.generate(
        pf.load(runs[1]), 2, nfe=4, prompt="a red circle", guidance=3.0, negative={"prompt": "a blue square"}
    )  # fmt: skip
    ours = ((x + 1) * 127.5).round().clamp(0, 255).movedim(1, 3).byte().numpy()
    assert np.abs(got.astype(int) - ours).max() <= 1


def test_a_mask_keeps_what_it_does_not_cover(served):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:7] = 255
    with opened(served.live) as socket:
        ask(
            socket, subject="run:marks", solver="auto", calls=5, num=3, label=1, strength=1.0, curve=False,
            picture=base64.b64encode(picture).decode(), mask=base64.b64encode(mask).decode(),
        )  # fmt: skip
        _, _, frames = until(socket, "done")
    got = np.frombuffer(of_kind(frames, PICTURES)[-1], "u1", offset=32).reshape(3, 8, 8)
    outside = mask == 0
    assert (got[:, outside] == picture[outside, 0]).all()
    assert (got[:, ~outside] != picture[~outside, 0]).mean() > 0.9


def test_strength_zero_returns_the_picture(served):
    picture = np.arange(64, dtype=np.uint8) * 4
    with opened(served.live) as socket:
        ask(
            socket, subject="run:marks", solver="auto", calls=5, num=1, strength=0.0, curve=False,
            picture=base64.b64encode(picture).decode(),
        )  # fmt: skip
        _, _, frames = until(socket, "done")
    assert (np.frombuffer(of_kind(frames, PICTURES)[-1], "u1", offset=32) == picture).all()


def test_a_law_of_ones_own_is_drawn(served):
    mine = [
        {"x": 3.0, "y": -2.0, "std": 0.1},
        {"x": -3.0, "y": 2.0, "std": 0.1, "weight": 3.0, "label": 1},
    ]
    with opened(served.live) as socket:
        ask(socket, subject="own", components=mine, solver="rk4", calls=80, num=800, curve=False)
        _, _, frames = until(socket, "done")
    x = points(of_kind(frames, POINTS)[-1])
    right = x[:, 0] > 0
    # A quarter of 800: 5 standard deviations of a share.
    assert abs(right.mean() - 0.25) < 5 * (0.25 * 0.75 / 800) ** 0.5
    assert np.abs(x[right] - [3, -2]).max() < 1


def test_a_run_in_the_plane_is_judged_by_its_law(served):
    with opened(served.live) as socket:
        ask(socket, subject="run:points", solver="heun", calls=8, num=100)
        about, texts, frames = until(socket, "done")
    assert about["log_p"] < about["log_p_law"]  # it is not trained
    assert of_kind(frames, FIELD)
    assert not of_kind(frames, DENSITY)
    assert any(t["type"] == "curve" and t.get("error") for t in texts)


def test_a_new_drawing_ends_the_one_before(served):
    with opened(served.live) as socket:
        ask(socket, job=1, subject="spirals", solver="euler", calls=200, num=4000)
        until(socket, "started")
        ask(socket, job=2, subject="pair", solver="euler", calls=4, num=10, curve=False)
        _, texts, frames = until(socket, "done", job=2)
    assert {"type": "cancelled", "job": 1} in texts
    assert head(frames[-1])["job"] == 2


def test_cancel_ends_a_drawing_on_its_way(served):
    with opened(served.live) as socket:
        ask(socket, subject="spirals", solver="dopri5", num=4000)
        until(socket, "started")
        socket.send(json.dumps({"type": "cancel", "job": 1}))
        until(socket, "cancelled")
        ask(socket, job=2, subject="pair", num=10, curve=False)
        until(socket, "done", job=2)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"subject": "run:marks", "label": 7}, "3 classes"),
        ({"subject": "run:marks", "prompt": "a circle"}, "takes no prompt"),
        ({"subject": "run:nowhere"}, "there is no 'run:nowhere'"),
        ({"subject": "run:marks", "num": 65}, "at most 64"),
        ({"subject": "pair", "guidance": 2.0}, "give one"),
        ({"subject": "run:scenes", "prompt": "a", "negative": "b", "num": 1}, "other than 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_reason(served, settings, why):
    with opened(served.live) as socket:
        ask(socket, **settings)
        about, _, _ = until(socket, "error")
    assert why in about["error"]


@pytest.mark.slow
def test_a_hint_steers_a_control(steered):
    hint = np.zeros((8, 8), np.uint8)
    hint[3] = 255
    given = {"subject": "run:edges", "solver": "auto", "calls": 4, "num": 2, "curve": False}
    with opened(steered.live) as socket:
        catalogue = until(socket, "catalogue", timeout=120)[0]["catalogue"]
        assert catalogue["subjects"]["run:edges"]["control"] == "edges"
        ask(socket, **given)
        assert "steered by a hint" in until(socket, "error")[0]["error"]
        control = base64.b64encode(hint).decode()
        ask(socket, job=2, **given, control=control, control_strength=0.7)
        _, texts, frames = until(socket, "done", job=2)
    assert any("black and white" in t.get("note", "") for t in texts)
    from pushforward.saving.control import strengthened

    model = strengthened(pf.load(steered.folder / "edges"), {"edges": 0.7})
    edges = torch.from_numpy(hint).float()[None, None].expand(2, 1, 8, 8) / 255
    label = torch.tensor([0, 1])
    x = pf.generate(model, 2, nfe=4, label=label, control={"edges": edges})
    low, high = model.spec.value_range
    ours = ((x[:, 0] - low) / (high - low) * 255).round().clamp(0, 255)
    got = np.frombuffer(of_kind(frames, PICTURES)[-1], "u1", offset=32).reshape(2, 8, 8)
    assert np.abs(got.astype(int) - ours.numpy()).max() <= 1
