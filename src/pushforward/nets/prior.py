"""Causal transformers that find the vector of a picture from a text: by diffusion, and bucket by bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import KeyValues
from pushforward.nets.layers import LayerNorm, recomputing, time_features, zero
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network, refuse_mask
from pushforward.nets.words import WordBlock

TIME_FEATURES = 256


def causal(keep: Tensor) -> Tensor:
    """(B, N, N) bool: each token sees those before it that are kept, and itself. keep: (B, N) bool."""
    n = keep.shape[1]
    before = torch.ones(n, n, dtype=torch.bool, device=keep.device).tril()
    return (keep[:, None, :] & before) | torch.eye(n, dtype=torch.bool, device=keep.device)


class _Text(nn.Module):
    """The tokens and the vector of a text, as the first tokens of a sequence."""

    def __init__(self, width: int, context: int, sentence: int | None, length: int) -> None:
        super().__init__()
        self.length = length
        self.tokens = Linear(context, width)
        self.places = nn.Embedding(length, width)
        self.sentence = None if sentence is None else Linear(sentence, width)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(
        self, rows: int, like: Tensor, context: Tokens | None, sentence: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(rows, L, width), and which of them are there. like: for the precision and the device."""
        values = like.new_zeros(rows, 0, self.places.embedding_dim)
        mask = torch.zeros(rows, 0, dtype=torch.bool, device=like.device)
        if context is not None:
            if context.values.shape[1] > self.length:
                raise InputError(
                    f"texts are of {self.length} tokens at most, got {context.values.shape[1]}"
                )
            mask = context.mask
            given = torch.where(mask[..., None], context.values, 0).to(self.tokens.weight.dtype)
            values = self.tokens(given) + self.places.weight[: mask.shape[1]]
        if self.sentence is not None:
            if sentence is None:
                sentence = like.new_zeros(rows, self.sentence.in_features)
            vector = self.sentence(sentence.to(self.sentence.weight.dtype))
            values = torch.cat((values, vector[:, None]), 1)
            mask = torch.cat((mask, mask.new_ones(rows, 1)), 1)
        return values, mask


class PriorTransformer(Network):
    """The vector of a picture among noise, from a text: a causal transformer whose last token is the answer.

    (x (B, dim), t (B,)) with a text -> (B, dim). The sequence is

        tokens of the text, its vector, t, x, a learned query

    and each token sees those before it. What a diffusion prior is made of: a `Model` of it that predicts the data, on
    any path, with texts by `Prompted`.

    context: width of the tokens of a text, given as `context`; None or without tokens where there is no text.
    sentence: width of its vector, given as `sentence`; None for none. length: the most tokens.
    width, depth, heads: of the transformer. time: as in `MLP`. The last layer starts at 0.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """

    double_times = True

    def __init__(
        self,
        dim: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        context: int = 256,
        sentence: int | None = None,
        length: int = 77,
        time: str = "sinusoidal",
    ) -> None:
        super().__init__()
        if min(dim, width, depth, heads, context, length) < 1:
            raise InputError("the sizes of a prior must be positive")
        self.dim, self.checkpointing = dim, False
        self.text = _Text(width, context, sentence, length)
        self.features = time_features(time, TIME_FEATURES)
        self.mix = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.conv_in = Linear(dim, width)
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.kinds = nn.Parameter(0.02 * torch.randn(2, width))
        self.blocks = nn.ModuleList(WordBlock(width, heads) for _ in range(depth))
        self.norm = LayerNorm()
        self.conv_out = zero(Linear(width, dim))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tokens | None = None,
        sentence: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        refuse_mask("PriorTransformer", mask)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(f"this prior takes vectors (B, {self.dim}), got {tuple(x.shape)}")
        text, keep = self.text(len(x), x, context, sentence)
        when = self.mix(self.features(t).to(x.dtype)) + self.kinds[0]
        own = self.conv_in(x) + self.kinds[1]
        last = torch.stack((when, own, self.query.to(own.dtype).expand_as(own)), 1)
        h = torch.cat((text, last), 1)
        seen = causal(torch.cat((keep, keep.new_ones(len(x), 3)), 1))
        call = recomputing(self)
        for block in self.blocks:
            h = call(block, h, seen)
        out: Tensor = self.conv_out(self.norm(h[:, -1]))
        return out


class BucketsRead(NamedTuple):
    """What a `BucketTransformer` has read: keys and values of each layer, which of the tokens are there, and how many
    are ids of dimensions."""

    pairs: tuple[KeyValues, ...]
    keep: Tensor
    known: int = 0


