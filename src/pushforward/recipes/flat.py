"""Nested options by flat names: what the command line, Python and a resumed run have in common.

A recipe is a tree of groups and choices, and every option has a name of its own in it, so that

    Toy2D.of(objective="sf2m", coupling="ot", std=0.5, steps=100)       --objective sf2m --coupling ot --std 0.5 ...

say the same. Which options there are depends on what is chosen; the rest does not exist.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pushforward.core.errors import InputError
from pushforward.recipes.options import Choice, Group, Options

Kind = TypeVar("Kind", bound=Options)


class OptionError(InputError):
    """Options that do not exist, lack a value, or have one that they cannot have."""


@dataclass(frozen=True)
class Leaf:
    """An option.

    flag:    its flat name, such as batch_size. place: the names that lead to it. title: of its group.
    default: PydanticUndefined if it must be given.
    chooses: whether it is the name of a choice, and so decides which other options there are.
    about: of such, what the alternative is that is chosen. rare, free, positional, append: see `option`.
    """

    flag: str
    place: tuple[str, ...]
    title: str
    annotation: Any
    default: Any
    description: str
    rare: bool = False
    free: bool = False
    positional: bool = False
    append: bool = False
    chooses: bool = False
    about: str = ""

    @property
    def required(self) -> bool:
        return self.default is PydanticUndefined


def flag_of(name: str) -> str:
    """The name on the command line."""
    return "--" + name.replace("_", "-")


def members(annotation: Any) -> tuple[type[Choice], ...]:
    """The alternatives of a field that is a choice; () for any other."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    union = get_origin(annotation) in (Union, UnionType)
    parts = get_args(annotation) if union else (annotation,)
    inside = [part for part in parts if part is not NoneType]
    if all(isinstance(part, type) and issubclass(part, Choice) for part in inside):
        return tuple(inside)
    return ()


def names_of(member: type[Choice]) -> tuple[str, ...]:
    """The names by which an alternative is chosen."""
    return tuple(map(str, get_args(member.model_fields["name"].annotation)))


def leaves(
    kind: type[Options],
    chosen: Mapping[str, Any] | None = None,
    default: Options | None = None,
    place: tuple[str, ...] = (),
    title: str = "",
) -> Iterator[Leaf]:
    """Every option of a recipe (or of a part of it) where the choices in `chosen`, by flat name, are made.

    default: the part whose values are the defaults; by default those of its class.
    """
    for name, info in kind.model_fields.items():
        flag = name.rstrip("_")
        value = getattr(default, name) if default is not None else _default(info)
        alternatives = members(info.annotation)
        if alternatives:
            yield from _choice(flag, alternatives, info, value, chosen or {}, (*place, name), title)
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Group):
            inner = None if value is PydanticUndefined else value
            yield from leaves(info.annotation, chosen, inner, (*place, name), title or flag)
        else:
            yield Leaf(
                flag,
                (*place, name),
                title,
                info.annotation,
                value,
                info.description or "",
                **_extra(info),
            )


def _choice(
    flag: str,
    alternatives: tuple[type[Choice], ...],
    info: FieldInfo,
    value: Any,
    chosen: Mapping[str, Any],
    place: tuple[str, ...],
    title: str,
) -> Iterator[Leaf]:
    """The name of a choice, and the options of the alternative that is chosen."""
    by_name = {name: member for member in alternatives for name in names_of(member)}
    usual = value.name if isinstance(value, Choice) else PydanticUndefined
    wanted = chosen.get(flag, usual)
    extra = _extra(info) | ({"rare": True} if len(by_name) == 1 else {})
    names: Any = Literal[tuple(by_name)]
    yield Leaf(
        flag,
        (*place, "name"),
        title or flag,
        names,
        wanted,
        info.description or "",
        chooses=True,
        about=inspect.getdoc(by_name[wanted]) or "" if wanted in by_name else "",
        **extra,
    )
    if wanted is PydanticUndefined:
        return
    if wanted not in by_name:
        raise OptionError(no_such(flag_of(flag), str(wanted), by_name))
    member = by_name[wanted]
    same = value if type(value) is member else None
    for leaf in leaves(member, chosen, same, place, title or flag):
        if leaf.place != (*place, "name"):
            yield leaf


def _extra(info: FieldInfo) -> dict[str, Any]:
    """What `option` was given besides."""
    extra = info.json_schema_extra
    return {name: bool(value) for name, value in extra.items()} if isinstance(extra, dict) else {}


