"""Pictures and texts in one space, with records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.models.base import Encoder, ModelBase
from pushforward.nets.clip import CLIP
from pushforward.runtime.hashes import digest

# Pictures or texts that are embedded together.
ROWS = 256


class CLIPModel(ModelBase):
    """CLIP and what its texts are read by. It draws nothing: it compares, and its vectors condition other models.

    net:       both towers. encoders: {"caption": ...}, what makes ids of texts, with an end.
    mean, std: of each channel, by which pictures, in [0, 1] then, are normalised; None: pictures are taken as they are
               in the data, in [-1, 1].
    spec, provenance, shape: as in `Model`.
    """

    def __init__(
        self,
        net: CLIP,
        *,
        encoders: Mapping[str, Encoder],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        shape: Sequence[int] = (),
        spec: DataSpec | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        if list(encoders) != ["caption"]:
            raise InputError(
                "a CLIPModel has one encoder, that of captions: encoders={'caption': ...}"
            )
        if (mean is None) != (std is None):
            raise InputError("mean and std belong together: give both or neither")
        for name, value in (("mean", mean), ("std", std)):
            if value is not None and len(value) != net.image.channels:
                raise InputError(f"{name} has one value for each of {net.image.channels} channels")
        self.set_records(
            shape, spec=spec, nulls={}, sampling=sampling, provenance=provenance, encoders=encoders
        )
        self.net = net
        self.mean = None if mean is None else [float(m) for m in mean]
        self.std = None if std is None else [float(s) for s in std]

    def to_config(self) -> dict[str, Any]:
        config = self.records() | {"net": self.net, "mean": self.mean, "std": self.std}
        del config["nulls"]
        return config

    @property
    def digest(self) -> str:
        """SHA-256 of both towers and all else that vectors depend on: two CLIPs of one digest have one space."""
        about = f"{self.encoders['caption'].digest} {self.mean} {self.std}"
        return digest(self.net.state_dict() | {about: torch.zeros(0)})

    def normalised(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1] as the network takes them."""
        if self.mean is None or self.std is None:
            return x
        mean, std = (x.new_tensor(v)[:, None, None] for v in (self.mean, self.std))
        return ((x + 1) / 2 - mean) / std

    def tokens(self, condition: Mapping[str, Any]) -> Tokens:
        """The ids among what the encoder made of texts."""
        (found,) = condition.values()
        if not isinstance(found, Tokens):
            raise InputError("the encoder of a CLIPModel gives ids of texts, with a mask")
        return found

    def forward(self, x: Tensor, text: Tokens) -> tuple[Tensor, Tensor]:
        """Vectors (B, dim) of length 1 of pictures in [-1, 1] and of ids of texts."""
        found: tuple[Tensor, Tensor] = self.net(self.normalised(x), text)
        return found

    @torch.no_grad()
    def images(self, x: Tensor) -> Tensor:
        """(N, dim) of pictures (N, C, H, W) in [-1, 1], on the CPU, some at a time."""
        device = self.net.logit_scale.device
        parts = [self.net.images(self.normalised(p.to(device))).cpu() for p in x.split(ROWS)]
        return torch.cat(parts)

    @torch.no_grad()
    def texts(self, lines: Sequence[str]) -> Tensor:
        """(N, dim) of texts, on the CPU, some at a time."""
        device = self.net.logit_scale.device
        parts = []
        for start in range(0, len(lines), ROWS):
            made = self.encoders["caption"](list(lines[start : start + ROWS]))
            tokens = self.tokens(conditions.to(made, device))
            parts.append(self.net.texts(tokens).cpu())
        return torch.cat(parts)
