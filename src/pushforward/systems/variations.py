"""What unCLIP makes of given pictures: variations, interpolations, and changes by words.

A picture x has the vector z of the CLIP, which says what it shows, and the noise of the decoder, which says the rest.

Ramesh et al. 2022 (arXiv 2204.06125), sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pushforward.core.errors import InputError
from pushforward.models.prior import CLIPTexts
from pushforward.sampling.invert import slerp
from pushforward.solvers import DDIM
from pushforward.systems.unclip import UnCLIP

# How far a change by words goes along the arc: the paper takes a share between 0.25 and 0.5.
AMOUNT = 0.5


def variations(
    system: UnCLIP,
    images: Tensor,
    num: int = 4,
    prompts: Sequence[str] | None = None,
    *,
    start: int = 0,
    **options: Any,
) -> Tensor:
    """(N, num, C, H, W): pictures that show what images (N, C, h, w) show, each from noise of its own.

    prompts: texts of the images, one for each, that the decoder also has. options: those of `UnCLIP.decode`.
    """
    if num < 1:
        raise InputError(f"num is {num}; it is a number of variations, at least 1")
    z = system.pictures.vectors(images).repeat_interleave(num, 0)
    lines = None if prompts is None else [line for line in prompts for _ in range(num)]
    x = system.decode(z, lines, start=start * num, **options)
    return x.unflatten(0, (-1, num))


def between(
    system: UnCLIP, a: Tensor, b: Tensor, columns: int = 7, rows: int = 1, **options: Any
) -> Tensor:
    """(rows, columns, C, H, W): pictures from a (1, C, h, w) to b, vectors along the arc between theirs.

        z_w = slerp(z_a, z_b, w),   w = 0, ..., 1

    All pictures of a row come from one noise of decoder and cascade, and each row from another. options: those of
    `UnCLIP.decode`.
    """
    if columns < 2 or rows < 1:
        raise InputError(
            f"columns is {columns} and rows {rows}: an interpolation has both ends and at least one row"
        )
    ends = [system.pictures.vectors(x) for x in (a, b)]
    if len(ends[0]) != 1 or len(ends[1]) != 1:
        raise InputError(
            f"an interpolation is of one picture and another, got {len(a)} and {len(b)}"
        )
    weights = torch.linspace(0, 1, columns, dtype=torch.float64).tolist()
    # The rows of each call have the ids 0, 1, ..., and so the same noise in every call.
    parts = [
        system.decode(slerp(ends[0], ends[1], w).expand(rows, -1), None, **options) for w in weights
    ]
    return torch.stack(parts, 1)


def text_diff(
    system: UnCLIP,
    images: Tensor,
    source: str,
    target: str,
    amounts: Sequence[float] = (AMOUNT,),
    *,
    nfe: int | None = None,
    exact: bool = True,
    prompted: bool = False,
    guidance: float | None = None,
    **options: Any,
) -> Tensor:
    """(N, len(amounts), C, H, W): images (N, C, h, w) changed by what one text says and another does not.

        z_w = slerp(z, d, w),   d = (z_target - z_source)/|...|,   w in amounts

    Decoder and cascade start from the noise that leads to the image itself by DDIM, so that all that the vector does
    not say stays as it is; an amount of 0 gives the image back, without guidance and up to rounding if `exact`.
    prompted: the decoder also has the source text on the way to the noise, and the target text on the way back.
    options: seed, start, augment_level, batch_size, as in `UnCLIP.decode`.
    """
    wrong = [w for w in amounts if not 0 <= w <= 1]
    if wrong or not amounts:
        raise InputError(f"amounts are shares of the arc, from 0 to 1, not {list(amounts)}")
    for name, line in (("source", source), ("target", target)):
        if not isinstance(line, str) or not line.strip():
            raise InputError(
                f"the {name} text is empty: say what the picture shows, and what it is to show"
            )
    texts = CLIPTexts(system.clip)
    before, after = texts([source, target])[texts.name]["pooled"]
    if float((after - before).norm()) < 1e-4 * float(before.norm()):
        raise InputError(
            f"{source!r} and {target!r} say the same to this CLIP: nothing would change"
        )
    z = system.pictures.vectors(images)
    direction = z.shape[1] ** 0.5 * normalize(after - before, dim=0).expand_as(z)
    lines = {text: [text] * len(z) if prompted else None for text in (source, target)}
    noises = system.invert(images, z, lines[source], nfe=nfe, exact=exact, **options)
    parts = [
        system.decode(
            slerp(z, direction, w), lines[target if w > 0 else source], sources=noises, solver=DDIM(), nfe=nfe,
            guidance=1.0 if guidance is None else guidance, **options,
        )
        for w in amounts
    ]  # fmt: skip
    return torch.stack(parts, 1)
