"""Models that can be shared: `model.safetensors` and `model.json`, which load without executing code.

model.json names the network, path, prediction and preconditioning, each out of a closed table, with the arguments that
build them, the SHA-256 of the weights, and that of itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from pushforward import __version__
from pushforward.core import interpolants, paths
from pushforward.core.errors import CheckpointError, Error
from pushforward.models.bridge import BridgeModel, HalfBridges
from pushforward.models.classifier import NoisyClassifier
from pushforward.models.diffflow import DiffFlowModel
from pushforward.models.flow_map import FlowMapModel
from pushforward.models.model import Model
from pushforward.models.preconditioning import EDMPreconditioning
from pushforward.nets import NETS
from pushforward.runtime.files import explain, sha256, write_file

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
PATHS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        paths.CondOT, paths.Cosine, paths.VP, paths.SubVP, paths.VE, paths.EDM, paths.DDPMPath,
        interpolants.Tube, interpolants.BrownianBridge, interpolants.SmoothBridge,
    )
}  # fmt: skip
PRECONDITIONINGS: dict[str, type] = {"EDMPreconditioning": EDMPreconditioning}


# What draws samples, and what a folder can hold.
Sampled = Model | FlowMapModel | BridgeModel | HalfBridges | DiffFlowModel
Shared = Sampled | NoisyClassifier
# The networks of a model of each kind: their names in a description, and in the model.
KINDS: dict[str, tuple[type[nn.Module], dict[str, str]]] = {
    "model": (Model, {"net": "net"}),
    "flow-map": (FlowMapModel, {"net": "model.net"}),
    "classifier": (NoisyClassifier, {"net": "net"}),
    "bridge": (BridgeModel, {"net": "net"}),
    "half-bridges": (
        HalfBridges,
        {"forward_drift": "forward_drift", "backward_drift": "backward_drift"},
    ),
    "diffflow": (DiffFlowModel, {"net": "score.net", "drift": "drift"}),
}


def describe(model: Shared) -> dict[str, Any]:
    """All of a model but its weights, as JSON values."""
    if isinstance(model, DiffFlowModel):
        drift = None if model.drift is None else _of_network(model.drift)
        whole = {"kind": "diffflow", "drift": drift, "grid": model.grid.tolist()}
        return describe(model.score) | whole
    if isinstance(model, FlowMapModel):
        jumps = model.jumps if isinstance(model.jumps, str) else list(model.jumps)
        return describe(model.model) | {"kind": "flow-map", "jumps": jumps}
    kind, parts = next((k, parts) for k, (cls, parts) in KINDS.items() if type(model) is cls)
    common = {
        "format": FORMAT,
        "pushforward": __version__,
        "kind": kind,
        **{part: _of_network(getattr(model, part)) for part in parts},
        "path": _component(type(model.path).__name__, dataclasses.asdict(model.path)),
        "shape": list(model.shape),
        "classes": model.classes,
        "info": model.info,
    }
    if not isinstance(model, Model):
        return common
    return common | {
        "prediction": model.prediction,
        "preconditioning": None
        if model.preconditioning is None
        else _component(
            type(model.preconditioning).__name__,
            dataclasses.asdict(model.preconditioning),  # type: ignore[call-overload]
        ),
        "margin": model.margin,
    }


def _of_network(net: Any) -> dict[str, Any]:
    name = type(net).__name__
    if NETS.get(name) is not type(net):
        raise CheckpointError(
            f"{name} is not one of the networks that a shared model may name ({', '.join(NETS)}): keep its state_dict, "
            f"and rebuild it in code"
        )
    return _component(name, net.config)


def _component(name: str, arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def build(description: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Shared:
    """The model that `describe` described, with fresh weights of the shapes of `weights`. Nothing in it is trusted."""
    try:
        shape, classes = description["shape"], description["classes"]
        if not all(type(n) is int and n > 0 for n in [*shape, 1 if classes is None else classes]):
            raise CheckpointError(
                f"shape {shape!r} and classes {classes!r} must be positive whole numbers"
            )
        kind = description.get("kind", "model")
        if kind not in KINDS:
            raise CheckpointError(f"unknown kind of model {kind!r}; known are {', '.join(KINDS)}")
        made, parts = KINDS[kind]
        if kind == "diffflow" and description["drift"] is None:
            parts = {"net": parts["net"]}
        _check_size(description, weights, parts)
        path = _make("path", PATHS, description["path"])
        about = {"shape": tuple(shape), "classes": classes, "info": description["info"]}
        first, *others = (_network(description[part], weights) for part in parts)
        if made not in (Model, FlowMapModel, DiffFlowModel):
            model: Shared = made(first, *others, path, **about)  # type: ignore[assignment]
            return model
        preconditioning = description["preconditioning"]
        whole = Model(
            first,
            path,
            description["prediction"],
            None
            if preconditioning is None
            else _make("preconditioning", PRECONDITIONINGS, preconditioning),
            margin=description["margin"],
            shape=about["shape"],
            classes=classes,
            info=about["info"],
        )
        if made is Model:
            return whole
        if made is FlowMapModel:
            jumps: Any = description["jumps"]
            if not isinstance(jumps, str):
                jumps = tuple(jumps)
            elif jumps == "any" and not description["net"]["arguments"].get("two_times"):
                raise CheckpointError("a flow map of any jumps takes a network of two times")
            return FlowMapModel(whole, jumps)
        grid = torch.tensor(description["grid"], dtype=torch.float64)
        return DiffFlowModel(whole, others[0] if others else None, grid=grid)
    except Error:
        raise
    except Exception as error:  # whatever arguments of the wrong type or size lead to
        raise CheckpointError(
            f"not a model description: {type(error).__name__}: {error}"
        ) from error


def _make(kind: str, table: Mapping[str, type], component: Mapping[str, Any]) -> Any:
    name = component["name"]
    if name not in table:
        raise CheckpointError(f"unknown {kind} {name!r}; known are {', '.join(table)}")
    return table[name](**component["arguments"])


def _check_size(
    description: Mapping[str, Any], weights: Mapping[str, Tensor], parts: Mapping[str, str]
) -> None:
    """That the networks' tensors are those of the file, before memory is taken for them."""
    held, wanted = sum(w.numel() for w in weights.values()), dict[str, Tensor]()
    for part, name_in_model in parts.items():
        if any(type(n) is int and n > held for n in description[part]["arguments"].values()):
            raise CheckpointError(f"{DESCRIPTION} describes a network larger than {WEIGHTS}")
        with torch.device("meta"):
            net = _network(description[part], weights)
        wanted |= {f"{name_in_model}.{name}": value for name, value in net.state_dict().items()}
    check_fit(wanted, weights, WEIGHTS)


