"""What a kind of data knows: its name for messages, how many samples to draw, and how to draw them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.core.spec import Kind as KindName
from pushforward.data.kinds import KINDS
from pushforward.evaluate.labels import present

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Kind(ABC):
    """A kind of data. To add one: a file with a subclass, and its object in `kinds.KINDS`.

    name:      as `DataSpec.kind` has it.
    alone:     how many samples are drawn without classes; per_class: of each class, None for `alone` in all.
    drawable:  whether `draw` draws anything.
    """

    name: ClassVar[KindName]
    alone: ClassVar[int] = 64
    per_class: ClassVar[int | None] = None
    drawable: ClassVar[bool] = True

    @property
    def noun(self) -> str:
        """What several samples are called in messages: "images"."""
        return KINDS[self.name].count(2)[2:]

    def number(self, spec: DataSpec) -> int:
        """How many samples are drawn by default."""
        classes = present(spec)
        return (
            self.alone if self.per_class is None or not classes else self.per_class * len(classes)
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether samples of this shape can be of this kind."""
        try:
            KINDS[self.name].check(shape)
        except InputError:
            return False
        return True

    def draw(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None = None,
        title: str = "",
        *,
        mask: Tensor | None = None,
        beside: Mapping[str, Tensor] | None = None,
    ) -> Figure:
        """A figure of samples (N, *shape); make a file of it with `figures.png`.

        spec:   names of classes and channels, range of values, extent.
        label:  (N,) classes, -1 for none: a class a row, or a colour.
        mask:   true where a sample has a value, broadcast against the samples.
        beside: other samples (N, ...) by name that belong to each sample, such as what it was made of and the truth.

        Raises InputError for samples of another shape.
        """
        if not self.fits(tuple(samples.shape[1:])) or len(samples) < 1:
            raise InputError(
                f"samples {tuple(samples.shape)} cannot be drawn as {self.noun}: they have the shape {self.form}"
            )
        if label is not None and len(label) != len(samples):
            raise InputError(f"{len(label)} labels for {len(samples)} samples")
        return self.figure(samples.detach().cpu(), spec, label, title, mask, dict(beside or {}))

    form: ClassVar[str] = "(N, ...)"

    @abstractmethod
    def figure(
        self,
        samples: Tensor,
        spec: DataSpec,
        label: Tensor | None,
        title: str,
        mask: Tensor | None,
        beside: dict[str, Tensor],
    ) -> Figure:
        """What `draw` returns, of samples of the right shape."""


class Rows(NamedTuple):
    """Samples as rows of a figure. order: their indices; names: one for each row; columns: samples in a row."""

    order: Tensor
    names: list[str]
    columns: int


def rows_by_class(number: int, label: Tensor | None, spec: DataSpec, columns: int) -> Rows:
    """A class a row if there are several with equally many samples, else rows of `columns` in the given order."""
    if label is not None:
        classes, counts = label.cpu().unique(return_counts=True)
        if len(classes) > 1 and len(counts.unique()) == 1:
            names = [spec.name(int(c)) for c in classes]
            return Rows(label.cpu().argsort(stable=True), names, int(counts[0]))
    return Rows(torch.arange(number), [], columns)
