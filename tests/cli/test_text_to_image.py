"""From captions to pictures by the command line: train, sample by prompts, evaluate, edit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.core import conditions
from pushforward.data.scenes import draw, render
from pushforward.recipes import TextToImage
from pushforward.sampling.pairs import Pairs

TINY = (
    "--steps", 3, "--batch-size", 4, "--warmup", 0, "--sample-every", 3, "--validate-every", 0, "--device", "cpu",
    "--precision", "fp32", "--text-width", 16, "--text-depth", 1,
)  # fmt: skip
SMALL = ("--network", "uvit", "--levels", 8, "--width", 64, "--depth", 1)


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "scenes"
    assert call("train", "text-to-image", "--number", 100, *SMALL, *TINY, "--out", folder) == 0
    return folder


def test_a_run_draws_what_is_asked_for_and_says_by_what(run, tmp_path, capsys):
    lines = ("a red circle", "two blue squares left of a cyan cross", "an astonishing triangle")
    words = [word for line in lines for word in ("--prompt", line)]
    asked = ("--nfe", 2, "--guidance", 2, "--negative", "a green cross", "--seed", 5)
    out = tmp_path / "out"
    code = call(
        "sample", run, *words, *asked, "--num", 6, "--format", "npz", "grid", "png", "--out", out
    )
    assert code == 0
    assert "never saw, which say nothing to it: an, astonishing" in capsys.readouterr().err
    with np.load(out / "samples.npz") as file:
        assert file["samples"].shape == (6, 3, 32, 32)
        assert file["prompt"].tolist() == [*lines, *lines]
        samples = file["samples"]
    model = pf.load(run)
    same = pf.generate(
        model,
        prompt=[*lines, *lines],
        negative={"prompt": "a green cross"},
        guidance=2.0,
        nfe=2,
        seed=5,
    )
    assert np.allclose(same.numpy(), samples, atol=1e-5)
    about = json.loads(Image.open(out / "000004.png").text["pushforward"])
    assert about["prompt"] == lines[1]
    assert (about["seed"], about["sample"], about["guidance"]) == (5, 4, 2)
    assert about["model"] == model.provenance.sha256
    assert about["negative"] == "a green cross"
    # The whole page names its prompts, and a picture of another size comes out of the same network.
    assert json.loads(Image.open(out / "samples.png").text["pushforward"])["prompt"] == list(lines)
    wide = tmp_path / "wide"
    assert call("sample", run, "--prompt", lines[0], "--num", 1, "--nfe", 1, "--size", "48x20", "--format", "png",
                "--out", wide) == 0  # fmt: skip
    assert Image.open(wide / "000000.png").size == (48, 20)


def test_prompts_come_from_a_file_too(run, tmp_path):
    (tmp_path / "prompts.txt").write_text(
        "a red circle\n\n  a blue square \n", encoding="utf-8-sig"
    )
    out = tmp_path / "out"
    assert call("sample", run, "--prompts", tmp_path / "prompts.txt", "--nfe", 1, "--out", out) == 0
    with np.load(out / "samples.npz") as file:
        assert file["prompt"].tolist() == ["a red circle", "a blue square"] * 8


def test_what_a_prompt_cannot_be_is_said(run, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n")
    for words, message in (
        (("--prompts", tmp_path / "empty.txt"), "holds no prompt"),
        (("--prompts", tmp_path / "none.txt"), "cannot read the prompts"),
        (("--prompt", "a cross", "--negative", "a circle"), "negative conditions act by guidance"),
        (("--prompt", "a cross", "--size", "big"), "give width and height, as in 64x48"),
    ):
        assert call("sample", run, *words, "--nfe", 1, "--out", tmp_path / "out") == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (
        call(
            "sample",
            run,
            "--prompt",
            " ".join(["red"] * 80),
            "--num",
            1,
            "--nfe",
            1,
            "--out",
            tmp_path / "o",
        )
        == 0
    )
    assert "too long for this model, which reads it as" in capsys.readouterr().err


def test_scenes_are_judged_by_reading_them(run, capsys):
    assert call("evaluate", run, "--num", 12, "--nfe", 1) == 0
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    tasks = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "mean")
    assert set(figures) == {
        f"{a}_{b}{c}" for a in ("seen", "held_out") for b in tasks for c in ("", "_error")
    }
    assert "held_out_mean" in capsys.readouterr().out


def test_a_run_of_captions_goes_on_bit_for_bit(tmp_path):
    made = (
        "train",
        "text-to-image",
        "--number",
        100,
        *SMALL,
        *TINY,
        "--decay",
        "constant",
        "--sample-every",
        0,
    )
    assert call(*made, "--steps", 4, "--out", tmp_path / "whole") == 0
    assert call(*made, "--steps", 2, "--out", tmp_path / "parts") == 0
    assert (
        call("train", "text-to-image", "--out", tmp_path / "parts", "--resume", "--steps", 4) == 0
    )
    whole, parts = (pf.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_picture_is_edited_by_a_prompt_a_mask_and_an_inversion(run, tmp_path, capsys):
    picture = render([draw(0, 3)[0]], 32)[0]
    Image.fromarray(picture).save(tmp_path / "x.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 4:20] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    edit = (
        "edit",
        run,
        "--image",
        tmp_path / "x.png",
        "--prompt",
        "a blue circle",
        "--nfe",
        2,
        "--num",
        2,
    )
    assert call(*edit, "--strength", 0.5, "--out", tmp_path / "a") == 0
    assert call(*edit, "--mask", tmp_path / "mask.png", "--out", tmp_path / "b") == 0
    inside = np.asarray(Image.open(tmp_path / "b" / "000001.png"))
    assert (inside[mask == 0] == picture[mask == 0]).all()
    assert (inside[mask > 0] != picture[mask > 0]).any()
    assert call(*edit, "--extend", 0, 4, 8, 0, "--out", tmp_path / "c") == 0
    wide = np.asarray(Image.open(tmp_path / "c" / "000000.png"))
    assert wide.shape == (36, 40, 3)
    assert (wide[4:, :32] == picture).all()
    assert call(*edit, "--from-prompt", "a red cross", "--out", tmp_path / "d") == 0
    # Strength 0 gives the picture itself.
    assert call(*edit, "--strength", 0, "--out", tmp_path / "e") == 0
    assert (np.asarray(Image.open(tmp_path / "e" / "000000.png")) == picture).all()
    Image.fromarray(mask[:16]).save(tmp_path / "half.png")
    for words, message in (
        (("--mask", tmp_path / "half.png"), "is 32 x 16 pixels, and the picture 32 x 32"),
        (("--mask", tmp_path / "mask.png", "--extend", 1, 1, 1, 1), "either --mask or --extend"),
        (("--from-prompt", "a cross", "--sde"), "not with --sde"),
        (("--label", "dog"), "this model has no classes"),
    ):
        assert call(*edit, *words, "--out", tmp_path / "f") == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_other_models_have_no_prompts(tmp_path, capsys):
    net = pf.nets.UNet(3, 8, (1,))
    pf.save(pf.Model(net, pf.CondOT(), shape=(3, 8, 8)), tmp_path / "plain")
    assert call("sample", tmp_path / "plain", "--prompt", "a dog", "--out", tmp_path / "o") == 1
    assert "--prompt needs a model that was trained on captions" in capsys.readouterr().err
    with pytest.raises(pf.InputError, match="how many samples"):
        pf.generate(pf.load(tmp_path / "plain"))


@pytest.mark.parametrize("method", ["consistency", "meanflow"])
def test_a_student_takes_prompts_and_has_the_guidance_of_its_teacher(run, tmp_path, method):
    out = tmp_path / method
    made = ("--steps", 1, "--batch-size", 4, "--sample-every", 0, "--warmup", 0, "--device", "cpu")
    assert (
        call("distill", run, "--method", method, "--guidance", 2, "--fresh", *made, "--out", out)
        == 0
    )
    student, teacher = pf.load(out), pf.load(run)
    assert student.sampling.guidance == 2
    assert student.provenance.teacher == teacher.provenance.sha256
    assert student.encoders == teacher.encoders
    x = pf.generate(student, prompt=["a red circle", "a blue cross"], nfe=1, seed=1)
    assert x.shape == (2, 3, 32, 32)


def test_instaflow_rectifies_under_guidance_by_the_captions_of_its_pairs_and_ends_in_one_step(
    run, tmp_path
):
    made = ("--pairs", 12, "--pairs-nfe", 3, "--num", 4, "--steps", 2, "--batch-size", 4, "--sample-every", 0,
            "--warmup", 0, "--device", "cpu")  # fmt: skip
    first, second = tmp_path / "straight", tmp_path / "step"
    assert call("reflow", run, "--guidance", 2, *made, "--out", first) == 0
    pairs = Pairs(first / "pairs")
    batch = pairs[torch.tensor([7, 2])]
    teacher = pf.load(run)
    # Pair i is where the guided flow leads from its noise by its own caption.
    for k, i in enumerate((7, 2)):
        row = slice(k, k + 1)
        again = pf.generate(
            teacher,
            1,
            source=batch.x0[row],
            nfe=3,
            guidance=2.0,
            seed=0,
            start=i,
            **conditions.take(batch.cond, row),
        )
        assert torch.allclose(again, batch.x1[row], atol=1e-4)
    other = pf.generate(
        teacher, 1, source=batch.x0[:1], nfe=3, guidance=2.0, seed=0, prompt="four cyan crosses"
    )
    assert not torch.allclose(other, batch.x1[:1], atol=1e-4)
    assert call("reflow", first, "--objective", "one-step", *made, "--out", second) == 0
    model = pf.load(second)
    assert (model.sampling.nfe, model.sampling.guidance) == (1, None)
    assert call("evaluate", second, "--num", 6) == 0


def test_pictures_are_read_upright_in_full_depth_and_of_the_size_that_is_asked_for(run, tmp_path):
    numbers = np.random.default_rng(0)
    colour = numbers.integers(0, 256, (20, 32, 3), dtype=np.uint8)
    turned = Image.fromarray(colour)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    grey = colour[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = np.dstack([colour, np.zeros((20, 32), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")

    def kept(name: str, *words: object) -> np.ndarray:
        out = tmp_path / "out"
        assert call("edit", run, "--image", tmp_path / name, "--strength", 0, "--nfe", 2, "--overwrite",
                    "--out", out, *words) == 0  # fmt: skip
        return np.asarray(Image.open(out / "000000.png"))

    assert (kept("turned.png") == np.rot90(colour, -1)).all()
    assert (kept("deep.png") == grey[..., None]).all()
    assert (kept("clear.png") == 255).all()
    assert kept("turned.png", "--size", "24x16").shape == (16, 24, 3)
    # Of a mask, what is transparent is not white.
    marked = np.zeros((32, 20, 4), np.uint8)
    marked[4:9, 4:9] = 255
    Image.fromarray(marked).save(tmp_path / "mask.png")
    found = kept("turned.png", "--mask", tmp_path / "mask.png", "--strength", 1)
    changed = (found != np.rot90(colour, -1)).any(-1)
    assert changed[4:9, 4:9].any()
    changed[4:9, 4:9] = False
    assert not changed.any()


def test_an_edited_picture_says_how_it_was_made(run, tmp_path, capsys):
    Image.fromarray(render([draw(0, 3)[0]], 32)[0]).save(tmp_path / "x.png")
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / "mask.png")
    base = ("edit", run, "--image", tmp_path / "x.png", "--prompt", "a cross", "--nfe", 4, "--overwrite", "--out",
            tmp_path / "o")  # fmt: skip
    for words, solver in (
        ((), "abm3"),
        (("--sde",), "dpm++2m-sde"),
        (("--mask", tmp_path / "mask.png"), "dpm++2m-sde"),
        (("--mask", tmp_path / "mask.png", "--solver", "euler"), "euler"),
        (("--from-prompt", "a zebra"), "ddim"),
    ):
        assert call(*base, *words) == 0
        about = json.loads(Image.open(tmp_path / "o" / "000000.png").text["pushforward"])
        assert about["solver"] == solver
        assert solver in capsys.readouterr().out
    # As by hand.
    x = (
        torch.from_numpy(np.asarray(Image.open(tmp_path / "x.png")).copy()).movedim(2, 0)[None]
        / 127.5
        - 1
    )
    assert call(*base, "--sde", "--seed", 3) == 0
    want = pf.edit(pf.load(run), x, prompt="a cross", nfe=4, sde=True, seed=3)
    got = np.asarray(Image.open(tmp_path / "o" / "000000.png")).astype(int)
    assert abs(got - ((want[0].clamp(-1, 1) + 1) * 127.5).movedim(0, 2).numpy()).max() <= 1
    for words, message in (
        (("--grid", "karras"), "edit takes times of its own: omit --grid"),
        (
            ("--from-prompt", "a circle", "--repeats", 3, "--solver", "heun"),
            "not with --repeats, --solver",
        ),
        (("--sde", "--solver", "heun"), "either --sde or --solver"),
    ):
        assert call(*base, *words) == 1
        assert message in capsys.readouterr().err


def test_what_sample_does_with_prompts_is_said(run, tmp_path, capsys):
    base = ("sample", run, "--nfe", 1, "--overwrite", "--out", tmp_path / "o")
    assert call(*base, "--prompt", "a cross", "--prompt", "a circle", "--num", 1) == 0
    assert "2 prompts for 1 samples" in capsys.readouterr().err
    assert call(*base, "--num", 1) == 0
    assert "drawn without a prompt" in capsys.readouterr().err
    assert call(*base, "--prompt", "a cross", "--condition", "words=3") == 1
    assert "either prompts or --condition" in capsys.readouterr().err
    assert call(*base, "--prompt", "a cross", "--num", 1, "--size", "99999999x9999999") == 1
    assert "out of memory" in capsys.readouterr().err


def test_the_card_of_a_model_of_prompts_asks_it_by_prompts(run):
    card = (run / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert "Words (" in card
    code = card.split("```python")[1].split("```")[0].replace('"."', f'"{run}"')
    found: dict = {}
    exec(code.replace("seed=0", "seed=0, nfe=1"), found)
    assert found["samples"].shape == (8, 3, 32, 32)


def test_pictures_of_mixed_sizes_with_captions_are_trained_on_in_one_and_mirrored_if_asked_for(
    tmp_path, capsys
):
    numbers = np.random.default_rng(0)
    for i in range(12):
        side = (16, 24)[i % 2]
        pixels = numbers.integers(0, 256, (side, side, 3), dtype=np.uint8)
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{i}.png")
        (tmp_path / "data" / f"{i}.txt").write_text(f"picture number {i}")
    made = (
        "train",
        "text-to-image",
        "--data",
        tmp_path / "data",
        *SMALL,
        *TINY,
        "--sample-every",
        0,
    )
    out = tmp_path / "out"
    assert call(*made, "--flip", "--out", out) == 0
    assert pf.load(out).shape == (3, 16, 16)
    assert (
        call(
            "train",
            "text-to-image",
            "--number",
            100,
            *SMALL,
            *TINY,
            "--flip",
            "--out",
            tmp_path / "no",
        )
        == 1
    )
    assert "--flip mirrors pictures" in capsys.readouterr().err
    recipe = TextToImage.of(data=str(tmp_path / "data"), size=16, flip=True, out=out)
    plain = TextToImage.of(data=str(tmp_path / "data"), size=16, out=out)
    batch, same = (r.build().stream.at(0).x1 for r in (recipe, plain))
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(batch, same, strict=True)]
    assert any(mirrored)
    assert not all(mirrored)


def test_students_are_compared_by_the_share_of_prompts(run, tmp_path):
    out = tmp_path / "student"
    made = ("--steps", 1, "--batch-size", 4, "--sample-every", 0, "--warmup", 0, "--device", "cpu")
    assert call("distill", run, "--method", "shortcut", "--fresh", *made, "--out", out) == 0
    assert call("evaluate", run, "--students", out, "--num", 6, "--nfes", 1) == 0
    figures = json.loads((run / "students.json").read_text())["figures"]
    assert "held_out_mean" in figures[str(out)]["1"]


def test_large_patches_of_pixels_are_read_by_few_directions_and_predicted_themselves(tmp_path):
    route = (
        "--network", "mmdit", "--patch", 8, "--bottleneck", 6, "--width", 64, "--depth", 1, "--prediction", "data",
        "--loss-in", "velocity", "--weight", "clamped", "--times", "logit-normal", "--time-std", 0.8,
    )  # fmt: skip
    out = tmp_path / "jit"
    assert call("train", "text-to-image", "--number", 100, *route, *TINY, "--out", out) == 0
    model = pf.load(out)
    assert model.prediction == "data"
    embed = model.net.net.pos_embed
    assert embed.proj1.weight.shape == (6, 3, 8, 8)
    assert "time_mean = -0.8" in (out / "config.toml").read_text()
    assert (
        call("sample", out, "--prompt", "a red circle", "--num", 2, "--nfe", 4, "--size", "48x40")
        == 0
    )
    with np.load(out / "generated" / "samples.npz") as file:
        assert file["samples"].shape == (2, 3, 40, 48)
        assert np.isfinite(file["samples"]).all()
