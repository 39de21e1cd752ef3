"""Commands that are a recipe on the model of a run, which is their first argument."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pushforward.cli.parse import parse
from pushforward.cli.train import recorded_in
from pushforward.recipes.flat import OptionError
from pushforward.recipes.recipe import Recipe


def taught(kind: type[Recipe], words: Sequence[str], prog: str, suffix: str) -> dict[str, Any]:
    """The options that the words give, with the teacher, and with the folder of the new run: its name with a suffix."""
    given = parse(kind, words, prog, recorded_in(words), positional=("teacher",))
    if "teacher" not in given:
        raise OptionError("the first argument is missing: the run folder of the teacher")
    folder = Path(given["teacher"])
    given.setdefault("out", folder.with_name(f"{folder.name}-{given.get('method', suffix)}"))
    return given
