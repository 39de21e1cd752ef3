"""`pushforward likelihood`, and `sample` guided by a classifier: what they write, and what they cannot do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.core.spec import DataSpec
from pushforward.data import load_digits
from pushforward.evaluate.metrics.agreement import everything
from pushforward.evaluate.metrics.likelihood import Settings, judge
from pushforward.laws import EightGaussians
from pushforward.saving.folder import load_classifier
from pushforward.solvers import DormandPrince

TINY = "--device cpu --width 8 --batch-size 8 --steps 2 --sample-every 0 --out"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny runs: points, digits, digits on DDPM's path, and a classifier of them."""
    place = tmp_path_factory.mktemp("place")
    for name, options in {
        "plane": "toy2d --depth 1",
        "digits": "digits",
        "ddpm": "digits --path ddpm-linear --prediction noise",
        "classifier": "digits-classifier",
    }.items():
        assert main(["train", *options.split(), *TINY.split(), str(place / name)]) == 0
    np.save(place / "vectors.npy", np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32))
    np.save(place / "smooth.npy", np.random.default_rng(0).random((6, 1, 8, 8), np.float32))
    return place


def call(line: str) -> int:
    return main([*line.split(), "--device", "cpu"])


def report(run: Path) -> dict:
    return json.loads((run / "likelihood.json").read_text())


def test_points_are_in_nats_and_compared_with_their_law(place: Path) -> None:
    assert call(f"likelihood {place / 'plane'} --num 20 --seed 3 --tolerance 1e-5") == 0
    got = report(place / "plane")
    model = pf.load(place / "plane")
    x = EightGaussians().sample(20, seed=4).float()
    each = -pf.log_prob(model, x, solver=DormandPrince(1e-5, 1e-5))
    assert got["figures"]["ode"] == pytest.approx(float(each.mean()), rel=1e-4)
    error = float(each.std()) / math.sqrt(20)
    assert got["figures"]["ode_error"] == pytest.approx(error, rel=1e-3)
    law = -float(EightGaussians().log_prob(x.double()).mean())
    assert got["figures"]["law"] == pytest.approx(law)
    assert got["settings"]["probes"] is None
    assert got["settings"]["bin_width"] is None
    assert got["settings"]["model"] == model.provenance.sha256


def test_digits_are_in_bits_per_dimension_with_both_figures(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(f"likelihood {place / 'ddpm'} --num 6 --bound --bound-steps 20 --tolerance 1e-2") == 0
    )
    assert "bits per dimension" in capsys.readouterr().out
    got = report(place / "ddpm")
    figures, settings = got["figures"], got["settings"]
    assert settings["bin_width"] == pytest.approx(1 / 8)
    assert settings["dequantisation"] == "uniform"
    assert settings["conditional"]
    assert settings["probes"] == 4
    # An untrained network of white noise: the data are worth about as much as under a standard normal law.
    x, label = everything(load_digits().halves(seed=0)[1], 6)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x).mean()
    assert 0 < figures["ode"] < 3 * -(float(normal) + math.log(1 / 8)) / math.log(2)
    parts = figures["prior"] + figures["steps"] + figures["decoder"]
    assert figures["bound"] == pytest.approx(parts, rel=1e-6)
    bound = pf.variational_bound(
        pf.load(place / "ddpm"), x, grid=pf.times.uniform(20), bin_width=1 / 8, label=label
    )
    assert figures["bound"] == pytest.approx(float(bound.bits(64).mean()), rel=1e-5)
    assert figures["bound_error"] == pytest.approx(float(bound.bits(64).std()) / 6**0.5, rel=1e-4)


def test_other_data_and_fewer_terms(place: Path) -> None:
    run = place / "plane"
    options = "--bound --bound-steps 8 --bound-terms 3 --variance beta --probes 2 --tolerance 1e-3"
    assert call(f"likelihood {run} --data {place / 'vectors.npy'} {options}") == 0
    got = report(run)
    x = torch.from_numpy(np.load(place / "vectors.npy"))
    bound = pf.variational_bound(
        pf.load(run), x, grid=pf.times.uniform(8), bin_width=None, terms=3, variance="beta"
    )
    assert got["figures"]["bound"] == pytest.approx(float(bound.total.mean()), rel=1e-5)
    assert "law" not in got["figures"]
    assert got["settings"]["num"] == 6


