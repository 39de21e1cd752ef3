"""The command line: `pushforward COMMAND ...`.

A command is a module, imported when it is used; help and misuse need no torch. Exit codes: 0 done, 1 an error of the
kind that `pushforward.Error` stands for, 2 a command line that cannot be understood, 130 and 143 stopped by Ctrl-C and
by SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
# Threads that wait by spinning slow training tenfold as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pushforward import __version__
from pushforward.cli.base import Command, say
from pushforward.cli.parse import HELP, HELP_ALL, show_commands
from pushforward.cli.rehearse import rehearsal
from pushforward.core.errors import Error, InputError
from pushforward.recipes.choices import Entry
from pushforward.recipes.flat import OptionError, no_such
from pushforward.runtime.show import shown

COMMANDS = {
    "train": Entry("cli.train:Train"),
    "sample": Entry("cli.sample:Sample"),
    "edit": Entry("cli.edit:Edit"),
    "caption": Entry("cli.caption:Caption"),
    "evaluate": Entry("cli.evaluate:Evaluate"),
    "likelihood": Entry("cli.likelihood:Likelihood"),
    "tune": Entry("cli.tune:Tune"),
    "distill": Entry("cli.distill:Distill"),
    "reflow": Entry("cli.reflow:Reflow"),
    "gallery": Entry("cli.gallery:Gallery"),
    "sizes": Entry("cli.sizes:Sizes"),
    "serve": Entry("cli.serve:Serve"),
    "pack": Entry("cli.pack:Pack"),
    "import": Entry("cli.import_:Import"),
    "export": Entry("cli.export:Export"),
    "push": Entry("cli.push:Push"),
    "info": Entry("cli.info:Info"),
}
ABOUT = "Flow matching and diffusion models: train, sample, evaluate."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = rehearsal(read(words))
        return done(command) if int(os.environ.get("WORLD_SIZE", "1")) == 1 else shared(command)
    except OptionError as error:
        print(f"pushforward: {error}", file=sys.stderr)
        return 2
    except Error as error:
        print(f"pushforward: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        from pushforward.train.memory import out_of_memory

        if not out_of_memory(error):
            raise
        print(
            "pushforward: out of memory: take a smaller --batch-size, or smaller samples",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("pushforward: stopped", file=sys.stderr)
        return 130


def read(words: Sequence[str]) -> Command:
    """The command that these words give. Prints help and leaves, where that is asked for."""
    name, *rest = words or [""]
    if name == "--version":
        print(f"pushforward {__version__}")
        raise SystemExit(0)
    if name in (*HELP, HELP_ALL):
        show_commands("pushforward", ABOUT, COMMANDS)
    if not name:
        raise OptionError(
            f"which command? One of {', '.join(COMMANDS)}; pushforward --help says more"
        )
    if name not in COMMANDS:
        raise OptionError(no_such("command", name, COMMANDS))
    command: Command = COMMANDS[name].find().read(rest, f"pushforward {name}")
    return command


def done(command: Command) -> int:
    """Run a command, and show how far it has come."""
    opening = command.opening()
    if opening is not None:
        say(opening)
    with nullcontext() if command.trains or opening is None else shown():
        return command.run()


def shared(command: Command) -> int:
    """Run a command as one of the processes that torchrun has started: the first one speaks."""
    from pushforward.runtime.processes import ElsewhereError, joined

    if not command.shareable:
        if int(os.environ.get("RANK", "0")) > 0:
            return 0  # torchrun ends all when one fails, which is to be the first, once it has said why
        name = next(name for name, kind in COMMANDS.items() if isinstance(command, kind.find()))
        raise InputError(
            f"{name} is done by one process: start it without torchrun, which is for train, sample and evaluate"
        )
    with (
        joined(command.place) as processes,
        open(os.devnull, "w") as nothing,
        nullcontext() if processes.lead else redirect_stdout(nothing),
    ):
        try:
            return done(command)
        except ElsewhereError:
            return 1
