"""`pushforward distill`, flow maps from scratch, and what other commands make of both."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

import pushforward as pf
from pushforward.cli import main
from pushforward.core.noise import SOLVER, START
from pushforward.core.transfer import ScheduleTransfer
from pushforward.data import load_digits
from pushforward.data.shares import labels_in_shares
from pushforward.evaluate.few_steps import Quality
from pushforward.evaluate.figures.few_steps import few_steps
from pushforward.evaluate.metrics.agreement import everything, train_classifier
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.laws import LAWS
from pushforward.recipes import Digits, DigitsClassifier, Distill, Toy2D
from pushforward.recipes.run import train
from pushforward.train import warm_start
from pushforward.train.trainer import Trainer

PLAIN = {"warmup": 0, "sample_every": 0, "log_every": 10, "device": "cpu", "batch_size": 32, "ema": 0.9}  # fmt: skip
TINY = PLAIN | {"target": "moons", "width": 16, "depth": 1, "steps": 60, "lr": 5e-3}
QUICK = (
    "--steps", 6, "--log-every", 2, "--checkpoint-every", 4, "--batch-size", 32, "--warmup", 0, "--sample-every", 0,
    "--ema", 0.5, "--device", "cpu",
)  # fmt: skip
ANY, DATA = ("meanflow", "shortcut"), ("consistency", "continuous-consistency")
JUMPS = dict.fromkeys(ANY, "any") | dict.fromkeys(DATA, "data") | {"progressive": (0.0, 1.0)}


def call(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, but for the speed of runs."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != "speed.jsonl"
    }


def same_bits(a: Path, b: Path) -> bool:
    names = ("model.safetensors", "log.jsonl")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def toy(folder: Path, **options: object) -> Path:
    train(Toy2D.of(**TINY | options, out=folder), quiet=True)
    return folder


@pytest.fixture(scope="module", autouse=True)
def rough() -> Iterator[None]:
    """Students start from a rough fit of their teacher's embedding of time, which is soon done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "ROUNDS", 20)
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("distill") / "teacher")


