"""Training on pictures of several shapes: what a run has besides other runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pushforward.recipes.latents import PIXELS, factor_of, latents_of

if TYPE_CHECKING:
    from pushforward.data import Dataset


def unit_of(recipe: Any) -> int:
    """Of what the sides of a picture should be multiples: what the network halves or cuts without a rest, times the
    pixels of a latent. recipe: with `network` and `latents`."""
    factor = 1 if recipe.latents == PIXELS else factor_of(recipe.latents)
    unit: int = recipe.network.unit
    return factor * unit


def by_frame(recipe: Any, train: Dataset, held_out: Dataset | None) -> dict[str, Any]:
    """Arguments of `assemble`: states, stream, validated, frames. Of data in one frame the states alone.

    train, held_out: parts of what `load_mixed` made, with encodings of their texts.
    """
    from pushforward.data.images.lazy import Pictures
    from pushforward.data.mixed import Mixed, divide
    from pushforward.recipes.experiment import Frame, States
    from pushforward.recipes.latents import states_of
    from pushforward.streams.bucketed import Bucketed

    if not isinstance(train.values, Pictures) or train.values.buckets is None:
        return {"states": states_of(recipe, train, held_out)}
    latent = recipe.latents != PIXELS
    memory = 0 if latent or recipe.pictures.lazy == "yes" else 1 << 30
    ours = divide(train, memory)
    theirs = None if held_out is None or not len(held_out) else divide(held_out, memory)
    apart = () if theirs is None else theirs.parts
    frames = tuple(
        Frame(part.shape, part, next((one for one in apart if one.shape == part.shape), None))
        for part in ours.parts
    )
    found: dict[str, Any] = {"validated": apart}
    if latent:
        codec, states, validated = latents_of(recipe, ours.parts, apart)
        ours = Mixed(states, ours.rows)
        frames = tuple(
            Frame(s.shape, f.train, f.held_out) for s, f in zip(states, frames, strict=True)
        )
        found = {"validated": validated, "states": States(codec, states[0], None)}
    stream = Bucketed.of(ours, recipe.optimiser.batch_size, recipe.seed)
    return found | {"stream": stream, "frames": frames}


def spec_of(train: Dataset) -> Any:
    """The spec of the data, with the frames that they are in."""
    values: Any = train.values
    buckets = getattr(values, "buckets", None)
    return train.spec if buckets is None else train.spec.with_(frames=buckets.frames)


def check_frames(name: str, buckets: int) -> None:
    """That pictures of one size are not to be sorted by their shapes."""
    from pushforward.core.errors import InputError

    if buckets > 1:
        raise InputError(f"{name} are pictures of one size: omit --buckets")


def share(number: int, parts: int, part: int) -> slice:
    """The rows of one of several parts of `number` rows, of equal size but for rounding."""
    return slice(number * part // parts, number * (part + 1) // parts)


def padded(samples: Any, sides: tuple[int, int], ground: float) -> Any:
    """Images (B, C, h, w) in the middle of larger ones (B, C, *sides)."""
    from torch.nn.functional import pad

    down, across = sides[0] - samples.shape[2], sides[1] - samples.shape[3]
    left, top = math.floor(across / 2), math.floor(down / 2)
    return pad(samples, (left, across - left, top, down - top), value=ground)
