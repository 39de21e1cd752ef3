"""One network, trained five ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.lectures.common import Work

# As Lipman et al. 2023 (arXiv 2210.02747) compare them: what is predicted, in what errors are measured, and with
# which weight. A network that gives the score itself does not bear ScoreFlow's weight; see docs/log.md.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "DDPM": {"path": "vp", "prediction": "noise"},
    "Score Matching": {"path": "vp", "prediction": "score", "loss_in": "noise"},
    "ScoreFlow": {"path": "vp", "prediction": "noise", "weight": "likelihood"},
    "FM w/ Diffusion": {"path": "vp", "prediction": "velocity"},
    "FM w/ OT": {"path": "condot", "prediction": "velocity"},
}
THREE = ("Score Matching", "FM w/ Diffusion", "FM w/ OT")


def trained(work: Work, way: str, seed: int) -> Any:
    """The model of one way and seed."""
    return work.model(name_of(way, seed), work.recipe(seed, **WAYS[way]))


def name_of(way: str, seed: int) -> str:
    """The run folder of one way and seed."""
    return f"{way.lower().replace('w/ ', '').replace(' ', '-')}-{seed}"
