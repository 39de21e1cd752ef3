"""A model made worse inside of its network, to be pushed away from.

    worse = perturbed(model, ["blocks.5"])                       attention of these layers looks nowhere else (PAG)
    worse = perturbed(model, ["blocks.5"], Smoothed(math.inf))   it looks everywhere alike (SEG)
    worse = without(model, ["blocks.5"])                         these layers are passed over (skip-layer guidance)
    field = Autoguidance(model, worse, 3.0)

The worse model is a model of its own with the same weights, not a copy of them: it costs no memory, learns with the
other, and the model itself is as it was.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.guidance.blurring import blurred
from pushforward.nets.attention import Attend, Attending, CrossAttention, attend

M = TypeVar("M", bound=nn.Module)


def themselves(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
    """Attention of each token to itself alone, (B, N, heads d); queries are the first N of the tokens.

    Perturbed-attention guidance: Ahn et al. 2024 (arXiv 2403.17377), eq. 9.
    """
    return v[:, :, : q.shape[2]].transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Smoothed:
    """Attention whose queries are blurred over the picture by a Gaussian of `sigma` tokens; inf: they are their mean.

    sides: (height, width) of the picture in tokens, by default those of a square. Tokens behind those of the picture
           keep their queries.

    Smoothed energy guidance: Hong 2024 (arXiv 2408.00760), sec. 4.
    """

    sigma: float = math.inf
    sides: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise InputError(f"sigma is {self.sigma}; it must be positive")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
        height, width = self.sides or (math.isqrt(q.shape[2]),) * 2
        count = height * width
        if count > q.shape[2]:
            raise InputError(f"sides are {height} x {width}, and there are {q.shape[2]} tokens")
        picture, others = q[:, :, :count], q[:, :, count:]
        if math.isinf(self.sigma):
            smooth = picture.mean(2, keepdim=True).expand_as(picture)
        else:
            grid = picture.mT.reshape(-1, 1, height, width)
            smooth = blurred(grid, self.sigma).reshape(picture.mT.shape).mT
        return attend(torch.cat((smooth, others), 2), k, v, keep)


class Passed(nn.Module):
    """What stands for a layer that is passed over: (x, ...) -> x, or (x, c, ...) -> (x, c) for one of two streams."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams = streams

    def forward(self, x: Tensor, *rest: Any, **named: Any) -> Any:
        return x if self.streams == 1 else (x, rest[0])


def perturbed(model: M, layers: Sequence[str], attention: Attend = themselves) -> M:
    """`model` with another attention among the tokens of the layers by these names, and the same weights.

    layers: names of modules within the network, as `named_modules` has them: "blocks.5" is model.net.blocks[5]. All
            attention among tokens within is meant; attention to a text is left alone.

    Raises InputError for a layer that there is not, or without such an attention.
    """
    twin = _twin(model)
    for name in layers:
        found = [
            m
            for m in _layer(twin, name).modules()
            if isinstance(m, Attending) and not isinstance(m, CrossAttention)
        ]
        if not found:
            raise InputError(f"the layer {name} has no attention among its tokens")
        for module in found:
            module.attend = attention
    return twin


def without(model: M, layers: Sequence[str]) -> M:
    """`model` with the layers by these names passed over: the state goes on as it came. layers: as in `perturbed`.

    A layer must give what it takes, (x, ...) -> x of equal shape, as the blocks of transformers do.
    """
    twin = _twin(model)
    for name in layers:
        layer = _layer(twin, name)
        streams = 2 if getattr(layer, "text", None) == "stream" else 1
        if getattr(layer, "text", None) == "keys":
            raise InputError(f"the layer {name} is the last of its text, and cannot be passed over")
        above, _, last = name.rpartition(".")
        parent = _layer(twin, above) if above else _network(twin)
        if isinstance(parent, nn.ModuleList):
            parent[int(last)] = Passed(streams)
        else:
            setattr(parent, last, Passed(streams))
    return twin


def _twin(model: M) -> M:
    """A module like this one, with the same tensors."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{type(model).__name__} is no module: change the model inside of it, and wrap that"
        )
    shared = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _network(model: nn.Module) -> nn.Module:
    net = getattr(model, "net", model)
    return net if isinstance(net, nn.Module) else model


def _layer(model: nn.Module, name: str) -> nn.Module:
    layers = dict(_network(model).named_modules())
    if name not in layers or not name:
        near = get_close_matches(name, layers, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"the network has no layer {name!r}{hint}")
    return layers[name]
