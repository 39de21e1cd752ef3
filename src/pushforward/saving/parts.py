"""Parts: objects that can be rebuilt from the arguments of their constructor.

    part = Class.from_config(part.to_config())

The arguments are JSON values or further parts, so that a saved thing is a tree of parts. A frozen dataclass is a part
by its fields, and a network by its attribute `config`; any other class writes `to_config`, and `from_config` where its
constructor does not take these arguments by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from torch import nn

from pushforward.core.errors import CheckpointError

# Of this library a folder may name the public classes that are defined in the modules of these packages, and no others.
PACKAGES = ("core", "nets", "models", "systems")


def has_config(value: Any) -> bool:
    """Whether an object is a part."""
    if isinstance(value, type):
        return False
    return (
        callable(getattr(value, "to_config", None))
        or is_dataclass(value)
        or (isinstance(value, nn.Module) and isinstance(getattr(value, "config", None), Mapping))
    )


def config_of(part: Any) -> dict[str, Any]:
    """The arguments that rebuild a part."""
    if callable(getattr(part, "to_config", None)):
        config = part.to_config()
        if not isinstance(config, Mapping):
            raise CheckpointError(
                f"{type(part).__name__}.to_config returns a {type(config).__name__}; it must return a dictionary of "
                f"the constructor's arguments"
            )
        return dict(config)
    if is_dataclass(part):
        return {field.name: getattr(part, field.name) for field in fields(part) if field.init}
    return dict(part.config)


def rebuild(cls: type, config: Mapping[str, Any]) -> Any:
    """The part of a class from its arguments."""
    if hasattr(cls, "from_config"):
        return cls.from_config(config)
    if is_dataclass(cls):
        config = {name: _immutable(value) for name, value in config.items()}
    return cls(**config)


def _immutable(value: Any) -> Any:
    return tuple(map(_immutable, value)) if isinstance(value, list) else value


def class_of(part: Any) -> type:
    """The class of a part; of a network that FSDP2 has sharded, the class that it had before."""
    cls = type(part)
    while cls.__module__.startswith("torch.distributed.fsdp"):
        cls = cls.__bases__[-1]
    return cls


def is_own(cls: type) -> bool:
    """Whether a class is a user's own, and not of this library."""
    return cls.__module__.partition(".")[0] != __name__.partition(".")[0]


def class_name(cls: type) -> str:
    """How a folder names a class: "UNet" for one of this library, "module:MyNet" for another."""
    return f"{cls.__module__}:{cls.__qualname__}" if is_own(cls) else cls.__name__


def find_class(name: Any, given: Collection[type] = ()) -> type:
    """The class that a folder names: of this library, or one of those given. Nothing is imported by its name."""
    if not isinstance(name, str):
        raise CheckpointError(f"the name of a class is not text: {name!r}")
    if ":" not in name:
        found = library_classes().get(name)
        if found is None:
            near = get_close_matches(name, library_classes(), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise CheckpointError(f"this library has no part {name!r}{hint}")
        return found
    short = name.rpartition(":")[2].rpartition(".")[2]
    alike = [cls for cls in given if cls.__name__ == short]
    exact = [cls for cls in alike if class_name(cls) == name] or alike
    if not exact:
        raise CheckpointError(
            f"it was saved with a class of your own, {short} ({name}): pass it, pf.load(folder, parts=[{short}])"
        )
    if len(exact) > 1:
        raise CheckpointError(
            f"several of the classes in parts are called {short}: pass one of them"
        )
    return exact[0]


@cache
def library_classes() -> Mapping[str, type]:
    """The public classes of this library that may be parts, by name."""
    root = __name__.partition(".")[0]
    found: dict[str, type] = {}
    for package in PACKAGES:
        if importlib.util.find_spec(f"{root}.{package}") is None:
            continue
        home = importlib.import_module(f"{root}.{package}")
        for entry in pkgutil.iter_modules(home.__path__):
            module = importlib.import_module(f"{root}.{package}.{entry.name}")
            found |= {
                name: value
                for name, value in vars(module).items()
                if isinstance(value, type)
                and value.__module__ == module.__name__
                and not name.startswith("_")
                and (
                    hasattr(value, "to_config")
                    or is_dataclass(value)
                    or issubclass(value, nn.Module)
                )
            }
    return found
