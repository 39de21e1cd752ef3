"""Training on the latents of a run's autoencoder instead of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushforward.data import Dataset
    from pushforward.recipes.experiment import States

PIXELS = Path("pixels")
LATENTS = "Run folder of an autoencoder, or pixels."


def states_of(recipe: Any, train: Dataset, held_out: Dataset | None) -> States | None:
    """The latents of the data, normalised by those of `train`; None if the recipe trains on pixels.

    recipe: with `latents`, `augment` and `pictures`. Raises InputError for what latents that are computed once rule
    out: images that are mirrored, moved or cropped anew in each step.
    """
    if recipe.latents == PIXELS:
        return None
    from pushforward.core.errors import InputError
    from pushforward.data.latents import encode_pictures, latent_data, statistics
    from pushforward.models.latent import Latents
    from pushforward.recipes.experiment import States
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
    for data in (train, held_out):
        if data is not None:
            plain.latent_shape(data.shape)
    processes = Processes.current()

    def means(data: Dataset) -> Any:
        def encoded() -> Any:
            return encode_pictures(data, lambda x: plain.encode(x.to(device)), plain.digest)

        if processes.count > 1:
            # The first process encodes, and the others read what it kept.
            processes.first(lambda: encoded() and None)
        return encoded()

    found = means(train)
    codec = Latents(net, *statistics(found.values)).to(device)
    apart = None
    if held_out is not None and len(held_out):
        apart = latent_data(held_out, means(held_out), codec.mean, codec.std)
    return States(codec, latent_data(train, found, codec.mean, codec.std), apart)


def require_same_codec(folder: Path, model: Any, experiment: Any) -> None:
    """That the autoencoder on whose latents a run was trained is the one that its recipe finds."""
    from pushforward.core.errors import InputError

    ours, theirs = model.codec, experiment.model.codec
    if ours is not None and theirs is not None and ours.digest != theirs.digest:
        raise InputError(
            f"the autoencoder that {folder} was trained with has changed since (its SHA-256 differs from that of the "
            f"one in the model): restore it, or train on the new one in another --out"
        )
