"""`pushforward tune`: what it fits is used, kept with the model, and never in the way of its weights or its run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.runtime.files import locked, sha256
from pushforward.sampling.tune import Tuned
from pushforward.solvers import Learned
from pushforward.solvers.learned import Weights, universal

TINY = "--device cpu --width 8 --batch-size 16 --sample-every 0"


def call(line: str) -> int:
    return main(line.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    plane = f"toy2d --depth 1 --steps 60 --checkpoint-every 40 {TINY} --out {place / 'plane'}"
    assert call(f"train {plane}") == 0
    assert call(f"train digits --steps 2 {TINY} --out {place / 'digits'}") == 0
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "place")


def stub(monkeypatch: pytest.MonkeyPatch, before: float = 0.2, after: float = 0.1, then=None):
    """A fit at once, to weights that are not the universal ones."""

    def tune(model, nfe, *, guidance=None, **options):
        if then is not None:
            then()
        weights = replace(universal(), constant=universal().constant + 0.1 * nfe)
        return Tuned(weights, nfe, guidance, before, after, 1e-6, 1.0)

    monkeypatch.setattr("pushforward.sampling.tune.tune", tune)


def samplers(run: Path) -> list[dict]:
    return list(pf.load(run).sampling.fitted)


def test_a_fitted_sampler_is_kept_used_at_its_calls_and_nearer_to_the_flow(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "plane"
    weights = (run / "model.safetensors").read_bytes()
    old, before = pf.load(run), json.loads((run / "model.json").read_text())
    fit = "--num 64 --held-out 256 --iterations 60 --batch-size 32 --device cpu"
    assert call(f"tune {run} --nfe 3 {fit}") == 0
    said = capsys.readouterr().out
    assert "yes" in said
    assert (run / "model.safetensors").read_bytes() == weights
    model = pf.load(run)
    assert replace(model.sampling, fitted=()) == old.sampling
    (entry,) = model.sampling.fitted
    after = json.loads((run / "model.json").read_text())
    assert after["parts"]["sampling"]["config"].pop("fitted") == [entry]
    assert before["parts"]["sampling"]["config"].pop("fitted") == []
    assert {**after, "check": ""} == {**before, "check": ""}
    assert (entry["nfe"], entry["guidance"]) == (3, None)
    assert entry["after"] < entry["before"]
    assert f"{entry['after']:.2e}" in said
    assert f"{entry['before']:.2e}" in said

    assert call(f"sample {run} --nfe 3 --num 300 --seed 9 --out {place}") == 0
    assert "the sampler fitted to this model, 3 calls" in capsys.readouterr().out
    arrays = np.load(place / "samples.npz")
    settings = json.loads(str(arrays["settings"]))
    assert (settings["solver"], settings["grid"]) == ("tuned", "tuned")
    assert len(settings["sampler"]) == 64
    fitted = torch.from_numpy(arrays["samples"])
    own = Learned(Weights.from_json(entry["weights"]))
    assert torch.equal(fitted, pf.generate(model, 300, solver=own, nfe=3, seed=9))
    assert torch.equal(fitted, pf.generate(model, 300, nfe=3, seed=9))

    assert (
        call(f"sample {run} --nfe 3 --num 300 --seed 9 --solver learned --out {place} --overwrite")
        == 0
    )
    learned = torch.from_numpy(np.load(place / "samples.npz")["samples"])
    assert torch.equal(learned, pf.generate(old, 300, nfe=3, seed=9))
    truth = pf.generate(
        old, 300, solver=pf.solvers.RK4(), grid=pf.times.straight(200, old.path), seed=9
    )
    assert (fitted - truth).square().mean() < (learned - truth).square().mean()

    assert call(f"evaluate {run} --nfe 3 --num 40") == 0
    assert "the sampler fitted to this model, 3 calls" in capsys.readouterr().out
    report = json.loads((run / "evaluation.json").read_text())
    assert report["settings"]["sampler"] == settings["sampler"]
    assert call(f"evaluate {run} --compare --solvers auto --nfes 3 5 --num 40") == 0
    errors = json.loads((run / "comparison.json").read_text())["errors"]
    assert (set(errors["tuned"]), set(errors["learned"])) == ({"3"}, {"3", "5"})
    assert errors["tuned"]["3"] < errors["learned"]["3"]
    assert call(f"evaluate {run} --compare --solvers auto --num 4") == 0
    assert "3" in json.loads((run / "comparison.json").read_text())["errors"]["learned"]


def test_samplers_add_up_by_calls_and_guidance(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch)
    run = place / "digits"
    assert call(f"tune {run} --nfe 6 4 --nfe 5") == 0
    assert call(f"tune {run} --nfe 6 --guidance 2") == 0
    assert call(f"tune {run} --nfe 6 --guidance 2") == 0
    found = sorted((e["nfe"], e["guidance"] or 1.0) for e in samplers(run))
    assert found == [(4, 1.0), (5, 1.0), (6, 1.0), (6, 2.0)]
    capsys.readouterr()
    assert call(f"info {run}") == 0
    said = capsys.readouterr().out
    assert "4 calls: error 0.1, learned 0.2" in said
    assert "6 calls under guidance 2: error 0.1, learned 0.2" in said
    for options, solver in {
        "--nfe 6": "tuned", "--nfe 6 --guidance 1": "tuned", "--nfe 6 --guidance 2": "tuned",
        "--nfe 6 --guidance 3": "learned", "--nfe 7": "learned", "--nfe 4 --guidance 2": "learned",
        "--nfe 6 --grid straight": "abm3", "--nfe 2": "ab2",
    }.items():  # fmt: skip
        assert call(f"sample {run} --num 1 {options} --out {place} --overwrite") == 0
        settings = json.loads(str(np.load(place / "samples.npz")["settings"]))
        assert settings["solver"] == solver, options
        assert ("sampler" in settings) == (solver == "tuned")


@pytest.mark.parametrize("after", [0.2, 0.3])
def test_what_is_not_better_is_not_kept(
    place: Path,
    after: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub(monkeypatch, before=0.2, after=after)
    before = (place / "plane" / "model.json").read_bytes()
    assert call(f"tune {place / 'plane'} --nfe 6") == 0
    assert "no, it is not better" in capsys.readouterr().out
    assert (place / "plane" / "model.json").read_bytes() == before


def test_weights_that_change_in_the_meantime_get_no_sampler(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = place / "plane"

    def train_on() -> None:
        model = pf.load(run)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        pf.save(model, run)

    stub(monkeypatch, then=train_on)
    assert call(f"tune {run} --nfe 6") == 1
    want = f"the weights in {run} changed while a sampler was fitted to them: fit it again"
    assert capsys.readouterr().err == f"pushforward: {want}\n"
    assert samplers(run) == []


def test_a_folder_in_which_a_run_is_training_is_left_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch)
    run = place / "plane"
    with locked(run):
        assert call(f"tune {run} --nfe 6") == 1
    assert capsys.readouterr().err == f"pushforward: another process is training in {run}\n"
    assert samplers(run) == []


def test_a_write_that_fails_leaves_the_folder_as_it_was(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch)
    run = place / "plane"
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pushforward.runtime.files.os.replace", fail)
        assert call(f"tune {run} --nfe 6") == 1
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    assert call(f"tune {run} --nfe 6") == 0
    assert len(samplers(run)) == 1


def test_training_on_goes_as_if_nothing_had_been_fitted_and_drops_the_sampler(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch)
    run = place / "plane"
    want, description = sha256(run / "model.safetensors"), (run / "model.json").read_bytes()
    # A run that was stopped at step 40, and tuned.
    shutil.rmtree(run / "checkpoints" / "00000060")
    assert call(f"tune {run} --nfe 6") == 0
    assert len(samplers(run)) == 1
    capsys.readouterr()
    assert call(f"train toy2d --resume --device cpu --out {run}") == 0
    assert "fitted to the earlier weights are gone" in capsys.readouterr().out
    assert sha256(run / "model.safetensors") == want
    assert (run / "model.json").read_bytes() == description
    assert call(f"train toy2d --resume --device cpu --out {run}") == 0
    assert "gone" not in capsys.readouterr().out
