"""Changing pictures that are given: SDEdit, inpainting, and other prompts by inversion.

SDEdit (Meng et al. 2022, arXiv 2108.01073): the guide x is mixed with noise up to a time, and the model takes it from
there to the data:

    x_t0 = alpha_t0 x + sigma_t0 x0,   x0 noise;   strength = sigma_t0/(alpha_t0 + sigma_t0)

On the path CondOT strength s starts at t0 = 1 - s; 0 leaves the guide as it is, and 1 forgets it. By the ODE, the
edited law is that of x_t0 under the flow from t0 to 1; by an SDE with the noise of the time reversal it is the mean
over x_t0 of p(x1 | x_t0), which forgets more of the guide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from pushforward.core import conditions
from pushforward.core.errors import InputError
from pushforward.core.fields import Field, FlowMap, find_inside
from pushforward.core.noise import START, Noise
from pushforward.core.paths import Path
from pushforward.core.shapes import expand
from pushforward.sampling.checks import check_count
from pushforward.sampling.generate import ARGUMENTS, generate, home
from pushforward.sampling.given import conditions_of, negatives_of
from pushforward.sampling.invert import invert
from pushforward.solvers import DDIM, Multistep, Solver

# What `generate` takes and `edit` chooses.
OWN = ("num", "source", "from_time", "to_time", "shape", "decode", "edit", "grid")


def time_of_strength(strength: float, path: Path) -> float:
    """The time at which the noise's share sigma/(alpha + sigma) is `strength`, in [0, 1]."""
    try:
        strength = float(strength)
    except (TypeError, ValueError):
        strength = math.nan
    if not 0 <= strength <= 1:
        raise InputError(f"strength is {strength}; it is a share of noise, from 0 to 1")
    if strength in (0, 1):
        return 1.0 - strength
    log_snr = torch.tensor([2 * math.log((1 - strength) / strength)], dtype=torch.float64)
    return float(path.time_of_log_snr(log_snr)[0].clamp(0, 1))


def edit(
    model: Field | FlowMap,
    images: Tensor,
    *,
    strength: float = 0.6,
    mask: Tensor | None = None,
    repeats: int = 1,
    sde: bool | None = None,
    solver: Solver | None = None,
    seed: int = 0,
    start: int = 0,
    batch_size: int = 256,
    **options: Any,
) -> Tensor:
    """Versions of images (N, C, H, W), or of any other data (N, ...), that fit the conditions.

    strength: how much noise is put on the guide, see above.
    mask:     bool, of the images' axes, each as long or 1: what is painted anew. All else is kept: it follows the
              path of the given image, with the noise that it started from, and is the image itself at the end. What
              is painted has not the conditional law: of the two coordinates of a Gaussian with standard deviations 1
              and 0.3, turned by 0.6, the second one given the first is off in the mean by half of its standard
              deviation by the SDE, and by 0.9 of it by the ODE, for any number of calls (tests/sampling/test_edit.py).
    repeats:  so many times over, each from the result of the last one.
    sde:      by an SDE instead of the ODE: `solver` is then DPM-Solver++ 2M with noise. By default with a mask only.
    seed, start: sample i is a function of (seed, start + i).
    options:  those of `generate`, such as prompt=, label=, guidance=, nfe=; a list has an entry for each image.

    Of a model of latents, images are encoded, masked where any of their pixels is, and decoded.
    """
    if isinstance(model, FlowMap):
        raise InputError(
            "a flow map starts from noise, and from no time between: edit with its teacher"
        )
    model.path.require_gaussian("noise")
    if not isinstance(repeats, int) or repeats < 1:
        raise InputError(f"repeats is {repeats}; it must be a whole number, at least 1")
    check(model, images)
    check_count(len(images), batch_size, start)
    own = next((name for name in OWN if name in options), None)
    if own is not None:
        raise InputError(f"edit chooses {own} itself: omit it")
    if mask is not None:
        mask = check_inpainted(mask, images)
    t0 = time_of_strength(strength, model.path)
    asked = {name: options.pop(name) for name in tuple(options) if name not in ARGUMENTS}
    known = (*signature(edit).parameters, *ARGUMENTS)
    given = conditions_of(model, len(images), options.pop("label", None), asked, known)
    negative = options.pop("negative", None)
    if negative is not None:
        negative = negatives_of(model, len(images), negative, known)
    if sde and solver is not None:
        raise InputError("give either sde or a solver")
    if solver is None and (mask is not None if sde is None else sde):
        solver = Multistep(eta=1)
    images = images.to(*home(model, images))
    if t0 == 1:
        return images.clone()
    out = []
    for first in range(0, len(images), batch_size):
        rows = slice(first, min(first + batch_size, len(images)))
        part = None if mask is None else mask[rows]
        here = options | conditions.take(given, rows)
        if negative is not None:
            one = conditions.size(negative) == 1
            here["negative"] = negative if one else conditions.take(negative, rows)
        out.append(
            _edited(model, images[rows], t0, part, repeats, solver, seed, start + first, here)
        )
    return torch.cat(out)


