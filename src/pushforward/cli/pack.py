"""`pushforward pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from pushforward.cli.base import Command, say


class Pack(Command):
    """Pack a folder of images into tar archives, which are quicker to read and to copy than many files."""

    folder: Annotated[Path, tyro.conf.Positional] = Field(
        description="Images, with classes from its folders, or labels and captions from metadata.jsonl."
    )
    out: Path = Field(description="The folder of archives, which must be new or empty.")
    per_shard: int = Field(10_000, ge=1, description="Images in an archive.")
    on_bad: Literal["error", "skip"] = Field(
        "error",
        description="What to do about files that cannot be decoded: stop, or leave them out and report them.",
    )

    def run(self) -> int:
        from rich.console import Console

        from pushforward.data import write_shards

        packed = write_shards(self.folder, self.out, self.per_shard, self.on_bad)
        console = Console(highlight=False, stderr=True)
        for file, reason in packed.report:
            console.print(f"left out {file}: {reason}", markup=False, soft_wrap=True)
        for note in packed.notes:
            console.print(note, markup=False, soft_wrap=True)
        say(f"{packed.count} images in {len(packed.shards)} archives in {self.out}")
        return 0
