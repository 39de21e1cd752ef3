"""Straightening a flow by its own pairs, and one step instead of a straight one.

A flow that was trained on independent x0 and x1 joins its ends along curves. Trained again on the pairs (x0, x1) that
it joins, as `train.pairs.generate_pairs` writes them, it becomes the 2-rectified flow, of the same marginals: no convex
cost `E c(x1 - x0)` is larger, and trajectories are straighter, so that few steps of Euler's method carry them. Once
they are nearly straight, a single step is fitted to what they join.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.fields import nulls_of
from pushforward.core.noise import Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import mean_data
from pushforward.data.batch import Batch
from pushforward.models.model import Model
from pushforward.objectives.matching import Dropout, FlowMatching, check_dropout, drop_some


@dataclass(frozen=True)
class Reflow(FlowMatching):
    """`E | u_theta(x_t, t) - (x1 - x0) |^2` over pairs (x0, x1) that a flow joins, `x_t = (1 - t) x0 + t x1`.

    The batch brings x0. On another path than CondOT the target is its own `alpha' x1 + sigma' x0`, and costs may rise.

    Liu et al. 2022 (arXiv 2209.03003), eq. 1 and alg. 1; costs: thm. 3.5, straightness: thm. 3.7.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_ends(self.model.path)

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: pairs; noise: keyed by the global ids of its samples."""
        _require_pairs(batch)
        return super().__call__(batch, noise)


@dataclass(frozen=True)
class OneStep:
    """`E | x0 + u_theta(x0, 0) - x1 |^2`: one step of Euler's method instead of a whole flow.

    The model learns what its teacher's flow joins, and nothing of the way: sample it by `Euler()` with nfe=1. It is
    exact where x1 is a function of x0, as for the pairs of any ODE, but such a function is hard to learn unless the
    flow is nearly straight: start from the weights of a rectified flow.

    model: its path as for `Reflow`. condition_dropout: as for `Matching`.

    Liu et al. 2022 (arXiv 2209.03003), sec. 2.2, "distillation".
    """

    model: Model
    condition_dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        _require_ends(self.model.path)
        check_dropout(self.condition_dropout, self.model)

    def __call__(self, batch: Batch | Tensor, noise: Noise) -> dict[str, Tensor]:
        """{"loss": (B,)}. batch: pairs; noise: keyed by the global ids of its samples."""
        batch, x0 = _require_pairs(batch)
        if len(noise) != len(batch):
            raise InputError(f"{len(noise)} noise ids for a batch of {len(batch)}")
        noise, mask, cond = noise.to(x0.device), batch.mask, dict(batch.cond)
        if mask is not None:
            x0, cond["mask"] = torch.where(mask, x0, 0.0), mask
        cond, _ = drop_some(cond, nulls_of(self.model), self.condition_dropout, noise)
        return {"loss": mean_data((x0 + self.model(x0, 0.0, **cond) - batch.x1) ** 2, mask)}


def _require_pairs(batch: Batch | Tensor) -> tuple[Batch, Tensor]:
    if isinstance(batch, Tensor) or batch.x0 is None:
        raise InputError(
            "a flow is rectified on pairs, and this batch has no x0: make them by generate_pairs"
        )
    return batch, batch.x0


def _require_ends(path: Path) -> None:
    """That the path starts in x0 and ends in x1, and knows that they are not independent."""
    if path.gaussian_source:
        raise InputError(
            f"pairs of a flow are not independent, and {path} says they are: build the model on a path with "
            f"gaussian_source=False"
        )
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    if not (torch.allclose(alpha, ends, atol=1e-6) and torch.allclose(sigma, 1 - ends, atol=1e-6)):
        raise InputError(f"{path} does not run from x0 to x1: take CondOT(gaussian_source=False)")
