"""Rehearsals: with PUSHFORWARD_QUICK set, any command ends in seconds, with figures that mean nothing.

It takes the same path through the code with fewer steps and samples. The documentation's commands are tested so.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from pydantic import BaseModel

QUICK = "PUSHFORWARD_QUICK"
# The most that options of these names come to.
LIMITS = {
    "steps": 4, "phase": 2, "simulation_steps": 2, "pairs": 64, "iterations": 2, "batch_size": 32, "num": 64,
}  # fmt: skip
# Options for which None stands for as many as the command likes.
BY_DEFAULT = ("num",)

Options = TypeVar("Options", bound=BaseModel)


def rehearsal(command: Options) -> Options:
    """The command as it is, or cut down if the environment asks for it."""
    if os.environ.get(QUICK, "") in ("", "0"):
        return command
    print(
        f"rehearsal ({QUICK}): a few steps and samples, for figures of no meaning", file=sys.stderr
    )
    return cut(command)


def cut(options: Options) -> Options:
    """Options with no number above its limit, those of nested choices included."""
    changes: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, BaseModel):
            changes[name] = cut(value)
        elif name in BY_DEFAULT and value is None:
            changes[name] = LIMITS[name]
        elif name in LIMITS and type(value) is int:
            changes[name] = min(value, LIMITS[name])
    return options.model_copy(update=changes)
