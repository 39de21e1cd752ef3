"""Batches as a function of the step: epochs of data sets, draws from laws, pairs, and the same prepared ahead."""

from pushforward.streams.bucketed import Bucketed, Numbered
from pushforward.streams.coupled import Coupled
from pushforward.streams.drawn import Drawn, Sourced
from pushforward.streams.lazy import Lazy
from pushforward.streams.paired import Blurred, Bridged, Paired, Transformed
from pushforward.streams.prefetch import Prefetch
from pushforward.streams.shuffled import Altered, Indexed, Shuffled
from pushforward.streams.stream import Divisible, Part, Stream, part

__all__ = [
    "Altered",
    "Blurred",
    "Bridged",
    "Bucketed",
    "Coupled",
    "Divisible",
    "Drawn",
    "Indexed",
    "Lazy",
    "Numbered",
    "Paired",
    "Part",
    "Prefetch",
    "Shuffled",
    "Sourced",
    "Stream",
    "Transformed",
    "part",
]
