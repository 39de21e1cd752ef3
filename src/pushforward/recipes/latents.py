"""Training on the latents of a run's autoencoder instead of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushforward.data import Dataset
    from pushforward.models.base import Codec
    from pushforward.recipes.experiment import States

PIXELS = Path("pixels")
LATENTS = "Run folder of an autoencoder, or pixels."


def states_of(recipe: Any, train: Dataset, held_out: Dataset | None) -> States | None:
    """The latents of the data, normalised by those of `train`; None if the recipe trains on pixels."""
    if recipe.latents == PIXELS:
        return None
    from pushforward.recipes.experiment import States

    parts = () if held_out is None or not len(held_out) else (held_out,)
    codec, (states,), apart = latents_of(recipe, (train,), parts)
    return States(codec, states, apart[0] if apart else None)


def factor_of(folder: Path) -> int:
    """Pixels of a side for one latent of a run's autoencoder."""
    from pushforward.saving.folder import load_autoencoder

    net: Any = load_autoencoder(folder).net
    return int(net.factor)


def latents_of(
    recipe: Any, train: Sequence[Dataset], held_out: Sequence[Dataset]
) -> tuple[Codec, tuple[Dataset, ...], tuple[Dataset, ...]]:
    """The autoencoder with the statistics of its latents of all parts of `train`, and the latents of all parts.

    recipe: with `latents`, `augment` and `pictures`. Raises InputError for what latents that are computed once rule
    out: images that are mirrored, moved or cropped anew in each step.
    """
    from pushforward.core.errors import InputError
    from pushforward.data.latents import encode_pictures, latent_data, statistics
    from pushforward.models.latent import Latents
    from pushforward.runtime.device import find_device
    from pushforward.runtime.processes import Processes
    from pushforward.saving.folder import load_autoencoder

    changed = [
        f"--{name}"
        for name, on in (
            ("flip", recipe.augment.flip),
            ("shift", recipe.augment.shift),
            ("crop", recipe.pictures.crop),
        )
        if on
    ]
    if changed:
        raise InputError(
            f"latents are computed once, before training, and {changed[0]} alters pictures in each step: omit one of "
            f"{changed[0]} and --latents"
        )
    device = find_device(recipe.place.device)
    net: Any = load_autoencoder(recipe.latents, device).net
    plain = Latents(net).to(device)
    for data in (*train, *held_out):
        plain.latent_shape(data.shape)
    processes = Processes.current()

    def means(data: Dataset) -> Any:
        def encoded() -> Any:
            return encode_pictures(data, lambda x: plain.encode(x.to(device)), plain.digest)

        if processes.count > 1:
            # The first process encodes, and the others read what it kept.
            processes.first(lambda: encoded() and None)
        return encoded()

    found = [means(data) for data in train]
    codec = Latents(net, *statistics(*(one.values for one in found))).to(device)

    def normalised(data: Dataset, one: Any) -> Dataset:
        return latent_data(data, one, codec.mean, codec.std)

    ours = tuple(normalised(data, one) for data, one in zip(train, found, strict=True))
    return codec, ours, tuple(normalised(data, means(data)) for data in held_out)


def require_same_codec(folder: Path, model: Any, experiment: Any) -> None:
    """That the autoencoder on whose latents a run was trained is the one that its recipe finds."""
    from pushforward.core.errors import InputError

    ours, theirs = model.codec, experiment.model.codec
    if ours is not None and theirs is not None and ours.digest != theirs.digest:
        raise InputError(
            f"the autoencoder that {folder} was trained with has changed since (its SHA-256 differs from that of the "
            f"one in the model): restore it, or train on the new one in another --out"
        )
