"""Priors p(z_i | y) of both kinds behind one method, and the better of several draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.models.base import Encoder, ModelBase
from pushforward.models.model import Model
from pushforward.models.prior import AutoregressivePrior, CLIPTexts
from pushforward.sampling.generate import generate

# Draws of which the one nearest to the text is kept.
DRAWS = 2


class Prior(Protocol):
    """Draws the vector of a picture from a text. encoders: {"prompt": CLIPTexts}."""

    @property
    def encoders(self) -> Mapping[str, Encoder]: ...

    def vectors(
        self, lines: Sequence[str], *, seed: int = 0, start: int = 0, guidance: float = 1.0
    ) -> Tensor:
        """(N, dim) a vector of each text, row i a function of (seed, start + i)."""


class DiffusionPrior(ModelBase):
    """A model of vectors (dim,) as a prior: a `Prompted` `PriorTransformer` that predicts the data, on any path.

    nfe: network calls for a vector; None for the model's own number.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """

    def __init__(self, model: Model, nfe: int | None = None) -> None:
        super().__init__()
        if not isinstance(model, Model) or len(model.shape) != 1:
            raise InputError("a diffusion prior is a Model of vectors, of shape (dim,)")
        self.model, self.nfe = model, nfe

    def _described(self) -> ModelBase:
        return self.model

    def to_config(self) -> dict[str, Any]:
        return {"model": self.model, "nfe": self.nfe}

    def vectors(
        self, lines: Sequence[str], *, seed: int = 0, start: int = 0, guidance: float = 1.0
    ) -> Tensor:
        scale = None if guidance == 1 else guidance
        return generate(
            self.model, prompt=list(lines), seed=seed, start=start, guidance=scale, nfe=self.nfe
        )


def as_prior(model: Any) -> DiffusionPrior | AutoregressivePrior:
    """A prior of either kind, from what a folder holds. InputError for anything else."""
    if isinstance(model, Model) and len(model.shape) == 1:
        model = DiffusionPrior(model)
    if not isinstance(model, DiffusionPrior | AutoregressivePrior):
        raise InputError(
            f"a prior draws vectors of pictures from texts, and this is a {type(model).__name__}: train one with "
            f"pushforward train prior"
        )
    texts_of(model)
    return model


def texts_of(prior: Prior) -> CLIPTexts:
    """What reads the texts of a prior."""
    encoder = prior.encoders.get("prompt")
    if not isinstance(encoder, CLIPTexts):
        raise InputError(
            "a prior reads its texts by the text tower of a CLIP: encoders={'prompt': CLIPTexts(clip)}"
        )
    return encoder


def nearest(
    prior: Prior,
    lines: Sequence[str],
    *,
    of: int = DRAWS,
    seed: int = 0,
    start: int = 0,
    guidance: float = 1.0,
) -> Tensor:
    """(N, dim) for each text the one of `of` independent draws whose product with the text's own vector is largest.

        argmax_k z_k . z_t,   z_1, ..., z_of ~ p(z | y)

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """
    found = draws(prior, lines, of, seed, start, guidance)
    encoder = texts_of(prior)
    text = encoder(list(lines))[encoder.name]["pooled"].to(found)
    best = (found * text).sum(2).argmax(0)
    return found[best, torch.arange(len(best), device=found.device)]


def expected(
    prior: Prior,
    lines: Sequence[str],
    *,
    of: int = 8,
    seed: int = 0,
    start: int = 0,
    guidance: float = 1.0,
) -> Tensor:
    """(N, dim) the mean of `of` independent draws, an estimate of E[z | y]: what is nearest to the true vector."""
    return draws(prior, lines, of, seed, start, guidance).mean(0)


def draws(
    prior: Prior, lines: Sequence[str], of: int, seed: int, start: int, guidance: float
) -> Tensor:
    """(of, N, dim) independent draws for each text, each keyed by a seed of its own."""
    if not isinstance(of, int) or of < 1:
        raise InputError(f"of is {of}; it is a number of draws, at least 1")
    return torch.stack(
        [
            prior.vectors(lines, seed=Noise.chained(seed, k), start=start, guidance=guidance)
            for k in range(of)
        ]
    )
