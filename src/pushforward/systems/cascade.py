"""Super-resolution on the samples of another model, stage after stage.

    p(x_0, x_1, ..., x_n) = p(x_0) p(x_1 | x_0) ... p(x_n | x_{n-1})

Each stage sees the picture before it, augmented at a level that it is told (`core.augmentation`). It draws the exact
conditional law if level and augmentation are those of training, whatever the level; what the level decides is how
much of a flaw of the stage before is believed.

Ho et al. 2021 (arXiv 2106.15282).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.core.augmentation import Augmentation
from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.models.base import ModelBase
from pushforward.models.model import Model
from pushforward.sampling.generate import generate, home

Levels = float | Sequence[float] | None


class Upsampler(ModelBase):
    """p(x | low-resolution picture): a model with the conditions `control.coarse` and `augment_level`.

    augmentation: of the low-resolution picture, as in training. level: at which it is done by default.
    """

    def __init__(self, model: Model, augmentation: Augmentation, level: float = 0.0) -> None:
        super().__init__()
        if not isinstance(model, Model) or len(model.shape) != 3:
            raise InputError("an Upsampler is a Model of pictures, of shape (C, H, W)")
        self.model, self.augmentation = model, augmentation
        self.level = self.checked(level)

    def _described(self) -> ModelBase:
        return self.model

    def to_config(self) -> dict[str, Any]:
        return {"model": self.model, "augmentation": self.augmentation, "level": self.level}

    def checked(self, level: float) -> float:
        """A level that the model was trained at."""
        if not 0 <= level <= self.augmentation.most:
            raise InputError(
                f"the augmentation level is {level}; this model was trained at levels from 0 to "
                f"{self.augmentation.most:g}"
            )
        return float(level)

    def conditions(
        self, x: Tensor, *, level: float | None = None, seed: int = 0, start: int = 0
    ) -> dict[str, Any]:
        """What the model is given of low-resolution pictures (N, C, h, w)."""
        channels, height, width = self.model.shape
        if x.ndim != 4 or x.shape[1] != channels or min(x.shape) < 1:
            raise InputError(
                f"this model takes low-resolution pictures (N, {channels}, h, w), got {tuple(x.shape)}"
            )
        h, w = x.shape[2:]
        if height % h or width % w or height // h != width // w:
            raise InputError(
                f"this model draws pictures of {width} x {height} pixels, and {w} x {h} are no whole blocks of them"
            )
        device, dtype = home(self.model)
        x = x.to(device, dtype)
        asked = self.level if level is None else self.checked(level)
        levels = torch.full((len(x),), asked, dtype=dtype, device=device)
        noise = Noise.batch(len(x), seed, start=start, device=device)
        coarse = self.augmentation(x, levels, noise)
        return {"control": {"coarse": coarse}, "augment_level": levels}

    def upsample(
        self,
        x: Tensor,
        *,
        level: float | None = None,
        seed: int = 0,
        start: int = 0,
        **options: Any,
    ) -> Tensor:
        """(N, C, H, W) from low-resolution pictures (N, C, h, w), row i a function of (seed, start + i).

        options: those of `generate`.
        """
        cond = self.conditions(x, level=level, seed=seed, start=start)
        return generate(self.model, len(x), seed=seed, start=start, **cond, **options)


def levels_of(cascade: Sequence[Upsampler], levels: Levels) -> list[float]:
    """The level of each stage: its own by default, one for all, or one for each."""
    if levels is None:
        return [stage.level for stage in cascade]
    each = [levels] * len(cascade) if isinstance(levels, int | float) else list(levels)
    if len(each) != len(cascade):
        raise InputError(f"{len(each)} augmentation levels for a cascade of {len(cascade)} stages")
    return [stage.checked(level) for stage, level in zip(cascade, each, strict=True)]


def upsample(
    cascade: Sequence[Upsampler],
    x: Tensor,
    *,
    levels: Levels = None,
    seed: int = 0,
    start: int = 0,
    sources: Sequence[Tensor | None] | None = None,
    **options: Any,
) -> Tensor:
    """Pictures through all stages, each of which has noise of its own. sources: states for stages to start from."""
    given = [None] * len(cascade) if sources is None else sources
    every = zip(cascade, levels_of(cascade, levels), given, strict=True)
    for k, (stage, level, source) in enumerate(every):
        own = Noise.chained(seed, k)
        x = stage.upsample(x, level=level, seed=own, start=start, source=source, **options)
    return x
