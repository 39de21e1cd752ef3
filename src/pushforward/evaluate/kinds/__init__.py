"""Kinds of data, which know how their samples are counted, named and drawn.

kind = kinds.of(model.spec)
kind.number(model.spec), kind.noun                  # 80, "images"
figures.png(kind.draw(samples, model.spec, label), settings)
"""

from pushforward.core.spec import DataSpec
from pushforward.data.kinds import usual_kind
from pushforward.evaluate.kinds.base import Kind
from pushforward.evaluate.kinds.image import Image
from pushforward.evaluate.kinds.other import Other
from pushforward.evaluate.kinds.plane import Plane
from pushforward.evaluate.kinds.sequence import Sequence
from pushforward.evaluate.kinds.signal import Signal
from pushforward.evaluate.kinds.vector import Vector
from pushforward.evaluate.kinds.volume import Volume

# Stands for kinds that are not in the list.
UNKNOWN = Other()
KINDS: tuple[Kind, ...] = (
    Image(),
    Plane(),
    Vector(),
    Signal(),
    Volume(),
    Sequence(),
    UNKNOWN,
)


def of(spec: DataSpec) -> Kind:
    """The kind of data that a model draws: the one that its spec names, or else the usual one of its shape."""
    name = usual_kind(spec.shape) if spec.kind == "unknown" else spec.kind
    return next((kind for kind in KINDS if kind.name == name), UNKNOWN)


__all__ = [
    "KINDS", "Image", "Kind", "Other", "Plane", "Sequence", "Signal", "Vector", "Volume", "of",
]  # fmt: skip
