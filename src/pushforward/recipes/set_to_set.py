"""Experiments from one set of data to another, each judged in its own terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.core.shapes import mean_data
from pushforward.data.asinh import Asinh
from pushforward.data.dataset import Dataset
from pushforward.data.images.coarse import Coarse, coarsen
from pushforward.data.resampled import Resampled
from pushforward.evaluate import kinds
from pushforward.evaluate.figures.cells import cells
from pushforward.evaluate.figures.page import png
from pushforward.evaluate.figures.refinement import refinement
from pushforward.evaluate.metrics.energy import energy_distance
from pushforward.evaluate.metrics.halves import compare_to_halves
from pushforward.recipes.experiment import PICTURE_SEED, Experiment
from pushforward.sampling.generate import generate

# Samples at most of each set that are compared: matrices of all their distances are made.
MAX_CELLS = 6000


@dataclass(frozen=True)
class SetMapping(Experiment):
    """Samples of one data set carried to another. source: those of the first that are held out."""

    def carry(self, num: int, **sampling: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Held-out source samples, these mapped, and held-out target samples, (N, ...) each; N is `num` at most."""
        if not isinstance(self.source, Resampled) or self.held_out is None:
            raise InputError("this run kept no data apart, so there is nothing to evaluate against")
        source, target = (
            some(part, min(num, MAX_CELLS)) for part in (self.source.data, self.held_out)
        )
        mapped = generate(self.model, len(source), **sampling | {"source": source})
        return source, mapped.cpu(), target

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, None]:
        """Figures of `compare_to_halves`, and energy_before: the energy distance before the samples are mapped."""
        source, mapped, target = self.carry(num, **sampling)
        figures = compare_to_halves(mapped, target)
        return figures | {"energy_before": energy_distance(source, target)}, mapped, None


@dataclass(frozen=True, kw_only=True)
class CellMapping(SetMapping):
    """Cells of one population carried to another. scale: what the network sees of a measurement. names: of the two."""

    scale: Asinh
    channels: tuple[str, ...]
    names: tuple[str, str]
    shown: ClassVar[int] = MAX_CELLS

    def picture(self, samples: Tensor, label: Tensor | None, title: str) -> Any:
        """The samples between the cells that they were and those of the target."""
        if self.source is None or self.held_out is None:
            return super().picture(samples, label, title)
        before = self.source.draw(Noise.batch(len(samples), PICTURE_SEED))
        target = some(self.held_out, len(samples))
        return cells(before, samples, target, self.channels, self.scale, self.names)

    def figure(self, num: int, settings: Mapping[str, Any], **sampling: Any) -> bytes:
        """A PNG of source, mapped and target cells; see figures.cells."""
        sets = self.carry(num, **sampling)
        return png(cells(*sets, self.channels, self.scale, self.names), settings)


def some(data: Dataset, num: int) -> Tensor:
    """`num` samples at random, or all if there are no more; always the same ones."""
    return data[Noise.batch(0).permutation(len(data))[:num]].x1


@dataclass(frozen=True)
class Refinement(Experiment):
    """Coarse images made fine. source: the held-out images, coarse."""

    shown: ClassVar[int] = 12

    def picture(self, samples: Tensor, label: Tensor | None, title: str) -> Any:
        """The samples between the coarse images that they were made of and the true ones."""
        spec = self.model.spec
        if not isinstance(self.source, Coarse):
            raise InputError("this run has no coarse images to start from")
        _, truth = self.source.pair(Noise.batch(len(samples), PICTURE_SEED))
        beside = {"coarse": coarsen(truth, self.source.factor), "truth": truth}
        return kinds.of(spec).draw(samples, spec, label, title, beside=beside)

    def carry(self, num: int, **sampling: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Coarse images, fine ones made of them, and the true fine ones, (num, C, H, W) each."""
        if not isinstance(self.source, Coarse):
            raise InputError("this run has no coarse images to start from")
        x0, truth = self.source.pair(Noise.batch(num, int(sampling.get("seed", 0))))
        fine = generate(self.model, num, **sampling | {"source": x0})
        return coarsen(truth, self.source.factor), fine.cpu(), truth

    def judge(self, num: int, **sampling: Any) -> tuple[dict[str, float], Tensor, None]:
        """Figures of `num` fine images made of held-out coarse ones.

        squared_error:        mean square of the difference to the true image; squared_error_coarse: of the coarse one.
        squared_error_kept:   of the difference of the sample, made coarse, to the coarse image: there should be none.
        energy, ratio, ...:   of `compare_to_halves`, samples to true images. energy_before: of the coarse images.
        """
        num = min(num, MAX_CELLS)
        coarse, fine, truth = self.carry(num, **sampling)
        assert isinstance(self.source, Coarse)
        again = coarsen(fine, self.source.factor)
        figures = {
            "squared_error": float(mean_data((fine - truth) ** 2).mean()),
            "squared_error_coarse": float(mean_data((coarse - truth) ** 2).mean()),
            "squared_error_kept": float(mean_data((again - coarse) ** 2).mean()),
            "energy_before": energy_distance(coarse, truth),
        }
        return figures | compare_to_halves(fine, truth), fine, None

    def figure(self, num: int, settings: Mapping[str, Any], **sampling: Any) -> bytes:
        """A PNG: a column for each image, coarse, made fine, and true."""
        coarse, fine, truth = self.carry(num, **sampling)
        low, high = self.model.spec.value_range or (-1.0, 1.0)
        page = refinement(fine, {"coarse": coarse, "truth": truth}, (low, high))
        return png(page, settings)
