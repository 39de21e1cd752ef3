"""A law in the plane whose density is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pushforward.recipes.options import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment

LawName = Literal["8gaussians", "moons", "s-curve", "checkerboard", "spirals", "pinwheel"]
SourceName = Literal["gaussian", LawName]


class Toy2D(Recipe):
    """Residual MLP from one law in the plane to another, both drawn afresh in every step."""

    target: LawName = Field("8gaussians", description="Law to learn.")
    source: SourceName = Field("gaussian", description="Law to start from.")
    width: int = Field(128, ge=2, multiple_of=2, description="Width of the hidden layers.")
    depth: int = Field(3, ge=1, description="Residual blocks.")
    steps: int = Field(3000, ge=1, description="Optimiser steps.")
    batch_size: int = Field(512, ge=1, description="Samples in a step.")
    lr: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")

    def build(self) -> Experiment:
        import hashlib

        from pushforward.laws import LAWS
        from pushforward.nets import MLP
        from pushforward.recipes.experiment import assemble

        law = LAWS[self.target]()
        source = None if self.source == "gaussian" else LAWS[self.source]()
        extent = 1.15 * float(law.sample(10_000).abs().max())
        info: dict[str, Any] = {"law": self.target, "extent": extent}
        return assemble(
            self,
            lambda outputs, **more: MLP(2, self.width, self.depth, outputs=outputs, **more),
            law,
            None,
            shape=(2,),
            classes=None,
            fingerprint=hashlib.sha256(repr(law).encode()).hexdigest(),
            info=info if source is None else info | {"source": self.source},
            source=source,
        )
