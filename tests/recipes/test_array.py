"""Arrays of any kind train, are sampled and judged, with the conditions that they come with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.cli import main
from pushforward.recipes import Array
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.config import experiment_of

TINY = [
    "--steps",
    "3",
    "--batch-size",
    "16",
    "--warmup",
    "0",
    "--device",
    "cpu",
    "--sample-every",
    "3",
    "--log-every",
    "1",
]
SHAPES = {
    "vector": ((5,), "MLP", 0),
    "plane": ((2,), "MLP", 0),
    "signal": ((2, 16), "UNet", 1),
    "short signal": ((1, 3), "UNet", 1),
    "image": ((3, 8, 8), "UNet", 2),
    "volume": ((1, 4, 6, 4), "UNet", 3),
}


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.mark.parametrize("kind", SHAPES)
def test_an_array_of_any_kind_trains_and_is_sampled_and_judged(kind: str, tmp_path: Path) -> None:
    shape, network, dims = SHAPES[kind]
    values = np.random.default_rng(0).normal(size=(80, *shape)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    run = tmp_path / "run"
    assert call("train", "array", "--data", tmp_path / "x.npy", *TINY, "--out", run) == 0
    model = pf.load(run)
    assert (model.shape, model.spec.kind) == (shape, kind.split()[-1])
    assert type(model.net).__name__ == network
    assert model.net.config.get("dims", 0) == dims
    assert call("sample", run, "--num", 4, "--nfe", 3, "--device", "cpu") == 0
    with np.load(run / "generated" / "samples.npz") as file:
        assert file["samples"].shape == (4, *shape)
    assert call("evaluate", run, "--num", 20, "--nfe", 3, "--device", "cpu") == 0
    figures = json.loads((run / "evaluation.json").read_text())["figures"]
    assert np.isfinite(list(figures.values())).all()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors that follow a label, a number and a pair of numbers."""
    rng = np.random.default_rng(1)
    label = rng.choice(["cat", "dog"], 300, p=[0.8, 0.2])
    dose, place = rng.uniform(-1, 1, 300), rng.normal(size=(300, 2))
    x = np.stack([3.0 * (label == "dog"), 3 * dose, place.sum(1)], 1)
    path = tmp_path_factory.mktemp("labelled") / "x.npz"
    x = (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)
    np.savez(path, x=x, label=label, dose=dose.astype(np.float32), place=place, age=np.arange(300))
    return path


def test_named_columns_reach_the_network_and_may_be_dropped(labelled: Path) -> None:
    made = Array.of(data=labelled, width=8, network="mlp", device="cpu", condition_dropout=0.5)
    experiment = made.build()
    model = experiment.model
    assert model.spec.class_names == ("cat", "dog")
    assert model.spec.columns == ("dose", "place", "age")
    assert dict(model.net.config["features"]) == {"dose": 1, "place": 2, "age": 1}
    assert set(model.nulls) == {"label", "dose", "place", "age"}
    batch = experiment.stream.at(0)
    assert {name: tuple(value.shape[1:]) for name, value in batch.cond.items()} == {
        "label": (), "dose": (), "place": (2,), "age": (),
    }  # fmt: skip
    only = Array.of(data=labelled, columns=("dose",), device="cpu").build()
    assert only.model.spec.columns == ("dose",)


def test_samples_follow_the_conditions_that_are_asked_for(labelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = "--network mlp --width 64 --depth 2 --steps 400 --batch-size 128 --lr 5e-3 --ema 0.98 --columns dose"
    line = ("train", "array", "--data", labelled, *options.split(), "--device", "cpu")
    assert call(*line, "--sample-every", 0, "--checkpoint-every", 10**4, "--out", run) == 0
    for label, dose in (("cat", -0.9), ("dog", 0.9)):
        out = tmp_path / label
        asked = ("--label", label, "--condition", f"dose={dose}", "--num", 100, "--nfe", 20)
        assert call("sample", run, *asked, "--device", "cpu", "--out", out) == 0
        with np.load(out / "samples.npz") as file:
            mean = file["samples"].mean(0)
            assert set(file["dose"].tolist()) == {np.float32(dose).item()}
        assert abs(mean[0] - 3 * (label == "dog")) < 0.6
        assert abs(mean[1] - 3 * dose) < 0.6
    # Without any that are named, those of data of the same class.
    assert (
        call("sample", run, "--num", 40, "--nfe", 5, "--device", "cpu", "--out", tmp_path / "c")
        == 0
    )
    with np.load(tmp_path / "c" / "samples.npz") as file, np.load(labelled) as data:
        names = np.array(["cat", "dog"])[file["label"]]
        known = set(zip(data["label"].tolist(), data["dose"].tolist(), strict=True))
        assert set(zip(names.tolist(), file["dose"].tolist(), strict=True)) <= known


def test_samples_are_judged_under_conditions_of_their_own_class(labelled: Path) -> None:
    experiment = Array.of(
        data=labelled, width=8, network="mlp", columns=("dose",), device="cpu"
    ).build()
    seen = {}
    forward = experiment.model.net.forward

    def record(x, t, label=None, **cond):
        seen["label"], seen["dose"] = label, cond["dose"]
        return forward(x, t, label=label, **cond)

    experiment.model.net.forward = record
    figures, samples, label = experiment.judge(60, nfe=3, batch_size=60)
    assert len(samples) == 60
    assert torch.equal(seen["label"].cpu(), label)
    data = experiment.data
    whole = data[torch.arange(len(data))].cond
    known = set(zip(whole["label"].tolist(), whole["dose"].tolist(), strict=True))
    assert set(zip(label.tolist(), seen["dose"].tolist(), strict=True)) <= known
    shares = whole["label"].bincount() / len(data)
    assert (label.bincount() - 60 * shares).abs().max() < 1
    assert np.isfinite(list(figures.values())).all()


def test_all_of_the_data_may_be_trained_on(labelled: Path) -> None:
    experiment = Array.of(data=labelled, held_out=0, width=8, network="mlp", device="cpu").build()
    assert experiment.held_out is None
    assert len(experiment.data) == 300


WRONG = {
    "a network of vectors": ({"network": "mlp"}, (3, 8, 8), "--network mlp is for vectors"),
    "a network of images": ({"network": "unet-XS"}, (5,), "take --network mlp"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_network_that_does_not_fit_is_said_at_once(case: str, tmp_path: Path) -> None:
    options, shape, message = WRONG[case]
    np.save(tmp_path / "x.npy", np.zeros((20, *shape), np.float32))
    with pytest.raises(pf.InputError, match=message):
        Array.of(data=tmp_path / "x.npy", device="cpu", **options).build()


def test_conditions_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    x = np.zeros((20, 3), np.float32)
    np.savez(tmp_path / "x.npz", x=x, control=np.zeros((20, 4, 4), np.float32))
    with pytest.raises(
        pf.InputError, match=r"the condition control is .* name others with --columns"
    ):
        Array.of(data=tmp_path / "x.npz", device="cpu").build()


def test_the_recipe_is_in_the_table(labelled: Path, tmp_path: Path) -> None:
    assert RECIPES["array"].find() is Array
    line = ("train", "array", "--data", labelled, "--network", "mlp", "--width", 8, *TINY)
    assert call(*line, "--out", tmp_path / "run") == 0
    assert experiment_of(tmp_path / "run").model.spec == pf.load(tmp_path / "run").spec
