"""One dial for the size of a network: a name, from what one core trains to what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from pushforward.core.errors import InputError
from pushforward.nets.dit import DiT
from pushforward.nets.flops import Count, count
from pushforward.nets.mmdit import MMDiT
from pushforward.nets.unet import UNet


class Transformer(NamedTuple):
    """Blocks, width of a token, heads of an attention."""

    depth: int
    width: int
    heads: int


class Multimodal(NamedTuple):
    """Blocks, width of a token, heads of an attention; width of the text's tokens and of its pooled vector; blocks with
    a second attention; whether queries and keys are normalised; rows of a table of positions, None for sincos."""

    depth: int
    width: int
    heads: int
    text: int = 4096
    pooled: int = 2048
    dual: int = 0
    qk_norm: bool = False
    max_size: int | None = None


class Convolutional(NamedTuple):
    """Width at full resolution, its multiples at each level, blocks in a level, levels with attention."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]


# S to XL are those of Peebles & Xie 2023 (arXiv 2212.09748), table 1. Those before them are for a CPU, of 0.3, 2, 5 and
# 12 million parameters.
DIT: dict[str, Transformer] = {
    "nano": Transformer(4, 64, 2),
    "tiny": Transformer(6, 128, 4),
    "mini": Transformer(8, 192, 3),
    "XS": Transformer(10, 256, 4),
    "S": Transformer(12, 384, 6),
    "B": Transformer(12, 768, 12),
    "L": Transformer(24, 1024, 16),
    "XL": Transformer(28, 1152, 16),
}

# M is of the order of DDPM on 32 x 32 pixels (Ho et al. 2020), L of improved DDPM on 64 x 64 (Nichol & Dhariwal 2021)
# and XL of ADM there (Dhariwal & Nichol 2021): their widths, levels and blocks, with this library's blocks.
UNET: dict[str, Convolutional] = {
    "XS": Convolutional(32, (1, 2, 2), 1, (2,)),
    "S": Convolutional(64, (1, 2, 2), 1, (2,)),
    "M": Convolutional(128, (1, 2, 2), 2, (1, 2)),
    "L": Convolutional(128, (1, 2, 3, 4), 3, (2, 3)),
    "XL": Convolutional(192, (1, 2, 3, 4), 3, (1, 2, 3)),
}

# d15 to d38 are the depths d of Esser et al. 2024 (arXiv 2403.03206) whose scaling they study, of width 64 d with d
# heads; d38, of 8 billion parameters, is also Stable Diffusion 3.5 large. sd3-medium and sd3.5-medium are the others
# that were published, with texts by CLIP and T5. Those before them are for a CPU, of 0.5, 2, 5 and 11 million
# parameters, with texts of MiniLM's width and no pooled vector.
MMDIT: dict[str, Multimodal] = {
    "nano": Multimodal(3, 64, 2, 384, 0, qk_norm=True),
    "tiny": Multimodal(4, 128, 4, 384, 0, qk_norm=True),
    "mini": Multimodal(4, 192, 3, 384, 0, qk_norm=True),
    "XS": Multimodal(5, 256, 4, 384, 0, qk_norm=True),
    **{f"d{d}": Multimodal(d, 64 * d, d, qk_norm=True, max_size=192) for d in (15, 18, 21, 30, 38)},
    "sd3-medium": Multimodal(24, 1536, 24, max_size=192),
    "sd3.5-medium": Multimodal(24, 1536, 24, dual=13, qk_norm=True, max_size=384),
}
# Side of the latents of 1024 pixels, for which the published tables are spaced.
LATENT = 128
# Tokens of a text whose operations the table counts: those of CLIP.
TOKENS = 77


def dit(
    size: str, patch: int = 2, channels: int = 1, classes: int | None = None, **more: Any
) -> DiT:
    """A `DiT` of a size in `DIT`: `dit("XL", patch=2, channels=4, classes=1000, outputs=2)` is DiT-XL/2.

    more: any other argument of `DiT`.
    """
    depth, width, heads = _find("DiT", DIT, size)
    arguments = {"width": width, "depth": depth, "heads": heads} | more
    return DiT(channels, patch, classes=classes, **arguments)


