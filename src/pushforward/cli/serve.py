"""`pushforward serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pushforward.cli.base import DEVICE, Command, say
from pushforward.core.errors import InputError
from pushforward.recipes.options import Options, RunFolder, option
from pushforward.runtime.shipped import SHIPPED, shipped


class Serve(Command):
    """Open a page in the browser: flows of exact laws, and of runs, drawn as they are solved."""

    folders: tuple[RunFolder, ...] = option(
        (), "Run folders to show beside the exact laws and what is shipped.", positional=True
    )
    port: int = option(8000, "Port of the address; 0 for any that is free.", ge=0, le=65535)
    host: str = option(
        "127.0.0.1",
        "Address to listen on. Any but one of this machine alone needs a token, which is printed.",
    )
    check: bool = option(False, "Draw once, report how long it took, and stop.")
    device: str = option("auto", DEVICE)

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        return {"check": True, "port": 0}

    def run(self) -> int:
        try:
            import fastapi  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise InputError("the page needs FastAPI: pip install -e '.[serve]'") from error
        for folder in self.folders:
            if not (folder / "model.json").is_file():
                raise InputError(f"{folder} is no folder of a model: it has no model.json")
        from pushforward.serve.start import serve

        names = {folder.name for folder in self.folders}
        more = [SHIPPED / name for name in shipped() if name not in names]
        serve([*self.folders, *more], self.host, self.port, self.device, check=self.check, say=say)
        return 0
