"""Couplings: which source sample goes with which data sample.

A coupling returns INDEX pairs (i, j), so that labels, captions and ids follow their points: x0[i] goes with x1[j].
"""

from pushforward.couplings.base import Coupling
from pushforward.couplings.independent import independent

__all__ = ["Coupling", "independent"]
