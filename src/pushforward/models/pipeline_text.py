"""Texts as the pipelines of diffusers make them: rows of one length, padding attended to like words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pushforward.core.conditions import Condition, Null, Tokens, cat, repeat, take, to
from pushforward.core.errors import CheckpointError, InputError
from pushforward.models.pretrained_files import digest_folder, weight_files
from pushforward.models.text import NoText, check_texts

ROWS = 64  # texts that are encoded together
# The text towers of the pipelines that are read. Nothing else is loaded by its name.
ARCHITECTURES = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
NAMES = ("text", "pooled")

_LOADED: dict[tuple[str, str, str], tuple[Any, Any]] = {}


@dataclass(frozen=True)
class Tower:
    """One text encoder of a pipeline, with its tokenizer.

    encoder, tokenizer: their folders in that of the pipeline. length: of the rows, start, end and padding included.
    layer:  which hidden state the tokens are; None for the last one, normalised as the encoder does.
    tokens, pooled: what is taken of it. Pooled is CLIP's state at the end token, projected where it has a projection.
    masked: padding is attended to neither here nor by the network. lower: texts come in lower case, without space
            around them.
    """

    encoder: str
    tokenizer: str
    length: int
    layer: int | None = None
    tokens: bool = True
    pooled: bool = False
    masked: bool = False
    lower: bool = False


@dataclass(frozen=True)
class PipelineText:
    """Texts -> {"text": (B, L, D), "pooled": (B, P)} by the frozen text encoders of a pipeline, in float32.

    folder: of the pipeline. towers: their tokens stand side by side, and their pooled vectors one after the other.
    below:  a tower whose tokens come after those, which are filled up with zeros to its width, as T5 in Stable
            Diffusion 3. Alone, where no other gives tokens, as in FLUX; then they may be masked, as in PixArt, and the
            condition is `Tokens`.
    width, length: of T5's tokens where it is missing: zeros, which are attended to. None: there are none.
    zero_empty: no text is zeros, as in Stable Diffusion XL; otherwise the encoding of the empty text.
    sha256: what the encoders must have, see `digest`; None for any. It is kept with a model.
    device: where the encoders run. They are loaded when they are first used.

    Esser et al. 2024 (arXiv 2403.03206), fig. 2; Podell et al. 2023 (arXiv 2307.01952), sec. 2.1.
    """

    folder: str
    towers: tuple[Tower, ...]
    below: Tower | None = None
    width: int | None = None
    length: int | None = None
    zero_empty: bool = False
    sha256: str | None = None
    device: str = "cpu"
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", str(self.folder))
        object.__setattr__(self, "towers", tuple(self.towers))
        beside = any(tower.tokens for tower in self.towers)
        if any(tower.masked for tower in self.towers) or (beside and self._masked):
            raise InputError("only the tokens of a tower that stands alone, below, can be masked")
        for tower in self.all:
            for name in (tower.encoder, tower.tokenizer):
                if Path(name).name != name:
                    raise InputError(f"{name!r} is no folder within {self.folder}")
                if not (self.path / name).is_dir():
                    raise InputError(
                        f"the text encoder {name} is needed, and there is no folder {self.path / name}: put the "
                        f"pipeline there that the model was imported from"
                    )
        if self.sha256 is not None and self.sha256 != self._found:
            raise CheckpointError(
                f"the text encoders in {self.path} are others than the model was imported with: their SHA-256 is "
                f"{self._found}, expected {self.sha256}. Put the former folder there"
            )

    @property
    def all(self) -> tuple[Tower, ...]:
        return self.towers if self.below is None else (*self.towers, self.below)

    @property
    def _masked(self) -> bool:
        return self.below is not None and self.below.masked

    @property
    def path(self) -> Path:
        return Path(self.folder).expanduser()

    @cached_property
    def _found(self) -> str:
        lines = []
        for tower in self.all:
            lines.append(f"{tower.encoder} {digest_folder(self.path / tower.encoder)}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Of all that the conditions depend on."""
        towers = [list(vars(tower).values()) for tower in self.all]
        options = [self._found, towers, self.below is not None, self.width, self.length]
        return hashlib.sha256(json.dumps(options).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the conditions that it gives."""
        pooled = any(tower.pooled for tower in self.all)
        tokens = any(tower.tokens for tower in self.all)
        return tuple(name for name, there in zip(NAMES, (tokens, pooled), strict=True) if there)

    @property
    def nulls(self) -> Mapping[str, Null]:
        if self.zero_empty:
            return dict.fromkeys(self.names, NoText())
        return {name: EmptyText(self, name) for name in self.names}

    def cut(self, text: str) -> str | None:
        """The least that any tower leaves of a text that is too long, or None if it fits all."""
        left = []
        for tower in self.all:
            tokenizer, _ = self._loaded(tower)
            given = prepared(tower, [text])[0]
            ids = tokenizer(given, truncation=False, verbose=False).input_ids
            if len(ids) > tower.length:
                short = tokenizer(given, truncation=True, max_length=tower.length).input_ids
                left.append(tokenizer.decode(short, skip_special_tokens=True))
        return min(left, key=len, default=None)

    def empty(self) -> dict[str, Condition]:
        """The encoding of the empty text, one row of each."""
        if "empty" not in self._kept:
            self._kept["empty"] = self([""])
        found: dict[str, Condition] = self._kept["empty"]
        return found

    def __call__(self, texts: Sequence[str]) -> dict[str, Condition]:
        check_texts(texts)
        distinct = sorted(set(texts))
        parts = [self._encode(distinct[k : k + ROWS]) for k in range(0, len(distinct), ROWS)] or [
            self._encode([""])
        ]
        place = {text: i for i, text in enumerate(distinct)}
        order = torch.tensor([place[text] for text in texts], dtype=torch.int64)
        return take(cat(parts), order)

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> dict[str, Condition]:
        tokens, pooled = [], []
        for tower in self.towers:
            states, vector, _ = self._run(tower, texts)
            if tower.tokens:
                tokens.append(states)
            if tower.pooled:
                pooled.append(vector)
        beside = torch.cat(tokens, dim=2) if tokens else None
        last = mask = None
        if self.below is not None:
            last, _, mask = self._run(self.below, texts)
        elif self.width is not None and self.length is not None:
            last = torch.zeros(len(texts), self.length, self.width)
        if beside is not None and last is not None:
            if beside.shape[2] > last.shape[2]:
                raise InputError(
                    f"the tokens of the first encoders are {beside.shape[2]} wide, more than the {last.shape[2]} of "
                    f"the last one, to which they are filled up"
                )
            more = last.shape[2] - beside.shape[2]
            beside = torch.cat((torch.nn.functional.pad(beside, (0, more)), last), dim=1)
        found: dict[str, Condition] = {"text": last if beside is None else beside}
        if last is not None and mask is not None and self._masked:
            found["text"] = Tokens(last, mask)
        if pooled:
            found["pooled"] = torch.cat(pooled, dim=1)
        return {name: x for name, x in found.items() if x is not None}

    def _run(self, tower: Tower, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens, pooled vector, where there are tokens)."""
        tokenizer, net = self._loaded(tower)
        given = tokenizer(
            prepared(tower, texts),
            padding="max_length",
            max_length=tower.length,
            truncation=True,
            return_tensors="pt",
        )
        mask = {"attention_mask": given.attention_mask.to(self.device)} if tower.masked else {}
        out = net(
            given.input_ids.to(self.device), **mask, output_hidden_states=tower.layer is not None
        )
        states = out.last_hidden_state if tower.layer is None else out.hidden_states[tower.layer]
        pooled = getattr(out, "text_embeds", None)
        if pooled is None:
            pooled = getattr(out, "pooler_output", None)
        if tower.pooled and pooled is None:
            raise InputError(f"the text encoder {tower.encoder} has no pooled vector")
        vector = states[:, 0] if pooled is None else pooled
        return states.float().cpu(), vector.float().cpu(), given.attention_mask.bool()

    def _loaded(self, tower: Tower) -> tuple[Any, Any]:
        key = (str(self.path / tower.encoder), self._found, self.device)
        if key not in _LOADED:
            _LOADED[key] = load(self.path / tower.encoder, self.path / tower.tokenizer, self.device)
        return _LOADED[key]

    def to_config(self) -> dict[str, Any]:
        return {
            "folder": str(self.path.absolute()), "towers": list(self.towers), "below": self.below, "width": self.width,
            "length": self.length, "zero_empty": self.zero_empty, "sha256": self._found,
        }  # fmt: skip

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PipelineText:
        return cls(**config)


@dataclass(frozen=True)
class EmptyText:
    """No text, which is the encoding of the empty one."""

    encoder: PipelineText
    name: str

    def __call__(self, value: Condition) -> Condition:
        none = self.encoder.empty()[self.name]
        if not isinstance(value, type(none)):
            raise InputError(
                f"{self.name} of this pipeline is a {type(none).__name__}, not {type(value).__name__}"
            )
        if isinstance(none, Tokens):
            rows = repeat(to({self.name: none}, value.mask.device), len(value))[self.name]
            return Tokens(rows.values.to(value.values), rows.mask)
        return none.to(value).expand_as(value)


def prepared(tower: Tower, texts: Sequence[str]) -> list[str]:
    """Texts as a tower takes them."""
    return [text.lower().strip() for text in texts] if tower.lower else list(texts)


def load(folder: Path, tokenizer: Path, device: str) -> tuple[Any, Any]:
    """(tokenizer, network in float32). Nothing in the folders is executed."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "text encoders need transformers: pip install -e '.[text]', or pip install transformers"
        ) from error
    weights = weight_files(folder)[0].name
    options: dict[str, Any] = {
        "local_files_only": True, "trust_remote_code": False,
    }  # fmt: skip
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        name = (config.architectures or [""])[0]
        if name not in ARCHITECTURES:
            raise InputError(
                f"{folder}: the text encoder {name!r} is not known here; known are {', '.join(ARCHITECTURES)}"
            )
        words = transformers.AutoTokenizer.from_pretrained(tokenizer, **options)
        net = getattr(transformers, name).from_pretrained(
            folder, **options, use_safetensors=weights.startswith("model.safetensors"), weights_only=True,
            dtype=torch.float32,
        )  # fmt: skip
    except Exception as error:
        if isinstance(error, MemoryError | InputError):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{folder} cannot be loaded as a text encoder: {reason}") from error
    return words, net.requires_grad_(False).eval().to(device)
