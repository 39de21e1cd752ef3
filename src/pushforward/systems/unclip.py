"""unCLIP: a text to the vector of a picture, the vector to a small picture, and that to a large one.

    p(x | y) = int p(x | x_0) p(x_0 | z, y) p(z | y) dz dx_0

with z the vector of the picture by a CLIP, p(z | y) a prior, p(x_0 | z, y) the decoder, and p(x | x_0) a cascade.

Ramesh et al. 2022 (DALL-E 2, arXiv 2204.06125).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pushforward.core.errors import InputError
from pushforward.core.noise import Noise
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import Encoder, ModelBase
from pushforward.models.clip import CLIPModel
from pushforward.models.model import Model
from pushforward.models.pictures import CLIPPictures, fitted
from pushforward.models.prior import AutoregressivePrior, CLIPTexts
from pushforward.sampling.generate import generate
from pushforward.sampling.invert import invert
from pushforward.solvers import DDIM
from pushforward.systems.cascade import Levels, Upsampler, levels_of, upsample
from pushforward.systems.priors import DRAWS, DiffusionPrior, as_prior, nearest, texts_of

# Stages of the chain, each with a seed of its own.
PRIOR, DECODER, CASCADE = 0, 1, 2
Some = TypeVar("Some", bound=ModelBase)


class UnCLIP(ModelBase):
    """A CLIP, a prior, a decoder and a cascade: one artefact, whose whole chain is drawn by one seed.

        system = pf.load("runs/unclip")
        x = system.draw(["a red circle"] * 8, seed=0, guidance=2.0)

    prior:   a model of vectors with texts by this CLIP, of either kind.
    decoder: a model of pictures with the encoders `prompt`, of texts, and `image`, of pictures by this CLIP.
    cascade: an `Upsampler` for each larger size; none for pictures as the decoder draws them.

    sampling.prompt_guidance is the guidance of the decoder by default. Raises InputError where parts were trained with
    another CLIP, by SHA-256, and for sizes that do not follow each other.
    """

    def __init__(
        self,
        clip: CLIPModel,
        prior: ModelBase,
        decoder: Model,
        cascade: Sequence[Upsampler] = (),
        *,
        spec: DataSpec | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        found = as_prior(prior)
        require_same_clip("the prior", texts_of(found).clip, clip)
        self.prior: DiffusionPrior | AutoregressivePrior
        if isinstance(found, DiffusionPrior) and texts_of(found).clip is not clip:
            self.prior = DiffusionPrior(read_by(found.model, clip), found.nfe)
        elif isinstance(found, AutoregressivePrior):
            self.prior = read_by(found, clip)
        else:
            self.prior = found
        image = decoder.encoders.get("image")
        if not isinstance(image, CLIPPictures) or "prompt" not in decoder.encoders:
            raise InputError(
                "the decoder of an unCLIP has an encoder of pictures by the CLIP and one of texts: train it with "
                "pushforward train decoder"
            )
        require_same_clip("the decoder", image.clip, clip)
        self.decoder = read_by(decoder, clip)
        self.cascade = nn.ModuleList(cascade)
        shape = decoder.shape
        for stage in cascade:
            larger = stage.model.shape
            if larger[0] != shape[0] or any(
                n % m or n <= m for n, m in zip(larger[1:], shape[1:], strict=True)
            ):
                raise InputError(
                    f"a stage of the cascade draws pictures {larger} of pictures {shape}: sides grow by whole factors"
                )
            shape = larger
        last = cascade[-1].model if cascade else decoder
        self.set_records(
            spec=last.spec.with_(columns=()) if spec is None else spec,
            nulls={},
            sampling=decoder.sampling if sampling is None else sampling,
            provenance=provenance,
            encoders={"prompt": decoder.encoders["prompt"]},
        )

    def to_config(self) -> dict[str, Any]:
        records = self.records()
        return {
            "clip": self.clip,
            "prior": self.prior,
            "decoder": self.decoder,
            "cascade": self.stages,
            **{name: records[name] for name in ("spec", "sampling", "provenance")},
        }

    @property
    def stages(self) -> list[Upsampler]:
        return [stage for stage in self.cascade if isinstance(stage, Upsampler)]

    @property
    def pictures(self) -> CLIPPictures:
        """What makes vectors of pictures, as the decoder takes them."""
        return CLIPPictures(self.clip)

    def vectors(
        self,
        prompts: Sequence[str],
        *,
        of: int = DRAWS,
        guidance: float = 1.0,
        seed: int = 0,
        start: int = 0,
    ) -> Tensor:
        """(N, dim) of length sqrt(dim), as those of pictures have, drawn from the prior: the best of `of`."""
        own = Noise.chained(seed, PRIOR)
        z = nearest(self.prior, prompts, of=of, guidance=guidance, seed=own, start=start)
        return z.shape[1] ** 0.5 * normalize(z, dim=1)

    def decode(
        self,
        z: Tensor,
        prompts: Sequence[str] | None = None,
        *,
        seed: int = 0,
        start: int = 0,
        guidance: float | None = None,
        augment_level: Levels = None,
        sources: Sequence[Tensor | None] | None = None,
        nfe: int | None = None,
        solver: Any = None,
        batch_size: int = 256,
    ) -> Tensor:
        """Pictures (N, C, H, W) of vectors (N, dim), by decoder and cascade.

        prompts: the texts y; None: the decoder has none, as where it was dropped. guidance: towards both conditions.
        augment_level: of the cascade, one for all stages or one for each. sources: noise that each stage starts from.
        """
        noises = [None] * (1 + len(self.cascade)) if sources is None else list(sources)
        levels = levels_of(self.stages, augment_level)
        more: dict[str, Any] = {} if prompts is None else {"prompt": list(prompts)}
        scale = self.sampling.prompt_guidance if guidance is None else guidance
        options: dict[str, Any] = {
            "nfe": nfe,
            "solver": solver,
            "batch_size": batch_size,
            "start": start,
        }
        x = generate(
            self.decoder, len(z), seed=Noise.chained(seed, DECODER), guidance=scale, source=noises[0],
            embedding=z, **more, **options,
        )  # fmt: skip
        return upsample(
            self.stages,
            x,
            levels=levels,
            seed=Noise.chained(seed, CASCADE),
            sources=noises[1:],
            **options,
        )

    def batches(
        self,
        prompts: Sequence[str],
        *,
        of: int = DRAWS,
        prior_guidance: float = 1.0,
        seed: int = 0,
        start: int = 0,
        batch_size: int = 256,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """The pictures of `draw`, at most batch_size at a time."""
        lines = list(prompts)
        if (
            isinstance(prompts, str)
            or not lines
            or not all(isinstance(line, str) for line in lines)
        ):
            raise InputError("prompts are a list of texts, one for each picture")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        levels_of(self.stages, options.get("augment_level"))
        for first in range(0, len(lines), batch_size):
            some = lines[first : first + batch_size]
            place: dict[str, Any] = {"seed": seed, "start": start + first}
            z = self.vectors(some, of=of, guidance=prior_guidance, **place)
            yield self.decode(z, some, batch_size=batch_size, **place, **options)
            if progress is not None:
                progress(min(first + batch_size, len(lines)), len(lines))

    def draw(self, prompts: Sequence[str], **options: Any) -> Tensor:
        """A picture (C, H, W) of each prompt, picture i a function of (seed, start + i).

        of: draws of the prior, of which the nearest to the text is taken. prior_guidance: of the prior. options: those
        of `decode`: guidance, augment_level, nfe, solver, batch_size, seed, start.
        """
        return torch.cat(list(self.batches(prompts, **options)))

    def invert(
        self,
        images: Tensor,
        z: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        *,
        nfe: int | None = None,
        exact: bool = True,
        seed: int = 0,
        start: int = 0,
        augment_level: Levels = None,
        batch_size: int = 256,
    ) -> list[Tensor]:
        """The noise of decoder and cascade that leads to images by DDIM.

            x = decode(z, prompts, sources=invert(x, z, prompts), guidance=1, solver=DDIM(), nfe, seed, start)

        z: vectors of the images, if not those of the CLIP. exact: see `sampling.invert`. Each stage is inverted given
        the image before it, which is made of the image itself by means of blocks and augmented with the noise that
        `decode` has.
        """
        z = self.pictures.vectors(images) if z is None else z
        sizes = [self.decoder.shape[-1], *(stage.model.shape[-1] for stage in self.stages)]
        states = [fitted(images, size) for size in sizes]
        more: dict[str, Any] = {} if prompts is None else {"prompt": list(prompts)}
        options: dict[str, Any] = {
            "solver": DDIM(), "nfe": nfe, "exact": exact, "batch_size": batch_size, "start": start,
        }  # fmt: skip
        found = [
            invert(
                self.decoder,
                states[0],
                seed=Noise.chained(seed, DECODER),
                embedding=z,
                **more,
                **options,
            )
        ]
        levels = levels_of(self.stages, augment_level)
        for k, (stage, level) in enumerate(zip(self.stages, levels, strict=True)):
            own = Noise.chained(Noise.chained(seed, CASCADE), k)
            cond = stage.conditions(states[k], level=level, seed=own, start=start)
            found.append(invert(stage.model, states[k + 1], seed=own, **cond, **options))
        return found


def require_same_clip(what: str, theirs: CLIPModel, ours: CLIPModel) -> None:
    """InputError where a part was trained with another CLIP."""
    if theirs is ours:
        return
    a, b = theirs.digest, ours.digest
    if a != b:
        raise InputError(
            f"{what} was trained with another CLIP, of SHA-256 {a[:16]}, and this one is {b[:16]}: train it with this "
            f"one, or give its own"
        )


def read_by(model: Some, clip: CLIPModel) -> Some:
    """A model whose encoders hold this CLIP, instead of an equal one; the same if they do."""
    encoders: dict[str, Encoder] = {}
    for name, encoder in model.encoders.items():
        if isinstance(encoder, CLIPTexts | CLIPPictures) and encoder.clip is not clip:
            encoder = replace(encoder, clip=clip)
        encoders[name] = encoder
    if all(encoder is model.encoders[name] for name, encoder in encoders.items()):
        return model
    sha256 = model.provenance.sha256
    found = type(model).from_config(model.to_config() | {"encoders": encoders})
    found.provenance = replace(found.provenance, sha256=sha256)
    return found
