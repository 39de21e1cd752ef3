"""Pixels that stay in their files until they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import AUGMENT, Noise
from pushforward.data.images.buckets import Buckets
from pushforward.data.images.decode import (
    Box,
    OnBad,
    centre,
    is_exhaustion,
    largest,
    pixels,
    reason,
)
from pushforward.data.images.files import Source

Crop = Literal["centre", "random"]
Cutting = Callable[[int, int, tuple[int, int]], Box]
# Of the stream AUGMENT, the numbers that `Augment` leaves to the crop.
FIRST_DRAW = 3


@dataclass(frozen=True, eq=False)
class Pictures:
    """An array (N, C, H, W) of uint8 whose entries are decoded each time they are asked for.

        pictures[np.array([3, 1, 4])]      # (3, C, H, W)

    source: the files. frame: (H, W). channels: C. resized: whether pictures are cut and scaled to the frame; if not,
    one of any other size is bad.

    crop: which part of the upright picture, W x H, is taken where there is noise to draw from, as in `read`.
    "centre": the largest one of the frame's shape, a x b, in the middle. "random": one of that shape, w x h, with its
    left edge at l and its top at t,

        w = round(a (1 - u_3 (1 - 1 / zoom)))     l = floor(u_4 (W - w + 1))     t = floor(u_5 (H - h + 1))

    and h as w; each whole place being as likely as any other; u are the uniform numbers of the stream AUGMENT, of which
    `Augment` takes those before. What was cut is resampled by Lanczos with antialiasing.

    buckets: frames that the pictures are sorted into by their shapes, by number of the source's; `in_frame` takes one
    of them. None for one frame.

    on_bad: about a file that cannot be decoded. "error" raises a DataError that names it. "skip" puts the next entry
    that can be in its place, keeps it in `report`, and calls `tell` with the file and the reason, once.

    No file is kept open, so that threads and forked processes may share one. What is bad is noted in each process.
    """

    source: Source
    frame: tuple[int, int]
    channels: int
    resized: bool
    on_bad: OnBad = "error"
    crop: Crop = "centre"
    zoom: float = 1.0
    tell: Callable[[str, str], None] | None = None
    buckets: Buckets | None = None
    bad: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_crop(self.frame[0] if self.resized else None, self.crop, self.zoom, lazy=True)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), self.channels, *self.frame

    @property
    def ndim(self) -> int:
        return 4

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return len(self) * self.channels * self.frame[0] * self.frame[1]

    @property
    def report(self) -> tuple[tuple[str, str], ...]:
        """(file, reason) of all that this process has found it cannot decode, in order."""
        return tuple((self.source.name(entry), why) for entry, why in sorted(self.bad.items()))

    def __getitem__(self, index: Any) -> np.ndarray:
        """(B, C, H, W), the centred squares: index (B,) whole numbers, or a slice."""
        places = np.arange(len(self))[index]
        if places.ndim != 1:
            raise InputError("pictures are taken by an array (B,) of whole numbers, or by a slice")
        return self.read(places)[0]

    def read(
        self, places: np.ndarray, rows: np.ndarray | None = None, noise: Noise | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (B, C, H, W) uint8, and the places (B,) that they come from: others only where a file is bad.

        rows: (M,) the entries that exist: places count these, and only these replace a bad one; all by default. noise:
        of B samples, from which crops are drawn; without it they are centred.
        """
        count = len(self) if rows is None else len(rows)
        out = np.empty((len(places), *self.shape[1:]), np.uint8)
        found = np.array(places, np.int64)
        cuts = self._cuts(len(places), noise)
        for i, place in enumerate(found.tolist()):
            for step in range(count):
                at = (place + step) % count
                one = self._decode(at if rows is None else int(rows[at]), cuts[i])
                if one is not None:
                    out[i], found[i] = one, at
                    break
            else:
                name, why = self.report[0]
                raise DataError(f"none of the {count} images can be used; {name} {why}")
        return out, found

    def in_frame(self, number: int) -> Pictures:
        """All of them in one of the frames of the buckets."""
        assert self.buckets is not None
        return replace(self, frame=self.buckets.frames[number], buckets=None)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of what identifies the source, and of how its pixels are computed."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        facts = [*self.frame, self.channels, self.resized, self.source.digest()]
        if self.buckets is not None:
            facts.append(self.buckets.digest())
        about = json.dumps(facts)
        return hashlib.sha256(about.encode()).hexdigest()

    def _cuts(self, count: int, noise: Noise | None) -> list[Cutting]:
        if noise is None or self.crop == "centre":
            return [centre] * count
        if len(noise) != count:
            raise InputError(f"noise of {len(noise)} samples was given for {count} pictures")
        u = noise.uniform((FIRST_DRAW + 3,), AUGMENT)[:, FIRST_DRAW:].cpu().tolist()
        return [Cut(scale, across, down, self.zoom) for scale, across, down in u]

    def _decode(self, entry: int, cut: Cutting) -> np.ndarray | None:
        """(C, H, W), or None where there is nothing to be had and that is to be skipped."""
        if entry in self.bad:
            return None
        try:
            with self.source.open(entry) as image:
                one = pixels(image, self.frame if self.resized else None, self.channels, cut)
            if one.shape[1:] == self.frame:
                return one
            height, width = one.shape[1:]
            why = f"is {width} x {height}, others are {self.frame[1]} x {self.frame[0]}"
        except DataError:
            raise
        # Pillow's decoders meet hostile input with errors of many types; each one is a reason to report.
        except Exception as error:
            if is_exhaustion(error):
                raise
            why = reason(error)
        if self.on_bad == "error":
            raise DataError(
                f'{self.source.name(entry)} {why}. Mend or remove it, or pass --on-bad skip (on_bad="skip") to put the '
                f"next one in its place"
            )
        if self.bad.setdefault(entry, why) is why and self.tell is not None:
            self.tell(self.source.name(entry), why)
        return None


@dataclass(frozen=True)
class Cut:
    """The part that three uniform numbers draw; see `Pictures`."""

    scale: float
    across: float
    down: float
    zoom: float

    def __call__(self, width: int, height: int, frame: tuple[int, int]) -> Box:
        share = 1 - self.scale * (1 - 1 / self.zoom)
        w, h = (max(1, round(side * share)) for side in largest(width, height, frame))
        left = int(self.across * (width - w + 1))
        top = int(self.down * (height - h + 1))
        return left, top, left + w, top + h


def check_crop(size: int | None, crop: str, zoom: float, lazy: bool) -> None:
    """InputError unless these say what to cut."""
    if crop not in ("centre", "random"):
        raise InputError(f'crop is {crop!r}; it must be "centre" or "random"')
    if not 1 <= zoom < float("inf"):
        raise InputError(f"zoom is {zoom}; it must be a number from 1 on")
    if crop == "random" and size is None:
        raise InputError('crop="random" needs a size, to which what is cut out is scaled')
    if crop == "random" and not lazy:
        raise InputError('crop="random" needs lazy=True, for each crop is cut anew from the file')
    if crop == "centre" and zoom != 1:
        raise InputError('zoom is for crop="random"')
