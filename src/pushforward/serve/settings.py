"""What may be asked for: names, numbers and texts with bounds. Nothing here imports torch."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pushforward.core.errors import InputError
from pushforward.recipes.choices import GaussianPathName, GridName, SolverName
from pushforward.serve import limits

Name = Annotated[str, Field(max_length=100)]
Text = Annotated[str, Field(max_length=limits.TEXT)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# Bytes in base64, at most those of a picture.
Raw = Annotated[str, Field(max_length=4 * (limits.UPLOAD // 3 + 1))]


class Strict(BaseModel):
    """JSON values of the right type, finite, and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(Strict):
    """A Gaussian of a law of the user's own: N((x, y), std^2 I), its share relative to the others, and its class."""

    x: float = Field(ge=-20, le=20)
    y: float = Field(ge=-20, le=20)
    std: float = Field(0.4, ge=0.02, le=10)
    weight: float = Field(1.0, ge=1e-3, le=1000)
    label: int = Field(0, ge=0, lt=limits.COMPONENTS)


class Settings(Strict):
    """One drawing, completely: equal settings give equal samples.

    subject:   name of a law or run in the catalogue; "own" is the law of `components`.
    label:     a class; -1 for none, and nothing for any (laws) or all in turn (pictures).
    mix:       share of the second noise: 0 is that of `seed`, 1 that of `second`.
    show:      which prediction is drawn as arrows in the plane. curve: measure the error by calls, too.
    picture:   RGB or grey bytes (H, W, C) in base64, of the subject's size, to be edited with `strength`; mask: (H, W)
               bytes, not 0 where it is painted anew. control: (H, W) grey bytes of a hint.
    """

    subject: Name = "8gaussians"
    components: Annotated[tuple[Component, ...], Field(max_length=limits.COMPONENTS)] = ()
    path: GaussianPathName = "condot"
    solver: Literal["auto"] | SolverName = "heun"
    grid: Literal["auto"] | GridName = "auto"
    calls: int = Field(20, ge=1, le=limits.CALLS)
    guidance: float = Field(1.0, ge=0, le=30)
    label: int | None = Field(None, ge=-1, lt=100_000)
    prompt: Text = ""
    negative: Text = ""
    seed: Seed = 0
    second: Seed = 1
    mix: float = Field(0.0, ge=0, le=1)
    num: int = Field(600, ge=1, le=limits.POINTS)
    show: Literal["velocity", "score", "data", "noise"] = "velocity"
    curve: bool = True
    picture: Raw | None = None
    mask: Raw | None = None
    strength: float = Field(0.6, ge=0, le=1)
    control: Raw | None = None
    control_strength: float = Field(1.0, ge=0, le=3)

    @model_validator(mode="after")
    def fits(self) -> Self:
        if (self.subject == "own") != bool(self.components):
            raise ValueError("components are those of the subject own, which needs at least one")
        if self.mask is not None and self.picture is None:
            raise ValueError("a mask goes with a picture")
        return self

    @property
    def about(self) -> dict[str, Any]:
        """What a file says of itself: all but uploaded bytes."""
        raw = {"picture", "mask", "control"}
        return self.model_dump(exclude=raw) | {n: True for n in raw if getattr(self, n) is not None}


class Start(Strict):
    """Begin to draw; what this client drew before ends. job: the client's own number for it."""

    type: Literal["start"]
    job: int = Field(ge=0, lt=2**31)
    settings: Settings


class Cancel(Strict):
    type: Literal["cancel"]
    job: int = Field(ge=0, lt=2**31)


Message = TypeAdapter[Start | Cancel](Annotated[Start | Cancel, Field(discriminator="type")])


def bytes_of(text: str, shape: tuple[int, ...], what: str) -> bytes:
    """Base64 to exactly as many bytes as this shape has."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the {what} is not base64: {error}") from error
    size = 1
    for side in shape:
        size *= side
    if len(found) != size:
        raise InputError(
            f"the {what} has {len(found)} bytes; {' x '.join(map(str, shape))} are {size}"
        )
    return found


def check(settings: Settings, catalogue: dict[str, Any]) -> None:
    """InputError for what the subject does not have. catalogue: what the worker says that there is."""
    subject = catalogue["subjects"].get(settings.subject)
    if subject is None:
        raise InputError(
            f"there is no {settings.subject!r}; there is {', '.join(catalogue['subjects'])}"
        )
    if settings.label is not None and settings.subject != "own":
        classes = subject["classes"]
        if settings.label >= 0 and settings.label >= len(classes):
            raise InputError(
                f"{settings.subject} has {len(classes)} classes, and no {settings.label}"
            )
        if not classes:
            raise InputError(f"{settings.subject} has no classes: omit the label")
    if (settings.prompt or settings.negative) and not subject["prompt"]:
        raise InputError(f"{settings.subject} takes no prompt")
    for name in ("picture", "mask", "control"):
        _check_upload(settings, subject, name)
    if subject["kind"] == "plane":
        return
    values = settings.num
    for side in subject["pixels"]:
        values *= side
    if settings.num > limits.PICTURES or values > limits.VALUES:
        raise InputError(
            f"{settings.num} pictures of {' x '.join(map(str, subject['pixels']))} values are too many: at most "
            f"{subject['most']}"
        )


def _check_upload(settings: Settings, subject: dict[str, Any], name: str) -> None:
    text = getattr(settings, name)
    if name == "control" and text is None and subject.get("control"):
        raise InputError(
            f"{settings.subject} is steered by a hint ({subject['control']}): give control"
        )
    if text is None:
        return
    if not subject.get("control" if name == "control" else "edit"):
        raise InputError(f"{settings.subject} takes no {name}")
    channels, height, width = subject["pixels"]
    bytes_of(text, (height, width, channels if name == "picture" else 1), name)


def refusals(error: ValidationError) -> list[dict[str, str]]:
    """What is wrong and where, without what was sent."""
    return [
        {"where": ".".join(map(str, each["loc"]))[:200], "what": each["msg"][:300]}
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:20]
    ]
