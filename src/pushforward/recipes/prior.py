"""A prior: the vector of a picture from a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pushforward.recipes.choices import PATH, GaussianPath
from pushforward.recipes.on_clip import OnCLIP, embedded
from pushforward.recipes.options import Choice, Logging, Optimiser, option, pick

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.models.prior import CLIPTexts
    from pushforward.objectives import Objective
    from pushforward.recipes.prompted import PriorExperiment

# Vectors by which axes and buckets are found.
FITTED = 20_000


class PriorKind(Choice):
    """What draws the vector."""

    width: int = option(256, "Width of the transformer, a multiple of 64.", ge=64, multiple_of=64)
    depth: int = option(4, "Blocks of the transformer.", ge=1)

    def network(self, cls: Any, texts: CLIPTexts, *sizes: Any) -> Any:
        """A transformer over the tokens of a text and its vector."""
        from pushforward.nets import Prompted, TextFeatures

        clip = texts.clip.net
        net = cls(
            *sizes, width=self.width, depth=self.depth, heads=self.width // 64, context=self.width,
            sentence=clip.dim, length=clip.text.length,
        )  # fmt: skip
        return Prompted(net, {texts.name: TextFeatures(self.width, **texts.features)})

    def build(
        self, data: Dataset, texts: CLIPTexts, dropout: float, **records: Any
    ) -> tuple[Any, Objective]:
        """The model and its objective."""
        raise NotImplementedError


class DiffusionKind(PriorKind):
    """All numbers of the vector together, from noise: the network predicts the vector itself."""

    name: Literal["diffusion"] = "diffusion"
    path: GaussianPath = pick(lambda: GaussianPath(name="cosine"), PATH, rare=True)

    def build(
        self, data: Dataset, texts: CLIPTexts, dropout: float, **records: Any
    ) -> tuple[Any, Objective]:
        from pushforward import objectives
        from pushforward.models.model import Model
        from pushforward.nets import PriorTransformer

        net = self.network(PriorTransformer, texts, data.shape[0])
        model = Model(net, self.path.build(), "data", **records)
        return model, objectives.Matching(model, condition_dropout=dropout)


class AutoregressiveKind(PriorKind):
    """Along principal axes, one bucket after the other."""

    name: Literal["autoregressive"] = "autoregressive"
    axes: int | None = option(None, "Principal axes that are kept. Default: all.", ge=1)
    buckets: int = option(64, "Buckets along each axis.", ge=2)
    cosines: int = option(8, "Buckets of the cosine of picture and text.", ge=2, rare=True)

    def build(
        self, data: Dataset, texts: CLIPTexts, dropout: float, **records: Any
    ) -> tuple[Any, Objective]:
        import torch

        from pushforward.models.prior import AutoregressivePrior, Buckets
        from pushforward.nets import BucketTransformer
        from pushforward.objectives import NextBucket

        dim = data.shape[0]
        axes = self.axes or dim
        some = data.sample(FITTED)
        pictures, lines = [], []
        for part in torch.arange(len(some)).split(256):
            batch = some[part]
            pictures.append(batch.x1)
            lines.append(batch.cond[texts.name]["pooled"])
        buckets = Buckets(dim, axes, self.buckets, self.cosines)
        buckets.fit(torch.cat(pictures), torch.cat(lines))
        net = self.network(BucketTransformer, texts, axes, self.buckets, (self.cosines,))
        model = AutoregressivePrior(net, buckets, **records)
        return model, NextBucket(model, texts.name, dropout)


class Prior(OnCLIP):
    """A prior: the vector that a CLIP has of a picture, drawn from a text. A part of unclip."""

    kind: Annotated[DiffusionKind | AutoregressiveKind, Field(discriminator="name")] = pick(
        DiffusionKind, "How a vector is drawn."
    )
    condition_dropout: float = option(
        0.1, "Share of samples trained without their text.", ge=0, le=1, rare=True
    )
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=5000, batch_size=256, lr=1e-3, ema=0.999, decay="cosine"
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(sample_every=0, validate_every=500, checkpoint_every=500)
    )

    def build(self) -> PriorExperiment:
        from pushforward.core.spec import Provenance
        from pushforward.models.pictures import CLIPPictures
        from pushforward.models.prior import CLIPTexts
        from pushforward.recipes.prompted import PriorExperiment
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled

        train, held_out = self.read()
        clip = self.clip()
        pictures, texts = CLIPPictures(clip), CLIPTexts(clip)
        data = vectors_of(train, pictures, texts)
        apart = None if held_out is None else vectors_of(held_out, pictures, texts)
        records = {
            "encoders": {"prompt": texts},
            "spec": data.spec,
            "provenance": Provenance(recipe=self.name()),
        }
        model, objective = seeded(
            lambda: self.kind.build(data, texts, self.condition_dropout, **records), self.seed
        )
        model.to(find_device(self.place.device))
        stream = Shuffled(data, self.optimiser.batch_size, self.seed)
        return PriorExperiment(model, objective, stream, data, apart, data.fingerprint())


def vectors_of(data: Dataset, pictures: Any, texts: CLIPTexts) -> Dataset:
    """The vectors of pictures as data, with what the CLIP makes of their captions."""
    import numpy as np

    from pushforward.data.dataset import Dataset as Data
    from pushforward.data.encoded import encode_texts
    from pushforward.recipes.images import tell
    from pushforward.runtime.processes import Processes

    base, values = embedded(data, pictures)
    whole = Data.from_arrays(
        np.array(values, np.float32), captions=base.captions, where="the vectors of pictures", kind="vector"
    )  # fmt: skip
    processes = Processes.current()
    if processes.count > 1:
        processes.first(lambda: encode_texts(whole, {"caption": texts}) and None)
    given = encode_texts(whole, {"caption": texts})
    tell(given.notes[len(whole.notes) :])
    return given
