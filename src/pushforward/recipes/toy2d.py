"""A law in the plane whose density is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from pushforward.recipes.choices import LAWS, LawName
from pushforward.recipes.families import AnyObjective
from pushforward.recipes.networks import MLPChoice
from pushforward.recipes.objectives import OBJECTIVE, Matching
from pushforward.recipes.options import Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Experiment
    from pushforward.streams.stream import Stream

    SourceName: TypeAlias = str
else:
    SourceName = Literal[("gaussian", *LAWS)]


class Toy2D(Recipe):
    """Residual MLP from one law in the plane to another, both drawn afresh in every step."""

    target: LawName = option("8gaussians", "Law to learn.")
    source: SourceName = option("gaussian", "Law to start from.")
    condition: Literal["none", "horizontal", "vertical"] = option(
        "none", "Coordinate of the target that the network is given, a continuous condition."
    )
    objective: AnyObjective = pick(Matching, OBJECTIVE)
    network: MLPChoice = pick(MLPChoice, "Network.")
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(steps=3000, batch_size=512, lr=2e-3)
    )

    def build(self) -> Experiment:
        import hashlib

        from pushforward.core.spec import DataSpec
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.conditions import Coordinate, WithCoordinate, of_law
        from pushforward.streams.drawn import Drawn, Sourced

        law = LAWS[self.target].make()
        source = None if self.source == "gaussian" else LAWS[self.source].make()
        given = None if self.condition == "none" else Coordinate(self.condition)
        spec = DataSpec(
            shape=(2,),
            kind="plane",
            columns=() if given is None else (given.name,),
            extent=1.15 * float(law.sample(10_000).abs().max()),
            law=self.target,
            fingerprint=hashlib.sha256(repr(law).encode()).hexdigest(),
        )
        stream: Stream | None = None
        if given is not None:
            stream = WithCoordinate(Drawn(law, self.optimiser.batch_size, self.seed), given)
            if source is not None:
                stream = Sourced(stream, source, self.seed)
        return assemble(
            self,
            self.objective,
            self.network,
            law,
            None,
            spec,
            source=source,
            source_name=None if source is None else self.source,
            stream=stream,
            features=None if given is None else {given.name: 1},
            conditions=None if given is None else of_law(law, given),
        )
