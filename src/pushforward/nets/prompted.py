"""A network that takes texts, through any number of encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.network import arguments_of


class Prompted(nn.Module):
    """A network conditioned on what text encoders give.

    net:   takes (x, t), tokens as `text` or `context`, and a pooled vector, if it wants one, as `pooled` or as the
           continuous condition `sentence`.
    texts: for each condition by name, a module that makes of it (Tokens (B, L, width) or None, pooled (B, P) or None),
           such as `WordTransformer` and `TextFeatures`.

    Sequences are joined along their length, and pooled vectors along their width, in the order of `texts`. A condition
    that is missing or dropped is a sequence without tokens and zeros as its pooled vector.
    """

    def __init__(self, net: nn.Module, texts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.net, self.texts = net, nn.ModuleDict(texts)
        if not texts:
            raise InputError("a network that takes texts needs at least one encoder's output")
        # What a network around another takes is the other's affair.
        inner: Any = getattr(net, "net", net)
        config = getattr(inner, "config", {})
        takes = (*arguments_of(type(inner)), *(config.get("features") or ()))
        self.sequence = next((name for name in ("text", "context") if name in takes), None)
        self.vector = next((name for name in ("pooled", "sentence") if name in takes), None)
        if self.sequence is None:
            raise InputError(
                f"{type(net).__name__} takes no text: its forward has neither text nor context"
            )

    @property
    def double_times(self) -> bool:
        return bool(getattr(self.net, "double_times", False))

    @property
    def checkpointing(self) -> bool:
        return bool(getattr(self.net, "checkpointing", False))

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.net.checkpointing = value  # type: ignore[assignment]

    @property
    def config(self) -> dict[str, Any]:
        return {"net": self.net, "texts": dict(self.texts.items())}

    def to_config(self) -> dict[str, Any]:
        return self.config

    def again(self, build: Callable[[nn.Module], nn.Module]) -> Prompted:
        """A network of the same parts, each built anew by `build`, with weights of its own."""
        texts = {name: build(part) for name, part in self.texts.items()}
        return Prompted(build(self.net), texts)

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        out: Tensor = self.net(x, t, **self.read(x, cond))
        return out

    def read(self, x: Tensor, cond: Mapping[str, Any]) -> dict[str, Any]:
        """What the network is given for these conditions, with what is asked of it, x (B, ...)."""
        cond = dict(cond)
        sequences: list[Tokens] = []
        vectors: list[Tensor] = []
        # What is asked may be ids.
        kind = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        for name, part in self.texts.items():
            given = cond.pop(name, None)
            tokens, pooled = (None, None) if given is None else part(given)
            if tokens is not None:
                sequences.append(tokens)
            width = getattr(part, "pooled", None)
            if width is not None:
                vectors.append(
                    torch.zeros(x.shape[0], width, dtype=kind, device=x.device)
                    if pooled is None
                    else pooled.to(kind)
                )
        if sequences:
            values = torch.cat([tokens.values for tokens in sequences], 1)
            cond[str(self.sequence)] = Tokens(values, torch.cat([s.mask for s in sequences], 1))
        if self.vector is not None and vectors:
            cond[self.vector] = torch.cat(vectors, 1)
        return cond
