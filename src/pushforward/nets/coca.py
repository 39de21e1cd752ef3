"""Pictures to captions: the contrastive captioner, CoCa."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import CrossAttention, KeyValues
from pushforward.nets.clip import MOST, CLIPImage
from pushforward.nets.layers import recomputing
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network
from pushforward.nets.words import WordBlock


class AttentionalPooler(nn.Module):
    """Learned queries that attend to a sequence once: (B, L, context) -> (B, queries, width). They start at size 1.

    Yu et al. 2022 (arXiv 2205.01917), sec. 3.2; Lee et al. 2019 (arXiv 1810.00825).
    """

    def __init__(self, queries: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.norm_in = nn.LayerNorm(context)
        self.attention = CrossAttention(width, heads, context)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, context: Tensor) -> Tensor:
        queries = self.queries.to(context.dtype).expand(len(context), -1, -1)
        return cast(Tensor, self.norm_out(self.attention(queries, self.norm_in(context))))


class LookingBlock(nn.Module):
    """`x + attention(norm x)`, `x + cross(norm x, picture)`, then `x + mlp(norm x)`."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.own = WordBlock(width, heads)
        self.norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, context)

    def forward(self, x: Tensor, picture: Tensor, keep: Tensor) -> Tensor:
        return self.extend(x, None, self.cross.read(picture), keep)[0]

    def extend(
        self, x: Tensor, past: KeyValues | None, picture: KeyValues, keep: Tensor | None
    ) -> tuple[Tensor, KeyValues]:
        """As `Attention.extend`; picture: its keys and values."""
        h, past = self.own.attention.extend(self.own.norm1(x), past, keep)
        x = x + h
        x = x + self.cross.look(self.norm(x), picture)
        return x + self.own.mlp(self.own.norm2(x)), past


@dataclass(frozen=True)
class _Past:
    """What a decoder has seen: keys and values of the words so far in each layer, and of the picture in those that look
    at it."""

    words: tuple[KeyValues, ...]
    picture: tuple[KeyValues, ...]

    @property
    def count(self) -> int:
        """Words so far, the start among them."""
        return self.words[0][0].shape[2]

    def take(self, rows: Tensor) -> _Past:
        """That of the samples `rows` (M,), in any order and number."""
        return _Past(_rows(self.words, rows), _rows(self.picture, rows))


def _rows(pairs: Sequence[KeyValues], rows: Tensor) -> tuple[KeyValues, ...]:
    return tuple((k[rows], v[rows]) for k, v in pairs)


