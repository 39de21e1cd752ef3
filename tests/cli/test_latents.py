"""From an autoencoder to pictures by prompts, on the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.saving.folder import load_autoencoder

SMALL = ["--number", "100", "--steps", "4", "--batch-size", "4", "--device", "cpu"]
OURS = ["--width", "8", "--gan-start", "2", "--log-every", "1"]
THEIRS = [
    *("--network", "uvit", "--levels", "8", "--width", "64", "--depth", "1", "--precision", "fp32"),
    *("--text-width", "16", "--text-depth", "1"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUSHFORWARD_CACHE", str(place / "cache"))
        ae, model = place / "ae", place / "model"
        assert main(["train", "autoencoder", *SMALL, *OURS, "--out", str(ae)]) == 0
        train = ["train", "text-to-image", *SMALL, *THEIRS, "--latents", str(ae)]
        assert main([*train, "--out", str(model)]) == 0
        yield place


def entries(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_an_autoencoder_is_trained_with_its_judge_and_judged(runs, capsys):
    log = entries(runs / "ae")
    assert "gan" not in log[1]
    assert {"l1", "kl"} <= log[1].keys()
    assert {"gan", "weight", "loss/loss", "loss/discriminator"} <= log[2].keys()
    assert (runs / "ae" / "samples").is_dir()
    assert main(["evaluate", str(runs / "ae"), "--num", "8"]) == 0
    figures = json.loads((runs / "ae" / "evaluation.json").read_text())["figures"]
    assert {"psnr", "ssim", "l1", "read"} <= figures.keys()
    assert (runs / "ae" / "reconstructions.png").is_file()
    assert "--latents" in (runs / "ae" / "README.md").read_text()
    assert main(["sample", str(runs / "ae")]) != 0
    assert "holds an autoencoder" in capsys.readouterr().err


def test_a_run_of_an_autoencoder_that_was_cut_in_two_ends_in_the_same_bits(runs, tmp_path):
    cut = tmp_path / "cut"
    first = [*SMALL, *OURS]
    first[first.index("--steps") + 1] = "3"
    # The rate and the judge must not depend on where it was cut.
    same = ["--decay", "constant"]
    whole = tmp_path / "whole"
    assert main(["train", "autoencoder", *SMALL, *OURS, *same, "--out", str(whole)]) == 0
    assert main(["train", "autoencoder", *first, *same, "--out", str(cut)]) == 0
    assert main(["train", "autoencoder", "--out", str(cut), "--resume", "--steps", "4"]) == 0
    a, b = (load_autoencoder(place).state_dict() for place in (whole, cut))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(name.startswith("discriminator.") for name in a)


def test_samples_figures_and_edits_are_pictures(runs):
    model = str(runs / "model")
    assert main(["sample", model, "--prompt", "a red circle", "--num", "2", "--nfe", "2"]) == 0
    samples = np.load(runs / "model" / "generated" / "samples.npz")
    assert samples["samples"].shape == (2, 3, 32, 32)
    found = pf.load(model)
    assert found.shape == (4, 8, 8)
    assert found.spec.shape == (3, 32, 32)
    assert main(["evaluate", model, "--num", "6", "--nfe", "2"]) == 0
    assert "32 x 32, 3 channels" in (runs / "model" / "README.md").read_text()
    picture = runs / "picture.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(picture)
    edit = ["edit", model, "--image", str(picture), "--prompt", "a blue square", "--nfe", "2"]
    assert main(edit) == 0
    assert main(["info", model]) == 0


def test_latents_are_encoded_once_and_a_run_resumes(runs):
    kept = {f: f.stat().st_mtime_ns for f in (runs / "cache" / "latents").iterdir()}
    assert kept
    assert main(["train", "text-to-image", "--out", str(runs / "model"), "--resume", "--steps", "5"]) == 0  # fmt: skip
    assert {f: f.stat().st_mtime_ns for f in (runs / "cache" / "latents").iterdir()} == kept
    assert pf.load(runs / "model").provenance.step == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--shift", "2"], "--shift alters"), (["--crop"], "--crop alters"), (["--size", "30"], "multiples of 4")],
)  # fmt: skip
def test_what_latents_rule_out_is_said_before_training(runs, tmp_path, capsys, words, said):
    train = ["train", "text-to-image", *SMALL, *THEIRS, "--latents", str(runs / "ae"), *words]
    assert main([*train, "--out", str(tmp_path / "m")]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_folder_without_an_autoencoder_is_refused(runs, tmp_path, capsys):
    train = ["train", "text-to-image", *SMALL, *THEIRS, "--latents", str(runs / "model")]
    assert main([*train, "--out", str(tmp_path / "m")]) != 0
    assert "no autoencoder" in capsys.readouterr().err


def test_another_autoencoder_than_the_model_was_trained_with_is_refused(runs, capsys):
    kept, ae = runs / "kept", runs / "ae"
    ae.rename(kept)
    try:
        assert main(["train", "autoencoder", *SMALL, *OURS, "--seed", "1", "--out", str(ae)]) == 0
        for words in (
            ["evaluate", str(runs / "model"), "--num", "4"],
            ["train", "text-to-image", "--out", str(runs / "model"), "--resume", "--steps", "9"],
        ):
            assert main(words) != 0
            assert "SHA-256" in capsys.readouterr().err
    finally:
        shutil.rmtree(ae, ignore_errors=True)
        kept.rename(ae)


@pytest.mark.parametrize("control", ["masks", "edges"])
def test_a_model_of_latents_is_steered_by_hints_of_its_pictures(runs, tmp_path, control):
    if control == "edges":
        pytest.importorskip("skimage")
    words = ["--control", control, "--steps", "2", "--batch-size", "4", "--device", "cpu"]
    train = ["train", "control", str(runs / "model"), *words, "--validate-every", "2"]
    assert main([*train, "--out", str(tmp_path / "c")]) == 0
    assert "validation_loss" in entries(tmp_path / "c")[-1]
