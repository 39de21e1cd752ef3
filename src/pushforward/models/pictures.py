"""Pictures as a CLIP sees them: the condition of models on its vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from pushforward.core import conditions
from pushforward.core.conditions import Condition, Fill, Null
from pushforward.core.errors import InputError
from pushforward.models.clip import CLIPModel


@dataclass(frozen=True)
class CLIPPictures:
    """Pictures (C, H, W) in [-1, 1] -> {name: (B, dim)} by the image tower of a CLIP, frozen.

    Vectors have length sqrt(dim), as those of texts by `CLIPTexts`. Pictures of another size than the CLIP's are scaled
    to it (`fitted`). No picture is the vector 0.
    """

    clip: CLIPModel
    name: str = "embedding"

    @property
    def digest(self) -> str:
        return self.clip.digest

    @property
    def nulls(self) -> Mapping[str, Null]:
        return {self.name: Fill(0)}

    @property
    def dim(self) -> int:
        return self.clip.net.dim

    def vectors(self, x: Tensor) -> Tensor:
        """(B, dim) on the CPU, of pictures (B, C, H, W)."""
        net, kind = self.clip.net.image, self.clip.net.logit_scale.dtype
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4:
            what = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"a CLIP sees floating pictures (B, C, H, W) in [-1, 1], not {what}")
        if x.shape[1] != net.channels or min(x.shape) < 1:
            raise InputError(
                f"this CLIP sees pictures of {net.channels} channels and at least one pixel, got {tuple(x.shape)}"
            )
        if not bool(x.isfinite().all()):
            raise InputError("a picture holds values that are not finite")
        return self.dim**0.5 * self.clip.images(fitted(x.to(kind), net.size))

    def __call__(self, pictures: Sequence[Tensor]) -> dict[str, Condition]:
        x = pictures if isinstance(pictures, Tensor) else torch.stack([*pictures])
        return conditions.to({self.name: self.vectors(x)}, "cpu")

    def to_config(self) -> dict[str, Any]:
        return {"clip": self.clip, "name": self.name}


def fitted(x: Tensor, size: int) -> Tensor:
    """Pictures (B, C, H, W) as squares of `size` pixels a side: by means of blocks where these fit, else bilinear with
    an antialiasing filter."""
    height, width = x.shape[2:]
    if (height, width) == (size, size):
        return x
    if height == width and height % size == 0:
        return avg_pool2d(x, height // size)
    return interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
