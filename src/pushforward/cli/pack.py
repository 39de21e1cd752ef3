"""`pushforward pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pushforward.cli.base import Command, say
from pushforward.recipes.options import option


class Pack(Command):
    """Pack a folder of images into tar archives, which are faster to read and to copy than many files."""

    folder: Path = option(
        ...,
        "Images, with classes from its folders, or labels and captions from metadata.jsonl.",
        positional=True,
    )
    out: Path = option(..., "The folder of archives, which must be new or empty.")
    per_shard: int = option(10_000, "Images in an archive.", ge=1)
    on_bad: Literal["error", "skip"] = option(
        "error", "Files that cannot be decoded: stop, or skip and report them."
    )

    def opening(self) -> str:
        return f"packing {self.folder}"

    def run(self) -> int:
        from rich.console import Console

        from pushforward.data import write_shards

        packed = write_shards(self.folder, self.out, self.per_shard, self.on_bad)
        console = Console(highlight=False, stderr=True)
        for file, reason in packed.report:
            console.print(f"skipped {file}: {reason}", markup=False, soft_wrap=True)
        for note in packed.notes:
            console.print(note, markup=False, soft_wrap=True)
        say(f"{packed.count} images in {len(packed.shards)} archives in {self.out}")
        return 0
