"""Objectives of Schroedinger bridges on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pushforward.recipes.choices import (
    COUPLING,
    PATH,
    BridgeCoupling,
    Brownian,
    Independent,
    Times,
)
from pushforward.recipes.objectives import ObjectiveChoice, Parts
from pushforward.recipes.options import option, pick

if TYPE_CHECKING:
    from pushforward.core.interpolants import BrownianBridge
    from pushforward.couplings import Coupling
    from pushforward.models.bridge import HalfBridges
    from pushforward.objectives import Objective


def brownian(parts: Parts) -> BrownianBridge:
    from pushforward.core.interpolants import BrownianBridge

    assert isinstance(parts.path, BrownianBridge)
    return parts.path


class BridgeChoice(ObjectiveChoice):
    """A Schroedinger bridge, whose reference is Brownian motion."""

    path: Brownian = pick(Brownian, PATH)


class SF2M(BridgeChoice):
    """[SF]2M: the score and the flow of a Brownian bridge between coupled pairs."""

    name: Literal["sf2m"] = "sf2m"
    coupling: BridgeCoupling = pick(Independent, COUPLING)
    times: Times = pick(Times, "Law of training times.", rare=True)

    def coupler(self) -> Coupling | None:
        return self.coupling.build(self.path.build())

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.models.bridge import BridgeModel
        from pushforward.objectives import ScoreAndFlowMatching

        times = self.times.build(parts.path)
        model = BridgeModel(parts.net(2), brownian(parts), **parts.records())
        return model, ScoreAndFlowMatching(
            model, times=times, condition_dropout=self.dropped(parts)
        )


class TwoHalves(BridgeChoice):
    """A bridge as two half-bridges, trained in turn."""

    phase: int = option(1000, "Steps for which one direction of time is trained.", ge=1)
    simulation_steps: int = option(20, "Steps of the simulation in a training step.", ge=1)

    def halves(self, parts: Parts) -> HalfBridges:
        from pushforward.models.bridge import HalfBridges

        return HalfBridges(parts.net(1), parts.net(1), brownian(parts), **parts.records())


class DSBM(TwoHalves):
    """Diffusion Schroedinger bridge matching."""

    name: Literal["dsbm"] = "dsbm"
    coupling: BridgeCoupling = pick(Independent, COUPLING)
    times: Times = pick(Times, "Law of training times.", rare=True)

    def coupler(self) -> Coupling | None:
        return self.coupling.build(self.path.build())

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.objectives import BridgeMatching

        times = self.times.build(parts.path)
        halves = self.halves(parts)
        return halves, BridgeMatching(halves, self.phase, self.simulation_steps, times=times)


class DSB(TwoHalves):
    """Iterative proportional fitting: joins the two laws by a process of its own."""

    name: Literal["dsb"] = "dsb"

    def build(self, parts: Parts) -> tuple[Any, Objective]:
        from pushforward.objectives import ProportionalFitting

        halves = self.halves(parts)
        return halves, ProportionalFitting(halves, self.phase, self.simulation_steps)
