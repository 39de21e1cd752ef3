"""Saved things are trees of parts: a user's own classes, several networks and precisions, parts held by reference."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tinyrun import tree
from torch import Tensor, nn

import pushforward as pf
from pushforward import nets
from pushforward.core.conditions import Fill
from pushforward.nets import MLP, Network
from pushforward.recipes.choices import PATHS
from pushforward.saving.folder import load, save
from pushforward.saving.parts import PACKAGES, class_name, find_class, library_classes
from saving.folders import refusal, rewrite


class MyNet(nn.Module):
    """A user's own network, which says how it is built."""

    def __init__(self, dim: int, width: int = 8, scale: float = 1.0) -> None:
        super().__init__()
        self.dim, self.width, self.scale = dim, width, scale
        self.layers = nn.Sequential(nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, dim))

    def to_config(self) -> dict[str, Any]:
        return {"dim": self.dim, "width": self.width, "scale": self.scale}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * self.layers(x) * t[:, None].to(x.dtype)


class Inner:
    """Keeps the arguments of its constructor in `config`, as the networks of this library do; in another class."""

    class MyNet(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.config = {"dim": dim}
            self.layer = nn.Linear(dim, dim)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.layer(x)


@dataclass(frozen=True)
class MyPath(pf.Path):
    """x_t = t^k x1 + (1 - t) x0."""

    power: float = 2.0
    levels: tuple[float, ...] = (0.1, 0.2)

    def alpha(self, t: Tensor) -> Tensor:
        return t**self.power

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t


@dataclass(frozen=True)
class MyPreconditioning:
    scale: float = 2.0
    prediction: ClassVar[str] = "data"

    def __call__(self, path: pf.Path, t: Tensor) -> Any:
        return pf.EDMPreconditioning(self.scale)(path, t)


@dataclass(frozen=True)
class MyNull:
    value: float

    def __call__(self, value: Any) -> Any:
        return Fill(self.value)(value)


OWN = [MyNet, MyPath, MyPreconditioning, MyNull]


def own() -> pf.Model:
    return pf.Model(
        MyNet(2, 6, 0.5), MyPath(1.5, levels=(0.3, 0.4)), "data", MyPreconditioning(0.7),
        shape=(2,), nulls={"style": MyNull(3.0)},
    )  # fmt: skip


def same(a: Any, b: Any, dim: int = 2) -> bool:
    x, t = pf.Noise.batch(5, 3).normal((dim,), dtype=torch.float32), torch.linspace(0.1, 0.9, 5)
    with torch.no_grad():
        return torch.equal(a(x, t), b(x, t))


def test_a_users_own_network_path_preconditioning_and_null_are_saved_and_loaded(
    tmp_path: Path,
) -> None:
    model = own()
    pf.save(model, tmp_path)
    again = pf.load(tmp_path, parts=OWN)
    assert (again.path, again.preconditioning, again.nulls) == (
        model.path,
        model.preconditioning,
        model.nulls,
    )
    assert isinstance(again.net, MyNet)
    assert again.path.levels == (0.3, 0.4)
    assert same(model, again)
    assert torch.equal(pf.generate(model, 4, nfe=3), pf.generate(again, 4, nfe=3))


@pytest.mark.parametrize("missing", OWN)
def test_a_class_of_ones_own_that_is_not_passed_is_named(missing: type, tmp_path: Path) -> None:
    pf.save(own(), tmp_path)
    message = refusal(tmp_path, parts=[cls for cls in OWN if cls is not missing])
    name = missing.__name__
    assert f"it was saved with a class of your own, {name} (" in message
    assert message.endswith(f"pass it, pf.load(folder, parts=[{name}])")


def test_of_two_classes_of_one_name_that_of_the_module_is_taken_and_else_both_are_refused(
    tmp_path: Path,
) -> None:
    model = pf.Model(Inner.MyNet(2), pf.CondOT(), shape=(2,))
    pf.save(model, tmp_path)
    assert isinstance(pf.load(tmp_path, parts=[MyNet, Inner.MyNet]).net, Inner.MyNet)

    def moved(description: dict) -> None:
        description["parts"]["net"]["class"] = "elsewhere:MyNet"

    rewrite(tmp_path, moved)
    assert same(pf.load(tmp_path, parts=[Inner.MyNet]), model)
    assert "several of the classes in parts are called MyNet" in refusal(
        tmp_path, parts=[MyNet, Inner.MyNet]
    )
    with pytest.raises(pf.InputError, match="parts are classes"):
        pf.load(tmp_path, parts=[model.net])  # type: ignore[list-item]
    with pytest.raises(pf.InputError, match="parts are classes"):
        pf.load(tmp_path, parts=MyNet)  # type: ignore[arg-type]


def test_a_class_of_ones_own_never_stands_for_one_of_the_library(tmp_path: Path) -> None:
    class UNet(nn.Module):
        config: ClassVar[dict] = {}

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x

    class MLP(UNet):
        pass

    pf.save(pf.Model(pf.nets.MLP(2, 8, 1), pf.CondOT()), tmp_path / "library")
    assert type(pf.load(tmp_path / "library", parts=[MLP]).net) is pf.nets.MLP
    pf.save(pf.Model(MLP(), pf.CondOT()), tmp_path / "own")
    assert type(pf.load(tmp_path / "own", parts=[MLP]).net) is MLP
    assert "a class of your own, MLP (" in refusal(tmp_path / "own")


# What cannot be loaded again is refused before anything is written.


class Silent(nn.Linear):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x)


