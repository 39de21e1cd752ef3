"""Options of commands that draw by an unCLIP, a chain of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pushforward.recipes.options import Options, option

# What of a cascade and a prior is chosen when they are sampled.
CHAIN = ("augment_level", "prior_guidance", "draws")
USES = ("variations", "between", "from_", "to")
# Options that are of models of one stage.
SINGLE = (
    "grid", "renoise", "negative", "size", "label", "condition", "classifier", "shift", "control_image",
    "control_strength", "with_", "strength", "mask", "extend", "sde", "repeats", "from_prompt",
)  # fmt: skip


class Cascaded(Options):
    """How the larger sizes of an unCLIP are drawn."""

    augment_level: tuple[float, ...] = option(
        (),
        "unCLIP: augmentation level of the cascade, one for all stages or one for each. Default: the run's.",
        rare=True,
    )


class Chained(Cascaded):
    """How the chain of an unCLIP is drawn."""

    prior_guidance: float | None = option(
        None, "unCLIP: guidance of the prior. Default: none.", rare=True
    )
    draws: int | None = option(
        None,
        "unCLIP: vectors drawn for a picture, of which the nearest to the text is taken. Default: 2.",
        ge=1,
        rare=True,
    )


class Varied(Cascaded):
    """What an unCLIP makes of a picture."""

    variations: int | None = option(
        None, "unCLIP: so many pictures that show what this one shows.", ge=1
    )
    between: Path | None = option(
        None, "unCLIP: another picture; those between are drawn, in --num rows of one noise each."
    )
    from_: str | None = option(
        None, "unCLIP: what the picture shows, in words, of which --to says something else."
    )
    to: str | None = option(None, "unCLIP: what it is to show instead; --from says what it shows.")
    columns: int | None = option(
        None,
        "unCLIP: pictures in a row, with --between or --from. Default: 7, or 4.",
        ge=2,
        rare=True,
    )
    amount: float = option(
        0.5, "unCLIP: how far --to goes at the end of the row, from 0 to 1.", gt=0, le=1, rare=True
    )


def flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def chosen(command: Options, names: Sequence[str]) -> list[str]:
    """Those of the options that are not as by default."""
    fields = type(command).model_fields
    return [n for n in names if n in fields and getattr(command, n) != fields[n].default]


def require_single(command: Options, folder: Path) -> None:
    """InputError for options of an unCLIP where the model is none."""
    from pushforward.core.errors import InputError

    if other := chosen(command, (*CHAIN, *USES, "columns", "amount")):
        raise InputError(
            f"{flag(other[0])} is for a run of pushforward train unclip, and {folder} is none"
        )


def require_chained(command: Options, folder: Path) -> None:
    """InputError for options of single models where the model is an unCLIP."""
    from pushforward.core.errors import InputError

    if other := chosen(command, SINGLE):
        raise InputError(
            f"{flag(other[0])} is for a single model, and {folder} holds an unCLIP, a chain of several: omit it"
        )
