"""From a trained model to one that is steered by pictures, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pushforward as pf
from pushforward.cli import main
from pushforward.data.hints import Edges
from pushforward.data.scenes import draw, render
from pushforward.recipes.config import experiment_of
from pushforward.saving.control import controls_of, strengthened

pytest.importorskip("skimage")
QUICK = (
    "--warmup",
    0,
    "--sample-every",
    0,
    "--validate-every",
    0,
    "--device",
    "cpu",
    "--precision",
    "fp32",
)
SCENES = (
    "--number", 100, "--network", "uvit", "--levels", 8, "--width", 64, "--depth", 1, "--text-width", 16,
    "--text-depth", 1, "--steps", 2, "--batch-size", 4,
)  # fmt: skip


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and scenes, and controls of them."""
    root = tmp_path_factory.mktemp("controls")
    small = ("--width", 8, "--steps", 2)
    assert call("train", "digits", *small, *QUICK, "--out", root / "digits") == 0
    assert call("train", "text-to-image", *SCENES, *QUICK, "--out", root / "scenes") == 0
    own = ("--steps", 3, "--batch-size", 4, *QUICK, "--lr", 0.01, "--ema", 0)
    assert call("train", "control", root / "digits", *own, "--sample-every", 3, "--validate-every", 3,
                "--log-every", 3, "--out", root / "edges") == 0  # fmt: skip
    for name in ("edges", "order"):
        out = root / f"scenes-{name}"
        assert call("train", "control", root / "scenes", "--control", name, *own, "--out", out) == 0
    return root


