"""A text encoder of `transformers` with its tokenizer: texts to ids, ids to states and a pooled vector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.models.pretrained_files import tokenizer_folder, weight_files

# Lengths beyond this one in a tokenizer's files stand for "no limit".
NO_LIMIT = 1 << 20
DEFAULT_LENGTH = 512

Pool = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LoadedTransformer:
    """A frozen encoder.

    net:    ids and mask -> hidden states. tokenizer: of the library tokenizers, without truncation and padding.
    length: the most tokens. width: D of the states. pad: id that stands at padded places.
    pool:   (ids (B, L), mask (B, L), last state (B, L, D)) -> (B, P), or None. pooled: P.
    """

    net: nn.Module
    tokenizer: Any
    length: int
    width: int
    pad: int
    pool: Pool | None
    pooled: int | None
    device: torch.device

    def ids(self, text: str, length: int | None = None) -> list[int]:
        """Ids of a text, start and end included, cut between words to `length`."""
        whole: list[int] = self.tokenizer.encode(text).ids
        most = self.length if length is None else length
        if len(whole) <= most:
            return whole
        whole = self.tokenizer.encode(self._fitting(text, most)).ids
        if len(whole) <= most:
            return whole
        # One word that is too long: cut within, what ends a text kept.
        _, after = self._frame()
        return [*whole[: most - len(after)], *after]

    def cut(self, text: str, length: int | None = None) -> str | None:
        """What is left of a text that is too long, or None if it fits."""
        most = self.length if length is None else length
        if len(self.tokenizer.encode(text).ids) <= most:
            return None
        return self._fitting(text, most)

    def _fitting(self, text: str, most: int) -> str:
        """The words from the start that fit; what fits of the first word, if that is too long."""
        coded = self.tokenizer.encode(text)
        before, after = self._frame()
        room = max(most - len(before) - len(after), 1)
        ends = [end for _, end in coded.offsets if end > 0]
        end = ends[min(room, len(ends)) - 1]
        while True:
            stop = end
            while 0 < stop < len(text) and text[stop - 1].isalnum() and text[stop].isalnum():
                stop -= 1
            # One word alone is cut within.
            part = text[: stop or end].rstrip()
            if len(self.tokenizer.encode(part).ids) <= most or stop <= 1:
                return part
            end = stop - 1

    def _frame(self) -> tuple[list[int], list[int]]:
        """The ids that stand before and after every text."""
        coded = self.tokenizer.encode("a")
        own = [i for i, special in enumerate(coded.special_tokens_mask) if not special]
        if not own:
            return [], list(coded.ids)
        return list(coded.ids[: own[0]]), list(coded.ids[own[-1] + 1 :])

    @torch.no_grad()
    def __call__(
        self, rows: Sequence[list[int]], layer: int | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """States (L_i, D) of each row, and the pooled vectors (B, P), on the CPU."""
        longest = max(1, *map(len, rows))
        ids = torch.full((len(rows), longest), self.pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        # A text without tokens attends to padding; nothing of it is kept.
        keep = mask.clone()
        keep[:, 0] |= ~mask.any(1)
        ids, keep = ids.to(self.device), keep.to(self.device)
        out = self.net(
            input_ids=ids, attention_mask=keep.long(), output_hidden_states=layer is not None
        )
        last = out.last_hidden_state
        states = last
        if layer is not None:
            hidden = out.hidden_states
            if not -len(hidden) <= layer < len(hidden):
                raise InputError(
                    f"layer is {layer}; this text encoder has the hidden states {-len(hidden)} to {len(hidden) - 1}"
                )
            states = hidden[layer]
        real = mask.to(self.device)
        pooled = None if self.pool is None else self.pool(ids, real, last).float().cpu()
        found = states.float().cpu()
        return [found[i, : len(row)] for i, row in enumerate(rows)], pooled


def mean(ids: Tensor, mask: Tensor, last: Tensor) -> Tensor:
    """Over tokens, those of start and end included, as sentence-transformers does; 0 for none."""
    total = torch.where(mask[..., None], last, 0).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class AtEnd:
    """The state at the first end token, projected: CLIP's embedding of a text."""

    end: int
    projection: nn.Module | None

    def __call__(self, ids: Tensor, mask: Tensor, last: Tensor) -> Tensor:
        place = ((ids == self.end) & mask).int().argmax(1)
        found = last[torch.arange(len(ids), device=ids.device), place]
        return found if self.projection is None else self.projection(found)


