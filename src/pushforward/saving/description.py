"""A tree of parts as JSON values.

    "self": {"class": "Model", "config": {"net": {"$part": "net"}, "path": {"$part": "path"}, ...}}
    "net":  {"class": "MLP", "config": {"dim": 2, ...}, "weights": {"file": "model.safetensors", "sha256": ...}}
    "path": {"class": "CondOT", "config": {"sigma_min": 0.0}}

Each part has a place: the arguments that lead to it, joined by dots; the whole is at "self". A module that comes twice
is at its first place. A part that is held by reference has a name and the digest of its tensors, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pushforward.core.errors import CheckpointError
from pushforward.runtime.hashes import digest
from pushforward.saving.parts import class_name, class_of, config_of, has_config, is_own
from pushforward.saving.tensors import own_names

SELF, PART = "self", "$part"
PLACE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
Parts = dict[str, dict[str, Any]]


@dataclass
class Described:
    """A thing that is to be saved.

    parts:   by place, as JSON values, without what is known of weights.
    modules: those with weights of their own in the folder, by place. held: those held by reference.
    classes: of the parts that are not of this library.
    """

    parts: Parts = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    held: dict[str, nn.Module] = field(default_factory=dict)
    classes: set[type] = field(default_factory=set)

    def tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """By place, the tensors of each module that belong to no part within it."""
        parts = [*self.modules.values(), *self.held.values()]
        for place, module in self.modules.items():
            state = module.state_dict()
            names = own_names(module, [part for part in parts if part is not module])
            if names:
                yield place, {name: state[name] for name in names}


def describe(
    whole: Any,
    references: Mapping[str, str] | None = None,
    known: Mapping[str, str] | None = None,
) -> Described:
    """The tree of parts of `whole`.

    references: names of the parts that are held by reference, by place. known: their digests, where these need not be
    computed. Raises CheckpointError for what has no configuration, with its place and what to add.
    """
    out, wanted = Described(), dict(references or {})
    _Describe(out, wanted, known or {}).part(whole, SELF)
    if missing := sorted(wanted.keys() - out.held.keys()):
        raise CheckpointError(
            f"there is no part {missing[0]!r} to hold by reference; the parts are {', '.join(out.parts)}"
        )
    return out


class _Describe:
    def __init__(
        self, out: Described, references: Mapping[str, str], known: Mapping[str, str]
    ) -> None:
        self.out, self.references, self.known = out, references, known
        self.places: dict[int, str] = {}

    def part(self, part: Any, place: str) -> dict[str, str]:
        if isinstance(part, nn.Module) and id(part) in self.places:
            return {PART: self.places[id(part)]}
        if not PLACE.fullmatch(place):
            raise CheckpointError(
                f"{place!r} cannot be the name of a part: use letters, digits, _ and -"
            )
        self.places[id(part)] = place
        if place in self.references:
            self.out.parts[place] = self._reference(part, place)
            self.out.held[place] = part
            return {PART: place}
        cls = class_of(part)
        entry: dict[str, Any] = {"class": class_name(cls)}
        self.out.parts[place] = entry
        if is_own(cls):
            self.out.classes.add(cls)
        if isinstance(part, nn.Module):
            self.out.modules[place] = part
        prefix = "" if place == SELF else f"{place}."
        entry["config"] = {
            str(name): self.value(value, prefix + str(name), cls)
            for name, value in config_of(part).items()
        }
        return {PART: place}

    def _reference(self, part: Any, place: str) -> dict[str, Any]:
        if not isinstance(part, nn.Module):
            raise CheckpointError(
                f"{place} is a {type(part).__name__}; only networks are held by reference"
            )
        if any(p.requires_grad for p in part.parameters()):
            raise CheckpointError(
                f"{place} is trained, so it cannot be held by reference: freeze it, {place}.requires_grad_(False), or "
                f"save it with the rest"
            )
        found = self.known.get(place)
        if found is None:
            found = digest(part.state_dict())
        return {"reference": self.references[place], "digest": found}

    def value(self, value: Any, place: str, cls: type) -> Any:
        match value:
            case None | bool() | int() | str():
                return value
            case float() if math.isfinite(value):
                return float(value)
            case list() | tuple():
                return [self.value(v, f"{place}.{i}", cls) for i, v in enumerate(value)]
            case Mapping() if not has_config(value):
                if PART in value or not all(isinstance(key, str) for key in value):
                    raise self._refusal(value, place, cls)
                return {key: self.value(v, f"{place}.{key}", cls) for key, v in value.items()}
        if place in self.references or has_config(value):
            return self.part(value, place)
        raise self._refusal(value, place, cls)

    def _refusal(self, value: Any, place: str, cls: type) -> CheckpointError:
        kind = type(value).__name__
        where = f"{place} of {cls.__name__}"
        if isinstance(value, nn.Module):
            return CheckpointError(
                f"{where} is a {kind}, which does not say how it is built: derive {kind} from pf.nets.Network, or give "
                f"it a method to_config that returns the arguments of its constructor as JSON values; then load by "
                f"pf.load(folder, parts=[{kind}])"
            )
        if isinstance(value, float):
            return CheckpointError(f"{where} is {value}, which JSON cannot hold")
        if isinstance(value, Mapping):
            return CheckpointError(f"the keys of {where} must be text, and none of them {PART!r}")
        if callable(value) and not isinstance(value, type) and hasattr(value, "__code__"):
            return CheckpointError(
                f"{where} is the function {value.__qualname__}, which cannot be saved: write a frozen dataclass with "
                f"__call__, and load by pf.load(folder, parts=[...])"
            )
        advice = (
            "give it as a list, or register it as a buffer"
            if isinstance(value, Tensor)
            else f"give it as JSON values, or write {kind}.to_config"
        )
        return CheckpointError(f"{where} is a {kind}, which JSON cannot hold: {advice}")
