"""The conditions of a model as plain tensors with names, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.models.base import ModelBase
from pushforward.sampling.generate import ARGUMENTS
from pushforward.sampling.given import conditions_of

# Texts of an example: what they say is of no account, and they have several words each.
TEXTS = (
    "a small red square above a large blue circle",
    "nothing but a green triangle in the corner",
)


@dataclass(frozen=True)
class Inputs:
    """The inputs of an exported sampler, in order.

    noise:  whether the first is noise, `noise`, or states to start from, `source`.
    places: where each of the others is in the conditions: names from the outside in, and of Tokens which part.
    """

    noise: bool
    places: tuple[tuple[str, ...], ...]
    tokens: tuple[str | None, ...]

    @classmethod
    def of(cls, cond: conditions.Conditions, noise: bool) -> Inputs:
        places: list[tuple[str, ...]] = []
        parts: list[str | None] = []
        for name, value in conditions.leaves(cond):
            for part in ("values", "mask") if isinstance(value, Tokens) else (None,):
                places.append(tuple(name.split(".")))
                parts.append(part)
        return cls(noise, tuple(places), tuple(parts))

    @property
    def names(self) -> list[str]:
        """Unique names of all inputs, the noise first."""
        ends = {None: "", "values": "", "mask": "_mask"}
        rest = ["_".join(p) + ends[part] for p, part in zip(self.places, self.tokens, strict=True)]
        return ["noise" if self.noise else "source", *rest]

    def lengths(self, k: int) -> tuple[int, ...]:
        """The dimensions of input k, the noise being the first, that count tokens."""
        return () if k == 0 or self.tokens[k - 1] is None else (1,)

    def values(self, cond: conditions.Conditions) -> list[Tensor]:
        """The tensors of conditions, in order."""
        found = []
        for place, part in zip(self.places, self.tokens, strict=True):
            value: Any = cond
            for name in place:
                value = value[name]
            found.append(value if part is None else getattr(value, part))
        return found

    def conditions(self, given: Sequence[Tensor]) -> dict[str, Any]:
        """The conditions of which these are the tensors."""
        out: dict[str, Any] = {}
        for k, (place, part) in enumerate(zip(self.places, self.tokens, strict=True)):
            if part == "mask":
                continue
            group = out
            for name in place[:-1]:
                group = group.setdefault(name, {})
            group[place[-1]] = given[k] if part is None else Tokens(given[k], given[k + 1])
        return out


def example_of(model: ModelBase, count: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions of `count` samples, of all kinds that the model is known to take: its classes and columns, what its
    encoders give, and those `given`, of which rows are repeated."""
    asked: dict[str, Any] = {
        name: [TEXTS[i % len(TEXTS)] for i in range(count)]
        for name in model.encoders
        if name not in given
    }
    for name in model.spec.columns:
        asked.setdefault(name, torch.linspace(-1, 1, count))
    label = None if model.classes is None else torch.arange(count) % model.classes
    for name, value in given.items():
        if name in model.encoders:
            texts = [value] if isinstance(value, str) else list(value)
            asked[name] = [texts[i % len(texts)] for i in range(count)]
        elif name == "label":
            label = torch.as_tensor(value).reshape(-1)[
                torch.arange(count) % torch.as_tensor(value).numel()
            ]
        else:
            asked[name] = value
    plain = {k: v for k, v in asked.items() if isinstance(v, Tensor | Tokens | Mapping)}
    for name, value in plain.items():
        rows = conditions.size({name: value})
        if not rows:
            raise InputError(f"the example of {name} has no samples")
        asked[name] = conditions.take({name: value}, torch.arange(count) % rows)[name]
    return conditions_of(model, count, label, asked, ARGUMENTS)
