"""What a change of the score is in another prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from pushforward.core.paths import Path
from pushforward.core.predictions import Prediction, check_defined


def score_weight(path: Path, want: Prediction, t: Tensor) -> Tensor:
    """d want / d score at fixed x, (B,), finite at sigma = 0 too; infinite for data, v and velocity where alpha = 0."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    match want:
        case "score":
            return torch.ones_like(t)
        case "noise":
            return -sigma
        case "data":
            return sigma**2 / alpha
        case "v":
            return -sigma * (alpha**2 + sigma**2) / alpha
        case "velocity":
            return path.forward_sde(t)[1] / 2
    check_defined(want, path)
    raise AssertionError
