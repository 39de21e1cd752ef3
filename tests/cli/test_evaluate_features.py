"""The recipe classifier, and `evaluate` with --features, --classifier and --neighbours, from data to files."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.data import load_array, load_digits
from pushforward.data.shares import labels_in_shares
from pushforward.evaluate.features import ClassifierFeatures
from pushforward.evaluate.metrics.agreement import NetworkClassifier, everything, trained_classifier
from pushforward.evaluate.metrics.coverage import coverage
from pushforward.evaluate.metrics.frechet import frechet_distance
from pushforward.evaluate.metrics.kid import kernel_distance
from pushforward.evaluate.metrics.neighbours import memorisation
from pushforward.evaluate.report import judge_dataset, judge_features
from pushforward.recipes import Classifier
from pushforward.saving.folder import load_classifier

QUICK = ["--device", "cpu", "--sample-every", "0", "--checkpoint-every", "1000"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a file, a classifier of them, and a model of them that has hardly been trained."""
    place = tmp_path_factory.mktemp("features")
    x, y = everything(load_digits(), 10_000)
    grey = ((x[:, 0] + 1) * 127.5).round().byte().numpy()
    np.savez(place / "digits.npz", images=grey, labels=y.numpy())
    data = ["--data", str(place / "digits.npz")]
    sizes = ["--width", "8", "--multipliers", "1", "2", "--batch-size", "64", "--held-out", "0.4"]
    quick = ["--steps", "200", "--ema", "0.9", "--warmup", "20", "--lr", "5e-3"]
    out = ["--out", str(place / "classifier")]
    assert main(["train", "classifier", *data, *sizes, *QUICK, *quick, *out]) == 0
    sizes = ["--width", "8", "--multipliers", "1", "--batch-size", "8", "--held-out", "0.4"]
    out = ["--out", str(place / "run")]
    assert main(["train", "images", *data, *sizes, *QUICK, "--steps", "2", *out]) == 0
    tiny = ["--width", "8", "--depth", "1", "--batch-size", "8", "--steps", "2"]
    assert main(["train", "toy2d", *tiny, *QUICK, "--out", str(place / "plane")]) == 0
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pushforward" / "features"


def parts(place: Path):
    return load_array(place / "digits.npz").split(0.6, seed=0)


def test_a_classifier_learns_clean_images_and_evaluate_says_how_well(place: Path, capsys) -> None:
    assert main(["evaluate", str(place / "classifier"), "--device", "cpu"]) == 0
    got = json.loads((place / "classifier" / "evaluation.json").read_text())
    model = load_classifier(place / "classifier")
    x, y = everything(parts(place)[1], 10_000)
    share = float((model(x, 1.0).argmax(1) == y).double().mean())
    assert got["figures"] == {"accuracy at t = 1": share}
    assert share > 0.9
    assert got["settings"]["num"] == len(x) == 719
    assert "719 held-out samples\n" in capsys.readouterr().out
    assert model.spec.fingerprint == parts(place)[0].fingerprint()
    assert model.clean
    assert (model.classes, model.shape) == (10, (1, 8, 8))


def test_a_clean_classifier_is_trained_without_noise(place: Path) -> None:
    run = Classifier.of(data=place / "digits.npz", width=8, batch_size=16, device="cpu").build()
    batch, noise = run.stream.at(0), pf.Noise.batch(16)
    run.model.eval()
    got = run.objective(batch, noise)["loss"]
    want = torch.nn.functional.cross_entropy(
        run.model(batch.x1, 1.0), batch.cond["label"], reduction="none"
    )
    torch.testing.assert_close(got, want)
    seen = []
    run.model.net.register_forward_hook(lambda net, args, out: seen.append(args))
    run.objective(batch, noise.at(7))
    assert torch.equal(seen[0][0], batch.x1)
    assert (seen[0][1] == 1).all()


