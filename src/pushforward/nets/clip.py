"""Pictures and texts as vectors of one space: the two towers of CLIP, in the layout of transformers' `CLIPModel`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import check_heads
from pushforward.nets.layers import recomputing
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network

Activation = Literal["quick_gelu", "gelu"]
# Logits are cosines times at most this.
MOST = 100.0


def quick_gelu(x: Tensor) -> Tensor:
    """`x sigmoid(1.702 x)`, as the published weights of CLIP have it."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": gelu}


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = check_heads(width, heads)
        self.q_proj, self.k_proj, self.v_proj = (Linear(width, width) for _ in range(3))
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        h = scaled_dot_product_attention(q, k, v, is_causal=causal)
        return cast(Tensor, self.out_proj(h.transpose(1, 2).flatten(2)))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, hidden), Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(self.activation(self.fc1(x))))


class _Layer(nn.Module):
    """`x + attention(norm x)`, then `x + mlp(norm x)`."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, eps: float) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.self_attn = _Attention(width, heads)
        self.mlp = _MLP(width, hidden, activation)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return cast(Tensor, x + self.mlp(self.layer_norm2(x)))


class _Encoder(nn.Module):
    def __init__(self, depth: int, *layer: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(*layer) for _ in range(depth))


class _TextEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int, length: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(length, width)


class _ImageEmbeddings(nn.Module):
    def __init__(self, channels: int, patch: int, places: int, width: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(places + 1, width)


class _TextModel(nn.Module):
    def __init__(self, embeddings: nn.Module, encoder: nn.Module, width: int, eps: float) -> None:
        super().__init__()
        self.embeddings, self.encoder = embeddings, encoder
        self.final_layer_norm = nn.LayerNorm(width, eps)


class _ImageModel(nn.Module):
    def __init__(self, embeddings: nn.Module, encoder: nn.Module, width: int, eps: float) -> None:
        super().__init__()
        self.embeddings, self.encoder = embeddings, encoder
        # Spelt as in transformers, whose weights have this name.
        self.pre_layrnorm = nn.LayerNorm(width, eps)
        self.post_layernorm = nn.LayerNorm(width, eps)


def _check(width: int, depth: int, heads: int, mlp: int | None, activation: str, *more: int) -> int:
    """The width of the hidden layers of the MLPs."""
    if min(width, depth, heads, *more) < 1 or (mlp is not None and mlp < 1):
        raise InputError("the sizes of a tower of CLIP must be positive")
    if activation not in ACTIVATIONS:
        raise InputError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    check_heads(width, heads)
    return 4 * width if mlp is None else mlp


class CLIPText(Network):
    """Texts to vectors: a causal transformer, read at the end of the text.

    Tokens of ids (B, L), L <= length, or ids alone -> states Tokens (B, L, width) after the last norm, and vectors
    (B, projection), or (B, width) without a projection. What comes after the end of a text changes nothing.

    vocabulary: number of ids. end: the id at whose first place a text is read; a text without it is an InputError,
    where transformers reads its first token. None: the largest id of the text, as weights whose config.json says
    eos_token_id 2 are to be read. mlp: width of the hidden layers, 4 width by default.

    Radford et al. 2021 (arXiv 2103.00020), sec. 2.4.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        mlp: int | None = None,
        length: int = 77,
        projection: int | None = 512,
        end: int | None = None,
        activation: Activation = "quick_gelu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden = _check(width, depth, heads, mlp, activation, vocabulary, length, projection or 1)
        if end is not None and not 0 <= end < vocabulary:
            raise InputError(f"end is {end}, and the ids are below {vocabulary}")
        self.width, self.length, self.end, self.vocabulary = width, length, end, vocabulary
        self.pooled = projection or width
        self.checkpointing = False
        self.text_model = _TextModel(
            _TextEmbeddings(vocabulary, width, length),
            _Encoder(depth, width, heads, hidden, activation, eps),
            width,
            eps,
        )
        self.text_projection = (
            None if projection is None else nn.Linear(width, projection, bias=False)
        )
        embeddings = cast(_TextEmbeddings, self.text_model.embeddings)
        nn.init.normal_(embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.01)
        _initialise(self.text_model, width, depth)
        if self.text_projection is not None:
            nn.init.normal_(self.text_projection.weight, std=width**-0.5)

    def forward(self, text: Tokens | Tensor) -> tuple[Tokens, Tensor]:
        ids = text.values if isinstance(text, Tokens) else text
        if ids.ndim != 2 or ids.shape[1] > self.length or ids.is_floating_point():
            raise InputError(
                f"texts are ids (B, L) with L <= {self.length}, got {ids.dtype} {tuple(ids.shape)}"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise InputError(f"ids of texts are from 0 to {self.vocabulary - 1}")
        mask = text.mask if isinstance(text, Tokens) else torch.ones_like(ids, dtype=torch.bool)
        last = self.place_of_end(ids, mask)
        embeddings = cast(_TextEmbeddings, self.text_model.embeddings)
        x = embeddings.token_embedding(ids)
        x = x + embeddings.position_embedding.weight[: ids.shape[1]]
        call = recomputing(self)
        for layer in cast(_Encoder, self.text_model.encoder).layers:
            x = call(layer, x, True)
        x = self.text_model.final_layer_norm(x)
        pooled = x[torch.arange(len(x), device=x.device), last]
        if self.text_projection is not None:
            pooled = self.text_projection(pooled)
        return Tokens(torch.where(mask[..., None], x, 0), mask), pooled

    def place_of_end(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B,) the place at which each text is read."""
        if self.end is None:
            return torch.where(mask, ids, -1).argmax(1)
        here = (ids == self.end) & mask
        if not bool(here.any(1).all()):
            row = int((~here.any(1)).nonzero()[0])
            raise InputError(
                f"text {row} has no end, id {self.end}, at which it is read: put one behind its last word, also where "
                f"it is cut"
            )
        return here.int().argmax(1)


class CLIPImage(Network):
    """Pictures to vectors: a vision transformer, read at its class token.

    (B, channels, size, size) -> tokens (B, 1 + (size/patch)^2, width) before the last norm, the class token first, and
    vectors (B, projection), or (B, width) without a projection. mlp: as in `CLIPText`.

    Radford et al. 2021 (arXiv 2103.00020), sec. 2.4; Dosovitskiy et al. 2020 (arXiv 2010.11929).
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 224,
        patch: int = 32,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int | None = None,
        projection: int | None = 512,
        activation: Activation = "quick_gelu",
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        hidden = _check(width, depth, heads, mlp, activation, channels, patch, projection or 1)
        if size < patch or size % patch:
            raise InputError(f"pictures of {size} pixels cannot be cut into patches of {patch}")
        self.channels, self.size, self.width = channels, size, width
        self.pooled = projection or width
        self.checkpointing = False
        self.vision_model = _ImageModel(
            _ImageEmbeddings(channels, patch, (size // patch) ** 2, width),
            _Encoder(depth, width, heads, hidden, activation, eps),
            width,
            eps,
        )
        self.visual_projection = (
            None if projection is None else nn.Linear(width, projection, bias=False)
        )
        embeddings = cast(_ImageEmbeddings, self.vision_model.embeddings)
        nn.init.normal_(embeddings.class_embedding, std=width**-0.5)
        nn.init.normal_(embeddings.position_embedding.weight, std=width**-0.5)
        _initialise(self.vision_model, width, depth)
        if self.visual_projection is not None:
            nn.init.normal_(self.visual_projection.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (self.channels, self.size, self.size)
        if x.shape[1:] != shape:
            raise InputError(
                f"this tower takes pictures (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}"
            )
        embeddings = cast(_ImageEmbeddings, self.vision_model.embeddings)
        patches = embeddings.patch_embedding(x).flatten(2).transpose(1, 2)
        first = embeddings.class_embedding.to(patches.dtype).expand(len(x), 1, -1)
        h = torch.cat((first, patches), 1) + embeddings.position_embedding.weight
        h = self.vision_model.pre_layrnorm(h)
        call = recomputing(self)
        for layer in cast(_Encoder, self.vision_model.encoder).layers:
            h = call(layer, h, False)
        pooled = self.vision_model.post_layernorm(h[:, 0])
        if self.visual_projection is not None:
            pooled = self.visual_projection(pooled)
        return h, pooled


class CLIP(Network):
    """Both towers, and how sharp their cosines are.

    (pictures (B, channels, size, size), texts Tokens of ids (B, L)) -> vectors (B, dim) of each, of length 1.

    text, image: arguments of `CLIPText` and of `CLIPImage`, without projection. dim: of the common space. scale: what
    cosines are multiplied by at the start of training, 1/temperature.

    Radford et al. 2021 (arXiv 2103.00020).
    """

    def __init__(
        self,
        text: Mapping[str, Any],
        image: Mapping[str, Any],
        dim: int = 512,
        scale: float = 1 / 0.07,
    ) -> None:
        super().__init__()
        if not 0 < scale <= MOST:
            raise InputError(f"scale is {scale}; it lies in (0, {MOST:g}]")
        self.dim = dim
        self.text, self.image = (
            CLIPText(**text, projection=dim),
            CLIPImage(**image, projection=dim),
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))

    @property
    def scale(self) -> Tensor:
        """() what cosines are multiplied by, at most 100."""
        return self.logit_scale.clamp(max=math.log(MOST)).exp()

    def images(self, x: Tensor) -> Tensor:
        """(B, dim) of length 1."""
        return normalize(self.image(x)[1], dim=-1)

    def texts(self, text: Tokens | Tensor) -> Tensor:
        """(B, dim) of length 1."""
        return normalize(self.text(text)[1], dim=-1)

    def forward(self, x: Tensor, text: Tokens | Tensor) -> tuple[Tensor, Tensor]:
        return self.images(x), self.texts(text)


def _initialise(tower: nn.Module, width: int, depth: int) -> None:
    """Weights of the layers as Radford et al. have them: less where many are added up."""
    inside, added = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
    for layer in cast(_Encoder, tower.encoder).layers:
        attention, mlp = cast(_Attention, layer.self_attn), cast(_MLP, layer.mlp)
        for part in (attention.q_proj, attention.k_proj, attention.v_proj):
            nn.init.normal_(part.weight, std=inside)
        for part in (attention.out_proj, mlp.fc2):
            nn.init.normal_(part.weight, std=added)
        nn.init.normal_(mlp.fc1.weight, std=(2 * width) ** -0.5)
        for part in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.out_proj,
            mlp.fc1,
            mlp.fc2,
        ):
            nn.init.zeros_(cast(Tensor, part.bias))
