"""Rehearsals: with PUSHFORWARD_QUICK set, any command ends in seconds, with figures that mean nothing.

It takes the same path through the code with fewer steps and samples. The documentation's commands are tested so.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar

from pushforward.cli.base import Command
from pushforward.recipes.flat import values
from pushforward.recipes.options import Options

QUICK = "PUSHFORWARD_QUICK"
# The most that options of these names come to.
LIMITS = {
    "steps": 4, "phase": 2, "simulation_steps": 2, "pairs": 64, "iterations": 2, "batch_size": 32, "num": 64,
    "number": 200, "clip_steps": 2, "clip_batch": 16, "prior_steps": 2, "prior_batch": 16, "upsampler_steps": 2,
    "upsampler_batch": 4,
}  # fmt: skip
# Options for which None stands for as many as the command likes.
BY_DEFAULT = ("num",)

Kind = TypeVar("Kind", bound=Command)


def rehearsal(command: Kind) -> Kind:
    """The command as it is, or cut down if the environment asks for it."""
    if os.environ.get(QUICK, "") in ("", "0"):
        return command
    print(
        f"rehearsal ({QUICK}): a few steps and samples, for figures of no meaning", file=sys.stderr
    )
    return command.model_copy(update=command.cut(cut))


def cut(options: Options) -> dict[str, Any]:
    """Those of the options, by flat name, that are above their limits, with the limits."""
    flat = values(options)
    return {
        name: limit
        for name, limit in LIMITS.items()
        if name in flat
        and (
            (flat[name] is None and name in BY_DEFAULT)
            or (type(flat[name]) is int and flat[name] > limit)
        )
    }