def test_a_clean_classifier_is_for_judging_and_does_not_guide(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, out = str(place / "run"), ["--out", str(tmp_path / "out"), "--device", "cpu"]
    judge = str(place / "classifier")
    assert main(["sample", run, "--classifier", judge, "--label", "1", *out]) == 1
    error = capsys.readouterr().err
    assert f"{judge} holds a classifier of clean images" in error
    assert "digits-classifier" in error
    assert not (tmp_path / "out").exists()
    data = ["--data", str(place / "digits.npz"), "--width", "8", "--multipliers", "1"]
    trained = ["--out", str(tmp_path / "judge"), "--steps", "1", "--batch-size", "8"]
    assert main(["train", "classifier", *data, *trained, *QUICK]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"pushforward evaluate RUN --features {tmp_path / 'judge'}" in said
    assert "--classifier" not in said


def test_fashion_is_trained_on_its_own_two_parts(place: Path, tmp_path: Path, monkeypatch) -> None:
    train, held_out = parts(place)
    asked = []

    def load(path, download):
        asked.append((path, download))
        return train, held_out

    monkeypatch.setitem(
        sys.modules,
        "pushforward.data.fashion",
        SimpleNamespace(load_fashion=load),
    )
    run = Classifier.of(data=Path("fashion"), width=8, device="cpu").build()
    assert run.stream.data is train
    assert run.held_out is held_out
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"")
    Classifier.of(data=tmp_path, width=8, download=True, device="cpu").build()
    assert asked == [(None, False), (tmp_path, True)]


def test_figures_by_features_are_those_of_the_samples_and_of_what_was_held_out(
    place: Path, cache: Path, capsys
) -> None:
    run = place / "run"
    line = ["evaluate", str(run), "--device", "cpu", "--num", "300", "--nfe", "4", "--seed", "5"]
    asked = ["--features", str(place / "classifier"), "--classifier", str(place / "classifier")]
    assert main([*line, *asked, "--neighbours"]) == 0
    got = json.loads((run / "evaluation.json").read_text())
    model, judge = pf.load(run), load_classifier(place / "classifier")
    features = ClassifierFeatures(judge)
    train, held_out = parts(place)
    label = labels_in_shares(300, train.class_counts or (), 5)
    samples = pf.generate(model, 300, nfe=4, seed=5, label=label)
    real, seen = everything(held_out, 10_000)[0], everything(train, 10_000)[0]
    fake_f, real_f, seen_f = (features(x, (-1.0, 1.0)) for x in (samples, real, seen))
    kid = kernel_distance(fake_f, real_f, seed=5)
    some = held_out.sample(300)
    cover = coverage(features(some[torch.arange(300)].x1, (-1.0, 1.0)), fake_f, 5)
    pixels = memorisation(samples.flatten(1), real.flatten(1), seen.flatten(1))
    inner = memorisation(fake_f, real_f, seen_f)
    want = {
        "classifier_accuracy": float((judge(real, 1.0).argmax(1) == everything(held_out, 10_000)[1]).double().mean()),
        "agreement": statistics.mean(
            float((judge(samples[label == c], 1.0).argmax(1) == c).double().mean()) for c in label.unique().tolist()
        ),
        "frechet": frechet_distance(samples, real),
        "frechet_train": frechet_distance(seen, real),
        "frechet_ratio": frechet_distance(samples, real) / frechet_distance(seen, real),
        "nearest_ratio_pixels": pixels.ratio,
        "copied_pixels": pixels.copied,
        "frechet_classifier": frechet_distance(fake_f, real_f),
        "frechet_train_classifier": frechet_distance(seen_f, real_f),
        "kid_classifier": kid.value,
        "kid_classifier_error": kid.standard_error,
        "precision_classifier": cover.precision,
        "recall_classifier": cover.recall,
        "density_classifier": cover.density,
        "coverage_classifier": cover.coverage,
        "nearest_ratio_classifier": inner.ratio,
        "copied_classifier": inner.copied,
    }  # fmt: skip
    assert list(got["figures"]) == list(want)
    assert got["figures"] == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert got["settings"]["features"] == {"name": "classifier", "key": features.key}
    assert got["settings"]["classifier"] == judge.provenance.sha256
    out = capsys.readouterr().out
    assert "coverage_classifier" in out
    picture = Image.open(run / "neighbours.png")
    assert json.loads(picture.text["pushforward"])["num"] == 300
    assert str(run / "neighbours.png") in out
    assert len(list(cache.glob("*.safetensors"))) == 2
    # The same from the cache, and from Python.
    assert main([*line, *asked, "--neighbours"]) == 0
    assert json.loads((run / "evaluation.json").read_text()) == got
    figures, same, _ = judge_dataset(
        model,
        train,
        held_out,
        300,
        features=features,
        classifier=trained_classifier(judge, held_out),
        memorisation=True,
        nfe=4,
        seed=5,
    )
    assert figures == pytest.approx(got["figures"], rel=1e-4, abs=1e-6)
    assert torch.equal(same, samples)


def test_without_options_figures_are_what_they_were(place: Path) -> None:
    run = place / "run"
    assert main(["evaluate", str(run), "--device", "cpu", "--num", "40", "--nfe", "2"]) == 0
    got = json.loads((run / "evaluation.json").read_text())
    assert list(got["figures"]) == [
        "classifier_accuracy", "agreement", "frechet", "frechet_train", "frechet_ratio",
    ]  # fmt: skip
    assert "features" not in got["settings"]


def test_real_images_are_judged_real(place: Path) -> None:
    """Half of what was held out against the other: perfect samples."""
    train, held_out = parts(place)
    features = ClassifierFeatures(load_classifier(place / "classifier"))
    halves = held_out.halves(seed=3)
    samples = everything(halves[0], 10_000)[0]
    found = judge_features(samples, train, halves[1], features, memorisation=True)
    figures = found.figures
    assert figures["kid_classifier"] == pytest.approx(
        0, abs=4 * figures["kid_classifier_error"] + 0.05
    )
    assert figures["density_classifier"] == pytest.approx(1, abs=0.15)
    assert figures["coverage_classifier"] == pytest.approx(0.97, abs=0.03)
    mirrored = judge_features(samples.flip(3), train, halves[1], features).figures
    for name in ("frechet_classifier", "kid_classifier"):
        assert mirrored[name] > 5 * abs(figures[name])
    assert mirrored["coverage_classifier"] < 0.8
    assert figures["nearest_ratio_classifier"] == pytest.approx(1, abs=0.1)
    assert figures["copied_pixels"] < 0.05
    assert found.space == "classifier features"
    copies = judge_features(everything(train, 300)[0], train, halves[1], None, memorisation=True)
    assert copies.figures == {"nearest_ratio_pixels": 0, "copied_pixels": 1}


def test_a_network_is_a_judge_of_classes_with_its_accuracy_on_what_was_held_out(place: Path) -> None:  # fmt: skip
    held_out = parts(place)[1]
    judge = trained_classifier(load_classifier(place / "classifier"), held_out, 500)
    assert isinstance(judge, NetworkClassifier)
    x, y = everything(held_out, 500)
    assert judge.agreement(x, y) == judge.accuracy
    assert judge.agreement(x, (y + 1) % 10) < 0.1
    few = pf.data.Dataset.from_arrays(x.numpy(), (y % 3).numpy())
    assert trained_classifier(judge.model, few).accuracy < 0.6
    model = judge.model
    model.spec = model.spec.with_(class_names=tuple("abcdefghij"))
    named = pf.data.Dataset.from_arrays(x.numpy(), y.numpy(), class_names=list("0123456789"))
    with pytest.raises(pf.Error, match="does not know"):
        trained_classifier(model, named)


# Command lines, from the folder of all, and what they say.
ERRORS = {
    "evaluate plane --neighbours": "--neighbours compares with data kept apart, and plane has none",
    "evaluate plane --features pixels": "--features compares with data kept apart, and plane has none",
    "evaluate run --features nothing":
    "nothing is neither pixels, efficientnet or inception, nor the run folder of a classifier",
    "evaluate run --features run": "run holds a model that draws samples, and no classifier",
    "evaluate run --features inception":
    "features of inception need the network's weights, which cannot be distributed here: give the file "
    "known as pt_inception-2015-12-05-6726825d.pth, or the same as .safetensors",
    "evaluate run --features inception --weights nothing.pth": "there is no file nothing.pth",
    "evaluate run --weights nothing.pth": "--weights needs --features inception",
    "evaluate run --classifier run": "run holds a model that draws samples, and no classifier",
    "train classifier --data bare.npy --out new":
    "the data have no two classes to tell apart: give a folder with a subfolder for each class, or a .npz file with "
    "labels",
}  # fmt: skip
# Options that make no sense do not exist.
MISUSE = {
    "evaluate run --compare --features pixels": "there is no option --features",
    "evaluate classifier --neighbours": "there is no option --neighbours",
    "train classifier --out new": "--data is missing: fashion for Fashion-MNIST, or the folder of its files; ",
    "train classifier --data digits.npz --prediction noise --out new": "there is no option --prediction",
    "train classifier --data digits.npz --path vp --out new": "there is no option --path",
}


@pytest.mark.parametrize("line", MISUSE)
def test_options_that_make_no_sense_do_not_exist(
    place: Path, line: str, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(place)
    assert main([*line.split(), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith(f"pushforward: {MISUSE[line]}")


@pytest.mark.parametrize("line", ERRORS)
def test_what_cannot_be_judged_is_one_line(place: Path, line: str, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    np.save("bare.npy", np.zeros((20, 8, 8), np.uint8))
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    capsys.readouterr()
    assert main([*line.split(), "--device", "cpu"]) == 1
    assert capsys.readouterr().err == f"pushforward: {ERRORS[line]}\n"
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before
