"""An autoencoder of images, on whose latents other models are trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field

from pushforward.recipes.images import FilePictures, divided, read_images, sized, tell
from pushforward.recipes.networks import NETWORK
from pushforward.recipes.options import Choice, Group, Logging, Optimiser, option, pick
from pushforward.recipes.recipe import Recipe

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.nets.autoencoder import Autoencoder as Net
    from pushforward.recipes.experiment import Reconstructing


class AutoencoderChoice(Choice):
    """The layout of an autoencoder. levels: of resolution, each half as fine as the one before."""

    def build(self, channels: int, latent: int, levels: int) -> Net:
        raise NotImplementedError


class KLChoice(AutoencoderChoice):
    """That of AutoencoderKL: group norms, a normal law for each latent."""

    name: Literal["kl"] = "kl"
    width: int = option(
        32, "Channels at full resolution; twice as many below.", ge=8, multiple_of=8
    )
    blocks: int = option(1, "Residual blocks at each resolution.", ge=1)
    attention: bool = option(False, "Attention at the lowest resolution.", rare=True)

    def build(self, channels: int, latent: int, levels: int) -> Net:
        from pushforward.nets import AutoencoderKL

        widths = [self.width, *[2 * self.width] * (levels - 1)]
        return AutoencoderKL(channels, latent, widths, self.blocks, 8, self.attention)


class TinyChoice(AutoencoderChoice):
    """That of AutoencoderTiny: ReLUs, no norms, latents without a law."""

    name: Literal["tiny"] = "tiny"
    width: int = option(32, "Channels at every resolution.", ge=8)
    blocks: int = option(1, "Residual blocks at each resolution.", ge=1)

    def build(self, channels: int, latent: int, levels: int) -> Net:
        from pushforward.nets import AutoencoderTiny

        blocks = [self.blocks] * levels
        return AutoencoderTiny(channels, latent, self.width, blocks, blocks)


class Losses(Group):
    """What is minimised: L1, and what is added to it."""

    kl_weight: float = option(1e-6, "Weight of the relative entropy of latents.", ge=0, rare=True)
    perceptual: str | None = option(
        None,
        "Features for a perceptual distance: efficientnet (extra features), or the run folder of a classifier. "
        "Default: none.",
    )
    perceptual_weight: float = option(1.0, "Weight of the perceptual distance.", ge=0, rare=True)
    gan_weight: float = option(0.5, "Weight of the discriminator of patches.", ge=0, rare=True)
    gan_start: int | None = option(
        None,
        "Step from which the discriminator takes part; as many as --steps for never. Default: half of them.",
        ge=0,
    )


class Autoencoder(Recipe):
    """Autoencoder of images: what --latents of text-to-image and images takes. evaluate judges its reconstructions."""

    data: str = option("scenes", "scenes, emoji, digits, or a folder, archives or array of images.")
    number: int = option(40_000, "Scenes to train on.", ge=100, rare=True)
    held_out: float = option(
        0.05, "Share of the data kept apart for evaluation.", gt=0, lt=1, rare=True
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    factor: Literal[2, 4, 8] = option(4, "Pixels of a side for one latent.")
    latent_channels: int = option(4, "Channels of the latents.", ge=1)
    network: Annotated[KLChoice | TinyChoice, Field(discriminator="name")] = pick(KLChoice, NETWORK)
    losses: Losses = Field(default_factory=Losses)
    pictures: FilePictures = Field(default_factory=FilePictures)
    optimiser: Optimiser = Field(
        default_factory=lambda: Optimiser(
            steps=10_000, batch_size=32, lr=1e-3, ema=0.999, decay="trapezoid"
        )
    )
    logging: Logging = Field(
        default_factory=lambda: Logging(
            sample_every=1000, validate_every=1000, checkpoint_every=1000
        )
    )

    def settled(self) -> Self:
        """With a size, where one must be chosen for a folder; which one is printed."""
        if self.data in ("scenes", "emoji", "digits"):
            return self
        return sized(self, Path(self.data), self.pictures)

    def rules(self) -> dict[str, Any]:
        from dataclasses import replace

        from pushforward.train.optimizers import AdamW

        chosen = self.optimiser
        own = {n: getattr(chosen, n) for n in ("lr", "warmup", "decay", "weight_decay", "clip")}
        rule = (chosen.rules() or {"loss": AdamW(**own)})["loss"]
        # The discriminator's moments are short, as is usual for adversaries.
        judge = AdamW(**own, betas=(0.5, 0.9), parameters=("discriminator.*",))
        return {"loss": replace(rule, parameters=("net.*",)), "discriminator": judge}

    def read(self) -> tuple[Dataset, Dataset]:
        """The data to train on, and those kept apart."""
        from pushforward.core.errors import InputError

        if self.data == "scenes":
            from pushforward.data.scenes import load_scenes

            size = self.pictures.size or 32
            apart = max(round(self.held_out * self.number), 20)
            return load_scenes(self.number, size), load_scenes(apart, size, 1, held_out=True)
        if self.data == "digits":
            from pushforward.data import load_digits

            train, held_out = load_digits().halves(seed=0)
            return train, held_out
        if self.data == "emoji":
            from pushforward.data.emoji import load_emoji

            whole = load_emoji(self.pictures.size or 64, self.package)
            tell(whole.notes)
        else:
            whole = read_images(Path(self.data), self.pictures)
        train, rest = divided(whole, self.held_out)
        if rest is None or len(rest) < 2:
            raise InputError(
                f"{self.data} leaves less than two pictures to judge by: raise --held-out, or give more pictures"
            )
        return train, rest

    def build(self) -> Reconstructing:
        from pushforward.core.errors import InputError
        from pushforward.core.spec import Provenance
        from pushforward.models.autoencoder import AutoencoderModel
        from pushforward.nets import PatchDiscriminator
        from pushforward.objectives import Autoencoding
        from pushforward.recipes.experiment import Reconstructing
        from pushforward.runtime.device import find_device, seeded
        from pushforward.streams.shuffled import Shuffled

        train, held_out = self.read()
        channels, *sides = train.shape
        if any(side % self.factor for side in sides):
            raise InputError(
                f"the sides of these pictures, {tuple(sides)}, are not multiples of --factor {self.factor}: choose "
                f"another --size or --factor"
            )
        levels = self.factor.bit_length()
        # Three layers, or as many as pictures of this size have patches for.
        layers = max(k for k in (1, 2, 3) if k == 1 or 3 * 2**k <= min(sides))
        if min(sides) < 6:
            raise InputError(f"pictures of {tuple(sides)} pixels have no patches: take 6 or more")
        device = find_device(self.place.device)

        def made() -> AutoencoderModel:
            net = self.network.build(channels, self.latent_channels, levels)
            judge = PatchDiscriminator(channels, 32, layers)
            spec = train.spec.with_(classes=None, class_names=None, class_counts=None)
            return AutoencoderModel(
                net, judge, spec=spec, provenance=Provenance(recipe=self.name())
            )

        model = seeded(made, self.seed).to(device)
        start = self.losses.gan_start
        objective = Autoencoding(
            model,
            perceptual=self.distance(channels),
            perceptual_weight=self.losses.perceptual_weight,
            kl_weight=self.losses.kl_weight,
            gan_weight=self.losses.gan_weight,
            gan_start=self.optimiser.steps // 2 if start is None else start,
        )
        return Reconstructing(
            model,
            objective,
            Shuffled(train, self.optimiser.batch_size, self.seed),
            held_out,
            train.fingerprint(),
            scenes=self.data == "scenes",
        )

    def distance(self, channels: int) -> Any:
        """The perceptual distance; None without."""
        name = self.losses.perceptual
        if name is None:
            return None
        from pushforward.core.errors import InputError
        from pushforward.evaluate.features.layers import classifier_layers, efficientnet_layers
        from pushforward.objectives.perceptual import FeatureDistance
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_classifier

        device = find_device(self.place.device)
        if name == "efficientnet":
            return FeatureDistance(efficientnet_layers(device))
        judge = load_classifier(Path(name), device)
        if judge.spec.shape and judge.spec.shape[0] != channels:
            raise InputError(
                f"the classifier {name} takes pictures of {judge.spec.shape[0]} channels, and these have {channels}"
            )
        return FeatureDistance(classifier_layers(judge))
