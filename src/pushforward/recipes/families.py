"""The objectives that recipes offer: for data with conditions or without, and from one set of data to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pushforward.recipes.bridges import DSB, DSBM, SF2M
from pushforward.recipes.choices import (
    COUPLING,
    AnyCoupling,
    BridgeCoupling,
    BridgeSinkhorn,
    Independent,
    Paired,
    Sinkhorn,
    Transport,
)
from pushforward.recipes.objectives import (
    Consistency,
    ContinuousConsistency,
    Denoising,
    DiffFlow,
    Hybrid,
    Implicit,
    Matching,
    MaximumLikelihood,
    MeanFlow,
    ObjectiveChoice,
    Parts,
    Shortcut,
    Sliced,
    Variational,
)
from pushforward.recipes.options import Options, option, pick

if TYPE_CHECKING:
    from pushforward.objectives import Objective

AnyObjective = Annotated[
    Matching
    | Denoising
    | Implicit
    | Sliced
    | Variational
    | Hybrid
    | SF2M
    | DSBM
    | DSB
    | DiffFlow
    | MaximumLikelihood
    | MeanFlow
    | Consistency
    | ContinuousConsistency
    | Shortcut,
    Field(discriminator="name"),
]


# Data with conditions that a sample may be trained without, so that its model can be guided.


class Dropping(Options):
    condition_dropout: float = option(
        0.1,
        "Share of samples trained without their class or other conditions.",
        ge=0,
        le=1,
        rare=True,
    )


class ConditionalMatching(Matching, Dropping): ...


class ConditionalDenoising(Denoising, Dropping): ...


class ConditionalImplicit(Implicit, Dropping): ...


class ConditionalSliced(Sliced, Dropping): ...


class ConditionalVariational(Variational, Dropping): ...


class ConditionalHybrid(Hybrid, Dropping): ...


class ConditionalSF2M(SF2M, Dropping): ...


class ConditionalMeanFlow(MeanFlow, Dropping):
    guidance: float | None = option(
        None, "Scale of classifier-free guidance that the flow map learns to have."
    )

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.core.errors import InputError

        scale = 1.0 if self.guidance is None else self.guidance
        if scale != 1 and not self.dropped(parts):
            raise InputError("--guidance needs classes, and a share of them dropped in training")
        return self.guided(parts, scale)


class ConditionalConsistency(Consistency, Dropping): ...


class ConditionalContinuous(ContinuousConsistency, Dropping): ...


class ConditionalShortcut(Shortcut, Dropping): ...


ConditionalObjective = Annotated[
    ConditionalMatching
    | ConditionalDenoising
    | ConditionalImplicit
    | ConditionalSliced
    | ConditionalVariational
    | ConditionalHybrid
    | ConditionalSF2M
    | DSBM
    | DSB
    | DiffFlow
    | MaximumLikelihood
    | ConditionalMeanFlow
    | ConditionalConsistency
    | ConditionalContinuous
    | ConditionalShortcut,
    Field(discriminator="name"),
]


# From one set of data to another: pairs are those of optimal transport by default.


class OfTransport(Options):
    coupling: AnyCoupling = pick(Transport, COUPLING)


class OfTransportBridge(Options):
    coupling: BridgeCoupling = pick(Transport, COUPLING)


class SetMatching(OfTransport, Matching): ...


class SetSF2M(OfTransportBridge, SF2M): ...


class SetDSBM(OfTransportBridge, DSBM): ...


class SetMeanFlow(OfTransport, MeanFlow): ...


class SetConsistency(OfTransport, Consistency): ...


class SetContinuous(OfTransport, ContinuousConsistency): ...


class SetShortcut(OfTransport, Shortcut): ...


SetObjective = Annotated[
    SetMatching
    | SetSF2M
    | SetDSBM
    | DSB
    | SetMeanFlow
    | SetConsistency
    | SetContinuous
    | SetShortcut,
    Field(discriminator="name"),
]


# Pairs that are known, or two halves of the data that do not say which belongs to which.
PAIRING = (
    "paired: each coarse image with its own fine one; any other: two halves of the data that do not say which belongs "
    "to which, paired within a batch."
)
PairedCoupling = Annotated[Paired | Independent | Transport | Sinkhorn, Field(discriminator="name")]
PairedBridgeCoupling = Annotated[
    Paired | Independent | Transport | BridgeSinkhorn, Field(discriminator="name")
]


class OfPairs(Options):
    coupling: PairedCoupling = pick(Paired, PAIRING)


class OfPairsBridge(Options):
    coupling: PairedBridgeCoupling = pick(Paired, PAIRING)


class PairedMatching(OfPairs, Matching): ...


class PairedSF2M(OfPairsBridge, SF2M): ...


class PairedDSBM(OfPairsBridge, DSBM): ...


PairedObjective = Annotated[PairedMatching | PairedSF2M | PairedDSBM, Field(discriminator="name")]


def is_paired(objective: ObjectiveChoice) -> bool:
    """Whether pairs are known, and not made within a batch."""
    return isinstance(getattr(objective, "coupling", None), Paired)
