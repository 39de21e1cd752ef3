"""Parts of a model that are not trained: in no average, no checkpoint and no gradient.

A checkpoint holds the SHA-256 of each, which is compared on resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from pushforward.core.errors import CheckpointError
from pushforward.runtime.hashes import digest


def is_frozen(module: nn.Module) -> bool:
    """Whether a module has parameters and none of them is trained."""
    some = [p.requires_grad for p in module.parameters()]
    return bool(some) and not any(some)


def frozen_modules(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The largest modules within a model that are frozen, by their path."""
    for name, child in model.named_children():
        here = f"{path}.{name}" if path else name
        if is_frozen(child):
            yield here, child
        else:
            yield from frozen_modules(child, here)


def frozen_parts(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The tensors of frozen modules, and of single frozen parameters of others, by path."""
    parts = {path: dict(module.state_dict()) for path, module in frozen_modules(model)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not any(name.startswith(f"{path}.") for path in parts):
            parts[name] = {name: parameter.detach()}
    return parts


def names_of_frozen(model: nn.Module) -> set[str]:
    """The names in the state_dict of a model of all that is frozen."""
    parts = frozen_parts(model)
    return {
        name
        for name in model.state_dict()
        if any(name == path or name.startswith(f"{path}.") for path in parts)
    }


def digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every frozen part, by path."""
    return {path: digest(tensors) for path, tensors in frozen_parts(model).items()}


def check_frozen(there: Mapping[str, str], here: Mapping[str, str], where: str) -> None:
    """That the frozen parts of a run are those that it began with."""
    for path in sorted(there.keys() ^ here.keys()):
        now = "is frozen now and was not" if path in here else "was frozen and is not"
        raise CheckpointError(f"{where} belongs to another run: its part {path} {now}")
    for path, found in here.items():
        if found != there[path]:
            raise CheckpointError(
                f"{where} belongs to another run: the frozen part {path} has other weights (SHA-256 "
                f"{there[path][:16]} there, {found[:16]} here)"
            )
