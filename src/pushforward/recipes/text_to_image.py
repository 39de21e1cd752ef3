"""Text to image: captions and pictures to a model that is asked by prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from pushforward.recipes.buckets import by_frame, check_frames, spec_of
from pushforward.recipes.captioned import MADE, Captions, read_captioned
from pushforward.recipes.choices import Times
from pushforward.recipes.families import ConditionalMatching, ConditionalObjective
from pushforward.recipes.images import (
    ImageRecipe,
    MixedPictures,
    altered,
    read_mixed,
    sized,
    tell,
)
from pushforward.recipes.latents import LATENTS, PIXELS
from pushforward.recipes.networks import (
    NETWORK,
    DiTSize,
    MMDiTChoice,
    UNetChoice,
    UNetSize,
    UViTChoice,
)
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.options import Choice, Logging, Optimiser, option, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushforward.data import Dataset
    from pushforward.models.base import Encoder
    from pushforward.recipes.experiment import Experiment

TextNetwork = Annotated[
    UViTChoice | MMDiTChoice | UNetSize | DiTSize | UNetChoice, Field(discriminator="name")
]


class EncoderChoice(Choice):
    """What makes conditions of captions and prompts."""

    def encoder(self, captions: Sequence[str]) -> Encoder:
        raise NotImplementedError

    def parts(self, encoder: Any) -> dict[str, Any]:
        """What the network makes of each condition, trained with it; modules of one `width`, with `pooled`."""
        raise NotImplementedError


class WordsChoice(EncoderChoice):
    """A small transformer over the words of the captions, trained with the model."""

    name: Literal["words"] = "words"
    text_width: int = option(128, "Width of a word.", ge=8, rare=True)
    text_depth: int = option(2, "Blocks over the words.", ge=1, rare=True)
    text_length: int = option(64, "The most words of a prompt.", ge=1, rare=True)

    def encoder(self, captions: Sequence[str]) -> Encoder:
        from pushforward.models.text import Words

        return Words.of(captions, length=self.text_length)

    def parts(self, encoder: Any) -> dict[str, Any]:
        from pushforward.nets import WordTransformer

        heads = max(h for h in (1, 2, 4) if self.text_width % h == 0)
        width, depth, length = self.text_width, self.text_depth, self.text_length
        return {encoder.name: WordTransformer(encoder.size, width, depth, heads, length)}


class Frozen(EncoderChoice):
    """Text encoders that others trained."""

    text_width: int = option(256, "Width that their tokens are brought to.", ge=8, rare=True)

    def parts(self, encoder: Any) -> dict[str, Any]:
        from pushforward.nets import TextFeatures

        each = getattr(encoder, "encoders", (encoder,))
        return {one.name: TextFeatures(self.text_width, **one.features) for one in each}


class MiniLMChoice(Frozen):
    """MiniLM, from its package (extra text)."""

    name: Literal["minilm"] = "minilm"

    def require(self) -> None:
        from pushforward.models.pretrained import minilm

        minilm()

    def encoder(self, captions: Sequence[str]) -> Encoder:
        from pushforward.models.pretrained import minilm

        return minilm()


class FoldersChoice(Frozen):
    """Any text encoders in folders of transformers, such as CLIP and T5 (extra text)."""

    name: Literal["transformers"] = "transformers"
    text_folder: tuple[Path, ...] = option(
        ...,
        "Folder of a text encoder; several, each after a flag of its own.",
        append=True,
        min_length=1,
    )

    def encoder(self, captions: Sequence[str]) -> Encoder:
        from pushforward.models.pretrained import PretrainedText
        from pushforward.models.text import Together

        many = len(self.text_folder) > 1
        found = [
            PretrainedText(str(folder), f"text{k}" if many else "text")
            for k, folder in enumerate(self.text_folder)
        ]
        return Together(tuple(found)) if many else found[0]


AnyEncoder = Annotated[WordsChoice | MiniLMChoice | FoldersChoice, Field(discriminator="name")]


def logit_normal() -> ConditionalMatching:
    return ConditionalMatching(times=Times(name="logit-normal"))


# What a picture shows is decided at more noise than how it looks: shapes of 50 pixels stand out from t = 0.2 on.
TIME_MEAN = -0.8


class TextToImage(ImageRecipe):
    """A model of pictures that is asked by prompts, trained on captions: rectified flow with logit-normal times.

    Of the data set `scenes` each picture can be read back, so that evaluate says how many prompts are satisfied.
    """

    data: str = option(
        "scenes", "scenes, emoji, or a folder, archives or array of images with captions."
    )
    number: int = option(40_000, "Scenes to train on.", ge=100, rare=True)
    captions: Captions = option("mixed", "Captions of scenes.", rare=True)
    held_out: float = option(
        0.05, "Share of the data kept apart for evaluation.", ge=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    recaptions: Path | None = option(
        None, "Captions of these pictures by pushforward caption, drawn instead of some.", rare=True
    )
    recaption_share: float = option(
        0.95, "Share of drawings that take them.", ge=0, le=1, rare=True
    )
    encoder: AnyEncoder = pick(WordsChoice, "What reads the captions.")
    objective: ConditionalObjective = pick(logit_normal, OBJECTIVE)
    network: TextNetwork = pick(UViTChoice, NETWORK)
    pictures: MixedPictures = Field(default_factory=MixedPictures)
    latents: Path = option(PIXELS, LATENTS)
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

    def settled(self) -> Self:
        """With more times at noise, and with a size, where one must be chosen for a folder; which one is printed."""
        times = getattr(self.objective, "times", None)
        if times is not None and times.name == "logit-normal" and times.time_mean is None:
            times = times.model_copy(update={"time_mean": TIME_MEAN})
            objective = self.objective.model_copy(update={"times": times})
            return self.model_copy(update={"objective": objective}).settled()
        if self.data in MADE:
            return self
        return sized(self, Path(self.data), self.pictures)

    def read(self) -> tuple[Dataset, Dataset | None]:
        """The data to train on, and those kept apart."""
        if self.data in MADE:
            check_frames(self.data, self.pictures.buckets)
        return read_captioned(self, lambda path: read_mixed(self, path), self.recaptioned)

    def recaptioned(self, data: Dataset) -> Dataset:
        """The data with the captions that were written for them, if any are to be drawn."""
        from pushforward.data.recaptions import read_recaptions

        if self.recaptions is None:
            return data
        other = read_recaptions(self.recaptions, self.recaption_share, len(data), data.names)
        return replace(data, recaptions={"caption": other})

    def build(self) -> Experiment:
        from pushforward.core.errors import InputError
        from pushforward.data.encoded import encode_texts
        from pushforward.nets.prompted import Prompted
        from pushforward.recipes.assemble import assemble
        from pushforward.recipes.networks import Text
        from pushforward.recipes.prompted import PromptedExperiment
        from pushforward.runtime.device import seeded
        from pushforward.runtime.processes import Processes

        train, held_out = self.read()
        if self.augment.flip and self.data == "scenes":
            raise InputError(
                "--flip mirrors pictures, and captions say what is left and right: omit it"
            )
        train = altered(train, self.augment)
        assert train.captions is not None
        others = [line for other in train.recaptions.values() for line in other.lines]
        encoder = self.encoder.encoder([*train.captions, *others])
        texts = seeded(lambda: self.encoder.parts(encoder), self.seed)
        processes = Processes.current()
        if processes.count > 1:
            # The first process encodes, and the others read what it kept.
            processes.first(lambda: encode_texts(train, {"caption": encoder}) and None)
        given = encode_texts(train, {"caption": encoder})
        tell(given.notes[len(train.notes) :])
        apart = None if held_out is None else encode_texts(held_out, {"caption": encoder})
        return assemble(
            self,
            self.objective,
            self.network,
            given,
            apart,
            spec_of(train),
            **by_frame(self, given, apart),
            text=Text(
                next(iter(texts.values())).width, sum(p.pooled or 0 for p in texts.values()) or None
            ),
            wrap=lambda net: Prompted(net, texts),
            encoders={"prompt": encoder},
            kind=PromptedExperiment,
            scenes=self.data == "scenes",
        )