class Forgetful(MyNet):
    """Does not say how wide it is."""

    def to_config(self) -> dict[str, Any]:
        return {"dim": self.dim}


class Wrong(MyNet):
    """Has another name for an argument."""

    def to_config(self) -> dict[str, Any]:
        return {"dimension": self.dim}


class Unlike(MyNet):
    """Is not what it says."""

    def to_config(self) -> dict[str, Any]:
        return {"dim": self.dim, "width": self.width, "scale": self.scale + 1}


class Listed(MyNet):
    def to_config(self) -> Any:
        return [self.dim]


class Holds(MyNet):
    """Has any value for an argument."""

    def __init__(self, dim: int, value: Any = None) -> None:
        super().__init__(dim)
        self.value = value

    def to_config(self) -> dict[str, Any]:
        return {"dim": self.dim, "value": self.value}


@dataclass(frozen=True)
class Curved(pf.CondOT):
    shape: Any = None


REFUSED = {
    "no configuration": (Silent(2, 2), "net of Model is a Silent, which does not say how it is built: derive Silent "
                         r"from pf.nets.Network, or give it a method to_config that returns the arguments "
                         "of its constructor as JSON values"),
    "an argument forgotten": (Forgetful(2, 4), r"layers.0.weight: torch.float32 \(4, 2\), expected torch.float32 "
                              r"\(8, 2\).* Let to_config return all arguments"),
    "another argument": (Wrong(2), "net cannot be built: Wrong with .*unexpected keyword argument 'dimension'"),
    "another configuration": (Unlike(2), 'net has .*"scale": 2.0.*"scale": 3.0'),
    "a list": (Listed(2), "Listed.to_config returns a list; it must return a dictionary"),
    "a tensor": (Holds(2, torch.ones(2)), "value of Holds is a Tensor, which JSON cannot hold: give it as a list, or"),
    "a dtype": (Holds(2, torch.float32), "net.value of Holds is a dtype, which JSON cannot hold"),
    "a device": (Holds(2, torch.device("cpu")), "net.value of Holds is a device"),
    "a lambda": (Holds(2, lambda x: x), "net.value of Holds is the function .*lambda.*write a frozen dataclass with"),
    "a class": (Holds(2, MLP), "net.value of Holds is a type"),
    "infinity": (Holds(2, float("inf")), "net.value of Holds is inf, which JSON cannot hold"),
    "not a number": (Holds(2, [1.0, float("nan")]), "net.value.1 of Holds is nan, which JSON cannot hold"),
    "keys that are numbers": (Holds(2, {3: 1}), "the keys of net.value of Holds must be text"),
    "a key of ours": (Holds(2, {"$part": "net"}), "the keys of net.value of Holds must be text, and none of them"),
    "a set": (Holds(2, {1, 2}), "net.value of Holds is a set"),
    "a network in it": (Holds(2, Silent(2, 2)), "net.value of Holds is a Silent, which does not say how it is built"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_loaded_again_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    net, message = REFUSED[name]
    model = pf.Model(net, pf.CondOT(), shape=(2,))
    with pytest.raises(pf.CheckpointError, match=message):
        pf.save(model, tmp_path / "new")
    assert tree(tmp_path) == {}
    pf.save(pf.Model(MLP(2, 8, 1), pf.CondOT()), tmp_path / "old")
    before = tree(tmp_path / "old")
    with pytest.raises(pf.CheckpointError):
        pf.save(model, tmp_path / "old")
    assert tree(tmp_path / "old") == before


def test_paths_and_records_that_json_cannot_hold_are_refused_too(tmp_path: Path) -> None:
    with pytest.raises(pf.CheckpointError, match=r"path\.shape of Curved is the function"):
        pf.save(pf.Model(MyNet(2), Curved(shape=lambda t: t)), tmp_path)
    with pytest.raises(pf.CheckpointError, match=r"nulls\.label of Model is the function"):
        pf.save(pf.Model(MyNet(2), pf.CondOT(), nulls={"label": lambda v: v}), tmp_path)
    with pytest.raises(pf.CheckpointError, match="a Silent cannot be saved by itself"):
        pf.save(Silent(2, 2), tmp_path)
    with pytest.raises(pf.CheckpointError, match=r"'nets\.a/b' cannot be the name of a part"):
        pf.save(Pair({"a/b": MyNet(2)}), tmp_path)
    assert tree(tmp_path) == {}


def test_what_was_refused_is_accepted_once_it_says_how_it_is_built(tmp_path: Path) -> None:
    for number, value in enumerate((None, True, 3, 0.1, "x", [1, [2.5]], {"a": [None]}, {})):
        pf.save(Holds(2, value), tmp_path / str(number))
        assert pf.load(tmp_path / str(number), parts=[Holds]).value == value


# Several networks.


class Pair(nn.Module):
    """Any number of networks by name, and values of its own."""

    def __init__(
        self, nets: dict[str, nn.Module], gain: float = 1.0, kind: str = "float32"
    ) -> None:
        super().__init__()
        self.nets, self.kind = nn.ModuleDict(nets), kind
        self.gain = nn.Parameter(torch.tensor([gain], dtype=getattr(torch, kind)))

    def to_config(self) -> dict[str, Any]:
        return {"nets": dict(self.nets), "kind": self.kind}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        for net in self.nets.values():
            kind = next(net.parameters()).dtype
            x = net(x.to(kind), t).to(x.dtype)
        return self.gain.to(x.dtype) * x


def test_networks_of_several_precisions_and_values_of_the_whole_are_in_one_folder(
    tmp_path: Path,
) -> None:
    whole = Pair(
        {"a": MyNet(2), "b": MyNet(2, 4).bfloat16(), "c": MLP(2, 8, 1).double()}, 3.0, "float16"
    )
    for p in whole.nets["c"].parameters():
        nn.init.normal_(p)
    pf.save(whole, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "model.json", "self.safetensors", "nets.a.safetensors", "nets.b.safetensors", "nets.c.safetensors",
    }  # fmt: skip
    again = pf.load(tmp_path, parts=[Pair, MyNet])
    for name, value in whole.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        assert torch.equal(again.state_dict()[name], value)
    assert same(whole, again)
    kinds = Counter(p.dtype for p in again.parameters())
    assert set(kinds) == {torch.float32, torch.bfloat16, torch.float64, torch.float16}


def test_a_network_of_two_precisions_keeps_both(tmp_path: Path) -> None:
    net = MyNet(2)
    net.layers[0].to(torch.bfloat16)
    pf.save(net, tmp_path)
    again = pf.load(tmp_path, parts=[MyNet])
    assert again.layers[0].weight.dtype == torch.bfloat16
    assert again.layers[2].weight.dtype == torch.float32


def test_a_network_that_comes_twice_is_saved_once_and_stays_one(tmp_path: Path) -> None:
    net = MyNet(2)
    whole = Pair({"a": net, "b": net})
    pf.save(whole, tmp_path)
    assert not (tmp_path / "nets.b.safetensors").exists()
    again = pf.load(tmp_path, parts=[Pair, MyNet])
    assert again.nets["a"] is again.nets["b"]
    assert same(whole, again)


def test_weights_that_share_memory_or_are_strided_are_saved_as_they_are(tmp_path: Path) -> None:
    net = MyNet(3, 3)
    net.layers[2].weight = net.layers[0].weight
    net.layers[0].bias = nn.Parameter(torch.arange(6.0)[::2])
    net.layers[2].bias = nn.Parameter(torch.arange(9.0).reshape(3, 3).T[1])
    pf.save(net, tmp_path)
    again = pf.load(tmp_path, parts=[MyNet])
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_networks_class_may_look_at_values_while_it_is_built(tmp_path: Path) -> None:
    class Rates(MyNet):
        def __init__(self, dim: int, width: int = 8, scale: float = 1.0) -> None:
            super().__init__(dim, width, scale)
            self.rates = [float(r) for r in torch.linspace(0, 1, width)]

    pf.save(Rates(2), tmp_path)
    assert pf.load(tmp_path, parts=[Rates]).rates == Rates(2).rates


def test_a_network_that_does_not_fit_its_weights_is_refused_before_it_takes_memory(
    tmp_path: Path,
) -> None:
    built = []

    class Watched(MyNet):
        def __init__(self, dim: int, width: int = 8, scale: float = 1.0) -> None:
            super().__init__(dim, width, scale)
            built.append(self.layers[0].weight.device.type)

    pf.save(Watched(2), tmp_path)
    rewrite(tmp_path, lambda whole: whole["parts"]["self"]["config"].update(width=10**9))
    built.clear()
    assert "does not fit the model" in refusal(tmp_path, parts=[Watched])
    assert built == ["meta"]


# Parts held by reference.


@pytest.fixture
def frozen() -> MyNet:
    return MyNet(2, 5).requires_grad_(False)


def test_a_frozen_part_is_held_by_name_and_found_as_an_object_or_in_a_folder(
    frozen: MyNet, tmp_path: Path
) -> None:
    whole = Pair({"trained": MyNet(2), "frozen": frozen})
    pf.save(whole, tmp_path / "whole", references={"nets.frozen": "encoder-v1"})
    assert not (tmp_path / "whole" / "nets.frozen.safetensors").exists()
    own = [Pair, MyNet]
    pf.save(frozen, tmp_path / "encoder")
    for found in (frozen, tmp_path / "encoder", str(tmp_path / "encoder")):
        again = pf.load(tmp_path / "whole", parts=own, references={"encoder-v1": found})
        assert same(whole, again)
    assert (
        pf.load(tmp_path / "whole", parts=own, references={"encoder-v1": frozen}).nets["frozen"]
        is frozen
    )
    message = refusal(tmp_path / "whole", parts=own)
    assert "its part nets.frozen is held by reference to 'encoder-v1'" in message
    assert "pf.load(folder, references={'encoder-v1': " in message
    with torch.no_grad():
        frozen.layers[0].bias[0] += 1e-6
    message = refusal(tmp_path / "whole", parts=own, references={"encoder-v1": frozen})
    assert "the reference 'encoder-v1' is not the part nets.frozen" in message


def test_a_part_of_a_foreign_class_is_held_by_reference_without_a_configuration(
    tmp_path: Path,
) -> None:
    foreign = Silent(2, 2).requires_grad_(False)
    whole = Pair({"a": foreign, "b": MyNet(2)})
    pf.save(whole, tmp_path, references={"nets.a": "foreign"})
    assert same(whole, pf.load(tmp_path, parts=[Pair, MyNet], references={"foreign": foreign}))


def test_only_frozen_parts_that_are_there_are_held_by_reference(tmp_path: Path) -> None:
    whole = Pair({"a": MyNet(2)})
    with pytest.raises(pf.CheckpointError, match=r"nets.a is trained.*requires_grad_\(False\)"):
        pf.save(whole, tmp_path, references={"nets.a": "x"})
    with pytest.raises(pf.CheckpointError, match=r"no part 'nets.b' to hold .* self, nets.a"):
        pf.save(whole, tmp_path, references={"nets.b": "x"})
    assert tree(tmp_path) == {}


# The library's own classes.


def test_every_network_path_and_model_of_the_library_is_found_by_its_name() -> None:
    found = library_classes()
    public = [value for value in vars(nets).values() if isinstance(value, type)]
    networks = [cls for cls in public if issubclass(cls, Network) and cls is not Network]
    assert MLP in networks
    offered = [*networks, *(type(path.make()) for path in PATHS.values()),
               pf.Model, pf.FlowMapModel, pf.BridgeModel,
               pf.HalfBridges, pf.DiffFlowModel, pf.NoisyClassifier, pf.EDMPreconditioning]  # fmt: skip
    for cls in offered:
        assert find_class(class_name(cls)) is cls
    assert all(cls.__module__.split(".")[1] in PACKAGES for cls in found.values())


def test_names_of_the_librarys_classes_are_all_different() -> None:
    import importlib
    import pkgutil

    names: Counter = Counter()
    for package in PACKAGES:
        try:
            home = importlib.import_module(f"pushforward.{package}")
        except ModuleNotFoundError:
            continue
        for entry in pkgutil.iter_modules(home.__path__):
            module = importlib.import_module(f"pushforward.{package}.{entry.name}")
            names.update(
                name for name, value in vars(module).items()
                if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
            )  # fmt: skip
    assert [name for name, count in names.items() if count > 1] == []


def test_what_is_no_part_is_not_found() -> None:
    for name in ("Trainer", "Path.alpha", "math", "Callable", "Any", "dataclass", "_Process", ""):
        with pytest.raises(pf.CheckpointError, match="this library has no part"):
            find_class(name)


def test_a_description_is_readable_json_with_one_entry_for_each_part(tmp_path: Path) -> None:
    pf.save(pf.Model(MLP(2, 8, 1, classes=3), pf.CondOT(), shape=(2,), classes=3), tmp_path)
    whole = json.loads((tmp_path / "model.json").read_text())
    assert whole["format"] == 2
    assert {place: entry["class"] for place, entry in whole["parts"].items()} == {
        "self": "Model", "net": "MLP", "path": "CondOT", "spec": "DataSpec", "nulls.label": "Fill",
        "sampling": "SamplingDefaults", "provenance": "Provenance",
    }  # fmt: skip
    assert whole["parts"]["net"]["weights"]["file"] == "model.safetensors"
    assert whole["parts"]["spec"]["config"]["shape"] == [2]


@dataclass(frozen=True)
class Nested:
    """A part that holds another in a list, and a default that is not an argument."""

    steps: tuple[Any, ...] = ()
    total: int = field(init=False, default=0)


def test_parts_within_lists_and_fields_that_are_no_arguments(tmp_path: Path) -> None:
    whole = Nested((pf.CondOT(), 3, (pf.VP(), "x")))
    save(whole, tmp_path)
    assert load(tmp_path, parts=[Nested]) == whole