def sampled(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as file:
        return dict(file)


def test_a_run_holds_the_branch_and_leaves_its_base_alone(runs):
    for base, name in (("digits", "edges"), ("scenes", "scenes-order")):
        whole, steered = pf.load(runs / base), pf.load(runs / name)
        (branch,) = controls_of(steered).values()
        held = pf.load_control(runs / name)
        assert all(
            torch.equal(a, b)
            for a, b in zip(branch.parameters(), held.branch.parameters(), strict=True)
        )
        assert any((p != 0).any() for p in branch.zeros.parameters())
        assert (
            sum(p.numel() for p in branch.parameters()) * 4
            > 0.9 * (runs / name / "model.safetensors").stat().st_size
        )
        base_net = {n.rpartition("net.")[2]: p for n, p in whole.state_dict().items()}
        inside = {
            n.rpartition("net.")[2]: p
            for n, p in steered.state_dict().items()
            if "branches" not in n
        }
        assert base_net.keys() == inside.keys()
        assert all(torch.equal(inside[n], p) for n, p in base_net.items())
        assert steered.provenance.started_from == whole.provenance.sha256
        assert steered.provenance.step == 3
    entry = json.loads((runs / "edges" / "log.jsonl").read_text().splitlines()[-1])
    assert entry["validation_loss"] > 0
    assert (runs / "edges" / "samples").is_dir()


def test_the_hints_of_a_run_are_those_of_its_pictures(runs):
    experiment = experiment_of(runs / "edges", device="cpu")
    batch = experiment.stream.at(3)
    assert torch.equal(batch.cond["control"]["edges"], Edges()(batch.x1))
    assert torch.equal(batch.x1, experiment.data[batch.ids].x1)
    held = experiment.held_out[torch.arange(5)]
    assert torch.equal(held.cond["control"]["edges"], Edges()(held.x1))
    order = experiment_of(runs / "scenes-order", device="cpu")
    batch = order.stream.at(0)
    hint = batch.cond["control"]["order"][:, 0]
    grounds = hint == 0
    # Where there is nothing, pictures are dark, and nowhere else.
    assert batch.x1.amax(1)[grounds].max() < -0.3 < batch.x1.amax(1)[hint > 0.24].min()
    assert set(batch.cond) == {"control", "words"}


def test_a_picture_steers_what_is_drawn(runs, tmp_path, capsys):
    picture = render([draw(0, 3)[0]], 32)[0]
    Image.fromarray(picture).save(tmp_path / "x.png")
    Image.fromarray(np.kron(picture, np.ones((2, 2, 1), np.uint8))).save(tmp_path / "large.png")
    grey = torch.from_numpy(np.asarray(Image.open(tmp_path / "x.png").convert("L")).copy()) / 255
    edges = Edges().of(grey[None, None].float())
    Image.fromarray((255 * edges[0, 0]).byte().numpy()).save(tmp_path / "edges.png")
    words = ("sample", runs / "scenes-edges", "--prompt", "a red circle", "--num", 2, "--nfe", 2, "--guidance", 2,
             "--format", "npz", "png")  # fmt: skip
    assert (
        call(
            *words,
            "--control-image",
            tmp_path / "x.png",
            "--control-strength",
            0.5,
            "--out",
            tmp_path / "a",
        )
        == 0
    )
    assert "is the hint of edges by its edges" in capsys.readouterr().err
    assert (
        call(
            *words,
            "--control-image",
            tmp_path / "edges.png",
            "--control-strength",
            0.5,
            "--out",
            tmp_path / "b",
        )
        == 0
    )
    assert "as it is, since it is black and white" in capsys.readouterr().err
    model, base = pf.load(runs / "scenes-edges"), pf.load(runs / "scenes")
    given = {"prompt": ["a red circle"] * 2, "nfe": 2, "guidance": 2.0}
    want = pf.generate(
        strengthened(model, {"edges": 0.5}), control={"edges": edges.expand(2, -1, -1, -1)}, **given
    ).numpy()
    for folder in ("a", "b"):
        found = sampled(tmp_path / folder)
        assert np.allclose(found["samples"], want, atol=1e-5)
        assert np.array_equal(found["control_edges"][1], edges[0].numpy())
    about = json.loads(Image.open(tmp_path / "a" / "000001.png").text["pushforward"])
    assert about["control_image"] == {"edges": "x.png"}
    assert about["control_strength"] == {"edges": 0.5}
    assert about["model"] == model.provenance.sha256
    # Without strength it is the base, bit for bit, and otherwise it is not.
    assert (
        call(
            *words,
            "--control-image",
            tmp_path / "large.png",
            "--control-strength",
            0,
            "--out",
            tmp_path / "c",
        )
        == 0
    )
    assert "scaled from 64 x 64" in capsys.readouterr().err
    plain = pf.generate(base, **given).numpy()
    assert np.array_equal(sampled(tmp_path / "c")["samples"], plain)
    assert not np.allclose(want, plain, atol=1e-3)


def test_several_controls_are_put_on_one_base(runs, tmp_path):
    Image.fromarray(render([draw(0, 3)[0]], 32)[0]).save(tmp_path / "x.png")
    other = f"{runs / 'scenes-order'}={tmp_path / 'x.png'}"
    words = ("sample", runs / "scenes-edges", "--prompt", "a red circle", "--num", 1, "--nfe", 1, "--format", "npz",
             "--control-image", tmp_path / "x.png", "--with", other)  # fmt: skip
    samples = {}
    for name, strengths in (("both", ()), ("first", (1, 0)), ("second", (0, 1)), ("none", (0, 0))):
        more = ("--control-strength", *strengths) if strengths else ()
        assert call(*words, *more, "--out", tmp_path / name) == 0
        samples[name] = sampled(tmp_path / name)["samples"]
    plain = pf.generate(pf.load(runs / "scenes"), prompt=["a red circle"], nfe=1).numpy()
    assert np.array_equal(samples["none"], plain)
    values = list(samples.values())
    assert all(not np.allclose(a, b, atol=1e-4) for k, a in enumerate(values) for b in values[:k])


def test_without_a_picture_hints_are_those_of_held_out_data(runs, tmp_path):
    words = (
        "sample",
        runs / "edges",
        "--num",
        4,
        "--label",
        3,
        "--nfe",
        1,
        "--format",
        "npz",
        "--out",
        tmp_path,
    )
    assert call(*words) == 0
    found = sampled(tmp_path)
    experiment = experiment_of(runs / "edges", device="cpu")
    want = experiment.columns(4, 0, torch.full((4,), 3))["control"]["edges"]
    assert np.array_equal(found["control_edges"], want.numpy())
    # Of the digit that is drawn.
    threes = experiment.held_out.subset((experiment.held_out.labels == 3).nonzero().flatten())
    every = threes[torch.arange(len(threes))].cond["control"]["edges"]
    assert all((every == hint).flatten(1).all(1).any() for hint in want)


def test_a_control_is_judged_by_edges_and_scenes(runs, capsys):
    assert call("evaluate", runs / "edges", "--num", 10, "--nfe", 1) == 0
    figures = json.loads((runs / "edges" / "evaluation.json").read_text())["figures"]
    assert {"edge_f1", "edge_f1_error", "edge_f1_base", "edge_f1_base_error", "frechet"} <= set(
        figures
    )
    assert call("evaluate", runs / "scenes-order", "--num", 6, "--nfe", 1) == 0
    figures = json.loads((runs / "scenes-order" / "evaluation.json").read_text())["figures"]
    assert set(figures) == {
        f"{a}{b}{c}" for a in ("layout", "scene") for b in ("", "_base") for c in ("", "_error")
    }
    assert call("info", runs / "edges") == 0
    assert "control" in capsys.readouterr().out


def test_a_run_goes_on_bit_for_bit(runs, tmp_path):
    made = ("train", "control", runs / "digits", "--batch-size", 4, *QUICK, "--decay", "constant")
    assert call(*made, "--steps", 4, "--out", tmp_path / "whole") == 0
    assert call(*made, "--steps", 2, "--out", tmp_path / "parts") == 0
    assert (
        call(
            "train",
            "control",
            runs / "digits",
            "--out",
            tmp_path / "parts",
            "--resume",
            "--steps",
            4,
        )
        == 0
    )
    whole, parts = (pf.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_cannot_be_steered_is_said(runs, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    one = ("--num", 1, "--nfe", 1, "--out", tmp_path / "o")
    digits, edges = runs / "digits", runs / "edges"
    for words, message in (
        (("sample", digits, "--control-image", tmp_path / "x.png", *one), "--control-image needs the run of a control"),
        (("sample", edges, "--control-image", tmp_path / "none.png", *one), "cannot read the picture"),
        (("sample", edges, "--with", f"{edges}={tmp_path / 'x.png'}", *one), "add --control-image"),
        (
            ("sample", edges, "--control-image", tmp_path / "x.png", "--with", str(edges), *one),
            "give a run and a picture, as in runs/masks=X.png",
        ),
        (
            ("sample", edges, "--control-image", tmp_path / "x.png", "--control-strength", 1, 2, *one),
            "2 strengths were given for 1 controls (edges)",
        ),
        (
            ("sample", edges, "--control-image", tmp_path / "x.png", "--with",
             f"{runs / 'scenes-order'}={tmp_path / 'x.png'}", *one),
            "'order' was trained on another base",
        ),
        (("train", "control", edges, "--out", tmp_path / "o"), "is a control itself"),
        (
            ("train", "control", digits, "--parallel", "fsdp", "--out", tmp_path / "o"),
            "a locked one is called by halves: take --parallel ddp",
        ),
        (
            ("train", "control", digits, "--control", "masks", "--out", tmp_path / "o"),
            "say nothing of objects, as scenes do: give pictures of the same names by --masks FOLDER",
        ),
        (
            ("train", "control", runs / "scenes", "--control", "order", "--masks", tmp_path, "--out", tmp_path / "o"),
            "--masks is for data in files, which have names",
        ),
    ):  # fmt: skip
        assert call(*words) in (1, 2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_masks_of_a_folder_go_with_pictures_of_their_names(tmp_path, capsys):
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    numbers = np.random.default_rng(0)
    for k in range(12):
        for folder, mode in ((pictures / "ab"[k % 2], "RGB"), (masks / "ab"[k % 2], "L")):
            folder.mkdir(parents=True, exist_ok=True)
            shape = (8, 8, 3) if mode == "RGB" else (8, 8)
            pixels = numbers.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / (f"{k}.jpg" if mode == "RGB" else f"{k}.png"))
    short = ("--steps", 1, "--batch-size", 4, *QUICK)
    network = ("--network", "unet", "--width", 8)
    assert (
        call("train", "images", "--data", pictures, *network, *short, "--out", tmp_path / "base")
        == 0
    )
    own = ("train", "control", tmp_path / "base", "--control", "masks", "--masks", masks, *short)
    assert call(*own, "--out", tmp_path / "masked") == 0
    experiment = experiment_of(tmp_path / "masked", device="cpu")
    batch = experiment.stream.at(0)
    for place, hint in zip(batch.ids.tolist(), batch.cond["control"]["masks"], strict=True):
        row = int(experiment.data.rows[place])
        name = Path(experiment.data.values.source.name(row))
        want = np.asarray(Image.open(masks / name.parent.name / f"{name.stem}.png")) / 255
        assert np.allclose(hint[0].numpy(), want)
    assert (
        call("sample", tmp_path / "masked", "--num", 2, "--nfe", 1, "--out", tmp_path / "drawn")
        == 0
    )
    (masks / "a" / "0.png").unlink()
    capsys.readouterr()
    assert call(*own, "--out", tmp_path / "other") == 1
    assert "there is no mask for a/0.jpg" in capsys.readouterr().err


def test_runs_of_controls_are_edited_tuned_and_judged_under_their_hints(runs, tmp_path, capsys):
    picture = render([draw(0, 3)[0]], 32)[0]
    Image.fromarray(picture).save(tmp_path / "x.png")
    Image.fromarray(picture[::-1].copy()).save(tmp_path / "hint.png")
    place = runs / "scenes-edges"
    ask = (
        "edit",
        place,
        "--image",
        tmp_path / "x.png",
        "--prompt",
        "a red circle",
        "--nfe",
        4,
        "--strength",
        0.7,
    )
    for name, words in (
        ("own", ()), ("same", ("--control-image", tmp_path / "x.png")),
        ("other", ("--control-image", tmp_path / "hint.png")),
        ("none", ("--control-image", tmp_path / "hint.png", "--control-strength", 0)),
        ("base", ()),
    ):  # fmt: skip
        first = ("edit", runs / "scenes") if name == "base" else ask[:2]
        assert call(*first, *ask[2:], *words, "--out", tmp_path / name) == 0
    found = {
        n: np.asarray(Image.open(tmp_path / n / "000000.png")).astype(int)
        for n in ("own", "same", "other", "none", "base")
    }
    # The hint is the picture itself unless another is given, and at strength 0 there is none.
    assert np.array_equal(found["own"], found["same"])
    assert not np.array_equal(found["own"], found["other"])
    assert np.array_equal(found["none"], found["base"])
    capsys.readouterr()
    assert call(*ask, "--extend", 4, 4, 4, 4, "--out", tmp_path / "wide") == 1
    assert "for which a control needs its hint" in capsys.readouterr().err
    assert call(*ask, "--from-prompt", "a blue square", "--out", tmp_path / "turned") != 0
    assert (
        call(
            "edit",
            place,
            "--image",
            tmp_path / "x.png",
            "--prompt",
            "a red circle",
            "--from-prompt",
            "a cross",
            "--nfe",
            3,
            "--out",
            tmp_path / "turned",
        )
        == 0
    )
    for folder in (place, runs / "edges"):
        assert (
            call(
                "tune",
                folder,
                "--nfe",
                3,
                "--num",
                8,
                "--held-out",
                4,
                "--iterations",
                1,
                "--method",
                "least-squares",
            )
            == 0
        )
    assert call("likelihood", runs / "edges", "--num", 4, "--probes", 1, "--tolerance", 0.1) == 0
    about = json.loads((runs / "edges" / "likelihood.json").read_text())
    assert about["settings"]["conditional"] == ["label", "control"]
    assert about["figures"]["ode"] == about["figures"]["ode"]