def load(folder: Path, device: torch.device) -> LoadedTransformer:
    """The encoder in a folder, in float32. Nothing in the folder is executed."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "text encoders need transformers: pip install -e '.[text]', or pip install transformers"
        ) from error

    safe = weight_files(folder)[0].name.startswith("model.safetensors")
    options: dict[str, Any] = {
        "local_files_only": True, "trust_remote_code": False, "use_safetensors": safe, "weights_only": True,
        "dtype": torch.float32,
    }  # fmt: skip
    try:
        with _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            net = _class(transformers, config).from_pretrained(folder, **options)
            tokenizer = _tokenizer(transformers, tokenizer_folder(folder))
    except Exception as error:
        if isinstance(error, MemoryError | InputError):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{folder} cannot be loaded as a text encoder: {reason}") from error
    net = net.requires_grad_(False).eval().to(device)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _described(net, config, tokenizer, folder, device)


def _class(transformers: Any, config: Any) -> Any:
    """The class that holds the encoder alone, where there is one."""
    named = (config.architectures or [""])[0]
    if config.model_type == "clip_text_model" and named == "CLIPTextModelWithProjection":
        return transformers.CLIPTextModelWithProjection
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
    if config.model_type in mapping:
        return transformers.AutoModelForTextEncoding
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"a {config.model_type} has a decoder besides: give the folder of a text encoder, such as CLIP's or T5's"
        )
    return transformers.AutoModel


def _described(
    net: Any, config: Any, tokenizer: Any, folder: Path, device: torch.device
) -> LoadedTransformer:
    inner = getattr(config, "text_config", None) or config
    clip = hasattr(net, "text_model") or type(net).__name__.startswith("CLIPText")
    trunk = getattr(net, "text_model", net)
    width = int(inner.hidden_size)
    pool: Pool | None = mean
    pooled: int | None = width
    if clip:
        projection = getattr(net, "text_projection", None)
        pool = AtEnd(_end(tokenizer, folder), projection)
        pooled = width if projection is None else int(projection.out_features)
    elif getattr(config, "is_encoder_decoder", False) or hasattr(config, "d_kv"):
        pool, pooled = None, None
    pad = getattr(inner, "pad_token_id", None)
    limits = [_positions(trunk, inner), *_limits(folder)]
    length = min((n for n in limits if n is not None), default=DEFAULT_LENGTH)
    pad = 0 if pad is None or not 0 <= pad < inner.vocab_size else int(pad)
    return LoadedTransformer(trunk, tokenizer, length, width, pad, pool, pooled, device)


def _end(tokenizer: Any, folder: Path) -> int:
    """The id that ends every text. Where a bare tokenizer.json adds none, start and end are added as CLIP has them."""
    if tokenizer.post_processor is None:
        from tokenizers.processors import TemplateProcessing

        start, end = "<|startoftext|>", "<|endoftext|>"
        known = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
        if all(number is not None for _, number in known):
            tokenizer.post_processor = TemplateProcessing(
                single=f"{start} $A {end}", special_tokens=known
            )
    ids = tokenizer.encode("").ids
    if not ids:
        raise InputError(
            f"the tokenizer in {folder} ends no text, and CLIP's vector is the state at the end: give the tokenizer "
            f"that the encoder was trained with"
        )
    return int(ids[-1])


def _positions(trunk: nn.Module, config: Any) -> int | None:
    """How many tokens have a position; None without a limit. Some tables begin after the id of padding."""
    most = getattr(config, "max_position_embeddings", None)
    if most is None:
        return None
    embeddings = getattr(trunk, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    before = getattr(table, "padding_idx", None)
    return int(most) - (0 if before is None else int(before) + 1)


def _limits(folder: Path) -> Iterator[int]:
    """What the files of the tokenizer say of the length."""

    apart = tokenizer_folder(folder)
    for file, key in (
        (folder / "sentence_bert_config.json", "max_seq_length"),
        (apart / "tokenizer_config.json", "model_max_length"),
    ):
        if file.is_file():
            try:
                value = json.loads(file.read_text("utf-8")).get(key)
            except (ValueError, AttributeError) as error:
                raise InputError(f"{file} cannot be read: {error}") from error
            if isinstance(value, int | float) and 0 < value < NO_LIMIT:
                yield int(value)


def _tokenizer(transformers: Any, folder: Path) -> Any:
    """Of the library tokenizers: tokenizer.json as it is, else what transformers makes of the vocabulary."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    made = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    backend = getattr(made, "backend_tokenizer", None)
    if backend is None:
        raise InputError(f"{folder} has no tokenizer.json, and its tokenizer cannot be made one")
    return backend


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars and remarks on weights that are not used."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
