"""A saved model: equal answers after a round trip, refused when anything is off, never executed."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pushforward as pf
from pushforward.core.spec import Provenance, SamplingDefaults
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.diffflow import Backward, DiffFlowModel
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import MLP, UNet
from pushforward.recipes.choices import GAUSSIAN_PATHS
from pushforward.saving.folder import save_records
from saving.folders import refusal, reweigh, rewrite

NETWORKS = {
    "MLP": (lambda time: MLP(2, 8, 2, classes=3, time=time), (2,)),
    "UNet": (
        lambda time: UNet(1, 8, (1, 2), attention=(1,), classes=3, dropout=0.1, time=time),
        (1, 4, 4),
    ),
}


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2)
    return net


def outputs(model: pf.Model, shape: tuple[int, ...]) -> list[torch.Tensor]:
    model.eval()
    x = pf.Noise.batch(5, 3).normal(shape)
    t = torch.linspace(0.1, 0.9, 5)
    wants = ("velocity", "data", "noise", "score", "v")
    with torch.no_grad():
        return [model(x, t, want, label=torch.tensor([0, 1, 2, -1, 0])) for want in wants]


BRIDGE = pf.BrownianBridge(0.7)
# Models between any two laws: what builds them, and what they are asked for.
BETWEEN = {
    "velocity on CondOT": (
        lambda net: pf.Model(net(1), pf.CondOT(gaussian_source=False), shape=(2,), classes=3),
        ("velocity", "data"),
    ),
    "velocity in a tube": (
        lambda net: pf.Model(net(1), pf.Tube(0.05), shape=(2,), classes=3),
        ("velocity",),
    ),
    "bridge": (
        lambda net: BridgeModel(
            net(2), BRIDGE, shape=(2,), classes=3, sampling=SamplingDefaults(source="moons")
        ),
        ("velocity", "score"),
    ),
    "smooth bridge": (
        lambda net: BridgeModel(net(2), pf.SmoothBridge(0.3), shape=(2,), classes=3),
        ("velocity", "score"),
    ),
    "DiffFlow": (
        lambda net: DiffFlowModel(
            pf.Model(net(1), pf.VP(), "noise", shape=(2,), classes=3), net(1), steps=3
        ),
        ("velocity", "score"),
    ),
    "DiffFlow without a drift": (
        lambda net: DiffFlowModel(
            pf.Model(net(1), pf.Cosine(), "noise", shape=(2,), classes=3),
            grid=torch.tensor([0.0, 0.3, 1.0]),
        ),
        ("velocity", "score", "data"),
    ),
    "half-bridges": (
        lambda net: HalfBridges(net(1), net(1), BRIDGE, shape=(2,), classes=3),
        ("velocity", "score"),
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_a_loaded_model_between_two_laws_is_the_one_that_was_saved(
    name: str, tmp_path: Path
) -> None:
    make, wants = BETWEEN[name]
    model = make(lambda outputs: randomised(MLP(2, 8, 2, classes=3, outputs=outputs)))
    digest = pf.save(model, tmp_path)
    loaded = pf.load(tmp_path)
    assert type(loaded) is type(model)
    assert (loaded.path, loaded.shape, loaded.classes) == (model.path, (2,), 3)
    assert (loaded.spec, loaded.sampling, loaded.nulls) == (model.spec, model.sampling, model.nulls)
    assert loaded.provenance == replace(model.provenance, sha256=digest)
    x, t = pf.Noise.batch(5, 3).normal((2,)), torch.linspace(0.1, 0.9, 5)
    label = torch.tensor([0, 1, 2, -1, 0])
    if isinstance(model, DiffFlowModel):
        assert torch.equal(loaded.grid, model.grid)
        assert torch.equal(
            pf.generate(loaded, 5, nfe=loaded.steps, seed=2, label=label),
            model.sample(5, seed=2, label=label),
        )
        # Its chain does not ask the guided field: that is said, and not passed over.
        with pytest.raises(pf.InputError, match="sample without guidance"):
            pf.generate(
                loaded,
                5,
                solver=Backward(loaded),
                guidance=2.0,
                label=label,
                nfe=loaded.steps,
            )
    with torch.no_grad():
        for want in wants:
            assert torch.equal(
                loaded(x, t, want, label=label), model.eval()(x, t, want, label=label)
            )


@pytest.mark.parametrize("preconditioned", [False, True], ids=["plain", "edm"])
@pytest.mark.parametrize("path", GAUSSIAN_PATHS)
@pytest.mark.parametrize("net", NETWORKS)
def test_a_loaded_model_has_the_outputs_of_the_one_that_was_saved(
    net: str, path: str, preconditioned: bool, tmp_path: Path
) -> None:
    make, shape = NETWORKS[net]
    for time in ("sinusoidal", "fourier"):
        model = pf.Model(
            randomised(make(time)),
            GAUSSIAN_PATHS[path].make(),
            "data" if preconditioned else "v",
            EDMPreconditioning(0.7) if preconditioned else None,
            margin=2e-3,
            shape=shape,
            classes=3,
            sampling=SamplingDefaults(nfe=7),
            provenance=Provenance(recipe="images", step=3),
        )
        digest = pf.save(model, tmp_path / time)
        loaded = pf.load(tmp_path / time)
        assert (loaded.path, loaded.prediction, loaded.preconditioning) == (
            model.path,
            model.prediction,
            model.preconditioning,
        )
        assert (loaded.margin, loaded.shape, loaded.classes) == (2e-3, shape, 3)
        assert loaded.sampling == model.sampling
        assert loaded.provenance == replace(model.provenance, sha256=digest)
        assert digest == hashlib.sha256((tmp_path / time / "model.safetensors").read_bytes()).hexdigest()  # fmt: skip
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        for a, b in zip(outputs(model, shape), outputs(loaded, shape), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_keeps_the_precision_in_which_it_was_saved(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = pf.Model(randomised(MLP(2, 8, 1)).to(dtype), pf.VP(), "noise", shape=(2,))
    pf.save(model, tmp_path)
    loaded = pf.load(tmp_path)
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == dtype
        assert torch.equal(loaded.state_dict()[name], value)


def test_loading_leaves_the_callers_generator_as_it_was(shared: Path) -> None:
    before = torch.get_rng_state()
    pf.load(shared)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = randomised(MLP(2, 8, 1, classes=3))
    pf.save(pf.Model(net, pf.CondOT(), shape=(2,), classes=3), tmp_path / "model")
    return tmp_path / "model"


def test_any_flipped_bit_of_a_shared_model_is_found_or_means_the_same(shared: Path) -> None:
    for name, number in (("model.json", None), ("model.safetensors", 400)):
        content = (shared / name).read_bytes()
        want = json.loads(content) if number is None else None
        bits = range(8 * len(content))
        for bit in bits if number is None else random.Random(0).sample(bits, number):
            place = bit // 8
            bad = content[:place] + bytes([content[place] ^ 1 << bit % 8]) + content[place + 1 :]
            if want is not None:
                try:  # 1e-05 and 1E-05 are one bit apart, and one number.
                    if json.loads(bad) == want:
                        continue
                except ValueError:
                    pass
            (shared / name).write_bytes(bad)
            with pytest.raises(pf.CheckpointError):
                pf.load(shared)
        (shared / name).write_bytes(content)
    pf.load(shared)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_or_cut_file_of_a_shared_model_is_named(shared: Path, name: str) -> None:
    content = (shared / name).read_bytes()
    for size in (0, 1, 100, len(content) - 3):
        (shared / name).write_bytes(content[:size])
        refusal(shared)
    (shared / name).unlink()
    assert refusal(shared) == {
        "model.json": f"{shared} holds no model: model.json is missing. A run writes it with its first checkpoint",
        "model.safetensors": f"{shared}: model.safetensors is missing, which holds the weights of net",
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("conv_in.weight"), "(1 differences): missing: conv_in.weight"),
        (lambda w: w.update(extra=torch.zeros(2)), "(1 differences): unexpected: extra"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(9)}),
         "conv_in.bias: torch.float32 (9,), expected torch.float32 (8,)"),
        (lambda w: w.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)}),
         "conv_in.bias: torch.int64 (8,), expected torch.float32 (8,)"),
    ],
    ids=["missing", "extra", "reshaped", "retyped"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(shared: Path, change, message: str) -> None:
    reweigh(shared, change)
    assert message in refusal(shared)


def part(place: str, **changes: Any):
    """Change an entry of a part in a description."""
    return lambda whole: whole["parts"][place].update(changes)


def config(place: str, **changes: Any):
    """Change the arguments of a part in a description."""
    return lambda whole: whole["parts"][place]["config"].update(changes)


def without(place: str, name: str):
    return lambda whole: whole["parts"][place]["config"].pop(name)


HOSTILE = [
    (part("net", **{"class": "__import__"}), "this library has no part '__import__'"),
    (part("net", **{"class": "os.system", "config": {"command": "touch x"}}), "has no part 'os.system'"),
    (part("net", **{"class": "builtins.exec"}), "this library has no part 'builtins.exec'"),
    (part("net", **{"class": "os:system"}), "it was saved with a class of your own, system (os:system)"),
    (part("path", **{"class": "posix:system"}), "pass it, pf.load(folder, parts=[system])"),
    (part("net", **{"class": "CondoT"}), "this library has no part 'CondoT'; did you mean CondOT?"),
    (part("path", **{"class": "Path"}), "path cannot be built: Path"),
    (part("path", **{"class": "Trainer"}), "this library has no part 'Trainer'"),
    (part("net", **{"class": ["MLP"]}), "the name of a class is not text"),
    (part("net", **{"class": None}), "the name of a class is not text"),
    (part("self", **{"class": "UNet"}), "self: UNet has no argument 'net'"),
    (part("self", **{"class": "CondOT"}), "self cannot be built: CondOT"),
    (lambda whole: whole["parts"].update(net="MLP"), "not a description of a model"),
    (lambda whole: whole["parts"].update(net=None), "not a description of a model"),
    (lambda whole: whole["parts"].pop("net"), "the part 'net' is missing"),
    (lambda whole: whole["parts"].pop("self"), "names no part 'self'"),
    (lambda whole: whole.update(parts=[]), "names no part 'self'"),
    (lambda whole: whole["parts"]["net"].pop("config"), "KeyError: 'config'"),
    (lambda whole: whole["parts"]["net"].pop("class"), "KeyError: 'class'"),
    (lambda whole: whole["parts"].update(more={"class": "CondOT", "config": {}}), "no part takes 'more'"),
    (config("self", path={"$part": "self"}), "the part 'self' is a part of itself"),
    (config("self", path={"$part": ["net"]}), "not a description of a model: TypeError"),
    (config("net", __class__="x"), "net: MLP has no argument '__class__'"),
    (config("net", width=10**12), "net describes a network larger than its weights"),
    (config("net", width=200), "does not fit the model"),
    (config("net", depth=10**9), "net describes a network larger than its weights"),
    (config("net", width=-8), "must be positive"),
    (config("net", width=8.5), "net cannot be built: MLP"),
    (config("net", classes=-3), ""),
    (config("net", time="os.system"), "time features are"),
    (config("self", prediction="os.system"), "there is no prediction 'os.system'"),
    (config("self", prediction=None), "there is no prediction None"),
    (config("self", preconditioning="eval"), ""),
    (config("spec", shape=[10**9, -1]), "must be positive whole numbers"),
    (config("spec", shape="ab"), "must be positive whole numbers"),
    (config("spec", classes="os.system"), ""),
    (config("spec", classes=2.5), "must be positive whole numbers"),
    (config("spec", colour=1), "DataSpec has no colour"),
    (config("self", outputs=["prediction", "variance"]), "built with outputs=1"),
    (config("self", outputs="x"), "in this order, not"),
    (config("nulls.label", value="os.system"), ""),
    (config("self", nulls={"label": "os.system"}), "what stands for no label is"),
    (part("net", weights={"file": "../model.safetensors", "sha256": ""}), "cannot be in '../model.safetensors'"),
    (part("net", weights={"file": "/etc/passwd", "sha256": ""}), "cannot be in '/etc/passwd'"),
    (part("net", weights={"file": "model.json", "sha256": ""}), "cannot be in 'model.json'"),
    (part("net", weights={"file": "model.safetensors", "sha256": None}), "its SHA-256 differs"),
    (part("net", weights=3), "not a description of a model: TypeError"),
    (lambda whole: whole["parts"]["path"].update(weights=whole["parts"]["net"]["weights"]), "path is a CondOT and has"),
    (lambda whole: whole["parts"]["net"].pop("weights"), "net does not fit the model"),
    (lambda whole: whole.update(format=3), "it has format 3, of a newer version"),
    (lambda whole: whole.update(format="2"), "its format is '2'"),
    *((without("self", name), "self cannot be built: Model") for name in ("net", "path")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_a_hostile_description_is_refused_and_nothing_in_it_is_executed(
    shared: Path, change, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("executed")

    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    rewrite(shared, change)
    assert message in refusal(shared)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'],
)
def test_a_description_that_is_something_else_is_refused(shared: Path, content: bytes) -> None:
    (shared / "model.json").write_bytes(content)
    refusal(shared)


def test_a_pickle_in_place_of_the_weights_is_refused(shared: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save(Bomb(), shared / "model.safetensors")
    found = hashlib.sha256((shared / "model.safetensors").read_bytes()).hexdigest()
    rewrite(shared, part("net", weights={"file": "model.safetensors", "sha256": found}))
    assert "cannot read" in refusal(shared)


def test_the_records_of_a_folder_are_written_anew_and_its_weights_stay(shared: Path) -> None:
    model, weights = pf.load(shared), (shared / "model.safetensors").stat()
    model.sampling = replace(model.sampling, nfe=9, fitted=({"nfe": 3, "weights": [0.1]},))
    save_records(model, shared)
    again = pf.load(shared)
    assert again.sampling == model.sampling
    assert again.provenance.sha256 == model.provenance.sha256
    assert (shared / "model.safetensors").stat() == weights


def test_a_model_that_is_saved_again_has_no_hash_of_what_it_was(
    shared: Path, tmp_path: Path
) -> None:
    model = pf.load(shared)
    old = model.provenance.sha256
    with torch.no_grad():
        model.net.conv_in.weight.add_(1)
    new = pf.save(model, tmp_path / "again")
    assert new != old
    assert old not in (tmp_path / "again" / "model.json").read_text()
    assert pf.load(tmp_path / "again").provenance.sha256 == new


def test_saving_over_a_model_replaces_it_and_leaves_other_files_alone(
    shared: Path, tmp_path: Path
) -> None:
    (shared / "notes.txt").write_text("mine")
    (shared / "other.safetensors").write_bytes(b"mine")
    halves = HalfBridges(MLP(2, 8, 1), MLP(2, 4, 1), BRIDGE, shape=(2,))
    digest = pf.save(halves, shared)
    names = {"backward_drift.safetensors", "forward_drift.safetensors", "model.json", "notes.txt"}
    assert {p.name for p in shared.iterdir()} == names | {"other.safetensors"}
    assert pf.load(shared).provenance.sha256 == digest
    pf.save(pf.Model(MLP(2, 8, 1), pf.CondOT()), shared)
    kept = {"model.json", "model.safetensors", "notes.txt", "other.safetensors"}
    assert {p.name for p in shared.iterdir()} == kept
    pf.load(shared)


def test_weights_that_did_not_change_are_not_written_again(tmp_path: Path) -> None:
    halves = HalfBridges(MLP(2, 8, 1), MLP(2, 4, 1), BRIDGE, shape=(2,))
    pf.save(halves, tmp_path)
    before = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    with torch.no_grad():
        halves.backward_drift.conv_in.weight.add_(1)
    pf.save(halves, tmp_path)
    after = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"backward_drift.safetensors", "model.json"}


def test_a_model_without_weights_is_saved_too(tmp_path: Path) -> None:
    pf.save(pf.CondOT(0.1), tmp_path / "path")
    assert pf.load(tmp_path / "path") == pf.CondOT(0.1)