@pytest.fixture(scope="module")
def students(teacher: Path) -> dict[str, Path]:
    """A student by each method."""
    more = {"progressive": ("--from-steps", 4), "reflow": ("--pairs", 60)}
    made = {}
    for method in (*JUMPS, "reflow"):
        made[method] = teacher.with_name(method)
        line = ("distill", teacher, "--method", method, "--out", made[method], *QUICK)
        assert call(*line, *more.get(method, ())) == 0
    return made


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A class-conditional teacher, a student, and one that is guided."""
    folder = tmp_path_factory.mktemp("digits")
    made = {name: folder / name for name in ("teacher", "plain", "guided")}
    recipe = Digits.of(
        **PLAIN, width=8, steps=25, lr=1e-2, condition_dropout=0.3, out=made["teacher"]
    )
    train(recipe, quiet=True)
    for name, more in (("plain", ()), ("guided", ("--guidance", 2))):
        line = ("distill", made["teacher"], "--method", "meanflow", "--out", made[name])
        assert call(*line, *QUICK, *more) == 0
    return made


# What distillation makes.


def test_every_student_says_how_and_of_whom_it_was_made(
    teacher: Path, students: dict[str, Path]
) -> None:
    root = pf.load(teacher)
    for method, jumps in JUMPS.items():
        student = pf.load(students[method])
        assert isinstance(student, pf.FlowMapModel)
        assert student.jumps == jumps
        assert student.provenance.method == method
        assert student.provenance.origin == root.provenance.sha256
        assert student.sampling.guidance is None
        assert student.spec == root.spec
        if method != "progressive":
            assert student.provenance.teacher == root.provenance.sha256
    one_step = pf.load(students["reflow"])
    assert type(one_step) is pf.Model
    assert (one_step.sampling.nfe, one_step.provenance.teacher) == (1, root.provenance.sha256)


def test_stages_halve_the_steps_and_each_is_the_teacher_of_the_next(
    teacher: Path, students: dict[str, Path]
) -> None:
    out = students["progressive"]
    assert sorted(p.name for p in (out / "stages").iterdir()) == ["0002", "0004"]
    of = pf.load(teacher).provenance.sha256
    for folder, jumps in (
        (out / "stages" / "0004", (0, 0.25, 0.5, 0.75, 1)), (out / "stages" / "0002", (0, 0.5, 1)), (out, (0, 1)),
    ):  # fmt: skip
        stage = pf.load(folder)
        assert stage.jumps == jumps
        assert stage.provenance.teacher == of
        of = stage.provenance.sha256


@pytest.mark.parametrize("method", JUMPS)
def test_the_command_line_draws_the_samples_of_generate_and_those_of_jumps_by_hand(
    method: str, students: dict[str, Path], tmp_path: Path
) -> None:
    flow = pf.load(students[method])
    x0 = pf.Noise.batch(30, 3).normal((2,), START)
    seen = []
    for nfe in (1,) if method == "progressive" else (1, 2, 8):
        line = ("sample", students[method], "--nfe", nfe, "--num", 30, "--seed", 3, "--device")
        assert call(*line, "cpu", "--overwrite", "--out", tmp_path) == 0
        with np.load(tmp_path / "samples.npz") as file:
            samples, settings = file["samples"], json.loads(str(file["settings"]))
        assert (settings["nfe"], settings["model"]) == (nfe, flow.provenance.sha256)
        assert np.isfinite(samples).all()
        np.testing.assert_array_equal(samples, pf.generate(flow, 30, nfe=nfe, seed=3))
        assert not any(np.allclose(samples, other, atol=1e-4) for other in seen)
        seen.append(samples)
        if nfe == 1:
            with torch.no_grad():
                np.testing.assert_allclose(samples, flow(x0, 0.0, 1.0), rtol=1e-5, atol=1e-6)
        if nfe == 2:
            middle = float(pf.times.straight(2, flow.path)[1])
            with torch.no_grad():
                if method in ANY:
                    x = flow(x0, 0.0, middle)
                else:  # over the data, and noised anew
                    z = pf.Noise.batch(30, 3).normal((2,), SOLVER)
                    at = torch.tensor([[middle]])
                    x = flow.path.alpha(at) * flow(x0, 0.0, 1.0) + flow.path.sigma(at) * z
                truth = flow(x, middle, 1.0)
            np.testing.assert_allclose(samples, truth, rtol=1e-4, atol=1e-5)


def test_a_progressive_student_takes_its_own_steps_and_names_them(
    students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = students["progressive"]
    for folder, own, other in ((out, 1, 2), (out / "stages" / "0004", 4, 2)):
        line = (
            "sample",
            folder,
            "--num",
            9,
            "--device",
            "cpu",
            "--overwrite",
            "--out",
            tmp_path / "drawn",
        )
        assert call(*line) == 0
        assert f"{own} calls" in capsys.readouterr().out
        with np.load(tmp_path / "drawn" / "samples.npz") as file:
            np.testing.assert_array_equal(file["samples"], pf.generate(pf.load(folder), 9))
        for bad in (("--nfe", other), ("--nfe", own, "--grid", "uniform")):
            assert call(*line, *bad) == 1
            assert f"nfe is {own}, and there is no other grid" in capsys.readouterr().err


def test_info_prints_what_was_distilled_and_how(
    students: dict[str, Path], digits: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, words in (
        (digits["guided"], ("from any time to any other", "meanflow", "2.0")),
        (students["consistency"], ("from any time to the data", "consistency")),
        (students["progressive"] / "stages" / "0004", ("in 4 steps of its own", "progressive")),
    ):
        assert call("info", folder) == 0
        printed, model = capsys.readouterr().out, pf.load(folder)
        rows = dict(
            (part.strip() for part in line.split("│")[1:3]) for line in printed.splitlines() if "│" in line
        )  # fmt: skip
        for key, word in zip(("flow map", "method", "guidance"), words, strict=False):
            assert rows[key] == word
        assert ("guidance" in rows) == (model.sampling.guidance is not None)
        assert rows["teacher"] == f"SHA-256 {model.provenance.teacher[:16]}"
        assert rows["origin"] == f"SHA-256 {model.provenance.origin[:16]}"


def test_a_guided_student_learns_the_guided_flow_and_is_another_than_its_sibling(
    digits: dict[str, Path],
) -> None:
    plain, guided = (pf.load(digits[name]) for name in ("plain", "guided"))
    assert guided.sampling.guidance == 2
    assert plain.sampling.guidance is None
    label = torch.arange(20) % 10
    a, b = (pf.generate(model, 20, nfe=2, label=label) for model in (plain, guided))
    assert bool(a.isfinite().all() & b.isfinite().all())
    assert float((a - b).abs().max()) > 1e-4
    # The velocity that it is taught is w u(x, t | label) + (1 - w) u(x, t).
    built = Distill.of(
        teacher=digits["teacher"], method="meanflow", guidance=2, device="cpu", fresh=True
    ).build()
    model = pf.load(digits["teacher"])
    x, t = pf.Noise.batch(20, 1).normal(model.shape), torch.linspace(0, 1, 20)
    with torch.no_grad():
        told, free = model(x, t, label=label), model(x, t, label=torch.full((20,), -1))
        got = built.objective.teacher(x, t, "velocity", label=label)
    torch.testing.assert_close(got, 2 * told - free, rtol=1e-4, atol=1e-5)
    assert float((told - free).abs().max()) > 1e-3
    # Its samples keep the share of dropped labels that the teacher was trained with.
    assert built.objective.condition_dropout == 0.3


def test_guidance_is_learned_in_the_first_stage_and_handed_on(
    digits: dict[str, Path], tmp_path: Path
) -> None:
    from pushforward.guidance import ClassifierFree

    line = ("distill", digits["teacher"], "--method", "progressive", "--from-steps", 2)
    assert call(*line, "--out", tmp_path / "s", "--guidance", 3, *QUICK, "--steps", 1) == 0
    first, last = (pf.load(tmp_path / "s" / name) for name in ("stages/0002", "."))
    assert first.sampling.guidance == last.sampling.guidance == 3
    stages = [
        Distill.of(
            teacher=of, method="progressive", student_steps=n, guidance=w, device="cpu"
        ).build()
        for of, n, w in ((digits["teacher"], 2, 3), (tmp_path / "s" / "stages" / "0002", 1, None))
    ]
    assert isinstance(stages[0].objective.teacher.field, ClassifierFree)
    assert isinstance(stages[1].objective.teacher, pf.FlowMapModel)


def test_a_student_starts_where_its_teacher_does(tmp_path: Path) -> None:
    source = toy(tmp_path / "t", source="8gaussians", steps=3)
    assert call("distill", source, "--out", tmp_path / "s", *QUICK) == 0
    assert call("sample", tmp_path / "s", "--num", 20, "--device", "cpu") == 0
    flow, x0 = pf.load(tmp_path / "s"), LAWS["8gaussians"]().draw(pf.Noise.batch(20, 0)).float()
    with np.load(tmp_path / "s" / "generated" / "samples.npz") as file, torch.no_grad():
        np.testing.assert_allclose(file["samples"], flow(x0, 0.0, 1.0), rtol=1e-5, atol=1e-6)


# Teachers on other paths.

OTHERS = {
    "VP, v": {"path": "vp", "prediction": "v"},
    "EDM": {"path": "edm", "prediction": "edm"},
    "Cosine, data": {"path": "cosine", "prediction": "data"},
    "CondOT, velocity": {},
}


def listens_to_time(folder: Path, fast: int) -> None:
    """Make a teacher's answers depend on the time as strongly as those of long training do, and as smoothly."""
    model = pf.load(folder)
    with torch.no_grad():
        mix, half = model.net.conditioning.mix[0].weight, 8
        for k in range(fast):  # of the frequencies from 1000 down to 0.3
            mix[:, [k, half + k]] = 0
        model.net.modulate[0].weight.mul_(12)
    pf.save(model, folder)


