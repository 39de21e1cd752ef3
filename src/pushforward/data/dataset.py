"""A finite data set: samples of one shape with labels, conditions, texts and masks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pushforward.core import conditions
from pushforward.core.conditions import Condition
from pushforward.core.errors import DataError, InputError
from pushforward.core.noise import Noise
from pushforward.core.spec import DataSpec, Kind
from pushforward.data import kinds, shares
from pushforward.data.batch import Batch
from pushforward.data.columns import as_columns, as_mask, digest_columns, notes_on_unknown
from pushforward.data.encoding import Encoding
from pushforward.data.hints import Hint
from pushforward.data.images.augment import Augment
from pushforward.data.images.lazy import Pictures
from pushforward.data.images.names import Names
from pushforward.data.labels import encode_labels, note_on_empty
from pushforward.data.ragged import Ragged
from pushforward.data.recaptions import Recaptions
from pushforward.data.values import (
    CHANNELS,
    Layout,
    Stored,
    arranged_shape,
    as_samples,
    chunk_rows,
    layout_of,
    native,
    summarise,
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """N samples of one shape with, if there are any, labels, conditions and texts. Build one with `from_arrays`.

        batch = dataset[torch.tensor([3, 1, 4])]      # Batch: x1 (3, *shape) float32, cond["label"] (3,) int64

    values:      what is stored: an array, `Pictures` in files, sequences of different lengths (`Ragged`). Never copied
                 as a whole, so that it may be larger than memory.
    layout:      the order in which axes are stored. rows: which of the values these samples are; None for all.
    labels:      (N,) int64 in [0, classes), or None.
    classes:     number of classes, those without a sample in this part of the data included.
    class_names: one name for each class, or None if the labels came as numbers.
    columns:     other conditions by name, one row a sample: `batch.cond[name]`.
    texts:       lists of N strings by name, such as captions: `batch.texts[name]`.
    encodings:   conditions made of the texts, see `encode_texts`: `batch.cond[name]`; not in the fingerprint.
    hints:       computed from samples when they are read: `batch.cond["control"][name]`; not in the fingerprint.
    mask:        (N, ...) bool as samples have their axes, where they are padded within an array; else None.
    kind:        of data, see `kinds`.
    value_range: (lo, hi) of black and white, to turn x1 back into images, or of the values.
    bin_width:   distance of neighbouring values of quantised data, from all of them; None for others.
    channels:    names of the channels or dimensions, or None.
    report:      (file, reason) of everything that was skipped when the data were read. Print it. Images that turn out
                 bad later are in `values.report`.
    augment:     how `drawn` alters images, or None.
    notes:       what was decided for the user when the data were read. Print them.
    credit:      whose data these are and under which licence, where that must be named; not in the fingerprint.
    recaptions:  other texts by the names of the texts, of which `drawn` takes some instead.
    names:       of the samples, such as their files; None where they have none. Not in the fingerprint.
    factor:      samples are the means of blocks of so many stored pixels a side, see `reduced`.
    """

    values: np.ndarray | Stored
    layout: Layout
    rows: np.ndarray | None
    labels: Tensor | None
    classes: int | None
    class_names: tuple[str, ...] | None
    kind: Kind
    value_range: tuple[float, float]
    bin_width: float | None = None
    columns: Mapping[str, Condition] = field(default_factory=dict)
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    mask: Tensor | None = None
    channels: tuple[str, ...] | None = None
    report: tuple[tuple[str, str], ...] = ()
    augment: Augment | None = None
    notes: tuple[str, ...] = ()
    hints: Mapping[str, Hint] = field(default_factory=dict)
    credit: str | None = None
    recaptions: Mapping[str, Recaptions] = field(default_factory=dict)
    names: Names | None = None
    factor: int = 1

    @classmethod
    def from_arrays(
        cls,
        values: np.ndarray | Tensor | Stored | Sequence[np.ndarray],
        labels: np.ndarray | Sequence[str] | Sequence[int] | None = None,
        captions: Sequence[str] | None = None,
        class_names: Sequence[str] | None = None,
        where: str = "the array",
        report: Sequence[tuple[str, str]] = (),
        layout: Layout | None = None,
        *,
        kind: Kind | None = None,
        columns: Mapping[str, Any] | None = None,
        texts: Mapping[str, Sequence[str]] | None = None,
        mask: np.ndarray | Tensor | None = None,
        channels: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> Dataset:
        """Check arrays and make them a data set.

        values: (N, ...). uint8 is scaled to [-1, 1] by x / 127.5 - 1, floating numbers keep their values. The number of
                axes says what they are: (N, D) vectors, (N, 2) points of the plane, floating (N, C, L) signals,
                (N, C, H, W) images and (N, C, D, H, W) volumes; bytes (N, H, W) are grey images. Images may have their
                channels last, (N, H, W, C), if C is 1, 3 or 4 and the first axis is not, or if bytes would otherwise
                have the shorter short side. Or a list of arrays (L_i, ...): sequences, which are padded.
        kind:   what they are, where the axes do not say; an axis for one channel is added where none is stored.
        labels: (N,) integers from 0 on, or strings: classes in the order of `class_names`, or of their names.
        columns: other conditions by name, one row a sample: numbers, NaN where unknown; Tokens; groups of these.
        texts:  strings by name, one a sample; captions: those called "caption".
        mask:   bool, (N, L) for sequences or with the axes of the samples: which entries are data. Padded entries are
                read as zeros, whatever is stored there.
        channels: a name for each channel, or for each dimension of a vector or an entry of a sequence.
        where:  what the values are called in errors. layout: how images are stored, if the shape need not be asked.

        `value_range` is (-1, 1) for bytes; for floating numbers (-1, 1) or (0, 1) if all lie in it, else their own.

        Raises DataError for any other dtype or shape, no samples, values that are not finite in float32, and labels,
        conditions or texts that do not fit.
        """
        stored = _as_stored(values, where)
        padded = mask is not None or isinstance(stored, Ragged)
        guessed, kind = layout_of(stored.shape, stored.dtype, kind, padded, where)
        layout = guessed if layout is None else layout
        shape, n = arranged_shape(stored.shape[1:], layout), len(stored)
        kinds.KINDS[kind].check(shape)
        remarks = list(notes)
        if layout == "channels last" and stored.dtype != np.uint8:
            remarks.append(
                f"{where}: the last of the axes {stored.shape} is taken for the channels"
            )
        held = None if mask is None else as_mask(mask, (n, *shape), kind, where)
        where_data = None if held is None else held.numpy()
        if isinstance(stored, Ragged):
            where_data = stored.mask().reshape(*stored.shape[:2], *[1] * (len(shape) - 1))
        summary = summarise(stored, layout, where_data, where)
        codes: Tensor | None = None
        names: tuple[str, ...] | None = None
        classes: int | None = None
        if labels is not None:
            codes, names = encode_labels(labels, n, where, class_names)
            classes = int(codes.max()) + 1 if names is None else len(names)
            note = note_on_empty(torch.bincount(codes, minlength=classes).tolist(), names)
            remarks.extend([note] if note else [])
        lines = dict(texts or {}) if captions is None else {"caption": captions, **(texts or {})}
        for name, column in lines.items():
            if len(column) != n:
                raise DataError(f"{where}: {n} samples, but {len(column)} {name}s")
        if channels is not None and len(channels) not in (shape[0], shape[-1]):
            raise DataError(f"{where}: {len(channels)} names of channels for samples {shape}")
        given = as_columns(columns or {}, n, where)
        remarks += notes_on_unknown(given)
        return cls(
            stored,
            layout,
            None,
            codes,
            classes,
            names,
            kind,
            summary.value_range,
            summary.bin_width,
            given,
            {name: tuple(map(str, column)) for name, column in lines.items()},
            {},
            held,
            None if channels is None else tuple(channels),
            tuple(report),
            notes=tuple(remarks),
        )

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample of x1; (C, H, W) for images."""
        shape = arranged_shape(tuple(self.values.shape[1:]), self.layout)
        return shape if self.factor == 1 else (shape[0], *(n // self.factor for n in shape[1:]))

    @property
    def images(self) -> bool:
        """Whether samples can be shown as they are: images of 1, 3 or 4 channels."""
        return self.kind == "image" and self.shape[0] in CHANNELS

    @property
    def captions(self) -> tuple[str, ...] | None:
        return self.texts.get("caption")

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """How many samples each class has here, 0 for classes without any; None without labels."""
        if self.labels is None or self.classes is None:
            return None
        return tuple(torch.bincount(self.labels, minlength=self.classes).tolist())

    @cached_property
    def spec(self) -> DataSpec:
        """What is known of the data, as it is kept with a model."""
        extent = None
        if self.kind == "plane":
            extent = 1.1 * max(map(abs, self.value_range))
        return DataSpec(
            shape=self.shape,
            kind=self.kind,
            value_range=self.value_range,
            bin_width=self.bin_width,
            classes=self.classes,
            class_names=self.class_names,
            class_counts=self.class_counts,
            columns=tuple(name for name, _ in conditions.leaves(self.columns)),
            channels=self.channels,
            fingerprint=self.fingerprint(),
            extent=extent,
            credit=self.credit,
        )

    def __str__(self) -> str:
        """In words, such as "1797 images, 8 x 8, 1 channel, 10 classes"."""
        about = DataSpec(
            shape=self.shape,
            kind=self.kind,
            classes=self.classes,
            class_counts=self.class_counts,
            columns=tuple(self.columns),
        )
        return kinds.describe(about, len(self))

    def __getitem__(self, indices: Tensor) -> Batch:
        """The samples at `indices` (B,) int64, in that order. Their indices are the batch's ids.

        Where another image has taken the place of a bad one (see `Pictures`), all else is its own, too.
        """
        return self._batch(indices, None)

    def _batch(self, indices: Tensor, noise: Noise | None) -> Batch:
        self._check(indices)
        places = indices.cpu()
        if isinstance(self.values, Pictures):
            stored, found = self.values.read(places.numpy(), self.rows, noise)
            places = torch.from_numpy(found)
        else:
            stored = self._stored(places.numpy())
        x1, mask = as_samples(stored, self.layout), self._mask(places)
        if self.factor > 1:
            x1 = avg_pool2d(x1, self.factor)
        if mask is not None:
            x1 = torch.where(mask, x1, 0.0)
        cond = {} if self.labels is None else {"label": self.labels[places]}
        other = {} if noise is None else {n: r.drawn(noise) for n, r in self.recaptions.items()}
        texts = {n: tuple(lines[i] for i in places.tolist()) for n, lines in self.texts.items()}
        for name, drawn in other.items():
            own = zip(texts[name], drawn.tolist(), places.tolist(), strict=True)
            more = self.recaptions[name].lines
            texts[name] = tuple(more[i] if taken else text for text, taken, i in own)
        # Encodings that have another text are all of the texts that have one.
        taken = next(iter(other.values()), None)
        cond |= {name: encoding.take(places, taken) for name, encoding in self.encodings.items()}
        cond |= self.hinted(x1, places)
        return Batch(
            x1,
            cond | conditions.take(self.columns, places),
            ids=places,
            mask=mask,
            texts=texts,
        )

    def _mask(self, places: Tensor) -> Tensor | None:
        if isinstance(self.values, Ragged):
            index = places.numpy()
            mask = self.values.mask(index if self.rows is None else self.rows[index])
            return torch.from_numpy(mask).reshape(*mask.shape, *[1] * (len(self.shape) - 1))
        return None if self.mask is None else self.mask[places]

    def drawn(self, indices: Tensor, noise: Noise) -> Batch:
        """The samples at `indices`, cropped and altered by `augment` as the noise of each says."""
        batch = self._batch(indices, noise)
        if self.augment is None:
            return batch
        x1 = self.augment(batch.x1, noise)
        assert batch.ids is not None
        return replace(batch, x1=x1, cond={**batch.cond, **self.hinted(x1, batch.ids)})

    def hinted(self, x1: Tensor, places: Tensor) -> dict[str, Any]:
        """The condition `control` of samples x1 at these places: the hints by name; nothing where there are none."""
        if not self.hints:
            return {}
        rows = places if self.rows is None else torch.from_numpy(self.rows[places.numpy()])
        return {"control": {name: hint(x1, rows) for name, hint in self.hints.items()}}

    def subset(self, indices: Tensor) -> Dataset:
        """The data set of the samples at `indices` (M,) int64. Values are shared, not copied."""
        self._check(indices)
        if len(indices) == 0:
            raise DataError("a subset of no samples is no data set")
        return self._part(indices)

    def _part(self, indices: Tensor) -> Dataset:
        index = indices.cpu()
        rows = index.numpy().copy()
        return replace(
            self,
            rows=rows if self.rows is None else self.rows[rows],
            labels=None if self.labels is None else self.labels[index],
            columns=conditions.take(self.columns, index),
            texts={name: tuple(lines[i] for i in rows) for name, lines in self.texts.items()},
            encodings={name: encoding.part(index) for name, encoding in self.encodings.items()},
            mask=None if self.mask is None else self.mask[index],
            recaptions={name: other.part(rows) for name, other in self.recaptions.items()},
            names=None if self.names is None else self.names.select(rows),
        )

    def reduced(self, factor: int) -> Dataset:
        """The same images, each pixel the mean of `factor` x `factor` of them. DataError for sides that do not fit."""
        shape = self.shape
        if factor == 1:
            return self
        if self.kind != "image" or self.mask is not None or factor < 1:
            raise DataError(f"{self.kind}s {shape} are not reduced by a factor of {factor}")
        if shape[1] % factor or shape[2] % factor:
            raise DataError(
                f"images of {shape[1]} x {shape[2]} pixels have no blocks of {factor} x {factor}: give another size"
            )
        return replace(self, factor=self.factor * factor, bin_width=None)

    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """A random part with `fraction` of the samples, and the rest; each class is divided alike.

        The two are disjoint and cover the data; each keeps its order. The first has k = round(fraction N)
        samples, but at least one, and leaves at least one; of a class of n it gets n k / N, rounded up or down.
        The shares follow from (fraction, seed) and the labels alone. With a fraction of 1 the second part is empty,
        `len(rest) == 0`: its shape and its spec are there, and it has no sample to ask for.
        """
        n = len(self)
        if not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction}; it must lie above 0 and be at most 1")
        if fraction == 1:
            return self._part(torch.arange(n)), self._part(torch.empty(0, dtype=torch.int64))
        if n < 2:
            raise DataError(
                f"{n} sample cannot be split in two: give more data, or hold none out (--held-out 0)"
            )
        k = min(max(round(fraction * n), 1), n - 1)
        noise = Noise.batch(1, seed, shares.SPLIT_STEP)
        first, rest = shares.stratified(self.labels, n, k, noise)
        return self.subset(first), self.subset(rest)

    def halves(self, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two random halves, of equal size or the first one smaller by one, each class divided alike."""
        n = len(self)
        return self.split(n // 2 / n if n > 1 else 0.5, seed)

    def sample(self, n: int, seed: int = 0, balanced: bool = False) -> Dataset:
        """n of the samples, or all if there are no more, in the order of the data; a function of (n, seed, labels).

        Each class has its own share among them, rounded up or down; balanced: equally many of each class, as far as
        it has so many. Without labels it is a uniformly random subset. Figures of a part of the data take this part,
        never the first rows, which may be all of one class.
        """
        if n < 1:
            raise InputError(f"a sample of {n} was asked for; it takes at least 1")
        if n >= len(self):
            return self
        noise = Noise.batch(1, seed, shares.SAMPLE_STEP)
        if balanced and self.labels is not None:
            return self.subset(shares.balanced(self.labels, n, noise))
        return self.subset(shares.stratified(self.labels, len(self), n, noise)[0])

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the values as they are stored, their shape, and all that goes with them.

        Data sets with one fingerprint give equal batches for equal indices, whatever files they come from. Of images
        that stay in files it is what `Pictures.fingerprint` says instead of values: the pixels are not read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        names: dict[str, Any] = {
            "dtype": self.values.dtype.newbyteorder("<").str,
            "stored": [len(self), *self.values.shape[1:]],
            "layout": self.layout,
            "classes": self.classes,
            "class_names": self.class_names,
            "captions": self.texts.get("caption"),
            "labels": None if self.labels is None else self.labels.tolist(),
        }
        if others := {name: lines for name, lines in self.texts.items() if name != "caption"}:
            names["texts"] = others
        if self.recaptions:
            names["recaptions"] = {n: [r.share, r.lines] for n, r in self.recaptions.items()}
        if self.columns:
            names["columns"] = digest_columns(self.columns)
        every = torch.arange(len(self))
        if self.factor > 1:
            names["factor"] = self.factor
        if (mask := self._mask(every)) is not None:
            names["mask"] = digest_columns({"mask": mask})
        digest = hashlib.sha256(json.dumps(names, sort_keys=True).encode())
        if isinstance(self.values, Pictures):
            digest.update(self.values.fingerprint().encode())
            rows = np.arange(len(self)) if self.rows is None else self.rows
            digest.update(np.ascontiguousarray(rows, "<i8").data)
            return digest.hexdigest()
        step = chunk_rows(self.values)
        for start in range(0, len(self), step):
            part = self._stored(np.arange(start, min(start + step, len(self))))
            digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)
        return digest.hexdigest()

    def _stored(self, index: np.ndarray) -> np.ndarray:
        """A copy of the stored values at these places, in the machine's own byte order."""
        return native(self.values[index if self.rows is None else self.rows[index]])

    def _check(self, indices: Tensor) -> None:
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise InputError(
                f"indices must be an int64 tensor (B,), got {indices.dtype} {tuple(indices.shape)}"
            )
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise InputError(
                f"indices from {int(indices.min())} to {int(indices.max())} were asked for; "
                f"the data set has 0 to {len(self) - 1}"
            )


def _as_stored(
    values: np.ndarray | Tensor | Stored | Sequence[np.ndarray], where: str
) -> np.ndarray | Stored:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, list | tuple):
        return Ragged.of(values, where)
    return values  # type: ignore[return-value]
