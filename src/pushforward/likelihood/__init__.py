"""Likelihoods: exact log densities along the flow, and the variational bound of a diffusion model."""

from pushforward.core.chain import bin_log_prob, normal_log_prob
from pushforward.likelihood.bound import Bound, continuous_bound, variational_bound
from pushforward.likelihood.flow import (
    EXACT_DIMENSIONS,
    Bits,
    Carry,
    Estimate,
    bits,
    bits_per_dimension,
    dequantise,
    divergence,
    log_prob,
    mean_and_error,
    source_log_prob,
    summary,
    traces,
)

__all__ = [
    "EXACT_DIMENSIONS",
    "Bits",
    "Bound",
    "Carry",
    "Estimate",
    "bin_log_prob",
    "bits",
    "bits_per_dimension",
    "continuous_bound",
    "dequantise",
    "divergence",
    "log_prob",
    "mean_and_error",
    "normal_log_prob",
    "source_log_prob",
    "summary",
    "traces",
    "variational_bound",
]
