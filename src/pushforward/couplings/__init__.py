"""Couplings: which source sample goes with which data sample.

A coupling returns INDEX pairs (i, j), so that labels, captions and ids follow their points: x0[i] goes with x1[j].
"""

from collections.abc import Callable

from torch import Tensor

from pushforward.core.noise import Noise
from pushforward.couplings.independent import independent

Coupling = Callable[[Tensor, Tensor, Noise], tuple[Tensor, Tensor]]

__all__ = ["Coupling", "independent"]
