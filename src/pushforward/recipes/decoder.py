"""A decoder: a picture from the vector that a CLIP has of it, and from its caption."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.recipes.choices import (
    COUPLING,
    PATH,
    AnyCoupling,
    GaussianPath,
    Independent,
    RegularPath,
    Times,
)
from pushforward.recipes.networks import NETWORK, UViTChoice
from pushforward.recipes.objectives import OBJECTIVE, Matching, Parts
from pushforward.recipes.on_clip import OnCLIP, with_vectors
from pushforward.recipes.options import Logging, Machine, Optimiser, option, pick
from pushforward.recipes.text_to_image import (
    TIME_MEAN,
    AnyEncoder,
    TextNetwork,
    WordsChoice,
)

if TYPE_CHECKING:
    from pushforward.recipes.prompted import DecoderExperiment

# The condition with the vector of a picture.
EMBEDDING = "embedding"


class DecoderMatching(Matching):
    """Flow matching, where the vector and the text are each dropped now and then, on their own."""

    path: RegularPath = pick(GaussianPath, PATH, rare=True)
    coupling: AnyCoupling = pick(Independent, COUPLING, rare=True)
    embedding_dropout: float = option(
        0.1, "Share of samples trained without the vector of their picture.", ge=0, le=1, rare=True
    )
    text_dropout: float = option(
        0.5, "Share of samples trained without their text.", ge=0, le=1, rare=True
    )

    def dropped(self, parts: Parts) -> Any:
        shares = {EMBEDDING: self.embedding_dropout}
        return {name: shares.get(name, self.text_dropout) for name in parts.nulls}


def at_noise() -> DecoderMatching:
    return DecoderMatching(times=Times(name="logit-normal", time_mean=TIME_MEAN))


class Decoder(OnCLIP):
    """A decoder: pictures from the vectors that a CLIP has of them, and captions. A part of unclip."""

    drawn_size: int | None = option(
        None,
        "Pixels a side of what is drawn, by means of blocks of the pictures. Default: as they are.",
        ge=4,
    )
    tokens: int = option(4, "Tokens that the vector becomes.", ge=1, rare=True)
    encoder: AnyEncoder = pick(WordsChoice, "What reads the captions.")
    objective: DecoderMatching = pick(at_noise, OBJECTIVE)
    network: TextNetwork = pick(UViTChoice, NETWORK)
    machine: Machine = Field(default_factory=lambda: Machine(precision="auto", compile="auto"))
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=20_000, batch_size=64, lr=1e-3, ema=0.999, decay="trapezoid"
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(
            sample_every=2000, validate_every=2000, checkpoint_every=1000
        )
    )

    def build(self) -> DecoderExperiment:
        from pushforward.data.encoded import encode_texts
        from pushforward.models.pictures import CLIPPictures
        from pushforward.nets import EmbeddingTokens
        from pushforward.nets.prompted import Prompted
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.images import tell
        from pushforward.recipes.networks import Text
        from pushforward.recipes.prompted import DecoderExperiment
        from pushforward.runtime.device import seeded
        from pushforward.runtime.processes import Processes

        train, held_out = self.read()
        pictures = CLIPPictures(self.clip(), EMBEDDING)
        parts = (train,) if held_out is None else (train, held_out)
        seen = [
            with_vectors(part, pictures).reduced(factor_to(part.shape, self.drawn_size))
            for part in parts
        ]
        assert train.captions is not None
        encoder = self.encoder.encoder(train.captions)
        texts = seeded(lambda: self.encoder.parts(encoder), self.seed)
        width = next(iter(texts.values())).width
        texts[EMBEDDING] = seeded(
            lambda: EmbeddingTokens(pictures.dim, width, self.tokens), self.seed
        )
        processes = Processes.current()
        if processes.count > 1:
            # The first process encodes, and the others read what it kept.
            processes.first(lambda: encode_texts(seen[0], {"caption": encoder}) and None)
        given = [encode_texts(part, {"caption": encoder}) for part in seen]
        tell(given[0].notes[len(train.notes) :])
        return assemble(
            self,
            self.objective,
            self.network,
            given[0],
            given[1] if len(given) > 1 else None,
            given[0].spec,
            text=Text(width, sum(part.pooled or 0 for part in texts.values())),
            wrap=lambda net: Prompted(net, texts),
            encoders={"prompt": encoder, "image": pictures},
            kind=DecoderExperiment,
            scenes=self.data == "scenes",
        )


def factor_to(shape: tuple[int, ...], size: int | None) -> int:
    """By what pictures (C, H, W) are reduced to `size` pixels a side; InputError if no whole factor does it."""
    from pushforward.core.errors import InputError

    if size is None:
        return 1
    if shape[1] != shape[2] or shape[1] % size:
        raise InputError(
            f"pictures of {shape[2]} x {shape[1]} pixels do not come down to {size} x {size} by blocks of whole "
            f"pixels: give another --size"
        )
    return shape[1] // size