def mmdit(
    size: str, patch: int = 2, channels: int = 1, classes: int | None = None, **more: Any
) -> MMDiT:
    """An `MMDiT` of a size in `MMDIT`: `mmdit("sd3-medium", channels=16)` is Stable Diffusion 3 medium.

    Published sizes have the table of positions that their weights have. more: any other argument of `MMDiT`.
    """
    depth, width, heads, text, pooled, dual, qk_norm, max_size = _find("MMDiT", MMDIT, size)
    arguments = {
        "width": width, "depth": depth, "heads": heads, "text": text, "pooled": pooled or None,
        "dual_attention": list(range(dual)), "qk_norm": qk_norm,
    }  # fmt: skip
    if max_size is not None and "positions" not in more:
        arguments |= {"positions": "table", "size": LATENT, "max_size": max_size}
    return MMDiT(channels, patch, classes=classes, **arguments | more)


def unet(size: str, channels: int = 1, classes: int | None = None, **more: Any) -> UNet:
    """A `UNet` of a size in `UNET`. more: any other argument of `UNet`."""
    width, multipliers, blocks, attention = _find("UNet", UNET, size)
    arguments = {
        "width": width, "multipliers": multipliers, "blocks": blocks, "attention": attention,
    } | more  # fmt: skip
    return UNet(channels, classes=classes, **arguments)


def _find(family: str, sizes: dict[str, Any], size: str) -> Any:
    if size not in sizes:
        raise InputError(f"a {family} is of size {', '.join(sizes)}, not {size!r}")
    return sizes[size]


class Row(NamedTuple):
    """patch: None for a U-Net; flops: of one forward pass for one sample, a multiply-add being two."""

    family: str
    size: str
    patch: int | None
    parameters: int
    flops: int


def table(
    shape: Sequence[int],
    classes: int | None = None,
    patches: Sequence[int] = (2, 4, 8),
    **more: Any,
) -> list[Row]:
    """Every size of each family for images of shape (C, H, W), without those whose patches or levels do not fit.

    shape: also (C, L) of signals or (C, D, H, W) of volumes, which an `MMDiT` does not take. patches: of the
    transformers; those with a table of positions are shown with the first alone. Operations of an `MMDiT` are those
    with a text of 77 tokens. more: what all families take, such as outputs=2 or two_times=True.
    """
    if len(shape) not in (2, 3, 4) or min(shape) < 1:
        raise InputError(f"the shape of an image is channels, height, width: not {tuple(shape)}")
    channels, *sides = shape
    both = {"dims": len(sides)} | more
    rows = []
    for size, small in DIT.items():
        for patch in patches:
            if patch <= min(sides):

                def of(depth: int, dual: int, size: str = size, patch: int = patch) -> Count:
                    return _count(
                        lambda: dit(size, patch, channels, classes, depth=depth, **both), shape
                    )

                rows.append(Row("DiT", size, patch, *_alike(of, small.depth, 1)))
    for size in MMDIT if len(sides) == 2 else ():
        row = MMDIT[size]
        for patch in patches if row.max_size is None else patches[:1]:
            most = max(sides) if row.max_size is None else row.max_size * patch
            if patch > min(sides) or max(sides) > most:
                continue
            text = torch.empty(1, TOKENS, row.text, device="meta")

            def of_both(
                depth: int, dual: int, size: str = size, patch: int = patch, text: Any = text
            ) -> Count:
                options = {"depth": depth, "dual_attention": list(range(dual))} | more
                return _count(
                    lambda: mmdit(size, patch, channels, classes, **options), shape, text=text
                )

            rows.append(Row("MMDiT", size, patch, *_alike(of_both, row.depth, 2, row.dual)))
    for size in UNET:
        with torch.device("meta"):
            net = unet(size, channels, classes, **both)
        if net.smallest <= min(sides):
            rows.append(Row("UNet", size, None, *count(net, shape)))
    return rows


def _count(build: Callable[[], Any], shape: Sequence[int], **cond: Any) -> Count:
    with torch.device("meta"):
        net = build()
    return count(net, shape, **cond)


def _alike(of: Callable[[int, int], Count], depth: int, k: int, dual: int = 0) -> Count:
    """The count of a network of `depth` blocks, the first `dual` of which have a second attention.

    Blocks are alike but for that, and but for the last one: n(d) = n(k) + (d - k) (n(k + 1) - n(k)), and each of the
    `dual` adds what it adds to the first. of: counts (depth, dual). k: blocks from which on that holds.
    """
    if depth <= 2 * k + 1:
        return of(depth, dual)
    two, three = of(k, 0), of(k + 1, 0)
    more = of(k + 1, 1) if dual else three
    return Count(
        *(
            a + (depth - k) * (b - a) + dual * (c - b)
            for a, b, c in zip(two, three, more, strict=True)
        )
    )
