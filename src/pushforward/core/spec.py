"""What travels with a model besides its weights: the data it draws, how it is best sampled, where it comes from.

Records of plain values, each with `to_config` (JSON values) and `from_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from pushforward.core.errors import InputError

# The name of a kind of data, such as "image": drawn by `evaluate.kinds`, loaded by `data.kinds`.
Kind = str


class Record:
    """A frozen dataclass of JSON values."""

    def to_config(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()  # type: ignore[call-overload]
            if value is not None
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The record of these values; lists become tuples. Unknown names are an InputError."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(config) - known)
        if unknown:
            raise InputError(
                f"{cls.__name__} has no {unknown[0]}; it has {', '.join(sorted(known))}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


@dataclass(frozen=True)
class DataSpec(Record):
    """The data that a model draws, or that a classifier judges.

    shape:        of one sample; () if not known.
    kind:         "image" (C, H, W), "plane" (2,), "vector" (D,), "signal" (C, L), "volume" (C, D, H, W), "sequence"
                  (L, D) with masks, ...: it says how samples are drawn, counted and named.
    value_range:  (lo, hi) of black and white, or of the values; None if not known.
    bin_width:    distance of neighbouring values of quantised data, 2/255 for bytes in [-1, 1]; None for others.
    classes:      number of labels that the network knows, those without data included; None for none.
    class_names:  one name for each label, or None where labels came as numbers.
    class_counts: how many training samples each label has: the shares in which labels are drawn to be judged.
    columns:      names of the other conditions, such as continuous ones.
    channels:     names of the channels or dimensions, where they have any.
    scale:        what the values were mapped by before the network saw them (JSON values), such as `Asinh.to_json()`.
    fingerprint:  SHA-256 of the training data, or None.
    extent:       half the side of the square in which points of the plane are drawn.
    law:          name of the law that the data are drawn from, where it is known.
    credit:       whose data these are and under which licence, where that must be named.
    frames:       (H, W) of the images, where these have several sizes, the most usual one first.
    """

    shape: tuple[int, ...] = ()
    kind: Kind = "unknown"
    value_range: tuple[float, float] | None = None
    bin_width: float | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    columns: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    scale: dict[str, Any] | None = None
    fingerprint: str | None = None
    extent: float | None = None
    law: str | None = None
    credit: str | None = None
    frames: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.frames is not None:
            object.__setattr__(self, "frames", tuple((int(h), int(w)) for h, w in self.frames))
        whole = [*self.shape, 1 if self.classes is None else self.classes]
        if not all(type(n) is int and n > 0 for n in whole):
            raise InputError(
                f"shape {self.shape!r} and classes {self.classes!r} must be positive whole numbers"
            )
        if self.bin_width is not None and not self.bin_width > 0:
            raise InputError(f"bin_width is {self.bin_width}; it must be positive")
        for name in ("class_names", "class_counts"):
            given = getattr(self, name)
            if given is not None and (self.classes is None or len(given) != self.classes):
                raise InputError(f"{len(given)} {name} for {self.classes} classes")

    def name(self, label: int) -> str:
        """A label in words: its class's name, its number where it has none, and "none" for -1."""
        if label < 0:
            return "none"
        return str(label) if self.class_names is None else self.class_names[label]

    def label(self, name: str | int) -> int:
        """The label of a class by its name or number; -1 or "none" for no class."""
        if self.classes is None:
            raise InputError("this model has no classes: leave the label out")
        names = self.class_names or tuple(map(str, range(self.classes)))
        if isinstance(name, str):
            if name in names:
                return names.index(name)
            if name == "none":
                return -1
            if not name.lstrip("-").isdigit():
                from difflib import get_close_matches

                near = get_close_matches(name, names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
                raise InputError(f"there is no class {name!r}; the classes are {shown}{hint}")
        number = int(name)
        if not -1 <= number < self.classes:
            raise InputError(
                f"label {number}: this model knows the classes 0 to {self.classes - 1}, and -1 for none"
            )
        return number

    def with_(self, **changes: Any) -> DataSpec:
        return replace(self, **changes)


@dataclass(frozen=True)
class SamplingDefaults(Record):
    """How a model is sampled if nobody says otherwise.

    nfe:      network calls for a sample; None for the usual number.
    guidance: the scale that was folded into a flow map in training; None for none.
    prompt_guidance: the scale of classifier-free guidance towards prompts; None for none.
    source:   what samples start from, in words, where it is not Gaussian noise; a law's own name if it is one.
    fitted:   samplers fitted to the model (`tune`): nfe, guidance, weights, and errors before and after.
    shift:    s of the times sigma -> s sigma/(1 + (s - 1) sigma) that a flow was published with, for those who sample
              by them; the samplers here have times of their own.
    condition_dropout: share of samples that training saw without their conditions, where that is known; at 0 guidance
              has nothing to move away from but a negative condition.
    """

    nfe: int | None = None
    guidance: float | None = None
    source: str | None = None
    fitted: tuple[dict[str, Any], ...] = ()
    prompt_guidance: float | None = None
    shift: float | None = None
    condition_dropout: float | None = None


@dataclass(frozen=True)
class Provenance(Record):
    """Where a model comes from.

    recipe: of its run. step: optimiser steps taken. method: of distillation or reflow. teacher: SHA-256 of the model
    that taught it; origin: of the first teacher in a chain. rectified: k of a k-rectified flow. started_from: SHA-256
    of the model whose weights it began with. licence: of the weights, as SPDX names it. sha256: of the weights, known
    once they are saved or loaded.
    """

    recipe: str | None = None
    step: int | None = None
    method: str | None = None
    teacher: str | None = None
    origin: str | None = None
    rectified: int | None = None
    started_from: str | None = None
    licence: str | None = None
    sha256: str | None = None
