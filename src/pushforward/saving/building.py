"""A tree of parts from its description. Nothing in a description is trusted."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pushforward.core.errors import CheckpointError, Error
from pushforward.saving.description import PART, SELF, Described, Parts, describe
from pushforward.saving.parts import find_class, is_own, rebuild
from pushforward.saving.tensors import cast, check_fit, own_names

# No number in the configuration of a network is larger than its number of weights, or than this.
SMALL = 4096


class Source(Protocol):
    """Where the tensors of parts come from. values: whether there are any, or names, shapes and types alone."""

    values: bool

    def header(self, place: str) -> dict[str, Tensor]:
        """Those of the part at this place on the meta device; none if it has none."""

    def read(self, place: str) -> dict[str, Tensor]:
        """The same with their values."""

    def held(self, place: str, entry: Mapping[str, Any]) -> nn.Module:
        """The part that is held by reference."""


def build(parts: Parts, own: Collection[type], source: Source, place: str = SELF) -> Any:
    """The whole, or the part at a place. own: classes that are not of this library.

    The caller's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        builder = _Builder(parts, own, source)
        whole = builder.part(place)
    if place == SELF and (unused := sorted(parts.keys() - builder.built.keys())):
        raise CheckpointError(f"no part takes {unused[0]!r}")
    return whole


class _Builder:
    def __init__(self, parts: Parts, own: Collection[type], source: Source) -> None:
        self.parts, self.own, self.source = parts, own, source
        self.built: dict[str, Any] = {}
        self.begun: set[str] = set()

    def part(self, place: str) -> Any:
        if place in self.built:
            return self.built[place]
        if place not in self.parts:
            raise CheckpointError(f"the part {place!r} is missing")
        if place in self.begun:
            raise CheckpointError(f"the part {place!r} is a part of itself")
        self.begun.add(place)
        entry = self.parts[place]
        if "reference" in entry:
            self.built[place] = self.source.held(place, entry)
            return self.built[place]
        cls = find_class(entry["class"], self.own)
        children: list[nn.Module] = []
        config = {name: self.value(value, children) for name, value in entry["config"].items()}
        header = self.source.header(place)
        try:
            if issubclass(cls, nn.Module) and not children:
                part = self.network(cls, config, header, place)
            else:
                part = rebuild(cls, config)
        except CheckpointError:
            raise
        except Error as error:
            raise CheckpointError(f"{place}: {error}") from error
        except Exception as error:  # whatever arguments of the wrong type or size lead to
            raise CheckpointError(
                f"{place} cannot be built: {cls.__name__} with {_shown(entry['config'])}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if isinstance(part, nn.Module):
            self.fill(part, children, header, place)
        elif header:
            raise CheckpointError(f"{place} is a {cls.__name__} and has no weights")
        self.built[place] = part
        return part

    def value(self, value: Any, children: list[nn.Module]) -> Any:
        if isinstance(value, list):
            return [self.value(v, children) for v in value]
        if isinstance(value, dict) and PART in value:
            part = self.part(value[PART])
            if isinstance(part, nn.Module):
                children.append(part)
            return part
        if isinstance(value, dict):
            return {name: self.value(v, children) for name, v in value.items()}
        return value

    def network(
        self, cls: type[nn.Module], config: dict[str, Any], header: Mapping[str, Tensor], place: str
    ) -> nn.Module:
        """A module without modules for arguments, after a look at its size on the meta device."""
        most = max(SMALL, sum(x.numel() for x in header.values()))
        if not is_own(cls) and any(type(n) is int and n > most for n in config.values()):
            raise CheckpointError(f"{place} describes a network larger than its weights")
        try:
            with torch.device("meta"):
                sketch: nn.Module | None = cast(rebuild(cls, config), header)
        except Exception:
            if not is_own(cls):
                raise
            sketch = None  # Some constructors look at values, which there are none of.
        if sketch is not None:
            check_fit(sketch.state_dict(), header, place)
            if not self.source.values:
                return sketch
        return cast(rebuild(cls, config), header)

    def fill(
        self, part: nn.Module, children: list[nn.Module], header: Mapping[str, Tensor], place: str
    ) -> None:
        """Give a module the tensors that are its own."""
        state, names = part.state_dict(), own_names(part, children)
        if children:
            for name in names:
                if name in header:
                    holder, _, last = name.rpartition(".")
                    cast_one(part.get_submodule(holder), last, header[name])
            state = part.state_dict()
        check_fit({name: state[name] for name in names}, header, place)
        if names and self.source.values:
            part.load_state_dict(self.source.read(place), strict=False)


def cast_one(module: nn.Module, name: str, like: Tensor) -> None:
    x = getattr(module, name, None)
    if isinstance(x, Tensor) and x.is_floating_point() and like.is_floating_point():
        x.data = x.data.to(like.dtype)


def _shown(config: Any) -> str:
    text = json.dumps(config)
    return text if len(text) <= 300 else text[:297] + "..."


class _Live:
    """The tensors and held parts of a thing that is to be saved."""

    values = False

    def __init__(self, described: Described) -> None:
        self.described = described
        self.headers = {
            place: {name: torch.empty_like(x, device="meta") for name, x in tensors.items()}
            for place, tensors in described.tensors()
        }

    def header(self, place: str) -> dict[str, Tensor]:
        return self.headers.get(place, {})

    def read(self, place: str) -> dict[str, Tensor]:
        raise NotImplementedError

    def held(self, place: str, entry: Mapping[str, Any]) -> nn.Module:
        return self.described.held[place]


def check_rebuilds(described: Described) -> None:
    """That a thing can be built again from its description, with the same configuration and tensors of the same names,
    shapes and types."""
    parts = json.loads(json.dumps(described.parts))
    try:
        whole = build(parts, described.classes, _Live(described))
    except Error as error:
        raise CheckpointError(
            f"it could not be loaded again: {error}. Let to_config return all arguments of the constructor"
        ) from error
    held = {place: entry["reference"] for place, entry in parts.items() if "reference" in entry}
    known = {place: parts[place]["digest"] for place in held}
    again = json.loads(json.dumps(describe(whole, held, known).parts))
    for place, entry in parts.items():
        if place not in held and again.get(place) != entry:
            raise CheckpointError(
                f"it could not be loaded again: {place} has {_shown(entry.get('config'))}, and "
                f"{_shown(again.get(place, {}).get('config'))} when it is built with that. Let to_config return all "
                f"arguments of the constructor"
            )
