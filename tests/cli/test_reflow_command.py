"""`pushforward reflow` and `pushforward gallery`: from a run to a straighter one, and both in a picture."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Rectify, Toy2D
from pushforward.recipes.run import resume, train

TINY = {
    "warmup": 0, "sample_every": 0, "log_every": 20, "device": "cpu", "batch_size": 128, "ema": 0.9,
}  # fmt: skip


def call(*arguments: object) -> int:
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reflow") / "teacher"
    recipe = Toy2D.of(**TINY, target="moons", width=32, depth=1, steps=150, lr=5e-3, out=folder)
    train(recipe, quiet=True)
    return folder


OPTIONS = (
    "--pairs", 1500, "--pairs-nfe", 20, "--steps", 250, "--lr", 5e-3, "--num", 300, "--warmup", 0, "--sample-every", 0,
    "--device", "cpu", "--ema", 0.9, "--batch-size", 128,
)  # fmt: skip


def test_the_flow_of_a_run_is_made_straight_and_costs_no_more(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "straight"
    assert call("reflow", teacher, "--out", out, *OPTIONS) == 0
    assert "straightness" in capsys.readouterr().out
    figures = json.loads((out / "reflow.json").read_text())["figures"]
    first, second = figures["teacher"], figures["student"]
    assert second["straightness"][0] < first["straightness"][0] / 3
    for name in ("E l2", "E l2 squared", "E l1"):
        error = (first[name][1] ** 2 + second[name][1] ** 2) ** 0.5
        assert second[name][0] < first[name][0] + 4 * error
    model = pf.load(out)
    assert model.provenance.rectified == 2
    assert model.provenance.teacher == pf.load(teacher).provenance.sha256
    # One step of it ends near to where the teacher ends, and one step of the teacher does not.
    x0 = pf.Noise.batch(300, 5).normal((2,))
    ends = pf.generate(pf.load(teacher), 300, nfe=50, source=x0)
    own, theirs = (
        float((pf.generate(m, 300, nfe=1, source=x0) - ends).square().mean())
        for m in (model, pf.load(teacher))
    )
    assert own < theirs / 8


def test_a_single_step_is_fitted_and_is_what_is_sampled(teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "one"
    assert call("reflow", teacher, "--out", out, "--objective", "one-step", *OPTIONS) == 0
    model = pf.load(out)
    x0 = pf.Noise.batch(20, 5).normal((2,))
    with torch.no_grad():
        step = x0 + model(x0, 0.0)
    assert torch.allclose(pf.generate(model, 20, source=x0), step, atol=1e-6)


def test_a_reflow_cut_off_goes_on_to_the_same_bits(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pushforward.train.trainer import Trainer

    options = TINY | {
        "teacher": teacher,
        "pairs": 300,
        "pairs_nfe": 10,
        "steps": 6,
        "checkpoint_every": 3,
    }
    train(Rectify.of(**options, out=tmp_path / "whole"), quiet=True)
    one_step = Trainer._one_step

    def cut(self: Trainer) -> dict[str, object]:
        if self.step == 5:
            raise KeyboardInterrupt
        return one_step(self)

    monkeypatch.setattr(Trainer, "_one_step", cut)
    with pytest.raises(KeyboardInterrupt):
        train(Rectify.of(**options, out=tmp_path / "cut"), quiet=True)
    monkeypatch.undo()
    # A pair that is lost by then is made again.
    (tmp_path / "cut" / "pairs" / "00000.safetensors").unlink()
    resume(tmp_path / "cut", {"device": "cpu"}, quiet=True)
    for name in ("model.safetensors", "pairs/00000.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_that_starts_from_another_law_is_made_straight_from_there(tmp_path: Path) -> None:
    small = TINY | {"width": 16, "depth": 1, "steps": 5}
    recipe = Toy2D.of(**small, source="8gaussians", target="moons", out=tmp_path / "a")
    train(recipe, quiet=True)
    assert call("reflow", tmp_path / "a", *OPTIONS, "--out", tmp_path / "b") == 0
    from pushforward.laws import LAWS
    from pushforward.sampling.pairs import Pairs

    pairs = Pairs(tmp_path / "b" / "pairs")[torch.arange(10)]
    assert torch.equal(pairs.x0, LAWS["8gaussians"]().sample(10))
    assert pf.load(tmp_path / "b").sampling.source == "8gaussians"


def test_evaluate_measures_a_flow_as_a_transport(
    teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pushforward.evaluate.metrics.transport import follow
    from pushforward.evaluate.metrics.wasserstein import wasserstein
    from pushforward.laws import Moons

    line = ("evaluate", teacher, "--transport", "--num", 200, "--seed", 3, "--device", "cpu")
    assert call(*line) == 0
    assert "straightness" in capsys.readouterr().out
    figures = json.loads((teacher / "evaluation.json").read_text())["figures"]
    flow = follow(pf.load(teacher), pf.Noise.batch(2000, 3).normal((2,)))
    assert figures["straightness"] == pytest.approx(flow.straightness(relative=True).value)
    w2 = wasserstein(flow.end, Moons().sample(2000, seed=4))
    assert figures["w2"] == pytest.approx(w2.value)
    assert figures["w2_error"] == pytest.approx(w2.standard_error)
    assert figures["cost_l2_squared"] == pytest.approx(
        float((flow.end - flow.start).square().sum(1).mean())
    )
    assert figures["path_energy"] == pytest.approx(
        abs(flow.path_energy().value / figures["w2_before"] ** 2 - 1)
    )
    assert call(*line, "--compare") == 2
    assert "there is no option --transport" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--path", "vp"), 2, "there is no option --path"),
        (("--objective", "dsb"), 2, "--objective: there is no 'dsb'"),
        (("--guidance", 2), 1, "guidance needs a model with classes or other conditions"),
        (("--teacher", "x"), 2, "--teacher is the first argument"),
    ],
)
def test_what_reflow_cannot_do_is_refused(
    teacher: Path, tmp_path: Path, options: tuple[object, ...], code: int, message: str, capsys
) -> None:
    assert call("reflow", teacher, "--out", tmp_path / "x", *options) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_gallery_shows_runs_of_one_target(teacher: Path, tmp_path: Path, capsys) -> None:
    small = TINY | {"width": 8, "depth": 1, "steps": 3}
    other, bridge, picture = (tmp_path / name for name in ("other", "bridge", "g.png"))
    train(Toy2D.of(**small, out=other), quiet=True)
    train(Toy2D.of(**small, target="moons", objective="sf2m", out=bridge), quiet=True)
    assert call("gallery", teacher, bridge, "--num", 200, "--noise", "--out", picture) == 0
    image = Image.open(io.BytesIO(picture.read_bytes()))
    assert min(image.size) > 300
    assert json.loads(image.info["pushforward"])["num"] == 200
    assert call("gallery", teacher, other, "--out", picture) == 1
    assert "several targets, 8gaussians, moons" in capsys.readouterr().err
