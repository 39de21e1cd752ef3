"""The law of a picture's vector given a text, one bucket after the other; and texts as a CLIP sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Condition, Conditions, Null
from pushforward.core.errors import InputError
from pushforward.core.noise import BUCKET, Noise
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import Encoder, ModelBase
from pushforward.models.clip import CLIPModel
from pushforward.models.text import NoText
from pushforward.nets.network import Network
from pushforward.nets.prior import BucketsRead, BucketTransformer
from pushforward.nets.prompted import Prompted
from pushforward.runtime.hashes import digest


@dataclass(frozen=True)
class CLIPTexts:
    """Texts -> {name: {"tokens": Tokens (B, L, width), "pooled": (B, dim)}} by the text tower of a CLIP, frozen.

    pooled: the vector of the text in the common space, of length sqrt(dim), so that its numbers are of size 1.
    """

    clip: CLIPModel
    name: str = "text"

    @cached_property
    def digest(self) -> str:
        words = self.clip.encoders["caption"].digest
        return digest(self.clip.net.text.state_dict() | {words: torch.zeros(0)})

    @property
    def nulls(self) -> Mapping[str, Null]:
        return {self.name: NoText()}

    @property
    def features(self) -> dict[str, int]:
        """Widths of what it gives, as `TextFeatures(width, **features)` takes them."""
        return {"tokens": self.clip.net.text.width, "pooled": self.clip.net.dim}

    def cut(self, text: str) -> str | None:
        """What is left of a text that is too long, or None if it fits."""
        encoder: Any = self.clip.encoders["caption"]
        found: str | None = encoder.cut(text)
        return found

    def unknown(self, text: str) -> list[str]:
        """The words of a text that have no id."""
        encoder: Any = self.clip.encoders["caption"]
        return list(encoder.unknown(text))

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> dict[str, Condition]:
        net = self.clip.net.text.eval()
        device = self.clip.net.logit_scale.device
        ids = self.clip.tokens(conditions.to(self.clip.encoders["caption"](list(texts)), device))
        tokens, vectors = net(ids)
        size = vectors.shape[1] ** 0.5
        pooled = size * torch.nn.functional.normalize(vectors, dim=1)
        return conditions.to({self.name: {"tokens": tokens, "pooled": pooled}}, "cpu")

    def to_config(self) -> dict[str, Any]:
        return {"clip": self.clip, "name": self.name}


class Buckets(Network):
    """Vectors as ids: coordinates along principal axes, each in buckets that are equally full.

    (B, dim) -> ids (B, dims), and back to the mean of what fell into each bucket, which is the reconstruction of least
    squared error for these buckets. Axes come in the order of variance.

    cosines: buckets of the cosine of two vectors, of which the upper half is drawn from (see `AutoregressivePrior`).
    """

    mean: Tensor
    axes: Tensor
    edges: Tensor
    centres: Tensor
    cosine_edges: Tensor

    def __init__(self, dim: int, dims: int, buckets: int = 64, cosines: int = 8) -> None:
        super().__init__()
        if not 1 <= dims <= dim or min(buckets, cosines) < 2:
            raise InputError(
                f"dims is {dims} of {dim}, with {buckets} buckets and {cosines} of cosines: take at most dim, and 2 or "
                f"more buckets"
            )
        self.dim, self.dims, self.buckets, self.cosines = dim, dims, buckets, cosines
        for name, shape in (
            ("mean", (dim,)), ("axes", (dims, dim)), ("edges", (dims, buckets - 1)), ("centres", (dims, buckets)),
            ("cosine_edges", (cosines - 1,)),
        ):  # fmt: skip
            self.register_buffer(name, torch.zeros(shape))

    @torch.no_grad()
    def fit(self, pictures: Tensor, texts: Tensor) -> Buckets:
        """From vectors of pictures (N, dim) and of their texts (N, dim), N at least as many as there are buckets."""
        if len(pictures) < max(self.buckets, self.dims + 1, self.cosines):
            raise InputError(
                f"{len(pictures)} vectors cannot fill {self.buckets} buckets: give more, or take fewer buckets"
            )
        z = pictures.double()
        mean = z.mean(0)
        axes = torch.linalg.svd(z - mean, full_matrices=False).Vh[: self.dims]
        h = (z - mean) @ axes.T
        inner = torch.arange(1, self.buckets, dtype=torch.float64) / self.buckets
        edges = torch.quantile(h, inner, dim=0).T.contiguous()
        ids = torch.searchsorted(edges, h.T.contiguous(), right=True)
        centres = torch.zeros(self.dims, self.buckets, dtype=torch.float64)
        counts = torch.zeros_like(centres)
        centres.scatter_add_(1, ids, h.T)
        counts.scatter_add_(1, ids, torch.ones_like(h.T))
        # A bucket that ties left empty is between its edges.
        low = torch.cat((edges[:, :1], edges), 1)
        high = torch.cat((edges, edges[:, -1:]), 1)
        centres = torch.where(counts > 0, centres / counts.clamp(min=1), (low + high) / 2)
        parts = torch.arange(1, self.cosines, dtype=torch.float64) / self.cosines
        cosine_edges = torch.quantile(cosine(z, texts.double()), parts)
        for name, value in (
            ("mean", mean), ("axes", axes), ("edges", edges), ("centres", centres), ("cosine_edges", cosine_edges),
        ):  # fmt: skip
            getattr(self, name).copy_(value)
        return self

    def encode(self, x: Tensor) -> Tensor:
        """(B, dims) ids."""
        h = (x - self.mean) @ self.axes.T
        return torch.searchsorted(self.edges, h.T.contiguous(), right=True).T.contiguous()

    def decode(self, ids: Tensor) -> Tensor:
        """(B, dim) vectors."""
        h = self.centres.gather(1, ids.T.contiguous()).T
        return self.mean + h @ self.axes

    def match(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """(B, 1) the bucket of their cosine."""
        found = torch.searchsorted(self.cosine_edges, cosine(pictures, texts), right=True)
        return found[:, None]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=1)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits (B, n) with all but the likeliest ids, the fewest that have the probability top_p together, at -inf.

    Holtzman et al. 2019 (arXiv 1904.09751), eq. 2-3.
    """
    if top_p >= 1:
        return logits
    ordered, order = logits.softmax(-1).sort(descending=True, dim=-1)
    # The first one that reaches top_p still belongs to them.
    out = ordered.cumsum(-1) - ordered >= top_p
    return logits.masked_fill(torch.zeros_like(out).scatter(1, order, out), -torch.inf)


