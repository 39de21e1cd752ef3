"""How captions are chosen, as options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pushforward.recipes.options import Choice, option

if TYPE_CHECKING:
    from pushforward.sampling.decoding import Decoder


class DecodingChoice(Choice):
    """How captions are chosen."""

    def build(self) -> Decoder:
        raise NotImplementedError


class BeamChoice(DecodingChoice):
    """The best caption that a search with several beginnings finds."""

    name: Literal["beam"] = "beam"
    beams: int = option(4, "Beginnings that are kept.", ge=1)
    length_penalty: float = option(
        1.0, "ln p is divided by the number of words to this power.", ge=0, rare=True
    )

    def build(self) -> Decoder:
        from pushforward.sampling.decoding import Beam

        return Beam(self.beams, self.length_penalty)


class GreedyChoice(DecodingChoice):
    """The likeliest word, each time."""

    name: Literal["greedy"] = "greedy"

    def build(self) -> Decoder:
        from pushforward.sampling.decoding import Greedy

        return Greedy()


class SampledChoice(DecodingChoice):
    """Random captions, each a function of the seed and the number of its picture."""

    name: Literal["sampled"] = "sampled"
    temperature: float = option(1.0, "More than 1 for more variety.", gt=0)
    top_p: float = option(
        1.0, "Words are drawn from the likeliest that have this probability together.", gt=0, le=1
    )

    def build(self) -> Decoder:
        from pushforward.sampling.decoding import Sampled

        return Sampled(self.temperature, self.top_p)


AnyDecoding = Annotated[BeamChoice | GreedyChoice | SampledChoice, Field(discriminator="name")]
DECODING = "How captions are chosen."