class BucketTransformer(Network):
    """The law of the next bucket from a text and the buckets before it.

    ids (B, K), K < dims, with a text -> logits (B, K + 1, buckets): row k is of dimension k, from the text and the
    ids 0 to k - 1. The sequence is

        tokens of the text, its vector, ids of the prefix, a learned start, ids of the dimensions

    dims: dimensions that are predicted one after the other. buckets: of each. prefix: number of buckets of each number
    that precedes them, such as the cosine of text and picture; () for none.
    context, sentence, length, width, depth, heads: as in `PriorTransformer`.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """

    def __init__(
        self,
        dims: int,
        buckets: int = 64,
        prefix: Sequence[int] = (),
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        context: int = 256,
        sentence: int | None = None,
        length: int = 77,
    ) -> None:
        super().__init__()
        if min(dims, buckets, width, depth, heads, context, length, *prefix) < 1:
            raise InputError("the sizes of a prior must be positive")
        self.dims, self.buckets, self.checkpointing = dims, buckets, False
        self.text = _Text(width, context, sentence, length)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.prefix = nn.ModuleList(nn.Embedding(n, width) for n in prefix)
        # Every dimension has buckets, and a head, of its own.
        self.ids = nn.Embedding(dims * buckets, width)
        self.blocks = nn.ModuleList(WordBlock(width, heads) for _ in range(depth))
        self.norm = LayerNorm()
        self.heads = nn.Parameter(torch.zeros(dims, buckets, width))
        self.biases = nn.Parameter(torch.zeros(dims, buckets))
        for part in (self.ids, *self.prefix):
            nn.init.normal_(part.weight, std=0.02)

    def forward(
        self,
        ids: Tensor,
        prefix: Tensor | None = None,
        context: Tokens | None = None,
        sentence: Tensor | None = None,
    ) -> Tensor:
        if ids.ndim != 2 or ids.shape[1] >= self.dims or ids.is_floating_point():
            raise InputError(
                f"buckets are ids (B, K) with K < {self.dims}, got {ids.dtype} {tuple(ids.shape)}"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.buckets:
            raise InputError(f"ids of buckets are from 0 to {self.buckets - 1}")
        count = ids.shape[1]
        h, keep = self._before(len(ids), prefix, context, sentence)
        place = torch.arange(count, device=ids.device) * self.buckets
        h = torch.cat((h, self.ids(ids + place)), 1)
        seen = causal(torch.cat((keep, keep.new_ones(len(ids), count)), 1))
        call = recomputing(self)
        for block in self.blocks:
            h = call(block, h, seen)
        return self._logits(h[:, -(count + 1) :], 0)

    def begin(
        self,
        prefix: Tensor,
        context: Tokens | None = None,
        sentence: Tensor | None = None,
    ) -> tuple[Tensor, BucketsRead]:
        """Logits (B, buckets) of the first dimension, and what `follow` goes on from. prefix: (B, P), P may be 0."""
        h, keep = self._before(len(prefix), prefix, context, sentence)
        return self._extended(h, causal(keep), BucketsRead((), keep))

    def follow(self, ids: Tensor, past: BucketsRead) -> tuple[Tensor, BucketsRead]:
        """Logits (B, buckets) of the dimension behind these ids (B,), and what it goes on from."""
        keep = torch.cat((past.keep, past.keep.new_ones(len(ids), 1)), 1)
        h = self.ids(ids + past.known * self.buckets)[:, None]
        return self._extended(h, keep, BucketsRead(past.pairs, keep, past.known + 1))

    def _before(
        self, rows: int, prefix: Tensor | None, context: Tokens | None, sentence: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The text, the prefix and the start, (rows, L, width), and which of them are there."""
        text, keep = self.text(rows, self.start, context, sentence)
        parts = [text]
        if len(self.prefix):
            if prefix is None or prefix.shape != (rows, len(self.prefix)):
                raise InputError(f"this prior takes a prefix (B, {len(self.prefix)}) of ids")
            parts.append(torch.stack([e(prefix[:, k]) for k, e in enumerate(self.prefix)], 1))
        parts.append(self.start.expand(rows, 1, -1))
        h = torch.cat(parts, 1)
        more = keep.new_ones(rows, h.shape[1] - keep.shape[1])
        return h, torch.cat((keep, more), 1)

    def _extended(self, h: Tensor, seen: Tensor, past: BucketsRead) -> tuple[Tensor, BucketsRead]:
        before = past.pairs or (None,) * len(self.blocks)
        pairs = []
        for block, pair in zip(self.blocks, before, strict=True):
            h, after = cast(WordBlock, block).extend(h, pair, seen)
            pairs.append(after)
        logits = self._logits(h[:, -1:], past.known)[:, 0]
        return logits, BucketsRead(tuple(pairs), past.keep, past.known)

    def _logits(self, h: Tensor, first: int) -> Tensor:
        """(B, K, buckets) of the dimensions first, ..., first + K - 1."""
        h, rows = self.norm(h), slice(first, first + h.shape[1])
        out: Tensor = torch.einsum("bkw,knw->bkn", h, self.heads[rows].to(h.dtype))
        return out + self.biases[rows]
