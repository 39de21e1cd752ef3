"""Image files with their annotations, and the data set that they form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pushforward.core.errors import DataError
from pushforward.data.dataset import Dataset
from pushforward.data.images.decode import OnBad, is_exhaustion, pixels, reason
from pushforward.data.images.files import Source
from pushforward.data.images.lazy import Crop, Pictures
from pushforward.data.images.names import Names
from pushforward.data.images.sizes import measure

SHOWN = 10


@dataclass(frozen=True)
class Listing:
    """Images by number.

    where:       the folder or archives, for messages.
    source:      their files.
    names:       what each is called in a list of problems.
    labels:      (N,) int64, or None.
    class_names: of the labels, if they have names.
    captions:    a text for each, or None.
    problems:    (file, reason) of what was found wrong so far.
    notes:       what was decided for the user.
    columns:     other conditions by name, one row for each.
    """

    where: str
    source: Source
    names: Sequence[str]
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    captions: Sequence[str] | None = None
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def dataset(
        self,
        size: int | None,
        channels: int,
        on_bad: OnBad,
        lazy: bool,
        crop: Crop = "centre",
        zoom: float = 1.0,
    ) -> Dataset:
        """All of them, decoded now or, if `lazy`, when they are read; see `load_folder`."""
        problems = list(self.problems)
        # Problems that are known already are reported before the work of decoding.
        self.refuse(problems, on_bad, len(self.source))
        values: np.ndarray | Pictures | None = None
        kept = np.arange(len(self.source))
        if not lazy:
            kept, values = self._decode_all(size, channels, problems)
        else:
            if size is None:
                kept, frame = self._measure_all(problems)
            else:
                frame = (size, size)
        self.refuse(problems, on_bad, len(kept))
        everything = len(kept) == len(self.source)
        if lazy:
            source = self.source if everything else self.source.select(kept)
            values = Pictures(source, frame, channels, size is not None, on_bad, crop, zoom)
        assert values is not None
        captions = self.captions
        if captions is not None and not everything:
            captions = [captions[int(i)] for i in kept]
        whole = Dataset.from_arrays(
            values,
            None if self.labels is None else self.labels[kept],
            captions,
            self.class_names,
            where=self.where,
            report=problems,
            layout="as stored",
            columns={name: column[kept] for name, column in self.columns.items()},
            notes=self.notes,
        )
        # Those of members of archives would take as much memory again as the index has.
        names = self.names if isinstance(self.names, Names) else None
        return replace(whole, names=names if names is None or everything else names.select(kept))

    def refuse(self, problems: Sequence[tuple[str, str]], on_bad: OnBad, good: int) -> None:
        """DataError that lists the problems, if there are any and they are to be errors, or if nothing is left."""
        if good and (on_bad == "skip" or not problems):
            return
        number = len(problems)
        if not number:
            raise DataError(f"{self.where} has no images")
        lines = [f"  {name}: {why}" for name, why in problems[:SHOWN]]
        if number > SHOWN:
            lines.append(f"  and {number - SHOWN} more")
        advice = "No image is left"
        if good:
            advice = (
                f'Mend or remove these, or pass on_bad="skip" to go on with the other {good} images'
            )
        raise DataError(
            "\n".join(
                [f"{self.where} has {number} problem{'s' if number > 1 else ''}:", *lines, advice]
            )
        )

    def _decode_all(
        self, size: int | None, channels: int, problems: list[tuple[str, str]]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The numbers of the images that could be decoded and their pixels (N, C, H, W)."""
        kept: list[int] = []
        values: np.ndarray | None = None
        for entry in range(len(self.source)):
            try:
                with self.source.open(entry) as image:
                    one = pixels(image, None if size is None else (size, size), channels)
            except DataError:
                raise
            # Pillow's decoders meet hostile input with errors of many types; each one is a reason to report.
            except Exception as error:
                if is_exhaustion(error):
                    raise
                problems.append((self.names[entry], reason(error)))
                continue
            if values is None:
                values = _allocate((len(self.source), *one.shape), self.where)
            if one.shape != values.shape[1:]:
                raise DataError(measure(self.source).refusal(self.where, self.names.__getitem__))
            values[len(kept)] = one
            kept.append(entry)
        return np.array(kept, np.int64), None if values is None else values[: len(kept)]

    def _measure_all(self, problems: list[tuple[str, str]]) -> tuple[np.ndarray, tuple[int, int]]:
        """The numbers of the images that could be opened, and (H, W) of all of them."""
        sizes = measure(self.source)
        if len(sizes.count) > 1:
            raise DataError(sizes.refusal(self.where, self.names.__getitem__))
        problems.extend((self.names[entry], why) for entry, why in sizes.unread)
        kept = np.ones(len(self.source), bool)
        kept[[entry for entry, _ in sizes.unread]] = False
        width, height = next(iter(sizes.count), (1, 1))
        return np.flatnonzero(kept), (height, width)


def _allocate(shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        return np.empty(shape, np.uint8)
    except (MemoryError, ValueError) as error:
        raise DataError(
            f"the {shape[0]} images of {where} at {shape[3]} x {shape[2]} need "
            f"{np.prod(shape, dtype=float) / 2**30:.0f} GiB of memory; pass a smaller size (--size), or lazy=True"
        ) from error
