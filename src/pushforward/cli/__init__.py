"""The command line: `pushforward train | sample | evaluate | likelihood | tune | distill | reflow | gallery | sizes |
pack | info`.

A command is a module. Only what it needs is imported, so that help is quick. Exit codes: 0 done, 1 an error of the kind
that `pushforward.Error` stands for, 2 a command line that cannot be understood, 130 and 143 stopped by Ctrl-C and by
SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")
# Threads that wait by spinning slow training tenfold as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tyro

from pushforward.cli.base import Command, subcommands
from pushforward.cli.distill import Distill
from pushforward.cli.evaluate import Evaluate
from pushforward.cli.gallery import Gallery
from pushforward.cli.info import Info
from pushforward.cli.likelihood import Likelihood
from pushforward.cli.pack import Pack
from pushforward.cli.reflow import Reflow
from pushforward.cli.rehearse import rehearsal
from pushforward.cli.sample import Sample
from pushforward.cli.sizes import Sizes
from pushforward.cli.train import Train
from pushforward.cli.tune import Tune

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "likelihood": Likelihood,
    "tune": Tune,
    "distill": Distill,
    "reflow": Reflow,
    "gallery": Gallery,
    "sizes": Sizes,
    "pack": Pack,
    "info": Info,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command: Command = tyro.cli(
        subcommands(COMMANDS),
        prog="pushforward",
        description="Flow matching and diffusion models: train, sample, evaluate.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    from pushforward.core.errors import Error

    command = rehearsal(command)
    try:
        return command.run() if int(os.environ.get("WORLD_SIZE", "1")) == 1 else shared(command)
    except Error as error:
        print(f"pushforward: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pushforward: stopped", file=sys.stderr)
        return 130


def shared(command: Command) -> int:
    """Run a command as one of the processes that torchrun has started: the first one speaks."""
    from pushforward.core.errors import InputError
    from pushforward.runtime.processes import ElsewhereError, joined

    if not command.shareable:
        if int(os.environ.get("RANK", "0")) > 0:
            return 1
        name = next(name for name, kind in COMMANDS.items() if type(command) is kind)
        raise InputError(
            f"{name} is done by one process: start it without torchrun, which is for train, sample and evaluate"
        )
    with (
        joined(command.place) as processes,
        open(os.devnull, "w") as nothing,
        nullcontext() if processes.lead else redirect_stdout(nothing),
    ):
        try:
            return command.run()
        except ElsewhereError:
            return 1
