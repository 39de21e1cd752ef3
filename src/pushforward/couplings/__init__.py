"""Couplings: which source sample goes with which data sample.

A coupling returns INDEX pairs (i, j), so that labels, captions and ids follow their points: x0[i] goes with x1[j].
"""

from pushforward.couplings.base import Coupling
from pushforward.couplings.conditional import ConditionalTransport
from pushforward.couplings.costs import Cost, squared_euclidean
from pushforward.couplings.independent import independent
from pushforward.couplings.minibatch import OptimalTransport
from pushforward.couplings.sinkhorn import Plan, Sinkhorn, sinkhorn
from pushforward.couplings.unbalanced import UnbalancedSinkhorn

__all__ = [
    "ConditionalTransport",
    "Cost",
    "Coupling",
    "OptimalTransport",
    "Plan",
    "Sinkhorn",
    "UnbalancedSinkhorn",
    "independent",
    "sinkhorn",
    "squared_euclidean",
]