def drawn(logits: Tensor, u: Tensor) -> Tensor:
    """(B,) ids of the law softmax(logits), by inversion of its distribution function at u (B,) in (0, 1)."""
    upto = logits.double().softmax(-1).cumsum(-1)
    upto = upto / upto[:, -1:]
    found = torch.searchsorted(upto, u[:, None].double().contiguous(), right=True)[:, 0]
    return found.clamp(max=logits.shape[1] - 1)


class AutoregressivePrior(ModelBase):
    """p(vector of a picture | text), a product of laws of buckets: p(b_1 | y, c) p(b_2 | b_1, y, c) ...

    net:      a `Prompted` `BucketTransformer`, whose prefix is the bucket of the cosine c of picture and text.
    buckets:  fitted `Buckets`.
    encoders: {"prompt": CLIPTexts}. spec, provenance: as in `Model`.

    Ramesh et al. 2022 (arXiv 2204.06125), sec. 2.2.
    """

    def __init__(
        self,
        net: Any,
        buckets: Buckets,
        *,
        encoders: Mapping[str, Encoder],
        shape: Sequence[int] = (),
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(net, Prompted) or not isinstance(net.net, BucketTransformer):
            raise InputError(
                f"an AutoregressivePrior is of a Prompted BucketTransformer, not a {type(net).__name__}"
            )
        self.set_records(
            shape,
            spec=spec,
            nulls=nulls,
            sampling=sampling,
            provenance=provenance,
            encoders=encoders,
        )
        self.net: Any = net
        self.buckets = buckets

    def to_config(self) -> dict[str, Any]:
        return self.records() | {"net": self.net, "buckets": self.buckets}

    def forward(self, ids: Tensor, prefix: Tensor, **cond: Any) -> Tensor:
        """Logits (B, K + 1, buckets) of the next buckets after ids (B, K)."""
        out: Tensor = self.net(ids, prefix, **cond)
        return out

    def begin(self, prefix: Tensor, **cond: Any) -> tuple[Tensor, BucketsRead]:
        """Logits (B, buckets) of the first bucket, and what the network's `follow` goes on from."""
        return self.net.net.begin(prefix, **self.net.read(prefix, cond))

    @torch.no_grad()
    def vectors(
        self,
        lines: Sequence[str],
        *,
        seed: int = 0,
        start: int = 0,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Tensor:
        """(N, dim) a vector of each text, a function of (seed, start + row) alone.

        The bucket of the cosine is drawn from the upper half of those in training. guidance: logits are those without
        the text and `guidance` times what it changes. temperature divides logits; top_p: see `nucleus`.
        """
        if not temperature > 0 or not 0 < top_p <= 1:
            raise InputError(
                f"temperature is {temperature} and top_p {top_p}: the first is positive, the second in (0, 1]"
            )
        device = self.buckets.mean.device
        cond: Conditions = conditions.to(dict(self.encoders["prompt"](list(lines))), device)
        none = conditions.drop(cond, self.nulls) if guidance != 1 else {}
        noise = Noise(seed, torch.arange(start, start + len(lines)), 0)
        upper = torch.arange(self.buckets.cosines // 2, self.buckets.cosines)
        u = noise.uniform((1 + self.buckets.dims,), BUCKET)
        prefix = upper[(u[:, :1] * len(upper)).long()].to(device)
        ids: list[Tensor] = []
        given, past = self.begin(prefix, **cond)
        free, freely = self.begin(prefix, **none) if guidance != 1 else (given, past)
        for k in range(self.buckets.dims):
            logits = given if guidance == 1 else free + guidance * (given - free)
            logits = nucleus(logits.double() / temperature, top_p)
            ids.append(drawn(logits, u[:, 1 + k].to(device)))
            if k + 1 < self.buckets.dims:
                given, past = self.net.net.follow(ids[-1], past)
                if guidance != 1:
                    free, freely = self.net.net.follow(ids[-1], freely)
        return self.buckets.decode(torch.stack(ids, 1))