def _edited(
    model: Any, images: Tensor, t0: float, mask: Tensor | None, repeats: int, solver: Solver | None, seed: int,
    start: int, options: dict[str, Any],
) -> Tensor:  # fmt: skip
    codec, device, dtype = find_inside(model, "codec"), images.device, images.dtype
    guide = images if codec is None else codec.encode(images)
    coarse = mask
    if mask is not None:
        coarse = mask.to(device)
        if codec is not None:
            size = guide.shape[2:]
            shares = coarse.expand(-1, -1, *images.shape[2:]).to(dtype)
            coarse = interpolate(shares, size, mode="area") > 0
    for k in range(repeats):
        noise = Noise(seed, torch.arange(start, start + len(images), device=device), step=k)
        x0 = model.path.source_std * noise.normal(guide.shape[1:], START, dtype)

        def at(t: Tensor, guide: Tensor = guide, x0: Tensor = x0) -> Tensor:
            if t0 == 0 and bool((t == 0).all()):
                return x0  # Without what a path has of the data even there.
            c = model.path.coefficients(t)
            return (expand(c.alpha, guide) * guide + expand(c.sigma, guide) * x0).to(guide.dtype)

        def keep(i: int, t: Tensor, x: Tensor) -> Tensor:
            assert coarse is not None
            return torch.where(coarse, x, at(t))

        t = torch.full((len(images),), t0, dtype=torch.float64, device=device)
        found = generate(
            model, len(images), solver=solver, source=at(t), from_time=t0, seed=(seed + k) % 2**64, start=start,
            batch_size=len(images), shape=guide.shape[1:], decode=False,
            edit=None if mask is None else keep, **options,
        )  # fmt: skip
        guide = found
    out: Tensor = guide if codec is None else codec.decode(guide)
    return out if mask is None else torch.where(mask.to(device), out, images)


def check(model: Any, images: Tensor) -> None:
    """That these are data of the model, or of another size of the same channels."""
    if not isinstance(images, Tensor):
        raise InputError(f"data to edit are a tensor (N, ...), not a {type(images).__name__}")
    shape = tuple(find_inside(model, "shape", ()))
    codec = find_inside(model, "codec")
    channels = (
        getattr(codec, "channels", None) if codec is not None else shape[0] if shape else None
    )
    if not images.is_floating_point() or images.ndim < 2 or not bool(images.isfinite().all()):
        raise InputError(
            f"data to edit are finite floating numbers (N, ...), got {images.dtype} {tuple(images.shape)}"
        )
    if channels is not None and images.shape[1] != channels:
        raise InputError(
            f"this model takes data of {channels} channels, and these are {tuple(images.shape[1:])}"
        )
    if codec is None and shape and images.ndim != len(shape) + 1:
        raise InputError(f"this model takes data {shape}, and these are {tuple(images.shape[1:])}")


def check_inpainted(mask: Tensor, images: Tensor) -> Tensor:
    """A mask (N or 1, ...) of what is painted anew, with a row for each image."""
    fits = mask.ndim == images.ndim and all(
        m in (1, n) for m, n in zip(mask.shape, images.shape, strict=True)
    )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or not fits:
        raise InputError(
            f"a mask is bool, of the axes of the images {tuple(images.shape)}, each as long or 1; got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )
    if not bool(mask.any()):
        raise InputError("the mask is empty: nothing would be painted")
    return mask.expand(len(images), *mask.shape[1:])


def extended(
    images: Tensor, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) with a margin of their nearest pixels, and the mask (1, 1, ...) of it: for outpainting."""
    margins = (left, top, right, bottom)
    if not all(isinstance(m, int) and m >= 0 for m in margins) or not any(margins):
        raise InputError("a margin is a number of pixels on one side or several")
    if images.ndim != 4:
        raise InputError(f"images are (N, C, H, W), got {tuple(images.shape)}")
    wide = pad(images, (left, right, top, bottom), mode="replicate")
    mask = torch.ones(1, 1, *wide.shape[2:], dtype=torch.bool, device=images.device)
    mask[..., top : top + images.shape[2], left : left + images.shape[3]] = False
    return wide, mask


def edit_by_inversion(
    model: Field,
    images: Tensor,
    source: Mapping[str, Any],
    target: Mapping[str, Any],
    *,
    nfe: int | None = None,
    exact: bool = True,
    guidance: float | None = None,
    **options: Any,
) -> Tensor:
    """Images (N, ...) under other conditions: the noise that leads to them under `source`, sampled under `target`.

        edit_by_inversion(model, x, {"prompt": "a red circle"}, {"prompt": "a blue circle"}, guidance=2.0)

    With `source` as `target` it is the image itself, to rounding if `exact` (see `invert`). The way to the noise is
    without guidance, which it would amplify; guidance: of the way back.

    Song, Meng, Ermon 2021 (arXiv 2010.02502); Hertz et al. 2022 (arXiv 2208.01626), sec. 4.
    """
    check(model, images)
    for side in (source, target):
        if not isinstance(side, Mapping):
            raise InputError(f'conditions are a mapping, as in {{"prompt": "..."}}, not {side!r}')
    codec = find_inside(model, "codec")
    images = images.to(*home(model, images))
    states = images if codec is None else codec.encode(images)
    solver = DDIM()
    x0 = invert(model, states, solver=solver, nfe=nfe, exact=exact, **source, **options)
    return generate(
        model, len(states), solver=solver, nfe=nfe, source=x0, guidance=guidance,
        shape=states.shape[1:], **target, **options,
    )  # fmt: skip
