"""unCLIP on the command line: trained in stages that resume, drawn, judged, and used on pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.cli.edit import opened
from pushforward.saving.folder import load_any, load_clip
from pushforward.systems.unclip import UnCLIP

SMALL = [
    "--number", "100", "--sizes", "8", "16", "--clip-steps", "2", "--clip-batch", "8", "--clip-width", "64",
    "--clip-depth", "1", "--clip-dim", "8", "--prior-steps", "2", "--prior-batch", "8", "--prior-width", "64",
    "--prior-depth", "1", "--batch-size", "4", "--upsampler-steps", "2", "--upsampler-batch", "4",
    "--upsampler-width", "8", "--levels", "8", "--width", "64", "--depth", "1", "--sample-every", "0",
    "--validate-every", "0", "--decay", "constant", "--precision", "fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unclip") / "run"
    assert main(["train", "unclip", *SMALL, "--steps", "2", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_every_stage_is_a_run_and_all_are_one_artefact(run: Path) -> None:
    whole = pf.load(run)
    assert isinstance(whole, UnCLIP)
    assert whole.clip.digest == load_clip(run / "stages" / "clip").digest
    for name, part in (("prior", whole.prior.model), ("decoder", whole.decoder)):
        own = load_any(run / "stages" / name).state_dict()
        assert all(torch.equal(value, own[key]) for key, value in part.state_dict().items())
    (stage,) = whole.stages
    assert (stage.level, stage.model.shape) == (0.1, (3, 16, 16))
    assert whole.spec.shape == (3, 16, 16)
    card = (run / "README.md").read_text()
    assert "an unCLIP: a prior, a decoder and a cascade" in card
    assert 'model.draw(["..."] * 8, seed=0)' in card
    assert "images, 16 x 16" in card


def test_stages_resume_in_the_same_bits(run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    # As if it had been stopped in the decoder, whose second step was still to come.
    assert main(["train", "unclip", *SMALL, "--steps", "1", "--out", str(cut)]) == 0
    for gone in ("stages/upsampler-16", "model.json", "README.md"):
        path = cut / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # And a stage that was killed before its first checkpoint.
    (cut / "stages" / "upsampler-16").mkdir()
    shutil.copy(run / "stages" / "upsampler-16" / "config.toml", cut / "stages" / "upsampler-16")
    before = (cut / "stages" / "prior" / "model.json").stat().st_mtime_ns
    assert main(["train", "unclip", "--steps", "2", "--out", str(cut), "--resume"]) == 0
    a, b = (pf.load(folder).state_dict() for folder in (run, cut))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    # What was done is not done again.
    assert (cut / "stages" / "prior" / "model.json").stat().st_mtime_ns == before


def test_existing_runs_are_taken(run: Path, tmp_path: Path, capsys) -> None:
    out, stages = tmp_path / "out", run / "stages"
    words = ["--prior-run", str(stages / "prior"), "--decoder-run", str(stages / "decoder")]
    more = ["--upsampler-run", str(stages / "upsampler-16"), "--augment-level", "0.3"]
    given = [word for word in SMALL if word not in ("--precision", "fp32")]
    assert main(["train", "unclip", *given, *words, *more, "--out", str(out)]) == 0
    assert not (out / "stages").exists()
    taken, whole = pf.load(out), pf.load(run)
    assert taken.stages[0].level == 0.3
    x = taken.draw(["a red circle"], nfe=2, augment_level=0.1)
    assert torch.equal(x, whole.draw(["a red circle"], nfe=2))
    # A prior of another CLIP, before anything is trained.
    other = tmp_path / "other"
    clip = ["train", "clip", "--number", "100", "--size", "16", "--batch-size", "8", "--steps", "1"]
    assert (
        main(
            [
                *clip,
                "--depth",
                "1",
                "--width",
                "64",
                "--dim",
                "8",
                "--seed",
                "1",
                "--out",
                str(other),
            ]
        )
        == 0
    )
    capsys.readouterr()
    new = ["--clip-run", str(other), "--prior-run", str(stages / "prior"), "--out", str(tmp_path / "n")]  # fmt: skip
    assert main(["train", "unclip", *SMALL, *new]) == 1
    said = capsys.readouterr().err
    assert "was trained with another CLIP, of SHA-256" in said
    assert not (tmp_path / "n").exists()


def test_a_command_draws_the_whole_chain(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [
        "sample",
        str(run),
        "--prompt",
        "a red circle",
        "--prompt",
        "a blue square",
        "--num",
        "3",
    ]
    more = [
        "--nfe",
        "2",
        "--seed",
        "4",
        "--augment-level",
        "0.4",
        "--draws",
        "3",
        "--guidance",
        "2",
    ]
    assert main([*words, *more, "--out", str(out)]) == 0
    with np.load(out / "samples.npz") as file:
        found, about = file["samples"], json.loads(str(file["settings"]))
    lines = ["a red circle", "a blue square", "a red circle"]
    options = {"nfe": 2, "seed": 4, "augment_level": 0.4, "of": 3, "guidance": 2.0}
    want = pf.load(run).draw(lines, **options)
    assert np.allclose(found, want.numpy(), atol=1e-5)
    assert about["augment_level"] == [0.4]
    assert (about["draws"], about["guidance"]) == (3, 2.0)


def test_a_command_varies_joins_and_changes_pictures(
    run: Path, picture: Path, tmp_path: Path
) -> None:
    def edited(*words: str) -> list[np.ndarray]:
        out = tmp_path / words[0].strip("-")
        assert (
            main(
                ["edit", str(run), "--image", str(picture), *words, "--nfe", "2", "--out", str(out)]
            )
            == 0
        )
        assert (out / "edited.png").is_file()
        return [np.asarray(Image.open(f)) for f in sorted(out.glob("0*.png"))]

    several = edited("--variations", "3")
    assert [x.shape for x in several] == [(16, 16, 3)] * 3
    assert not np.array_equal(several[0], several[1])
    assert len(edited("--between", str(picture), "--columns", "2", "--num", "2")) == 4
    # This decoder has learned nothing of vectors yet: what changes by words is the picture itself, by its own noise.
    changed = edited("--from", "a red circle", "--to", "a blue square", "--columns", "2")
    same = opened(picture, 3, (16, 16))[0].movedim(0, -1).numpy()
    for x in changed:
        assert np.abs(x.astype(int) - same).max() <= 2


def test_priors_of_both_kinds_and_the_whole_are_judged(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "buckets"
    words = [
        "train",
        "prior",
        "--clip-run",
        str(run / "stages" / "clip"),
        "--kind",
        "autoregressive",
    ]
    small = [
        "--number",
        "100",
        "--size",
        "16",
        "--steps",
        "2",
        "--batch-size",
        "8",
        "--width",
        "64",
    ]
    rest = ["--depth", "1", "--buckets", "8", "--axes", "4", "--validate-every", "2"]
    assert main([*words, *small, *rest, "--out", str(other)]) == 0
    entries = [json.loads(line) for line in (other / "log.jsonl").read_text().splitlines()]
    assert entries[-1]["validation_loss"] == pytest.approx(np.log(8), abs=0.3)
    for folder in (other, run / "stages" / "prior"):
        assert main(["evaluate", str(folder), "--num", "20"]) == 0
        figures = json.loads((folder / "evaluation.json").read_text())["figures"]
        assert 1 <= figures["mean_rank"] <= 20
        assert {
            "mean_rank_error",
            "within_10",
            "text_mean_rank",
            "mean_mean_rank",
        } <= figures.keys()
    assert main(["evaluate", str(run), "--num", "6", "--nfe", "1"]) == 0
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    assert {"seen_mean", "held_out_mean_error"} <= figures.keys()
    assert main(["info", str(run)]) == 0


def test_what_does_not_fit_is_said(run: Path, picture: Path, tmp_path: Path, capsys) -> None:
    def said(*words: object) -> str:
        assert main(list(map(str, words))) in (1, 2)
        return capsys.readouterr().err

    edit = ("edit", run, "--image", picture)
    assert "by one of --variations 4, --between Y, or --from with --to" in said(*edit)
    assert "--from with --to" in said(*edit, "--from", "a circle")
    assert "--strength is for a single model" in said(*edit, "--variations", 2, "--strength", 0.5)
    assert "say the same to this CLIP" in said(*edit, "--from", "a circle", "--to", "a circle")
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    assert "empty.png" in said("edit", run, "--image", empty, "--variations", 2)
    assert "give --prompt" in said("sample", run)
    assert "levels from 0 to 0.5" in said("sample", run, "--prompt", "a", "--augment-level", 0.9)
    assert "--label is for a single model" in said("sample", run, "--prompt", "a", "--label", 1)
    stages = run / "stages"
    assert "--variations is for a run of pushforward train unclip" in said(
        "edit", stages / "decoder", "--image", picture, "--variations", 2
    )
    assert "holds an unCLIP, a chain of several models" in said("tune", run, "--nfe", 4)
    assert "no CLIP: train one" in said(
        "train", "prior", "--clip-run", stages / "upsampler-16", "--out", tmp_path / "p"
    )
    new = ("train", "unclip", "--out", tmp_path / "u", "--number", 100)
    assert "each is a multiple of the one before" in said(*new, "--sizes", 16, 24)
    assert "levels of training go up to 0.5" in said(*new, "--augment-level", 0.7)
    assert "--from is for a run of one model" in said(*new, "--from", stages / "clip")
    assert "1 upsamplers are given for a cascade of 2 stages" in said(
        *new, "--upsampler-run", stages / "upsampler-16"
    )
    assert "these differ: --clip-steps 5" in said(
        "train", "unclip", "--out", run, "--resume", "--clip-steps", 5
    )
    assert not (tmp_path / "u").exists()
