"""Kinds of data: what the axes of a sample mean, and how samples are counted and named in words.

    kind_of(spec).count(1797)                     # "1797 images"
    describe(spec, 1797)                          # "1797 images, 8 x 8, 1 channel"

How a kind is drawn belongs to `evaluate.kinds`. A new kind that data are loaded as is one object here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec, Kind


@dataclass(frozen=True)
class DataKind:
    """One kind of data.

    name:   as in `DataSpec.kind`.
    noun:   what one sample is called, and several, where an s does not do.
    axes:   what the axes of a sample are, channels first where there are any; () if anything goes.
    masked: whether samples have lengths of their own.
    """

    name: Kind
    noun: str
    axes: tuple[str, ...] = ()
    plural: str = ""
    masked: bool = False

    @property
    def channels_first(self) -> bool:
        return self.axes[:1] == ("channels",)

    def count(self, n: int) -> str:
        """So many in words."""
        return f"{n} {self.noun if n == 1 else self.plural or self.noun + 's'}"

    def size(self, shape: Sequence[int]) -> str:
        """The shape of a sample in words, "8 x 8, 1 channel"; "" where the noun says it."""
        if self.name == "plane":
            return ""
        if not self.channels_first:
            return " x ".join(map(str, shape))
        channels, *grid = shape
        plural = "" if channels == 1 else "s"
        return f"{' x '.join(map(str, grid))}, {channels} channel{plural}"

    def check(self, shape: Sequence[int]) -> None:
        """InputError unless a sample of this kind may have this shape."""
        if self.axes and len(self.axes) != len(shape):
            raise InputError(
                f"{self.count(2)[2:]} have the axes ({', '.join(self.axes)}), and these samples are {tuple(shape)}"
            )
        if self.name == "plane" and tuple(shape) != (2,):
            raise InputError(f"points in the plane have 2 coordinates, not {tuple(shape)}")


LOADED = (
    DataKind("image", "image", ("channels", "height", "width")),
    DataKind("plane", "point", ("coordinates",)),
    DataKind("vector", "vector", ("dimensions",)),
    DataKind("signal", "signal", ("channels", "length")),
    DataKind("volume", "volume", ("channels", "depth", "height", "width")),
    DataKind("sequence", "sequence", masked=True),
    DataKind("video", "video", ("channels", "frames", "height", "width"), masked=True),
    DataKind("chain", "chain", masked=True),
    DataKind("unknown", "sample"),
)
KINDS: dict[Kind, DataKind] = {kind.name: kind for kind in LOADED}


def usual_kind(shape: Sequence[int], masked: bool = False) -> Kind:
    """The kind that samples of a shape have by default: by the number of axes, sequences if they are padded."""
    if masked:
        return "sequence"
    if tuple(shape) == (2,):
        return "plane"
    by_axes: dict[int, Kind] = {1: "vector", 2: "signal", 3: "image", 4: "volume"}
    return by_axes.get(len(shape), "unknown")


def require_known(kind: Kind) -> None:
    """InputError for a kind that data cannot be loaded as."""
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"there is no kind of data {kind!r}; there are {', '.join(KINDS)}{hint}")


def kind_of(spec: DataSpec) -> DataKind:
    """The kind of a spec; one that is not known here has samples of any shape."""
    return KINDS.get(spec.kind, KINDS["unknown"])


def describe(spec: DataSpec, n: int | None = None) -> str:
    """Data in words: "1797 images, 8 x 8, 1 channel, 10 classes"; n: how many samples there are."""
    kind = kind_of(spec)
    parts = [kind.count(2)[2:] if n is None else kind.count(n)]
    if spec.shape and (size := kind.size(spec.shape)):
        parts.append(("up to " if kind.masked else "") + size)
    if spec.frames is not None and len(spec.frames) > 1:
        others = ", ".join(f"{w} x {h}" for h, w in spec.frames[1:])
        parts.append(f"also of other shapes (width x height: {others})")
    if spec.classes is not None:
        counts = spec.class_counts or (1,) * spec.classes
        used = sum(count > 0 for count in counts)
        parts.append(f"{used} class{'' if used == 1 else 'es'}")
    if spec.columns:
        parts.append(f"conditions {', '.join(spec.columns)}")
    return ", ".join(parts)
