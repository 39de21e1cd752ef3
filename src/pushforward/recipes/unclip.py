"""unCLIP in stages: CLIP, prior, decoder, cascade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from pushforward.recipes.captioned import Captions
from pushforward.recipes.clip import CLIP
from pushforward.recipes.config import STAGES, recipe_of
from pushforward.recipes.decoder import Decoder, DecoderMatching, at_noise
from pushforward.recipes.networks import NETWORK, UViTChoice
from pushforward.recipes.objectives import OBJECTIVE
from pushforward.recipes.on_clip import clip_in
from pushforward.recipes.options import Group, Logging, Machine, Optimiser, option, pick
from pushforward.recipes.prior import Prior
from pushforward.recipes.stages import Stage, Staged
from pushforward.recipes.text_to_image import AnyEncoder, TextNetwork, WordsChoice
from pushforward.recipes.upsampler import AUGMENTATION, AnyAugmentation, NoiseChoice, Upsampler

if TYPE_CHECKING:
    from pushforward.systems.unclip import UnCLIP as System


class Stages(Group):
    """Runs that are taken as they are, instead of training them, and the sizes of others; the recipes clip, prior and
    upsampler have more options."""

    clip_run: Path | None = option(None, "Run folder of a CLIP. Default: train one.")
    prior_run: Path | None = option(None, "Run folder of a prior. Default: train one.")
    decoder_run: Path | None = option(
        None, "Run folder of a decoder. Default: train one.", rare=True
    )
    upsampler_run: tuple[Path, ...] = option(
        (),
        "Run folders of upsamplers, from the smallest. Default: train them.",
        rare=True,
    )
    clip_steps: int = option(3000, "Optimiser steps of the CLIP.", ge=1, rare=True)
    clip_batch: int = option(256, "Pictures in a step of the CLIP.", ge=2, rare=True)
    clip_width: int = option(
        128, "Width of the CLIP, a multiple of 64.", ge=64, multiple_of=64, rare=True
    )
    clip_depth: int = option(4, "Layers of each tower of the CLIP.", ge=1, rare=True)
    clip_dim: int = option(64, "Dimensions of the vectors.", ge=2, rare=True)
    prior_kind: Literal["diffusion", "autoregressive"] = option(
        "diffusion", "How the prior draws a vector.", rare=True
    )
    prior_steps: int = option(5000, "Optimiser steps of the prior.", ge=1, rare=True)
    prior_batch: int = option(256, "Vectors in a step of the prior.", ge=1, rare=True)
    prior_width: int = option(
        256, "Width of the prior, a multiple of 64.", ge=64, multiple_of=64, rare=True
    )
    prior_depth: int = option(4, "Blocks of the prior.", ge=1, rare=True)
    upsampler_steps: int = option(
        10_000, "Optimiser steps of each stage of the cascade.", ge=1, rare=True
    )
    upsampler_batch: int = option(32, "Pictures in a step of the cascade.", ge=1, rare=True)
    upsampler_width: int = option(32, "Channels of the cascade's U-Nets.", ge=8, rare=True)

    def clip(self) -> Path | None:
        """Where the CLIP is, if it is not trained."""
        return self.clip_run or self.prior_run or self.decoder_run


class UnCLIP(Staged):
    """unCLIP (DALL-E 2): a text to the vector of a picture, the vector to a small picture, and that to a large one.

    CLIP, prior, decoder and cascade are trained one after the other, each a run of its own in OUT/stages, and put
    together in OUT. Options of network, encoder and optimiser are the decoder's.
    """

    data: str = option(
        "scenes", "scenes, emoji, or a folder, archives or array of images with captions."
    )
    number: int = option(40_000, "Scenes to train on.", ge=100, rare=True)
    captions: Captions = option("mixed", "Captions of scenes.", rare=True)
    held_out: float = option(
        0.05, "Share of the data kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    sizes: tuple[int, ...] = option(
        (16, 32, 64),
        "Pixels a side, first as the decoder draws them, then of each stage of the cascade.",
        min_length=1,
    )
    parts: Stages = Field(default_factory=Stages)
    augmentation: AnyAugmentation = pick(NoiseChoice, AUGMENTATION, rare=True)
    augment_level: float = option(
        0.1, "Augmentation level at which the cascade draws by default.", ge=0, rare=True
    )
    guidance: float = option(1.5, "Guidance of the decoder by default.", ge=0, rare=True)
    encoder: AnyEncoder = pick(WordsChoice, "What reads the captions for the decoder.", rare=True)
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

    @model_validator(mode="after")
    def fits(self) -> Self:
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        if any(large <= small or large % small for small, large in pairs):
            raise ValueError(
                f"sizes are {self.sizes}: each is a multiple of the one before, as in 16 32 64"
            )
        if self.augment_level > self.augmentation.most:
            raise ValueError(
                f"the augmentation level is {self.augment_level}, and levels of training go up to "
                f"{self.augmentation.most}"
            )
        given = len(self.parts.upsampler_run)
        if given not in (0, len(self.sizes) - 1):
            raise ValueError(
                f"{given} upsamplers are given for a cascade of {len(self.sizes) - 1} stages: give all or none"
            )
        return self

    def stages(self, folder: Path) -> list[Stage]:
        from pushforward.core.errors import InputError

        if self.place.from_ is not None:
            raise InputError(
                "--from is for a run of one model: give runs whose models are taken by --clip-run, --prior-run, "
                "--decoder-run and --upsampler-run"
            )
        self.require_one_clip()
        return [stage for stage, given in self.every(folder) if given is None]

    def require_one_clip(self) -> None:
        """InputError if runs that are taken were trained with different CLIPs, before anything is trained."""
        from pushforward.systems.unclip import require_same_clip

        runs = self.parts
        first = runs.clip()
        if first is None:
            return
        ours = clip_in(first)
        for name, run in (("prior", runs.prior_run), ("decoder", runs.decoder_run)):
            if run is not None and run != first:
                require_same_clip(f"the {name} in {run}", clip_in(run), ours)

    def every(self, folder: Path) -> list[tuple[Stage, Path | None]]:
        """All stages, each with the run that is taken instead of it."""
        runs, parts, size = self.parts, self.parts, self.sizes[-1]
        data: dict[str, Any] = {
            "data": self.data, "number": self.number, "held_out": self.held_out, "package": self.package,
            "size": size, "channels": 3, "seed": self.seed,
        }  # fmt: skip
        held: dict[str, Any] = {
            name: getattr(self.machine, name) for name in type(self.machine).model_fields
        }
        held |= {name: getattr(self.logging, name) for name in ("log_every", "keep")}
        # Their objectives lose by coarse sums what they gain in time.
        exact = {"precision": "fp32"} if self.machine.precision == "auto" else {}
        often = {n: getattr(self.logging, n) for n in ("validate_every", "checkpoint_every")}
        shown = often | {"sample_every": self.logging.sample_every}

        def stage(
            name: str, cls: Any, given: Path | None, **options: Any
        ) -> tuple[Stage, Path | None]:
            where = folder / STAGES / name
            place = {
                "out": where, "device": self.place.device, "tensorboard": self.place.tensorboard,
            }  # fmt: skip
            recipe = cls.of(**data | held | place | options)
            return Stage(name, where, recipe), given

        clip = runs.clip() or folder / STAGES / "clip"
        own = {"captions": self.captions, "clip_run": clip}
        found = [
            stage(
                "clip", CLIP, runs.clip(), captions=self.captions, steps=parts.clip_steps,
                batch_size=parts.clip_batch, width=parts.clip_width, depth=parts.clip_depth, dim=parts.clip_dim,
                **often, **exact,
            ),
            stage(
                "prior", Prior, runs.prior_run, kind=parts.prior_kind, steps=parts.prior_steps,
                batch_size=parts.prior_batch, width=parts.prior_width, depth=parts.prior_depth, **own, **often, **exact,
            ),
        ]  # fmt: skip
        decoder, where = stage(
            "decoder", Decoder, runs.decoder_run, drawn_size=self.sizes[0], **own, **shown
        )
        alike = {
            name: getattr(self, name) for name in ("encoder", "objective", "network", "optimiser")
        }
        found.append(
            (Stage("decoder", decoder.folder, decoder.recipe.model_copy(update=alike)), where)
        )
        for k, (small, large) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            given = runs.upsampler_run[k] if runs.upsampler_run else None
            found.append(
                stage(
                    f"upsampler-{large}", Upsampler, given, factor=large // small, drawn_size=large,
                    augmentation=self.augmentation.name, most=self.augmentation.most,
                    augment_level=self.augment_level, steps=parts.upsampler_steps,
                    batch_size=parts.upsampler_batch, width=parts.upsampler_width, **shown,
                )
            )  # fmt: skip
        return found

    def compose(self, folder: Path) -> System:
        from dataclasses import replace

        from pushforward.core.errors import InputError
        from pushforward.core.spec import Provenance
        from pushforward.saving.folder import load, load_any
        from pushforward.systems.cascade import Upsampler as Refining
        from pushforward.systems.unclip import UnCLIP as Whole

        clip, prior, decoder, *larger = (
            stage.folder if given is None else given for stage, given in self.every(folder)
        )
        cascade = []
        for run in larger:
            recipe = recipe_of(run)
            if not isinstance(recipe, Upsampler):
                raise InputError(f"{run} is a run of {recipe.name()}, and no upsampler")
            level = min(self.augment_level, recipe.augmentation.most)
            cascade.append(Refining(load(run), recipe.augmentation.build(), level))
        drawn = load(decoder)
        return Whole(
            clip_in(clip),
            load_any(prior),
            drawn,
            cascade,
            sampling=replace(drawn.sampling, prompt_guidance=self.guidance),
            provenance=Provenance(recipe=self.name()),
        )
