"""A captioner of pictures, tuned on short and then on descriptive captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from pushforward.recipes.captioned import MADE, Captions, read_pairs
from pushforward.recipes.images import FilePictures, sized, tell
from pushforward.recipes.networks import NETWORK
from pushforward.recipes.options import Choice, Logging, Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.models.text import Words
    from pushforward.nets import CoCa
    from pushforward.recipes.experiment import Captioning

# Of the steps, those on short captions.
SHORT = 0.25


class CoCaChoice(Choice):
    """CoCa: a transformer over patches of pictures, and a decoder of words of which the last layers look at them."""

    name: Literal["coca"] = "coca"
    patch: int | None = option(
        None, "Pixels a side of a patch. Default: an eighth of the picture.", ge=1
    )
    width: int = option(128, "Width of all layers, a multiple of 64.", ge=64, multiple_of=64)
    depth: int = option(4, "Layers over the picture.", ge=1)
    text_depth: int = option(2, "Layers over the words alone.", ge=1)
    looking_depth: int = option(2, "Layers over the words that look at the picture.", ge=1)
    queries: int = option(64, "Tokens of a picture that the words look at.", ge=1, rare=True)
    dim: int = option(64, "Dimensions of the common space.", ge=2, rare=True)

    def build(self, words: Words, channels: int, size: int) -> CoCa:
        from pushforward.core.errors import InputError
        from pushforward.nets import CoCa

        patch = self.patch or max(1, size // 8)
        if size % patch:
            raise InputError(
                f"pictures of {size} pixels cannot be cut into patches of {patch}: choose another --patch or --size"
            )
        heads = self.width // 32
        layers = {"width": self.width, "heads": heads}
        image = {"channels": channels, "size": size, "patch": patch, "depth": self.depth}
        text = {"vocabulary": words.size, "length": words.length}
        depths = {"depth": self.text_depth, "looking": self.looking_depth}
        return CoCa(image | layers, text | layers | depths, self.queries, self.dim)


class Captioner(Recipe):
    """What writes captions of pictures: a contrastive captioner, for `pushforward caption`.

    Of scenes it learns from short captions first and from descriptive ones afterwards; of other data from their own.
    """

    data: str = option(
        "scenes", "scenes, emoji, or a folder, archives or array of images with captions."
    )
    number: int = option(100_000, "Scenes to train on.", ge=100, rare=True)
    short_steps: int | None = option(
        None,
        "Steps on short captions of scenes, before the descriptive ones. Default: a quarter of all; 0 for other data.",
        ge=0,
    )
    held_out: float = option(
        0.05, "Share of the data kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    text_length: int = option(80, "The most words of a caption, its end included.", ge=2, rare=True)
    contrastive: float = option(1.0, "Weight of the contrastive loss.", ge=0, rare=True)
    captioning: float = option(2.0, "Weight of the captioning loss.", gt=0, rare=True)
    network: CoCaChoice = pick(CoCaChoice, NETWORK)
    pictures: FilePictures = Field(default_factory=FilePictures)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=6000, batch_size=64, lr=1e-3, ema=0.999, decay="cosine", weight_decay=0.05
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(sample_every=0, validate_every=500, checkpoint_every=500)
    )

    @property
    def captions(self) -> Captions:
        return "descriptive"

    def settled(self) -> Self:
        """With the step at which descriptive captions begin, and a size, where one must be chosen for a folder."""
        from pushforward.core.errors import InputError

        if self.short_steps and self.data != "scenes":
            raise InputError(
                f"--short-steps is for scenes, whose captions come in two kinds, and {self.data} has one: train on the "
                f"short ones first, and begin a run on the others with --from"
            )
        if self.short_steps is None:
            # As a number: a run that is prolonged keeps what it has learned in which order.
            short = round(SHORT * self.optimiser.steps) if self.data == "scenes" else 0
            return self.model_copy(update={"short_steps": short}).settled()
        return self if self.data in MADE else sized(self, Path(self.data), self.pictures)

    def read(self) -> tuple[Dataset, Dataset]:
        """The data to train on, and those kept apart."""
        return read_pairs(self)

    def build(self) -> Captioning:
        from pushforward.core.errors import InputError
        from pushforward.core.spec import Provenance
        from pushforward.data.encoded import encode_texts
        from pushforward.models.captioner import CaptionModel
        from pushforward.models.text import Words
        from pushforward.objectives import ContrastiveCaptioning
        from pushforward.recipes.experiment import Captioning
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled
        from pushforward.streams.staged import Staged

        train, held_out = self.read()
        channels, height, width = train.shape
        if height != width:
            raise InputError(
                f"these pictures are of {height} x {width} pixels, and a captioner sees squares: give --size"
            )
        lines = list(train.captions or ())
        stages = [train]
        if self.short_steps:
            stages.insert(0, replace(train, texts={**train.texts, "caption": train.texts["short"]}))
            lines += train.texts["short"]
        words = Words.of(lines, length=self.text_length, end=True)
        given = [encode_texts(stage, {"caption": words}) for stage in stages]
        tell(given[-1].notes[len(train.notes) :])
        net = seeded(lambda: self.network.build(words, channels, height), self.seed)
        model = CaptionModel(
            net,
            encoders={"caption": words},
            spec=train.spec,
            provenance=Provenance(recipe=self.name()),
        ).to(find_device(self.place.device))
        size = self.optimiser.batch_size
        starts = (0, self.short_steps) if self.short_steps else (0,)
        return Captioning(
            model,
            ContrastiveCaptioning(model, self.contrastive, self.captioning),
            Staged(tuple(Shuffled(stage, size, self.seed) for stage in given), starts),
            encode_texts(held_out, {"caption": words}),
            train.fingerprint(),
        )
