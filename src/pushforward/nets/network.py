"""What the networks of this library have in common, and what a user's own may take from it."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from pushforward.core.errors import InputError


class Network(nn.Module):
    """A module that keeps the arguments of its constructor in `config`, defaults included, tuples as lists.

        net = MyNetwork(2, width=64)
        again = MyNetwork.from_config(net.config)           # the same network, with weights of its own

    A subclass needs to do nothing for it. Its constructor may not take `*args`, and arguments should be JSON values.

    double_times: whether times stay in float64 if they come so. Others get them in the precision of x, or in float32
    where that is half. The networks of this library compute their features of time in t's own precision.
    """

    config: dict[str, Any]
    double_times: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            setattr(cls, "__init__", _recording(cls.__init__))  # noqa: B010

    def to_config(self) -> dict[str, Any]:
        """The arguments that build this network, as JSON values."""
        for name, value in self.config.items():
            try:
                json.dumps(value)
            except TypeError as error:
                raise InputError(
                    f"{type(self).__name__} cannot be saved: its argument {name} is a {type(value).__name__}, and only "
                    f"numbers, strings, and lists and dictionaries of these can be written down"
                ) from error
        return deepcopy(self.config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A new network of these arguments. Unknown names are an InputError."""
        known = inspect.signature(cls.__init__).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            for name in config:
                if name not in known:
                    raise InputError(
                        f"{cls.__name__} has no argument {name!r}{did_you_mean(name, list(known)[1:])}"
                    )
        return cls(**config)


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that first writes down its arguments, unless that of a subclass has done so."""
    signature = inspect.signature(init)
    if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        raise TypeError(f"{init.__qualname__} takes *args, which have no names to be kept under")

    @functools.wraps(init)
    def recorded(self: Network, *args: Any, **kwargs: Any) -> None:
        if "config" not in vars(self):
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            config: dict[str, Any] = {}
            for name, value in list(bound.arguments.items())[1:]:
                if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                    config |= {key: _plain(each) for key, each in value.items()}
                else:
                    config[name] = _plain(value)
            vars(self)["config"] = config
        init(self, *args, **kwargs)

    return recorded


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    return value


def did_you_mean(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"


def refuse_mask(name: str, mask: Tensor | None) -> None:
    """InputError if a mask of padding reaches a network that would mix padding into its answers."""
    if mask is not None:
        raise InputError(
            f"this {name} cannot take padded samples with a mask: use a network that can, such as "
            f"DiT(dims=1, patch=1), or samples of one size"
        )
