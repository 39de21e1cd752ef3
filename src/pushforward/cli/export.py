"""`pushforward export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pushforward.cli.base import Command, run_folder, say
from pushforward.recipes.options import option


class Export(Command):
    """Write a trained model in a format that other programs open."""

    folder: Path = run_folder()
    format: Literal["diffusers"] = option(
        ..., "diffusers: a folder of its pipeline, with network, scheduler and autoencoder."
    )
    out: Path = option(..., "What to write: a new folder.")

    def opening(self) -> str:
        return f"exporting {self.folder}"

    def run(self) -> int:
        from pushforward.saving.folder import load

        writers = {"diffusers": self.diffusers}
        writers[self.format](load(self.folder))
        return 0

    def diffusers(self, model: object) -> None:
        """A folder of diffusers."""
        from pushforward.core.errors import InputError
        from pushforward.interop.diffusers import to_diffusers

        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} is there already: give --out a new folder")
        to_diffusers(model, self.out)
        say(f"a folder of diffusers in {self.out}")
