"""CLIP: pictures and their captions in one space."""

from __future__ import annotations

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
    from pushforward.nets import CLIP as Net
    from pushforward.recipes.experiment import Contrasting


class Towers(Choice):
    """A transformer over patches of pictures and one over words."""

    name: Literal["towers"] = "towers"
    patch: int | None = option(
        None, "Pixels a side of a patch. Default: an eighth of the picture.", ge=1
    )
    width: int = option(128, "Width of both towers, a multiple of 64.", ge=64, multiple_of=64)
    depth: int = option(4, "Layers of each tower.", ge=1)
    dim: int = option(64, "Dimensions of the common space.", ge=2)

    def build(self, words: Words, channels: int, size: int) -> Net:
        from pushforward.core.errors import InputError
        from pushforward.nets import CLIP

        patch = self.patch or max(1, size // 8)
        if size % patch:
            raise InputError(
                f"pictures of {size} pixels cannot be cut into patches of {patch}: choose another --patch or --size"
            )
        tower = {"width": self.width, "depth": self.depth, "heads": self.width // 64}
        text = {"vocabulary": words.size, "length": words.length, "end": words.size - 1}
        image = {"channels": channels, "size": size, "patch": patch}
        return CLIP(text | tower, image | tower, self.dim)


class CLIP(Recipe):
    """Pictures and captions in one space: for retrieval, for judging prompts, and for models on its vectors."""

    data: str = option(
        "scenes", "scenes, emoji, or a folder, archives or array of images with captions."
    )
    number: int = option(40_000, "Scenes to train on.", ge=100, rare=True)
    # Many scenes have the same short caption, and all but one of them would be called wrong.
    captions: Captions = option("descriptive", "Captions of scenes.", rare=True)
    held_out: float = option(
        0.1, "Share of the data kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    text_length: int = option(64, "The most words of a caption, its end included.", ge=2, rare=True)
    network: Towers = pick(Towers, NETWORK)
    pictures: FilePictures = Field(default_factory=FilePictures)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=3000, batch_size=256, lr=1e-3, ema=0.999, decay="cosine", weight_decay=0.05
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(sample_every=0, validate_every=500, checkpoint_every=500)
    )

    def settled(self) -> Self:
        """With a size, where one must be chosen for a folder; which one is printed."""
        return self if self.data in MADE else sized(self, Path(self.data), self.pictures)

    def read(self) -> tuple[Dataset, Dataset]:
        """The data to train on, and those kept apart."""
        return read_pairs(self)

    def build(self) -> Contrasting:
        from pushforward.core.errors import InputError
        from pushforward.core.spec import Provenance
        from pushforward.data.encoded import encode_texts
        from pushforward.models.clip import CLIPModel
        from pushforward.models.text import Words
        from pushforward.objectives import Contrastive
        from pushforward.recipes.experiment import Contrasting
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled

        train, held_out = self.read()
        channels, height, width = train.shape
        if height != width:
            raise InputError(
                f"these pictures are of {height} x {width} pixels, and CLIP sees squares: give --size"
            )
        words = Words.of(train.captions or (), length=self.text_length, end=True)
        given = encode_texts(train, {"caption": words})
        tell(given.notes[len(train.notes) :])
        net = seeded(lambda: self.network.build(words, channels, height), self.seed)
        model = CLIPModel(
            net,
            encoders={"caption": words},
            spec=train.spec,
            provenance=Provenance(recipe=self.name()),
        ).to(find_device(self.place.device))
        return Contrasting(
            model,
            Contrastive(model),
            Shuffled(given, self.optimiser.batch_size, self.seed),
            encode_texts(held_out, {"caption": words}),
            train.fingerprint(),
        )