def _default(info: FieldInfo) -> Any:
    return info.get_default(call_default_factory=True)


def make(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """The options of this kind in which those given, by flat name, are set. Raises OptionError."""
    tree: dict[str, Any] = {}
    unknown = dict(given)
    missing = []
    for leaf in leaves(kind, given):
        value = unknown.pop(leaf.flag, leaf.default)
        if value is PydanticUndefined:
            missing.append(leaf)
        else:
            _put(tree, leaf.place, value)
    for name in unknown:
        raise OptionError(no_option(kind, given, name))
    if missing:
        raise OptionError(f"{flag_of(missing[0].flag)} is missing: {missing[0].description}")
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise OptionError(explain(error)) from error


def values(options: Options) -> dict[str, Any]:
    """Every option of a tree by its flat name."""
    kind, found = type(options), {}
    for leaf in leaves(kind, choices(options)):
        value: Any = options
        for name in leaf.place:
            value = getattr(value, name)
        found[leaf.flag] = value
    return found


def choices(options: Options) -> dict[str, str]:
    """The names of all choices in a tree, by flat name."""
    found: dict[str, str] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Choice):
            found[name.rstrip("_")] = value.name
        if isinstance(value, Options):
            found |= choices(value)
    return found


def _put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    for name in place[:-1]:
        tree = tree.setdefault(name, {})
    tree[place[-1]] = value


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Those of the names that may have been meant: the nearest, and any that is about as near."""
    ratios = {other: SequenceMatcher(None, name, other).ratio() for other in names}
    best = max(ratios.values(), default=0.0)
    return [other for other, ratio in ratios.items() if best >= 0.6 and ratio >= best - 0.05][:3]


def no_such(what: str, name: str, names: Iterable[str]) -> str:
    """An error for a name that is not one of these, with the nearest. what: a flag, or a noun."""
    names = list(names)
    near = nearest(name, names)
    hint = f"did you mean {' or '.join(near)}? It" if near else "it"
    missing = f"{what}: there is no" if what.startswith("--") else f"there is no {what}"
    return f"{missing} {name!r}; {hint} is one of {', '.join(names)}"


def no_option(kind: type[Options], chosen: Mapping[str, Any], name: str) -> str:
    """An error for an option that does not exist here: with which choices it does, or the nearest."""
    there = list(leaves(kind, chosen))
    now = {leaf.flag: leaf.default for leaf in there if leaf.chooses}
    ways = [
        {flag: names for flag, names in way if now.get(flag) not in names}
        for way in _ways(kind, name)
    ]
    if ways:
        fewest = min(map(len, ways))
        homes = [
            " ".join(f"{flag_of(flag)} {'|'.join(names)}" for flag, names in way.items())
            for way in ways
            if len(way) == fewest
        ]
        return f"{flag_of(name)} is an option of {' or of '.join(dict.fromkeys(homes))}"
    near = nearest(name, [leaf.flag for leaf in there])
    hint = f"; did you mean {' or '.join(map(flag_of, near))}?" if near else ""
    return f"there is no option {flag_of(name)}{hint}"


Way = tuple[tuple[str, tuple[str, ...]], ...]


def _ways(kind: type[Options], name: str, way: Way = ()) -> Iterator[Way]:
    """The choices with which there is an option of this name: (("objective", ("dsbm",)), ...) each."""
    for field, info in kind.model_fields.items():
        flag = field.rstrip("_")
        if flag == name and way:
            yield way
        for member in members(info.annotation):
            yield from _ways(member, name, (*way, (flag, names_of(member))))
        if isinstance(info.annotation, type) and issubclass(info.annotation, Group):
            yield from _ways(info.annotation, name, way)


def explain(error: ValidationError, in_file: bool = False) -> str:
    """The first fault that pydantic found, in a sentence: of the flag, or of the key of a file of nested tables."""
    first = error.errors()[0]
    where = [str(part).rstrip("_") for part in first["loc"] if not isinstance(part, int)]
    given = first.get("input")
    reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    reason = reason[:1].lower() + reason[1:]
    if first["type"] == "too_short":
        reason, given = "is empty: give at least one", None
    elif first["type"] == "extra_forbidden":
        reason = "there is no such option"
    if not where:
        return reason
    name = next((part for part in reversed(where) if part != "name"), where[-1])
    shown = "" if given is None or isinstance(given, dict) else f" {given}"
    return f"{'.'.join(where) if in_file else flag_of(name)}{shown}: {reason}".replace(
        ": is empty", " is empty"
    )
