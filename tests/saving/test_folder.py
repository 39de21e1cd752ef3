"""model.safetensors and model.json: equal outputs after a round trip, refused when anything is off, never executed."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from tinyrun import tree

import pushforward as pf
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.diffflow import Backward, DiffFlowModel
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import MLP, NETS, UNet
from pushforward.recipes.tables import PATHS
from pushforward.saving.folder import PATHS as SHARED_PATHS
from pushforward.saving.folder import _digest

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
        lambda net: BridgeModel(net(2), BRIDGE, shape=(2,), classes=3, info={"source": "moons"}),
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
    assert loaded.info == model.info | {"sha256": digest}
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


def test_every_network_and_path_that_is_offered_can_be_shared() -> None:
    assert set(NETWORKS) >= {"MLP", "UNet"}
    assert {type(make()) for make in PATHS.values()} <= set(SHARED_PATHS.values())
    assert set(NETS.values()) >= {MLP, UNet}


@pytest.mark.parametrize("preconditioned", [False, True], ids=["plain", "edm"])
@pytest.mark.parametrize("path", [name for name, path in PATHS.items() if path().gaussian_source])
@pytest.mark.parametrize("net", NETWORKS)
def test_a_loaded_model_has_the_outputs_of_the_one_that_was_saved(
    net: str, path: str, preconditioned: bool, tmp_path: Path
) -> None:
    make, shape = NETWORKS[net]
    for time in ("sinusoidal", "fourier"):
        model = pf.Model(
            randomised(make(time)),
            PATHS[path](),
            "data" if preconditioned else "v",
            EDMPreconditioning(0.7) if preconditioned else None,
            margin=2e-3,
            shape=shape,
            classes=3,
            info={"nfe": 7, "names": ["a", "b", "c"]},
        )
        digest = pf.save(model, tmp_path / time)
        loaded = pf.load(tmp_path / time)
        assert (loaded.path, loaded.prediction, loaded.preconditioning) == (
            model.path,
            model.prediction,
            model.preconditioning,
        )
        assert (loaded.margin, loaded.shape, loaded.classes) == (2e-3, shape, 3)
        assert loaded.info == {**model.info, "sha256": digest}
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


def test_a_network_of_ones_own_is_not_shared_and_says_so(tmp_path: Path) -> None:
    class MLP(torch.nn.Linear):
        config: ClassVar = {}

    with pytest.raises(pf.CheckpointError, match="not one of the networks that a shared model"):
        pf.save(pf.Model(MLP(2, 2), pf.CondOT()), tmp_path)
    assert tree(tmp_path) == {}


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


def refusal(folder: Path) -> str:
    before = tree(folder)
    with pytest.raises(pf.CheckpointError) as caught:
        pf.load(folder)
    assert tree(folder) == before
    assert str(folder) in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, **changes) -> None:
    """A model.json that somebody made on purpose: its own SHA-256 is right."""
    description = json.loads((folder / "model.json").read_text()) | changes
    description["check"] = _digest(description)
    (folder / "model.json").write_text(json.dumps(description))


def reweigh(folder: Path, change) -> None:
    """Weights that somebody made on purpose: all hashes are right."""
    tensors = load_tensors((folder / "model.safetensors").read_bytes())
    change(tensors)
    content = save_tensors(tensors)
    (folder / "model.safetensors").write_bytes(content)
    rewrite(folder, sha256=hashlib.sha256(content).hexdigest())


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
    assert refusal(shared) == (
        f"{shared} holds no model: {name} is missing. A run writes it with its first checkpoint"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("net.conv_in.weight"), "(1 differences): missing: net.conv_in.weight"),
        (lambda w: w.update(extra=torch.zeros(2)), "(1 differences): unexpected: extra"),
        (lambda w: w.update({"net.conv_in.bias": torch.zeros(9)}),
         "net.conv_in.bias: torch.float32 (9,), expected torch.float32 (8,)"),
        (lambda w: w.update({"net.conv_in.bias": torch.zeros(8, dtype=torch.int64)}),
         "net.conv_in.bias: torch.int64 (8,), expected torch.float32 (8,)"),
    ],
    ids=["missing", "extra", "reshaped", "retyped"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_listed(shared: Path, change, message: str) -> None:
    reweigh(shared, change)
    assert message in refusal(shared)


MODEL = {
    "name": "MLP",
    "arguments": {"dim": 2, "width": 8, "depth": 1, "classes": 3, "time": "sinusoidal"},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": {"name": "__import__", "arguments": {"name": "os"}}}, "unknown network '__import__'; known are MLP"),
        ({"net": {"name": "os.system", "arguments": {"command": "touch x"}}}, "unknown network 'os.system'"),
        ({"net": {"name": "builtins.exec", "arguments": {}}}, "unknown network 'builtins.exec'"),
        ({"path": {"name": "os.system", "arguments": {}}}, "unknown path 'os.system'"),
        ({"path": {"name": "Path", "arguments": {}}}, "unknown path 'Path'"),
        ({"preconditioning": {"name": "eval", "arguments": {}}}, "unknown preconditioning 'eval'"),
        ({"net": {"name": ["MLP"], "arguments": {}}}, "not a model description: TypeError"),
        ({"net": {"name": "MLP"}}, "not a model description: KeyError"),
        ({"net": "MLP"}, "not a model description: TypeError"),
        ({"net": None}, "not a model description: TypeError"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"__class__": "x"}}}, "not a model description: TypeError"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"width": 10**12}}}, "describes a network larger than"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"width": 200}}}, "does not fit the model"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"depth": 10**9}}}, "describes a network larger than"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"width": -8}}}, "must be positive"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"width": 8.5}}}, "not a model description"),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"classes": -3}}}, ""),
        ({"net": MODEL | {"arguments": MODEL["arguments"] | {"time": "os.system"}}}, ""),
        ({"prediction": "os.system"}, ""),
        ({"prediction": None}, ""),
        ({"margin": 0.7}, "margin is 0.7"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"shape": [10**9, -1]}, "must be positive whole numbers"),
        ({"shape": "ab"}, "must be positive whole numbers"),
        ({"shape": None}, "not a model description: TypeError"),
        ({"classes": "os.system"}, "must be positive whole numbers"),
        ({"classes": 2.5}, "must be positive whole numbers"),
        ({"info": 3}, "not a model description: TypeError"),
        ({"format": 2}, "is not a model description of format 1"),
        ({"sha256": None}, "its SHA-256 differs"),
    ],
)  # fmt: skip
def test_a_hostile_description_is_refused_and_nothing_in_it_is_executed(
    shared: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("executed")

    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    rewrite(shared, **changes)
    assert message in refusal(shared)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1}'],
)
def test_a_description_that_is_something_else_is_refused(shared: Path, content: bytes) -> None:
    (shared / "model.json").write_bytes(content)
    refusal(shared)


@pytest.mark.parametrize(
    "key", ["net", "path", "prediction", "preconditioning", "margin", "shape", "classes", "info"]
)
def test_a_description_without_one_of_its_keys_is_refused_by_name(shared: Path, key: str) -> None:
    description = json.loads((shared / "model.json").read_text())
    del description[key]
    description["check"] = _digest(description)
    (shared / "model.json").write_text(json.dumps(description))
    assert f"not a model description: KeyError: '{key}'" in refusal(shared)


def test_a_pickle_in_place_of_the_weights_is_refused(shared: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save(Bomb(), shared / "model.safetensors")
    rewrite(shared, sha256=hashlib.sha256((shared / "model.safetensors").read_bytes()).hexdigest())
    refusal(shared)
