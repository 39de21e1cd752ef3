"""What a user gives to be sampled under, checked and brought into the form that fields take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.fields import find_inside, networks
from pushforward.core.network import arguments_of, takes_any

Label = int | str | Sequence[int] | Sequence[str] | Tensor

# Names that other libraries have for arguments of `generate`.
ELSEWHERE = {
    "steps": "nfe", "num_steps": "nfe", "num_inference_steps": "nfe", "n_steps": "nfe", "sampling_steps": "nfe",
    "guidance_scale": "guidance", "cfg": "guidance", "cfg_scale": "guidance", "w": "guidance",
    "n": "num", "num_samples": "num", "n_samples": "num", "batch": "batch_size", "bs": "batch_size",
    "generator": "seed", "random_state": "seed", "sampler": "solver", "scheduler": "solver", "method": "solver",
    "labels": "label", "y": "label", "class_labels": "label", "classes": "label", "x0": "source", "noise": "source",
    "latents": "source", "size": "shape", "times": "grid", "timesteps": "grid", "negative_prompt": "negative",
}  # fmt: skip


def conditions_of(
    model: Any, num: int, label: Label | None, given: Mapping[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """The conditions of `num` samples: the label as (num,), and the others as they were, one row for each.

    A number for a condition of the model's data holds for all samples.
    arguments: those of the function that was called, for misspelt ones. Raises InputError for what the model's network
    does not take.
    """
    given = dict(given)
    encoders = dict(find_inside(model, "encoders", {}))
    for name, encoder in encoders.items():
        if name in given:
            values = given.pop(name)
            lines = [values] * num if isinstance(values, str) else _listed(name, values)
            twice = [condition for condition in encoder.nulls if condition in given]
            if twice:
                raise InputError(
                    f"{name} gives the condition {twice[0]!r} already: omit one of them"
                )
            if len(lines) != num:
                raise InputError(f"{name} has {len(lines)} entries for {num} samples")
            given |= encoder(lines)
    columns = getattr(find_inside(model, "spec", None), "columns", ())
    for name, value in given.items():
        if not isinstance(value, Tensor | Tokens | Mapping):
            if name in columns and isinstance(value, int | float):
                given[name] = torch.full((num,), float(value))
                continue
            if isinstance(value, np.ndarray):
                given[name] = torch.from_numpy(value)
                continue
            raise InputError(_no_encoder(name, value, encoders, arguments))
    if label is not None:
        given = {"label": labels_of(model, label, num), **given}
    conditions.check_size(given, num)
    known = conditions_known(model)
    if known is not None:
        known = (*known, *columns)
        for name in given:
            if name not in known:
                takes = ", ".join(known) or "none"
                if name in arguments:
                    raise InputError(
                        f"this model's network takes no condition {name} (it takes {takes})"
                    )
                raise InputError(
                    f"{unknown(name, arguments)}, nor does this model's network take such a condition (it takes "
                    f"{takes})"
                )
    return given


def _no_encoder(
    name: str, value: Any, encoders: Mapping[str, Any], arguments: Sequence[str]
) -> str:
    """That texts, or something else that is no tensor, were given for what the model has no encoder for."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return unknown(name, arguments)
    if name in ELSEWHERE:
        return unknown(name, arguments)
    near = get_close_matches(name, encoders, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    reads = f"only for {', '.join(encoders)}" if encoders else "for no text at all"
    return f"there is no argument {name!r}{hint} This model has an encoder {reads}"


def _listed(name: str, values: Any) -> list[Any]:
    """What an encoder is given, one entry for each sample."""
    if isinstance(values, Mapping | Set | bytes) or not hasattr(values, "__len__"):
        raise InputError(
            f"{name} is one text for all samples, or a list of one for each, not a {type(values).__name__}"
        )
    return list(values)


def count_of(model: Any, num: int | None, given: Mapping[str, Any]) -> int:
    """The number of samples: `num`, or that of the entries that an encoder of the model is given."""
    encoders = find_inside(model, "encoders", {})
    lists = {name: v for name, v in given.items() if name in encoders and not isinstance(v, str)}
    if num is None:
        if not lists and not any(name in given for name in encoders):
            for name, value in given.items():
                if isinstance(value, str | list | tuple):
                    raise InputError(_no_encoder(name, value, encoders, ()))
            lists_of = f", or a list of {' or '.join(encoders)}s" if encoders else ""
            raise InputError(f"how many samples? Give num{lists_of}")
        return len(_listed(*next(iter(lists.items())))) if lists else 1
    return num


def negatives_of(
    model: Any, num: int, negative: Mapping[str, Any], arguments: Sequence[str]
) -> dict[str, Any]:
    """Negative conditions in the same form: of one row for all samples, or of one for each."""
    if not isinstance(negative, Mapping):
        names = ", ".join(find_inside(model, "encoders", {})) or "label"
        raise InputError(f"negative maps names of conditions to values, as in {{{names!r}: ...}}")
    rest = dict(negative)
    label = rest.pop("label", None)
    rows = {
        1 if isinstance(value, str | int) or getattr(value, "ndim", 1) == 0 else len(value)
        for name, value in negative.items()
        if value is not None and not isinstance(value, Mapping)
    }
    return conditions_of(model, 1 if rows <= {1} else num, label, rest, arguments)


def unknown(name: str, arguments: Sequence[str]) -> str:
    """That there is no such argument, with a guess at what was meant."""
    near = ELSEWHERE.get(name) or next(iter(get_close_matches(name, arguments, 1)), None)
    hint = f"; did you mean {near}?" if near in arguments else ""
    return f"there is no argument {name!r}{hint}"


def conditions_known(model: Any) -> tuple[str, ...] | None:
    """The conditions that the networks of a model take, or None where anything may do."""
    found: tuple[str, ...] | None = None
    for module in networks(model):
        net = getattr(module, "net", None) or getattr(getattr(module, "model", None), "net", None)
        if not isinstance(net, nn.Module):
            return None
        kind = type(getattr(net, "module", net))
        if takes_any(kind):
            return None
        found = (found or ()) + arguments_of(kind)
    return None if found is None else (*found, *find_inside(model, "takes", ()))


def labels_of(model: Any, label: Label, num: int) -> Tensor:
    """Labels (num,) int64 from one for all or one for each, by number or by name; -1 or "none" for no class."""
    spec = find_inside(model, "spec", None)
    classes = find_inside(model, "classes", None)
    if isinstance(label, Tensor | np.ndarray):
        value = torch.as_tensor(label)
        if value.is_floating_point() or value.dtype == torch.bool or value.ndim > 1:
            raise InputError(f"label must be an integer, a name, or a list of {num} of these")
        value = value.long()
    else:
        one = isinstance(label, str | int)
        listed = [label] if one or not isinstance(label, Sequence) else list(label)
        if any(not isinstance(entry, str | int) or isinstance(entry, bool) for entry in listed):
            raise InputError(f"label must be an integer, a name, or a list of {num} of these")
        if any(isinstance(entry, str) for entry in listed):
            if spec is None or spec.classes is None:
                raise InputError("labels by name need a model that knows its classes' names")
            listed = [spec.label(entry) for entry in listed]
        value = torch.tensor(listed, dtype=torch.int64)
        value = value[0] if one else value
    if value.ndim == 1 and len(value) != num:
        raise InputError(f"label has {len(value)} entries for {num} samples")
    value = value.expand(num) if value.ndim == 0 else value
    if classes is not None:
        bad = sorted({int(v) for v in value if not -1 <= v < classes})
        if bad:
            raise InputError(
                f"label {', '.join(map(str, bad))}: this model knows the classes 0 to {classes - 1}, and -1 for none"
            )
    return value
