"""`pushforward import`."""

from __future__ import annotations

from pathlib import Path

from pushforward.cli.base import Command, say
from pushforward.recipes.options import option


class Import(Command):
    """Make a run folder of a model that others trained: sample, tune, distil and evaluate it like any other."""

    folder: Path = option(
        ...,
        "Folder of diffusers, with model_index.json, or of one network; or galaxygrad:hsc64, and its like.",
        positional=True,
    )
    out: Path = option(..., "Run folder, which must be new or empty.")
    data: Path | None = option(
        None,
        "Images like those that it draws, by which it is evaluated and distilled: a folder, .tar archives, .npy, .npz.",
    )

    def opening(self) -> str:
        return f"importing {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.interop.diffusers import from_diffusers
        from pushforward.interop.galaxygrad import PACKAGE, from_galaxygrad
        from pushforward.recipes.imported import keep

        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} is there already: give --out a new folder")
        package, _, name = str(self.folder).partition(":")
        if package == PACKAGE and name:
            model = from_galaxygrad(name)
        else:
            model = from_diffusers(self.folder)
        sha256 = keep(model, self.out, self.data)
        say(f"{type(model).__name__} in {self.out}, SHA-256 {sha256[:16]}")
        return 0