def _network(component: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The network, in the precision of its weights."""
    net: nn.Module = _make("network", NETS, component)
    kinds = {w.dtype for w in weights.values() if w.is_floating_point()}
    return net.to(kinds.pop()) if len(kinds) == 1 else net


def _digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of all of a description but this."""
    rest = {key: value for key, value in description.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def save(model: Shared, folder: str | FilePath) -> str:
    """Write model.safetensors and model.json into `folder`; returns the SHA-256 of the weights."""
    return save_as(describe(model), model.state_dict(), folder)


def save_as(
    description: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: str | FilePath
) -> str:
    """As `save`, of a model whose description and weights are given."""
    folder = FilePath(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(folder, error) from error
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_file(folder / WEIGHTS, save_tensors(plain))
    digest = sha256(folder / WEIGHTS)
    whole = json.loads(json.dumps({**description, "sha256": digest}))
    whole["check"] = _digest(whole)
    write_file(folder / DESCRIPTION, (json.dumps(whole, indent=1) + "\n").encode())
    return digest


def save_info(model: Shared, folder: str | FilePath) -> None:
    """Write the info of a model anew into the folder that it was loaded from; the weights there stay untouched."""
    place = FilePath(folder) / DESCRIPTION
    info = {key: value for key, value in model.info.items() if key != "sha256"}
    description = json.loads(json.dumps(json.loads(place.read_text()) | {"info": info}))
    description["check"] = _digest(description)
    write_file(place, (json.dumps(description, indent=1) + "\n").encode())


def load(folder: str | FilePath, device: torch.device | str = "cpu") -> Any:
    """The model in a run folder, ready to sample. `model.info["sha256"]` is the hash of its weights.

    Raises CheckpointError if it is missing, damaged or not of this library. Nothing in the files is executed.
    """
    model = _load(folder, device)
    if isinstance(model, NoisyClassifier):
        raise CheckpointError(
            f"{folder} holds a classifier, which guides a model and draws nothing by itself"
        )
    return model


def load_classifier(folder: str | FilePath, device: torch.device | str = "cpu") -> NoisyClassifier:
    """The noisy classifier in a run folder, as `load` does a model."""
    model = _load(folder, device)
    if not isinstance(model, NoisyClassifier):
        raise CheckpointError(f"{folder} holds a model that draws samples, and no classifier")
    return model


def _load(folder: str | FilePath, device: torch.device | str) -> Shared:
    folder = FilePath(folder)
    for name in (DESCRIPTION, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} holds no model: {name} is missing. A run writes it with its first checkpoint"
            )
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise CheckpointError(f"{DESCRIPTION} is not a model description of format {FORMAT}")
        if description.get("check") != _digest(description):
            raise CheckpointError(f"{DESCRIPTION} is damaged or was edited: its SHA-256 differs")
        content = (folder / WEIGHTS).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != description.get("sha256"):
            raise CheckpointError(
                f"{WEIGHTS} is not the file that {DESCRIPTION} describes (its SHA-256 differs): "
                f"it is damaged or from elsewhere"
            )
        weights = load_tensors(content)
        # The generator of the caller is left as it was.
        with torch.random.fork_rng(devices=[]):
            model = build(description, weights)
        load_into(model, weights, WEIGHTS)
    except (ValueError, OSError, RecursionError, SafetensorError, CheckpointError) as error:
        if isinstance(error, Error):
            raise CheckpointError(f"{folder}: {error}") from error
        raise CheckpointError(f"cannot read the model in {folder}: {error}") from error
    model.info["sha256"] = digest
    model.provenance = dataclasses.replace(model.provenance, sha256=digest)
    return model.to(device).requires_grad_(False).eval()


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module, after listing every name, shape or type that does not fit."""
    check_fit(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors))


def check_fit(want: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    problems = [f"missing: {name}" for name in want if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in want]
    problems += [
        f"{name}: {tensors[name].dtype} {tuple(tensors[name].shape)}, expected {value.dtype} {tuple(value.shape)}"
        for name, value in want.items()
        if name in tensors
        and (tensors[name].shape != value.shape or tensors[name].dtype != value.dtype)
    ]
    if problems:
        shown = "; ".join(problems[:8]) + ("; ..." if len(problems) > 8 else "")
        raise CheckpointError(
            f"{where} does not fit the model ({len(problems)} differences): {shown}"
        )
