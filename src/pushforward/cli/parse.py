"""From the words of a command line to options, by tyro.

What is chosen (--objective dsbm) decides which options there are, so that it is read first. tyro then parses a flat
class of exactly these options, and prints their help.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, make_dataclass, replace
from typing import Annotated, Any, NoReturn

import tyro
from tyro.conf import (
    DisallowNone,
    FlagCreatePairsOff,
    OmitArgPrefixes,
    Positional,
    UseAppendAction,
    arg,
    subcommand,
)

from pushforward.recipes.choices import Entry
from pushforward.recipes.flat import Leaf, OptionError, leaves, no_option, no_such
from pushforward.recipes.options import Options

# Titles that come last in help, in this order.
LAST = ("optimiser", "place", "machine", "logging")
HELP = ("-h", "--help")
HELP_ALL = "--help-all"


def parse(
    kind: type[Options],
    words: Sequence[str],
    prog: str,
    chosen: Mapping[str, Any] | None = None,
    positional: Sequence[str] = (),
) -> dict[str, Any]:
    """The options of this kind that the words give, by flat name; those that are not given are not in it.

    chosen: choices that hold where the words make none. positional: options that have no flag here. Prints help and
    leaves, where that is asked for. Raises OptionError.
    """
    asked = {**(chosen or {}), **pairs(words)}
    there = [
        replace(leaf, positional=leaf.positional or leaf.flag in positional)
        for leaf in leaves(kind, asked)
    ]
    if any(word in HELP or word == HELP_ALL for word in words):
        show_help(kind, there, prog, everything=HELP_ALL in words)
    shape = as_class(there, prog, for_help=False)
    with sentences(kind, asked, there):
        found: Any = tyro.cli(shape, args=list(words), prog=prog, config=(OmitArgPrefixes,))
    given = named(words)
    values: dict[str, Any] = {}
    for leaf in there:
        value = getattr(getattr(found, leaf.title) if leaf.title else found, field_of(leaf))
        if leaf.flag in given or (leaf.positional and value is not None):
            values[leaf.flag] = value
    return values


def named(words: Sequence[str]) -> set[str]:
    """The flat names of all flags among the words, --no-x counting as x, too."""
    names = {_name(word) for word in words if word.startswith("--")}
    return names | {name.removeprefix("no_") for name in names}


def pairs(words: Sequence[str]) -> dict[str, str]:
    """What each flag is followed by: candidates for the names of choices."""
    found: dict[str, str] = {}
    for k, word in enumerate(words):
        if word.startswith("--") and "=" in word:
            found[_name(word)] = word.partition("=")[2]
        elif word.startswith("--") and k + 1 < len(words) and not words[k + 1].startswith("--"):
            found[_name(word)] = words[k + 1]
    return found


def _name(word: str) -> str:
    return word.partition("=")[0][2:].replace("-", "_")


def field_of(leaf: Leaf) -> str:
    """A name of the leaf that is no keyword."""
    return f"{leaf.flag}_"


def show_help(kind: type[Options], there: Sequence[Leaf], prog: str, everything: bool) -> NoReturn:
    """Print the help of these options, by group, and leave."""
    shown = [leaf for leaf in there if everything or not leaf.rare or leaf.required]
    description = " ".join((kind.__doc__ or "").split())
    if len(shown) < len(there):
        description += f" {HELP_ALL} shows {len(there) - len(shown)} further options."
    tyro.cli(
        as_class(shown, prog, for_help=True),
        args=["--help"],
        prog=prog,
        description=description,
        config=(OmitArgPrefixes, FlagCreatePairsOff),
    )
    raise AssertionError("help leaves")


def as_class(there: Sequence[Leaf], prog: str, for_help: bool) -> type:
    """A dataclass of these options, one field for each group, which are dataclasses themselves.

    Unless it is for help, no option is required: what lacks a value is found out where all of them are together.
    """
    groups: dict[str, list[Leaf]] = {}
    for leaf in there:
        groups.setdefault(leaf.title, []).append(leaf)
    whole = [_field(leaf, for_help) for leaf in groups.pop("", [])]
    for title in sorted(groups, key=lambda title: LAST.index(title) if title in LAST else -1):
        group = make_dataclass(title, [_field(leaf, for_help) for leaf in groups[title]])
        first = groups[title][0]
        group.__doc__ = first.about if first.flag in ("objective", "method") else ""
        if for_help and any(leaf.required for leaf in groups[title]):
            whole.append((title, group))
        else:
            whole.append((title, group, field(default_factory=group)))
    found = make_dataclass(prog.split()[-1].replace("-", "_"), whole, kw_only=True)
    found.__doc__ = ""
    return found


def _field(leaf: Leaf, for_help: bool) -> Any:
    hint = None
    if not leaf.required:
        plain = leaf.default is None or leaf.default is False or leaf.default == ()
        hint = "" if plain else f"(default: {_shown(leaf.default)})"
    marks: list[Any] = [
        arg(name=leaf.flag.replace("_", "-"), help=leaf.description, help_behavior_hint=hint),
        DisallowNone,
    ]
    if leaf.positional:
        marks.append(Positional)
    if leaf.append:
        marks.append(UseAppendAction)
    annotation = annotated(leaf.annotation, marks)
    if leaf.required and for_help:
        return (field_of(leaf), annotation)
    default = None if leaf.required else leaf.default
    if leaf.required:
        annotation = annotated(leaf.annotation | None, marks)
    return (field_of(leaf), annotation, field(default=default, kw_only=True))


def annotated(kind: Any, marks: Sequence[Any]) -> Any:
    return Annotated[(kind, *marks)]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextmanager
def sentences(
    kind: type[Options], chosen: Mapping[str, Any], there: Sequence[Leaf]
) -> Iterator[None]:
    """What tyro rejects becomes an OptionError in one sentence, as far as this version of tyro lets us know of it."""
    try:
        from tyro import _errors as events

        listen: Callable[..., Any] = events.on_parse_error
    except (ImportError, AttributeError):
        yield
        return

    def say(event: Any) -> None:
        message = sentence(event, kind, chosen, there)
        if message is not None:
            raise OptionError(message)

    with listen(say):
        yield


def sentence(
    event: Any, kind: type[Options], chosen: Mapping[str, Any], there: Sequence[Leaf]
) -> str | None:
    """A rejection in a sentence; None for one that is not known here, which tyro then prints itself."""
    match type(event).__name__:
        case "UnrecognizedArgs":
            return unknown(event.tokens, kind, chosen, there)
        case "MissingArgs":
            return unknown(event.unrecognized_tokens, kind, chosen, there)
        case "InvalidChoice":
            return no_such(_shown_flag(event.argument), event.value, event.choices)
        case "BadValue":
            return f"{_shown_flag(event.argument)} lacks a value"
        case "InstantiationFailure":
            where = "" if event.argument is None else f"{_shown_flag(event.argument)}: "
            return f"{where}{_plain(event.message)}"
    return None


def _plain(message: str) -> str:
    """What Python says of a number that is none, in the words of the other messages."""
    for start, noun in (
        ("could not convert string to float: ", "number"),
        ("invalid literal for int() with base 10: ", "whole number"),
    ):
        if message.startswith(start):
            return f"{message.removeprefix(start)} is no {noun}"
    return message


def _shown_flag(argument: Any) -> str:
    return str(
        argument.lowered.name_or_flags[0]
        if not argument.is_positional()
        else argument.lowered.metavar
    )


def unknown(
    words: Sequence[str], kind: type[Options], chosen: Mapping[str, Any], there: Sequence[Leaf]
) -> str | None:
    """Words that are no option here."""
    for word in words:
        if any(leaf.positional and leaf.flag == _name(word) for leaf in there):
            return f"{word} is the first argument, and has no flag"
        if word.startswith("--"):
            return no_option(kind, chosen, _name(word))
    return f"{words[0]!r} is one argument too many" if words else None


def show_commands(prog: str, about: str, table: Mapping[str, Entry]) -> NoReturn:
    """Print what there is to choose from, each with the first line of what it does, and leave."""
    kinds = []
    for name, entry in table.items():
        shape = make_dataclass(name.replace("-", "_"), [])
        shape.__doc__ = (entry.find().__doc__ or "").partition("\n")[0]
        kinds.append(annotated(shape, [subcommand(name)]))
    tyro.cli(functools.reduce(operator.or_, kinds), args=["--help"], prog=prog, description=about)
    raise AssertionError("help leaves")
