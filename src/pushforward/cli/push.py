"""`pushforward push`."""

from __future__ import annotations

from pathlib import Path

from pushforward.cli.base import Command, run_folder, say
from pushforward.recipes.options import option


class Push(Command):
    """Upload a trained model to the Hugging Face Hub, with its card."""

    folder: Path = run_folder("Run folder, or any folder with a model.")
    name: str = option(..., "OWNER/NAME on the Hub.", positional=True)
    private: bool = option(False, "Create a private repository. One that is there stays as it is.")
    message: str | None = option(None, "Of the commit.")

    def opening(self) -> str:
        return f"pushing {self.folder} to {self.name}"

    def run(self) -> int:
        from pushforward.interop.hub import push
        from pushforward.saving.hub import SCHEME

        address = push(self.folder, self.name, private=self.private or None, message=self.message)
        say(f"{address}\nload it by pf.load({SCHEME + self.name.removeprefix(SCHEME)!r})")
        return 0
