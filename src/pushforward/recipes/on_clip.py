"""Training on the vectors that a run's CLIP has of pictures and captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from pushforward.recipes.captioned import MADE, Captions, read_captioned
from pushforward.recipes.images import FilePictures, read_images, sized
from pushforward.recipes.options import option
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.models.clip import CLIPModel
    from pushforward.models.pictures import CLIPPictures

CLIP_RUN = "Run folder of the CLIP, or of a prior or decoder that was trained with it."


class OnCLIP(Recipe):
    """Captioned pictures, and the CLIP that makes vectors of them."""

    clip_run: Path = option(..., CLIP_RUN)
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
    pictures: FilePictures = Field(default_factory=FilePictures)

    def settled(self) -> Self:
        """With a size, where one must be chosen for a folder; which one is printed."""
        return self if self.data in MADE else sized(self, Path(self.data), self.pictures)

    def read(self) -> tuple[Dataset, Dataset | None]:
        """The data to train on, and those kept apart."""
        from pushforward.core.errors import InputError

        if self.pictures.crop:
            raise InputError(
                "vectors of pictures are computed once, before training, and --crop cuts anew in each step: omit it"
            )
        return read_captioned(self, lambda path: read_images(path, self.pictures))

    def clip(self) -> CLIPModel:
        """The CLIP, on the device of the run."""
        from pushforward.runtime.device import find_device

        return clip_in(self.clip_run).to(find_device(self.place.device))


def clip_in(folder: Path) -> CLIPModel:
    """The CLIP in a folder, or the one that the model in it was trained with."""
    from pushforward.core.errors import InputError
    from pushforward.models.clip import CLIPModel
    from pushforward.saving.folder import load_any

    model = load_any(folder)
    if isinstance(model, CLIPModel):
        return model
    found: Any = getattr(model, "clip", None)
    for encoder in getattr(model, "encoders", {}).values():
        found = getattr(encoder, "clip", found)
    if not isinstance(found, CLIPModel):
        raise InputError(
            f"{folder} holds a {type(model).__name__}, and no CLIP: train one with pushforward train clip"
        )
    return found


def embedded(data: Dataset, pictures: CLIPPictures) -> tuple[Dataset, Any]:
    """The data, of the pictures that could be read, and the vector (N, dim) of each as an array."""
    import numpy as np
    import torch

    from pushforward.data.latents import encode_pictures
    from pushforward.runtime.processes import Processes

    channels = pictures.clip.net.image.channels
    if data.shape[0] != channels:
        from pushforward.core.errors import InputError

        raise InputError(
            f"the CLIP sees pictures of {channels} channels, and these have {data.shape[0]}: give --channels {channels}"
        )

    def encoded() -> Any:
        return encode_pictures(data, pictures.vectors, pictures.digest)

    processes = Processes.current()
    if processes.count > 1:
        # The first process encodes, and the others read what it kept.
        processes.first(lambda: encoded() and None)
    found = encoded()
    own = bool((found.ids == np.arange(len(data))).all())
    base = data if own else data.subset(torch.from_numpy(np.array(found.ids)))
    return base, found.values


def with_vectors(data: Dataset, pictures: CLIPPictures) -> Dataset:
    """The data with the vectors of its pictures as a condition."""
    from dataclasses import replace

    import numpy as np
    import torch

    from pushforward.data.encoding import Encoding

    base, values = embedded(data, pictures)
    vectors = torch.from_numpy(np.array(values, np.float32))
    encoding = Encoding({pictures.name: vectors}, torch.arange(len(base)))
    return replace(base, encodings={**base.encodings, pictures.name: encoding})