@pytest.mark.parametrize("case", OTHERS)
def test_a_student_starts_as_its_teachers_flow_whatever_path_that_is_on(
    case: str, tmp_path: Path
) -> None:
    """On a path that is smooth up to both ends; random weights are far from it."""
    folder = toy(tmp_path / "t", **OTHERS[case])
    listens_to_time(folder, 4 if case == "EDM" else 5)
    model, options = pf.load(folder), {"teacher": folder, "method": "meanflow", "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm_start, "ROUNDS", 700)
        student = Distill.of(**options).build().model
    fresh = Distill.of(**options, fresh=True).build().model
    condot = case.startswith("CondOT")
    path = pf.CondOT() if condot else pf.Cosine()
    assert student.path == fresh.path == path
    assert student.prediction == model.prediction
    assert student.preconditioning == model.preconditioning
    truth = model if condot else ScheduleTransfer(model, path)
    # Preconditioned networks are shown logarithms of levels, which go far at both ends.
    t = torch.linspace(*((0.003, 0.995) if case == "EDM" else (0.03, 0.9)), 200)
    noise = pf.Noise.batch(200, 5)
    x = path.sample(noise.normal((2,)), LAWS["moons"]().sample(200, seed=1), t).float()
    with torch.no_grad():
        goal = truth(x, t)
        got, random = (pf.InstantaneousField(flow)(x, t) for flow in (student, fresh))
        # What it says of the data, on the whole way: a second time makes no difference yet.
        ahead = student.predict(x, t, torch.ones_like(t), "data")
        torch.testing.assert_close(ahead, pf.InstantaneousField(student)(x, t, "data"))
    error, far = (float((v - goal).square().mean().sqrt()) for v in (got, random))
    assert error < 0.08 * float(goal.square().mean().sqrt())
    assert far > 20 * error


@pytest.mark.parametrize(
    "options", [{"path": "vp", "prediction": "noise"}, {"path": "subvp", "prediction": "v"}, {"objective": "hybrid"}],
    ids=["VP, noise", "SubVP, v", "learned variance"],
)  # fmt: skip
def test_a_teacher_whose_network_means_something_else_there_gives_its_flow_alone(
    options: dict[str, str], tmp_path: Path
) -> None:
    folder = toy(tmp_path / "t", **options, steps=3)
    built, fresh = (
        Distill.of(teacher=folder, method="meanflow", fresh=f, device="cpu").build()
        for f in (False, True)
    )
    student = built.model
    assert (student.path, student.prediction) == (pf.Cosine(), "v")
    for a, b in zip(student.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(a, b)
    x, t = pf.Noise.batch(20, 1).normal((2,)), torch.linspace(0.05, 0.9, 20)
    with torch.no_grad():
        goal = ScheduleTransfer(pf.load(folder), pf.Cosine())(x, t)
        torch.testing.assert_close(built.objective.teacher(x, t, "velocity"), goal)
    assert call("distill", folder, "--out", tmp_path / "s", *QUICK) == 0
    assert bool(pf.generate(pf.load(tmp_path / "s"), 9, nfe=3).isfinite().all())


# Runs that are stopped.


@dataclass
class Stop:
    """SIGTERM at a step of the run in a folder of this name."""

    folder: str
    step: int

    def at(self, patch: pytest.MonkeyPatch) -> None:
        one_step = Trainer._one_step

        def stopped(trainer: Trainer) -> dict[str, object]:
            if trainer.folder.name == self.folder and trainer.step == self.step:
                signal.raise_signal(signal.SIGTERM)
            return one_step(trainer)

        patch.setattr(Trainer, "_one_step", stopped)


def test_a_consistency_distillation_stopped_goes_on_to_the_same_bits(
    teacher: Path, students: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("distill", teacher, "--method", "consistency", "--out", tmp_path / "cut")
    with pytest.MonkeyPatch.context() as patch:
        Stop("cut", 4).at(patch)
        assert call(*line, *QUICK) == 143
    assert not same_bits(tmp_path / "cut", students["consistency"])
    *_, hint = capsys.readouterr().out.splitlines()
    assert hint.startswith("stopped; continue with: pushforward ")
    assert call(*hint.removeprefix("stopped; continue with: pushforward ").split()) == 0
    assert same_bits(tmp_path / "cut", students["consistency"])


def test_a_progressive_distillation_stopped_in_its_second_stage_goes_on_to_the_same_bits(
    teacher: Path, students: dict[str, Path], tmp_path: Path
) -> None:
    line = ("distill", teacher, "--method", "progressive", "--from-steps", 4, "--out", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        Stop("0002", 3).at(patch)
        assert call(*line, *QUICK) == 143
    whole = students["progressive"]
    assert same_bits(tmp_path / "stages" / "0004", whole / "stages" / "0004")
    assert not same_bits(tmp_path / "stages" / "0002", whole / "stages" / "0002")
    assert not (tmp_path / "model.json").exists()
    first = tree(tmp_path / "stages" / "0004")
    # The stages that have not begun take their options from the command line.
    assert call(*line, "--resume", *QUICK) == 0
    assert tree(tmp_path / "stages" / "0004") == first
    for folder in ("stages/0002", "."):
        assert same_bits(tmp_path / folder, whole / folder)
    assert pf.load(tmp_path).provenance == pf.load(whole).provenance


@pytest.mark.parametrize(
    ("method", "more"), [("progressive", ("--from-steps", 4)), ("shortcut", ())]
)
def test_to_resume_what_is_done_changes_nothing(
    method: str, more: tuple[object, ...], teacher: Path, students: dict[str, Path]
) -> None:
    before = tree(students[method])
    line = ("distill", teacher, "--method", method, "--out", students[method], "--resume")
    assert call(*line, *more, "--device", "cpu") == 0
    assert tree(students[method]) == before


def test_the_warmup_of_continuous_consistency_is_not_taken_for_divergence(
    teacher: Path, tmp_path: Path
) -> None:
    """From the teacher's weights the law of velocities holds at first, and that of the map comes in by and by."""
    line = ("distill", teacher, "--method", "continuous-consistency", "--out", tmp_path / "s")
    assert call(*line, *QUICK, "--steps", 40, "--log-every", 1) == 0


# From scratch.


@pytest.mark.parametrize("objective", [*ANY, *DATA])
def test_flow_maps_train_from_scratch_and_go_on_to_the_same_bits(
    objective: str, tmp_path: Path
) -> None:
    line = ("train", "toy2d", "--objective", objective, "--width", 8, "--depth", 1, *QUICK, "--out")
    assert call(*line, tmp_path / "whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        Stop("cut", 3).at(patch)
        assert call(*line, tmp_path / "cut") == 143
    assert not same_bits(tmp_path / "cut", tmp_path / "whole")
    assert call("train", "toy2d", "--resume", "--device", "cpu", "--out", tmp_path / "cut") == 0
    assert same_bits(tmp_path / "cut", tmp_path / "whole")
    flow = pf.load(tmp_path / "whole")
    assert isinstance(flow, pf.FlowMapModel)
    assert (flow.jumps, flow.provenance.method) == (JUMPS[objective], objective)
    assert type(flow.path) is (pf.Cosine if objective == "continuous-consistency" else pf.CondOT)
    # A teacher there is none.
    assert (flow.provenance.teacher, flow.provenance.origin) == (None, None)
    assert call("sample", tmp_path / "whole", "--nfe", 2, "--num", 12, "--device", "cpu") == 0
    with np.load(tmp_path / "whole" / "generated" / "samples.npz") as file:
        np.testing.assert_array_equal(file["samples"], pf.generate(flow, 12, nfe=2))


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("objective", [*ANY, *DATA])
def test_flow_maps_from_scratch_predict_what_can_start_at_noise(
    objective: str, preconditioned: bool
) -> None:
    options = PLAIN | {"width": 8, "depth": 1, "objective": objective, "path": "vp"}
    model = Toy2D.of(**options, **({"prediction": "edm"} if preconditioned else {})).build().model
    assert model.prediction == ("data" if preconditioned else "v")
    assert (model.preconditioning is not None) == preconditioned
    for bad in ("noise", "score"):
        with pytest.raises(pf.InputError, match="must be 'velocity', 'v', 'data' or 'edm'"):
            Toy2D.of(**options, prediction=bad).build()
    for name in ("times", "loss_in"):
        with pytest.raises(pf.InputError, match=f"--{name.replace('_', '-')} is an option of"):
            Toy2D.of(**options, **{name: "v"})


def test_guidance_is_folded_into_meanflow_with_classes_alone() -> None:
    for objective in ("matching", "shortcut", *DATA):
        with pytest.raises(pf.InputError, match="--guidance is an option of --objective meanflow"):
            Digits.of(objective=objective, guidance=2, device="cpu").build()
    with pytest.raises(pf.InputError, match="there is no option --guidance"):
        Toy2D.of(objective="meanflow", guidance=2, device="cpu").build()


# Quality beside the teacher.


def energy(a: np.ndarray, b: np.ndarray) -> float:
    n, m = len(a), len(b)
    within = [cdist(x, x).sum() / (k * (k - 1)) for x, k in ((a, n), (b, m))]
    return float(2 * cdist(a, b).mean() - sum(within))


def test_students_are_judged_beside_their_teacher_by_the_same_noise_and_data(
    teacher: Path, students: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {str(students[m]): (1, 2) for m in ("meanflow", "consistency")}
    folders |= {str(students[m]): (1,) for m in ("progressive", "reflow")}
    line = ("evaluate", teacher, "--students", *folders, "--nfes", 1, 2, "--num", 300, "--seed", 4)
    assert call(*line, "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in folders)
    found = json.loads((teacher / "students.json").read_text())
    figures, settings = found["figures"], found["settings"]
    assert found["teacher_calls"] == 100
    assert {name: tuple(map(int, rows)) for name, rows in figures.items()} == {
        "teacher": (1, 2, 100), **folders,
    }  # fmt: skip
    draws = LAWS["moons"]().sample(300, seed=5).numpy()
    cells = [(name, Path(name), nfes[-1]) for name, nfes in folders.items()]
    for name, folder, nfe in [("teacher", teacher, 100), ("teacher", teacher, 2), *cells]:
        samples = pf.generate(pf.load(folder), 300, nfe=nfe, seed=4).numpy()
        cell = figures[name][str(nfe)]
        assert cell["energy"] == pytest.approx(energy(samples, draws), rel=1e-3, abs=1e-4)
        cost = cdist(samples, draws) ** 2
        w2 = float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))
        assert cell["w2"] == pytest.approx(w2, rel=1e-4)
    picture = Image.open(io.BytesIO((teacher / "students.png").read_bytes()))
    assert picture.format == "PNG"
    kept = json.loads(picture.info["pushforward"])
    assert {key: kept[key] for key in settings} == settings
    assert settings == {
        "num": 300, "guidance": None, "seed": 4, "model": pf.load(teacher).provenance.sha256,
        "students": {name: pf.load(name).provenance.sha256 for name in folders},
    }  # fmt: skip


def test_of_pictures_students_are_judged_by_frechet_distance_and_agreement(
    digits: dict[str, Path],
) -> None:
    """Guidance is the teacher's alone; a student has its own."""
    folder, guided = digits["teacher"], digits["guided"]
    line = ("evaluate", folder, "--students", guided, "--nfes", 2, "--num", 60, "--guidance", 2)
    assert call(*line, "--device", "cpu") == 0
    figures = json.loads((folder / "students.json").read_text())["figures"]
    seen, held_out = load_digits().halves(seed=0)
    label = labels_in_shares(60, seen.class_counts or ())
    classifier = train_classifier(seen, held_out)
    for name, model, more in (("teacher", folder, {"guidance": 2}), (str(guided), guided, {})):
        samples = pf.generate(pf.load(model), 60, nfe=2, label=label, **more)
        cell = figures[name]["2"]
        real = everything(held_out, 10_000)[0]
        assert cell["frechet"] == pytest.approx(frechet_distance(samples, real), rel=1e-5)
        assert cell["agreement"] == pytest.approx(classifier.agreement_by_class(samples, label))
    assert figures["teacher"]["2"]["frechet"] != figures[str(guided)]["2"]["frechet"]


def test_a_gallery_shows_flow_maps_beside_their_teacher(
    teacher: Path, students: dict[str, Path], tmp_path: Path
) -> None:
    few = (students["shortcut"], students["consistency"], students["progressive"])
    picture = tmp_path / "g.png"
    line = ("gallery", teacher, *few, "--num", 50, "--out", picture, "--device", "cpu")
    assert call(*line) == 0
    models = json.loads(Image.open(picture).info["pushforward"])["models"]
    assert models == [pf.load(f).provenance.sha256 for f in (teacher, *few)]


# What is refused.


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that are no teacher, or of other data."""
    folder = tmp_path_factory.mktemp("others")
    recipe = DigitsClassifier.of(device="cpu", steps=1, width=8, batch_size=8, out=folder / "c")
    train(recipe, quiet=True)
    toy(folder / "b", objective="sf2m", steps=1)
    toy(folder / "d", objective="dsb", steps=1)
    toy(folder / "e", target="8gaussians", steps=1)
    return {name: folder / name for name in "bcde"} | {"nothing": folder / "nothing"}


STAGES, REFLOW = ("--method", "progressive"), ("--method", "reflow")
# The teacher of a distillation, its options, and what is said.
REFUSED = {
    "a classifier": ("c", (), "holds a classifier"),
    "a bridge": ("b", (), "holds a BridgeModel; the flow of a Model is distilled"),
    "half-bridges": ("d", STAGES, "holds a HalfBridges"),
    "half-bridges, by reflow": ("d", REFLOW, "holds a HalfBridges"),
    "nothing": ("nothing", (), "there is no folder"),
    "a flow map": ("meanflow", ("--method", "shortcut"), "holds a FlowMapModel; the flow of a Model"),
    "guidance without classes": ("teacher", ("--guidance", 2), "guidance needs a model with classes"),
    "guidance in reflow": ("teacher", (*REFLOW, "--guidance", 2), "guidance needs a model with classes"),
    "no halves": ("teacher", (*STAGES, "--from-steps", 6), "does not come down to --student-steps 1 by halves"),
    "upwards": ("teacher", (*STAGES, "--from-steps", 2, "--student-steps", 4), "does not come down"),
    "thrice": ("teacher", (*STAGES, "--from-steps", 12, "--student-steps", 4), "does not come down"),
    "nothing to resume": ("teacher", (*STAGES, "--resume"), "start it without --resume"),
}  # fmt: skip
# Options that do not exist, with what is said of them.
ABSENT = {
    "a path": (("--path", "vp"), "there is no option --path"),
    "times": (("--times", "mode"), "there is no option --times"),
    "an objective": (("--objective", "dsb"), "there is no option --objective"),
    "a coupling": (("--coupling", "ot"), "there is no option --coupling"),
    "a prediction": ((*STAGES, "--prediction", "v"), "there is no option --prediction"),
    "stages of meanflow": (("--from-steps", 4), "--from-steps is an option of --method progressive"),
    "steps of meanflow": (("--student-steps", 2), "--student-steps is an option of --method progressive"),
    "stages of reflow": ((*REFLOW, "--from-steps", 8), "--from-steps is an option of --method progressive"),
    "pairs": (("--pairs", 7), "--pairs is an option of --method reflow"),
    "two teachers": (("--teacher", "x"), "--teacher is the first argument"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSENT)
def test_a_student_has_no_option_that_its_teacher_decides(
    case: str, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = ABSENT[case]
    assert call("distill", teacher, "--out", tmp_path / "x", *options, "--device", "cpu") == 2
    assert capsys.readouterr().err.startswith(f"pushforward: {message}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_distilled_is_refused_before_anything_is_written(
    case: str,
    teacher: Path,
    students: dict[str, Path],
    others: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    who, options, message = REFUSED[case]
    folder = {"teacher": teacher, **students, **others}[who]
    assert call("distill", folder, "--out", tmp_path / "x", *options, "--device", "cpu") == 1
    said = capsys.readouterr().err
    assert said.startswith("pushforward: ")
    assert message in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("method", ["meanflow", "progressive", "reflow"])
@pytest.mark.parametrize("what", ["a run", "other files"])
def test_a_folder_that_is_taken_is_left_as_it_is(
    method: str,
    what: str,
    teacher: Path,
    students: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = students["consistency"]
    if what == "other files":
        out = tmp_path
        (out / "mine.txt").write_text("mine")
    before = tree(out)
    assert call("distill", teacher, "--method", method, "--out", out, *QUICK) == 1
    said = capsys.readouterr().err
    assert ("already holds a run" in said) == (what == "a run")
    assert "choose another --out" in said
    assert tree(out) == before


def test_a_resumed_run_goes_by_its_own_options(
    teacher: Path,
    students: dict[str, Path],
    others: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = students["meanflow"]
    before = tree(out)
    for folder, options, message in (
        (teacher, ("--lr", 9), "--lr 9.0 (the run has "),
        (teacher, ("--method", "shortcut"), "--method shortcut (the run has meanflow)"),
        (others["e"], (), f"--teacher {others['e']} (the run has {teacher})"),
        (teacher, ("--method", "reflow"), "holds a run of the recipe distill, not reflow"),
    ):
        line = ("distill", folder, "--out", out, "--resume", "--device", "cpu")
        assert call(*line, *options) == 1
        assert message in capsys.readouterr().err
        assert tree(out) == before


# A command on a flow map or its teacher, and what is said.
ASKED = {
    "guidance without classes": ("meanflow", "sample", ("--guidance", 2), "that it was trained with (scale 1)"),
    "guidance": ("guided", "sample", ("--guidance", 3), "that it was trained with (scale 2.0), and no other"),
    "guidance of a plain one": ("plain", "evaluate", ("--guidance", 3), "(scale 1), and no other"),
    "a classifier": ("guided", "sample", ("--classifier", "x"), "guides a velocity, and this model is a flow map"),
    "a solver": ("shortcut", "sample", ("--solver", "heun"), "Heun follows a velocity"),
    "an adaptive solver": ("consistency", "sample", ("--solver", "dopri5"), "follows a velocity"),
    "a solver to judge by": ("meanflow", "evaluate", ("--solver", "ab2"), "follows a velocity"),
    "to compare solvers": ("meanflow", "evaluate", ("--compare",), "pushforward evaluate TEACHER --students RUN"),
    "a sampler": ("progressive", "tune", ("--nfe", 5), "fitted to a velocity, and this model is a flow map"),
    "a likelihood": ("meanflow", "likelihood", (), "and this model is a flow map: ask its teacher"),
    "a straight flow": ("meanflow", "reflow", (), "holds a FlowMapModel; flows of a Model are made straight"),
    "noise of a velocity": ("teacher", "sample", ("--renoise", 0.5), "renoise is for flow maps"),
    "noise to judge by": ("reflow", "evaluate", ("--renoise", 0), "renoise is for flow maps"),
    "no noise on the way": ("consistency", "sample", ("--renoise", 0, "--nfe", 2), "the way to the data alone"),
}  # fmt: skip


@pytest.mark.parametrize("case", ASKED)
def test_what_a_model_has_not_is_not_asked_of_it(
    case: str,
    teacher: Path,
    students: dict[str, Path],
    digits: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    who, command, options, message = ASKED[case]
    folder = {**digits, **students, "teacher": teacher}[who]
    before = tree(folder)
    assert call(command, folder, *options, "--device", "cpu") == 1
    assert message in capsys.readouterr().err
    assert tree(folder) == before


def test_only_students_of_a_model_of_the_same_data_are_judged_beside_it(
    teacher: Path,
    students: dict[str, Path],
    digits: dict[str, Path],
    others: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = ("--students", students["meanflow"])
    before = (tree(teacher), tree(students["meanflow"]))
    for folder, options, message in (
        (teacher, ("--students", digits["plain"]), f"{digits['plain']} draws samples of another kind"),
        (teacher, (*mine, others["e"]), f"{others['e']} draws samples of another kind"),
        (teacher, ("--students", others["c"]), "holds a classifier"),
        (students["meanflow"], mine, "holds a flow map: give the run of its teacher first"),
        (teacher, (*mine, "--guidance", 2), "needs a model with classes"),
        (teacher, (*mine, "--nfes", 0), "--nfes must be one or more positive numbers"),
    ):  # fmt: skip
        assert call("evaluate", folder, "--num", 20, "--device", "cpu", *options) == 1, options
        assert message in capsys.readouterr().err, options
        assert (tree(teacher), tree(students["meanflow"])) == before


@pytest.mark.parametrize("objective", [*ANY, *DATA])
def test_flow_maps_of_digits_train_from_scratch_and_go_on_to_the_same_bits(objective, tmp_path):
    line = ("train", "digits", "--objective", objective, "--width", 8, *QUICK, "--out")
    assert call(*line, tmp_path / "whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        Stop("cut", 3).at(patch)
        assert call(*line, tmp_path / "cut") == 143
    assert call("train", "digits", "--resume", "--device", "cpu", "--out", tmp_path / "cut") == 0
    assert same_bits(tmp_path / "cut", tmp_path / "whole")
    flow = pf.load(tmp_path / "whole")
    assert (flow.jumps, flow.classes) == (JUMPS[objective], 10)
    assert call("sample", tmp_path / "whole", "--nfe", 2, "--num", 10, "--device", "cpu") == 0


def test_guidance_of_digits_from_scratch_is_recorded_and_needs_dropped_labels(tmp_path):
    made = Digits.of(objective="meanflow", guidance=2, width=8, device="cpu").build()
    assert made.model.sampling.guidance == 2
    assert made.objective.guidance == 2
    with pytest.raises(pf.InputError, match="a share of them dropped"):
        Digits.of(objective="meanflow", guidance=2, condition_dropout=0, device="cpu").build()
    assert (
        Digits.of(objective="meanflow", guidance=0, width=8, device="cpu")
        .build()
        .objective.guidance
        == 0
    )


@pytest.mark.parametrize("nfes", [(100,), (1,)])
def test_students_at_the_teachers_own_number_of_calls(nfes, teacher, students):
    assert call(
        "evaluate",
        teacher,
        "--students",
        students["meanflow"],
        "--nfes",
        *nfes,
        "--num",
        20,
        "--device",
        "cpu",
    ) in (0, 1)


def test_a_figure_of_nothing():  # pictures of more than 4096 values without classes: judge_dataset finds no figures
    with pytest.raises(pf.Error):
        few_steps(Quality({"teacher": {1: {}, 100: {}}, "s": {1: {}}}, 100))


def test_transport_of_a_flow_map(students):
    assert call(
        "evaluate", students["meanflow"], "--transport", "--num", 20, "--device", "cpu"
    ) in (0, 1)


def test_nfe_beside_students_is_refused(teacher, students):
    assert (
        call(
            "evaluate",
            teacher,
            "--students",
            students["meanflow"],
            "--nfes",
            1,
            "--nfe",
            7,
            "--num",
            20,
            "--device",
            "cpu",
        )
        == 2
    )


def test_a_student_whose_folder_is_called_teacher(teacher, students, tmp_path, monkeypatch):
    (tmp_path / "teacher").symlink_to(students["meanflow"])
    monkeypatch.chdir(tmp_path)
    assert (
        call(
            "evaluate",
            teacher,
            "--students",
            "teacher",
            "--nfes",
            1,
            "--num",
            20,
            "--device",
            "cpu",
        )
        == 0
    )


def test_what_a_stopped_progressive_run_advises_goes_on_with_it(
    teacher, students, tmp_path, capsys
):
    line = ("distill", teacher, "--method", "progressive", "--from-steps", 4, "--out", tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        Stop("0002", 3).at(patch)
        assert call(*line, *QUICK) == 143
    hint = (
        capsys.readouterr()
        .out.splitlines()[-1]
        .removeprefix("stopped; continue with: pushforward ")
    )
    print("HINT", hint)
    monkey = hint.split()
    assert call(*monkey, *QUICK) == 0
    assert same_bits(tmp_path, students["progressive"])


def test_other_stages_on_resume_are_refused_before_one_is_trained(teacher, tmp_path):
    line = ("distill", teacher, "--method", "progressive", "--out", tmp_path / "s", *QUICK)
    assert call(*line, "--from-steps", 2) == 0
    before = tree(tmp_path / "s")
    assert call(*line, "--from-steps", 4, "--resume") == 1
    assert tree(tmp_path / "s") == before


@pytest.mark.parametrize("method", ["meanflow", "reflow"])
def test_nothing_to_resume_is_an_error_for_every_method(method, teacher, tmp_path):
    assert (
        call("distill", teacher, "--method", method, "--out", tmp_path / "x", "--resume", *QUICK)
        == 1
    )


def test_a_reflow_student_says_how_it_was_made(digits, tmp_path):
    assert (
        call(
            "distill",
            digits["teacher"],
            "--method",
            "reflow",
            "--pairs",
            20,
            "--guidance",
            2,
            "--out",
            tmp_path / "x",
            *QUICK,
        )
        == 0
    )
    made = pf.load(tmp_path / "x")
    assert (made.provenance.method, made.sampling.guidance) == ("reflow", 2)


def test_guidance_zero_is_recorded(digits):
    built = Distill.of(teacher=digits["teacher"], guidance=0, device="cpu", fresh=True).build()
    assert built.model.sampling.guidance == 0


def test_any_jump_of_a_network_without_a_second_time_is_refused(tmp_path):
    flow = pf.FlowMapModel(pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT(), shape=(2,)), "data")
    pf.save(flow, tmp_path)
    with pytest.raises(pf.InputError, match="two times"):
        pf.FlowMapModel(flow.model, "any")


def test_options_that_nothing_takes_are_refused(teacher, tmp_path):
    for option in ("--regularisation", "--phase", "--simulation-steps"):
        assert call("distill", teacher, "--out", tmp_path / option, option, 2, *QUICK) == 2, option