def test_a_model_that_is_exact_takes_the_entropy_of_its_law() -> None:
    class Exact(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = pf.GaussianMixture(torch.zeros(1, 1, 2, 2), 0.05).field(pf.CondOT())
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t):
            return self.field(x, t)

    model = pf.Model(
        Exact(), pf.CondOT(), spec=DataSpec((1, 2, 2), value_range=(-1.0, 1.0), bin_width=1 / 50)
    )
    x = (model.net.field.law.sample(200, seed=1).clamp(-1, 1) * 50).round().float() / 50
    figures, _ = judge(model, x, None, Settings(bound=True, bound_steps=60, variance="beta"))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.05)
    truth = (entropy - math.log(1 / 50)) / math.log(2)
    assert abs(figures["ode"] - truth) < 4.5 * figures["ode_error"]
    # Straight steps down to sigma = 1/60 blur the last bin of 1/50 somewhat: above, by less than half a bit.
    assert -4.5 * figures["bound_error"] < figures["bound"] - truth < 0.5
    assert figures["ode_error"] < 0.1


def test_samples_are_guided_by_a_classifier(place: Path) -> None:
    options = "--label 3 --num 4 --nfe 6"
    run, classifier = place / "digits", place / "classifier"
    line = (
        f"sample {run} {options} --classifier {classifier} --classifier-scale 2 --out {place / 'a'}"
    )
    assert call(line) == 0
    got = np.load(place / "a" / "samples.npz")
    model, guide = pf.load(run), load_classifier(classifier)
    guided = pf.guidance.ClassifierGuidance(model, guide, 2.0)
    truth = pf.generate(guided, 4, label=3, nfe=6)
    assert np.array_equal(got["samples"], truth.numpy())
    settings = json.loads(str(got["settings"]))
    assert settings["classifier"] == guide.provenance.sha256
    assert settings["classifier_scale"] == 2.0


ERRORS = {
    "likelihood nowhere": "there is no folder nowhere; models that come with pushforward: scenes",
    "likelihood classifier": "classifier holds a classifier, which guides a model and draws nothing by itself",
    "sample classifier": "classifier holds a classifier, which guides a model and draws nothing by itself",
    "sample digits --classifier digits": "digits holds a model that draws samples, and no classifier",
    "sample digits --classifier-scale 2": "--classifier-scale needs --classifier",
    "sample digits --guidance 2 --classifier classifier": "give either --guidance or --classifier, not both",
    "sample plane --classifier classifier": "the classifier takes samples (1, 8, 8), the model draws (2,)",
    "likelihood digits --data vectors.npy": "vectors.npy holds samples (2,); the model's are (1, 8, 8)",
    "likelihood plane --data somewhere": "--data must be a .npy or .npz file of samples (2,)",
    "likelihood digits --data nowhere": "there is no folder nowhere",
    "likelihood plane --bound --variance learned --tolerance 0.1 --num 4":
    "MLP gives no variance: that takes a network with two outputs for each channel, and a Model with "
    "outputs=('prediction', 'variance')",
}  # fmt: skip


@pytest.mark.parametrize("line", ERRORS)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    place: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    before = sorted(p for p in place.rglob("*"))
    capsys.readouterr()
    assert call(line) == 1
    said = capsys.readouterr()
    assert said.err == f"pushforward: {ERRORS[line]}\n"
    assert len(said.out.splitlines()) == 1
    assert sorted(p for p in place.rglob("*")) == before


def test_images_that_are_not_square_come_from_folders_archives_and_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 10, 3), dtype=np.uint8)
    (tmp_path / "tall").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "tall" / f"{i}.png")
    np.save(tmp_path / "tall.npy", pixels)
    run = tmp_path / "run"
    options = "--network unet-XS --width 8 --multipliers 1 --blocks 1 --steps 1 --batch-size 4 --device cpu"
    call(f"train images --data {tmp_path / 'tall.npy'} {options} --sample-every 0 --out {run}")
    assert pf.load(run).shape == (3, 6, 10)
    main(f"pack {tmp_path / 'tall'} --out {tmp_path / 'packed'}".split())
    found = []
    for data in ("tall", "packed", "packed/shard-00000.tar", "tall.npy"):
        line = f"likelihood {run} --data {tmp_path / data} --num 8 --probes 1 --tolerance 0.1"
        assert call(line) == 0
        found.append(json.loads((run / "likelihood.json").read_text())["figures"])
    assert found[0] == found[1] == found[2]
    # The same images; dequantised by the noise of other numbers if they are in another order.
    assert found[3]["ode"] == pytest.approx(found[0]["ode"], rel=0.05)
