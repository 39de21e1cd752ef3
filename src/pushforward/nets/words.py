"""A small transformer over the words of a text, trained together with what it conditions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import Attention, KeyValues
from pushforward.nets.layers import LayerNorm
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network


class WordBlock(nn.Module):
    """`x + attention(norm x)`, then `x + mlp(norm x)`, norms with a gain and a shift."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            Linear(width, 4 * width), nn.GELU(approximate="tanh"), Linear(4 * width, width)
        )

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), keep=keep)
        return x + self.mlp(self.norm2(x))

    def extend(
        self, x: Tensor, past: KeyValues | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Tokens that come after others, as `Attention.extend` has them."""
        h, past = self.attention.extend(self.norm1(x), past, keep)
        x = x + h
        return x + self.mlp(self.norm2(x)), past


def check_ids(ids: Tensor, vocabulary: int) -> None:
    """InputError for ids of words beyond the vocabulary."""
    low, high = (int(end) for end in ids.aminmax()) if ids.numel() else (0, 0)
    if low < 0 or high >= vocabulary:
        raise InputError(
            f"words have the ids 0 to {vocabulary - 1}, and these go from {low} to {high}: encode texts by the encoder "
            f"that the network was built for"
        )


class WordTransformer(Network):
    """Word ids to vectors: a transformer that sees the whole text.

    Tokens of ids (B, L), L <= length -> Tokens (B, L, width), and their mean (B, width), 0 for a text without words.
    Padding changes nothing. Pre-norm blocks with learned positions (Vaswani et al. 2017; Xiong et al. 2020, arXiv
    2002.04745). vocabulary: number of ids.
    """

    def __init__(
        self, vocabulary: int, width: int = 128, depth: int = 2, heads: int = 4, length: int = 64
    ) -> None:
        super().__init__()
        if min(vocabulary, width, depth, heads, length) < 1:
            raise InputError("vocabulary, width, depth, heads and length must be positive")
        self.width, self.pooled, self.length = width, width, length
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(WordBlock(width, heads) for _ in range(depth))
        self.norm = LayerNorm()
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, text: Tokens) -> tuple[Tokens, Tensor]:
        ids, mask = text.values, text.mask
        if ids.ndim != 2 or ids.shape[1] > self.length or ids.is_floating_point():
            raise InputError(
                f"words are ids (B, L) with L <= {self.length}, got {ids.dtype} {tuple(ids.shape)}"
            )
        ids = torch.where(mask, ids, 0)
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            check_ids(ids, self.words.num_embeddings)
        x = self.words(ids) + self.places.weight[: ids.shape[1]]
        # A text without words attends to itself, and is set to 0 afterwards.
        keep = mask | ~mask.any(1, keepdim=True)
        for block in self.blocks:
            x = block(x, keep)
        x = torch.where(mask[..., None], self.norm(x), 0)
        pooled = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return Tokens(x, mask), pooled


class TextFeatures(Network):
    """What a frozen text encoder found, brought to the width of a network.

    {"tokens": Tokens (B, L, tokens), "pooled": (B, pooled)}, either of them alone if the other is None -> Tokens
    (B, L, width) and (B, pooled) or None. tokens, pooled: widths of what the encoder gives, None for what it does not.
    """

    def __init__(self, width: int, tokens: int | None = None, pooled: int | None = None) -> None:
        super().__init__()
        if tokens is None and pooled is None:
            raise InputError(
                "features of a text are tokens, a pooled vector, or both: give a width"
            )
        self.width, self.pooled = width, pooled
        self.project = None if tokens is None else Linear(tokens, width)

    def forward(self, text: dict[str, Tokens | Tensor]) -> tuple[Tokens | None, Tensor | None]:
        tokens, pooled = text.get("tokens"), text.get("pooled")
        found = None
        if self.project is not None:
            if not isinstance(tokens, Tokens):
                raise InputError("this network takes the tokens of a text encoder")
            values = torch.where(tokens.mask[..., None], tokens.values, 0)
            values = self.project(values.to(self.project.weight.dtype))
            found = Tokens(torch.where(tokens.mask[..., None], values, 0), tokens.mask)
        if self.pooled is not None and not isinstance(pooled, Tensor):
            raise InputError("this network takes the pooled vector of a text encoder")
        return found, pooled if isinstance(pooled, Tensor) else None
