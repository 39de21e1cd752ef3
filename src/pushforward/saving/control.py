"""Controls as small folders: a branch, and by its SHA-256 the network that it steers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.spec import Provenance
from pushforward.models.model import Model
from pushforward.nets.control import Branch, Controlled, check_controllable
from pushforward.nets.network import did_you_mean
from pushforward.nets.prompted import Prompted
from pushforward.runtime.hashes import digest
from pushforward.saving.description import SELF, describe
from pushforward.saving.folder import load_part, read_description, save
from pushforward.saving.parts import class_name


@dataclass(frozen=True)
class Control:
    """What steers a network. name: of its hint; base: SHA-256 of the network's tensors, see `runtime.hashes.digest`."""

    name: str
    branch: Branch
    base: str

    @classmethod
    def of(cls, model: Model, name: str = "edges", hint: int = 1, width: int = 32) -> Control:
        """An untrained one of a model, of hints with so many channels, read by `width` channels."""
        net: Any = network_of(model)
        branch = Branch.of(net, hint, width, getattr(model.codec, "factor", 1))
        return cls(name, branch, digest(net.state_dict()))


def controlled(model: Model, controls: Sequence[Control | tuple[Control, float]]) -> Model:
    """A model whose network is steered by controls, each at a strength of 1 or another one.

        model = pf.controlled(base, [pf.load_control("runs/edges"), (pf.load_control("runs/order"), 0.5)])
        pf.generate(model, 8, control={"edges": hint, "order": other})

    The weights are those of the base, and not copied. Controls that the model has already stay. InputError for a
    control that was trained on another network.
    """
    net = network_of(model)
    base = digest(net.state_dict())
    branches, strengths = _there(model)
    for control in controls:
        one, strength = control if isinstance(control, tuple) else (control, 1.0)
        if one.base != base:
            raise InputError(
                f"the control {one.name!r} was trained on another base: on a network of SHA-256 {one.base[:16]}, and "
                f"that of this model is {base[:16]}"
            )
        if one.name in branches:
            raise InputError(
                f"there are two controls {one.name!r}: rename one, dataclasses.replace(control, name=...)"
            )
        branches[one.name], strengths[one.name] = one.branch, strength
    found = _with(model, Controlled(net, branches, strengths))
    origin = model.provenance
    found.provenance = Provenance(
        recipe=origin.recipe, step=origin.step, started_from=origin.sha256 or origin.started_from
    )
    return found


def strengthened(model: Model, strengths: Mapping[str, float]) -> Model:
    """The same model with other strengths of its controls, by name."""
    branches, before = _there(model)
    for name in strengths:
        if name not in branches:
            hint = did_you_mean(name, list(branches)) if branches else ""
            raise InputError(f"this model has no control {name!r}{hint}")
    return _with(model, Controlled(network_of(model), branches, before | dict(strengths)))


def controls_of(model: Any) -> dict[str, Branch]:
    """The branches of a model by name; {} for one without any."""
    return _there(model)[0]


def network_of(model: Model) -> nn.Module:
    """The network that controls are added to: inside what reads texts, and inside those that are there."""
    net = _without_texts(model)
    net = net.net if isinstance(net, Controlled) else net
    check_controllable(net)
    return net


def save_control(model: Model, folder: str | Path, base: str = "base") -> str:
    """Write the controls of a model into a folder, and all else of it by reference; returns the SHA-256.

    base: what its parts are called, such as the path of the folder that the base is in, seen from this one; see
    `pf.load`.
    """
    return save(model, folder, references=parts_of_base(model, base))


def load_control(
    folder: str | Path, device: torch.device | str = "cpu", *, parts: Collection[type] = ()
) -> Control:
    """The control in a folder, without its base, to be put on it by `controlled`. parts: as for `pf.load`."""
    there = read_description(folder).parts
    holders = {p: e for p, e in there.items() if e.get("class") == class_name(Controlled)}
    if len(holders) != 1:
        raise CheckpointError(f"{folder} holds no control, but a {there[SELF]['class']}")
    (config,) = (entry["config"] for entry in holders.values())
    if len(config["branches"]) != 1:
        raise CheckpointError(f"{folder} holds several controls: {', '.join(config['branches'])}")
    ((name, place),) = config["branches"].items()
    branch = load_part(folder, place["$part"], device, parts=parts)
    entry, where = there[config["net"]["$part"]], config["net"]["$part"]
    base = entry.get("digest")
    if base is None:  # the base was saved with it
        base = digest(load_part(folder, where, parts=parts).state_dict())
    return Control(name, branch, base)


def parts_of_base(model: Model, name: str) -> dict[str, str]:
    """`references` for `pf.save`: of every part with weights that has no control in it, by its place, this name."""
    found: dict[str, str] = {}
    for place, module in describe(model).modules.items():
        inside = any(place.startswith(f"{other}.") for other in found)
        if place == SELF or inside or any(isinstance(m, Branch) for m in module.modules()):
            continue
        if module.state_dict():
            found[place] = name
    return found


def _without_texts(model: Any) -> nn.Module:
    if not isinstance(model, Model):
        raise InputError(
            f"controls are for a Model, which has one network, and not for a {type(model).__name__}"
        )
    net = model.net
    return net.net if isinstance(net, Prompted) else net


def _there(model: Any) -> tuple[dict[str, Branch], dict[str, float]]:
    """Branches and strengths."""
    net = _without_texts(model) if isinstance(model, Model) else None
    if not isinstance(net, Controlled):
        return {}, {}
    branches: Any = dict(net.branches.items())
    return branches, dict(net.strengths)


def _with(model: Model, net: nn.Module) -> Model:
    """The model with another network inside what reads texts."""
    if isinstance(model.net, Prompted):
        net = Prompted(net, dict(model.net.texts.items()))
    found = type(model)(**{**model.to_config(), "net": net})
    found.provenance = model.provenance
    return found.train(model.training)