class WordDecoder(Network):
    """The law of the next word of a caption from those before it and a picture.

    Layers that see the words alone come first, and layers that look at the picture, too, after them. Each word sees
    those before it. A learned [CLS] behind the words, which sees all of them and which none sees, is what the first
    layers say of the whole text.

    (ids Tokens (B, L), picture (B, n, context)) -> vectors of the texts (B, width), and logits (B, L, vocabulary) of
    the words at the places 0 to L - 1, each from the words before its place: L <= length. Padding changes nothing.

    depth: layers of the words alone. looking: layers that look at the picture.

    Yu et al. 2022 (arXiv 2205.01917), sec. 3.2.
    """

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int = 128,
        depth: int = 2,
        looking: int = 2,
        heads: int = 4,
        length: int = 64,
    ) -> None:
        super().__init__()
        if min(vocabulary, context, width, depth, looking, heads, length) < 1:
            raise InputError("the sizes of a decoder of words must be positive")
        self.vocabulary, self.width, self.length = vocabulary, width, length
        self.checkpointing = False
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(length, width)
        self.start = nn.Parameter(0.02 * torch.randn(width))
        self.whole = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(WordBlock(width, heads) for _ in range(depth))
        self.looking = nn.ModuleList(LookingBlock(width, heads, context) for _ in range(looking))
        self.norm_text, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.places.weight, std=0.02)

    def check(self, text: Tokens) -> None:
        """InputError unless these are ids of texts that this decoder knows."""
        ids = text.values
        if ids.ndim != 2 or ids.shape[1] > self.length or ids.is_floating_point():
            raise InputError(
                f"captions are ids (B, L) with L <= {self.length}, got {ids.dtype} {tuple(ids.shape)}"
            )
        there = ids[text.mask]
        if there.numel() and not 0 <= int(there.min()) <= int(there.max()) < self.vocabulary:
            raise InputError(f"ids of words are from 0 to {self.vocabulary - 1}")

    def forward(self, text: Tokens, picture: Tensor) -> tuple[Tensor, Tensor]:
        x, keep, vectors = self._alone(text)
        call = recomputing(self)
        for block in self.looking:
            x = call(block, x, picture, keep)
        return vectors, self.head(self.norm(x))

    def texts(self, text: Tokens) -> Tensor:
        """(B, width) the vectors alone."""
        return self._alone(text)[2]

    def _alone(self, text: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """States (B, L, width) of the words behind the layers that see them alone, who sees whom, and the vectors."""
        if not torch.compiler.is_compiling():
            self.check(text)
        # The word at a place is asked for where the one before it is read; the first one, where the start is.
        before = torch.where(text.mask, text.values, 0)[:, :-1]
        count, rows = text.mask.shape[1], len(text)
        first = self.start.expand(rows, 1, -1)
        x = torch.cat((first, self.embedding(before)), 1) + self.places.weight[:count]
        keep = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
        keep = keep.expand(rows, -1, -1)
        x = torch.cat((x, self.whole.to(x.dtype).expand(rows, 1, -1)), 1)
        call, seen = recomputing(self), self._with_whole(keep, text.mask)
        for block in self.blocks:
            x = call(block, x, seen)
        return x[:, :-1], keep, self.norm_text(x[:, -1])

    @staticmethod
    def _with_whole(keep: Tensor, mask: Tensor) -> Tensor:
        """The mask of attention with one more token, which sees all that are there and is seen by none."""
        rows, count = mask.shape
        column = torch.cat((keep, keep.new_zeros(rows, count, 1)), 2)
        last = torch.cat((mask, mask.new_ones(rows, 1)), 1)[:, None]
        return torch.cat((column, last), 1)

    def begin(self, picture: Tensor) -> tuple[Tensor, _Past]:
        """Logits (B, vocabulary) of the first words, and what is kept for the next ones."""
        read = tuple(cast(LookingBlock, block).cross.read(picture) for block in self.looking)
        start = self.start.to(picture.dtype).expand(len(picture), 1, -1)
        return self._extended(start, _Past((), read), 0)

    def follow(self, ids: Tensor, past: _Past) -> tuple[Tensor, _Past]:
        """Logits (B, vocabulary) of the words behind these (B,), and what is kept for the next ones."""
        return self._extended(self.embedding(ids)[:, None], past, past.count)

    def _extended(self, x: Tensor, past: _Past, place: int) -> tuple[Tensor, _Past]:
        if place >= self.length:
            raise InputError(f"captions have at most {self.length} words")
        x = x + self.places.weight[place]
        before: Sequence[KeyValues | None] = past.words or [None] * (
            len(self.blocks) + len(self.looking)
        )
        after = []
        for k, block in enumerate(self.blocks):
            x, pair = cast(WordBlock, block).extend(x, before[k])
            after.append(pair)
        for k, block in enumerate(self.looking):
            here = before[len(self.blocks) + k]
            x, pair = cast(LookingBlock, block).extend(x, here, past.picture[k], None)
            after.append(pair)
        return self.head(self.norm(x[:, 0])), _Past(tuple(after), past.picture)


class CoCa(Network):
    """A contrastive captioner: vectors of pictures and texts in one space, and the law of a caption given a picture.

    (pictures (B, channels, size, size), captions Tokens of ids (B, L)) -> vectors (B, dim) of each, of length 1; logits
    (B, L, vocabulary) of the words, each from the picture and the words before it; and () what cosines are multiplied
    by, exp(logit_scale), at most 100.

    The picture's tokens are pooled by `queries` learned queries for the decoder, and these by one more for the vector:
    the published cascade of poolers.

    image: arguments of `CLIPImage`, without projection. words: of `WordDecoder`, without context. queries: tokens of
    a picture that the decoder looks at. dim: of the common space. scale: at the start of training.

    Yu et al. 2022 (arXiv 2205.01917).
    """

    def __init__(
        self,
        image: Mapping[str, Any],
        words: Mapping[str, Any],
        queries: int = 64,
        dim: int = 64,
        scale: float = 1 / 0.07,
    ) -> None:
        super().__init__()
        if not 0 < scale <= MOST:
            raise InputError(f"scale is {scale}; it lies in (0, {MOST:g}]")
        if min(queries, dim) < 1:
            raise InputError("queries and dim must be positive")
        self.dim = dim
        self.image = CLIPImage(**image, projection=None)
        width, heads = self.image.width, int(self.image.config["heads"])
        self.pool = AttentionalPooler(queries, width, heads, width)
        self.pool_vector = AttentionalPooler(1, width, heads, width)
        self.words = WordDecoder(**words, context=width)
        self.project_image = nn.Linear(width, dim, bias=False)
        self.project_text = nn.Linear(self.words.width, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def scale(self) -> Tensor:
        """() what cosines are multiplied by, at most 100."""
        return self.logit_scale.clamp(max=math.log(MOST)).exp()

    @property
    def checkpointing(self) -> bool:
        return self.words.checkpointing

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.words.checkpointing = self.image.checkpointing = value

    def look(self, x: Tensor) -> Tensor:
        """(B, queries, width): what the decoder looks at of pictures."""
        states, _ = self.image(x)
        return cast(Tensor, self.pool(self.image.vision_model.post_layernorm(states)))

    def images(self, x: Tensor) -> Tensor:
        """(B, dim) of length 1."""
        return self._vector(self.look(x))

    def _vector(self, seen: Tensor) -> Tensor:
        return normalize(self.project_image(self.pool_vector(seen)[:, 0]), dim=-1)

    def texts(self, text: Tokens) -> Tensor:
        """(B, dim) of length 1."""
        return normalize(self.project_text(self.words.texts(text)), dim=-1)

    def forward(self, x: Tensor, text: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = self.look(x)
        vectors, logits = self.words(text, seen)
        v = normalize(self.project_text(vectors), dim=-1)
        return self._vector(seen), v, logits, self.scale
