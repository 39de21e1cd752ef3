"""Saved models: a folder with `model.json` and safetensors files, which loads without executing code.

    model.json          the parts by place: class, configuration, file of weights, its SHA-256 and, of weights
                        stored in half precision, the one that they have; and its own SHA-256
    model.safetensors   the weights, if one part has any; else PLACE.safetensors of each part that has some

Weights come first and model.json last, each renamed into place when it is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pushforward.core.errors import CheckpointError, Error, InputError
from pushforward.core.version import __version__
from pushforward.models.autoencoder import AutoencoderModel
from pushforward.models.base import ModelBase
from pushforward.models.captioner import CaptionModel
from pushforward.models.classifier import NoisyClassifier
from pushforward.models.clip import CLIPModel
from pushforward.runtime import shipped
from pushforward.runtime.files import explain, sha256, write_file
from pushforward.runtime.hashes import digest
from pushforward.saving.building import build, check_rebuilds
from pushforward.saving.description import SELF, Described, Parts, describe
from pushforward.saving.foreign import refuse_foreign, refuse_format
from pushforward.saving.hub import fetch, is_on_hub
from pushforward.saving.parts import has_config
from pushforward.saving.shortened import Shortened, full_precision, lengthened, shortened
from pushforward.saving.tensors import header, pieces, read

FORMAT = 2
DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"

# What a reference leads to: the part itself, or something or a folder that holds it.
References = Mapping[str, nn.Module | str | Path]


def save(
    model: Any,
    folder: str | Path,
    *,
    references: Mapping[str, str] | None = None,
    storage: torch.dtype | None = None,
) -> str:
    """Write a model, or another part, into `folder`; returns the SHA-256 of the weights.

    references: frozen parts that are not written but held by a name, by their place: {"encoder": "clip-vit-l"}. `load`
    takes them under this name, and compares the SHA-256 of their tensors.
    storage: torch.float16 or torch.bfloat16, for half the size: tensors of two and more dimensions are rounded to it,
    and loaded in the precision that they have now, which is one for each part.

    Raises CheckpointError, before anything is written, for what could not be loaded again: a class that does not say
    how it is built (`to_config`), a configuration that builds something else, or that JSON cannot hold.
    """
    described = describe_checked(model, references)
    return write(
        described, folder, stored=None if storage is None else shortened(described, storage)
    )


def describe_checked(model: Any, references: Mapping[str, str] | None = None) -> Described:
    """The description of a model, after it has been built again from it."""
    if not has_config(model):
        name = type(model).__name__
        raise CheckpointError(
            f"a {name} cannot be saved by itself, since it does not say how it is built: make it a part of a model, "
            f"pf.Model(net, path, ...), or give it a method to_config that returns the arguments of its constructor"
        )
    described = describe(model, references)
    check_rebuilds(described)
    return described


def write(
    described: Described,
    folder: str | Path,
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    kept: Mapping[str, Mapping[str, str]] | None = None,
    stored: Mapping[str, Shortened] | None = None,
) -> str:
    """Write what is described.

    tensors: those of its modules, by place, if they are not to be asked for them. kept: file and SHA-256 of what was
    written earlier and has not changed, by place. stored: those that are written in another precision, by place.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise explain(folder, error) from error
    weights = dict(described.tensors()) if tensors is None else tensors
    parts: Parts = json.loads(json.dumps(described.parts))
    for place, entry in (kept or {}).items():
        parts[place]["weights"] = dict(entry)
    for place, some in weights.items():
        name = WEIGHTS if len(weights) + len(kept or {}) == 1 else f"{place}.safetensors"
        short = (stored or {}).get(place)
        content = short.tensors if short else some
        hashed = hashlib.sha256()
        for piece in pieces(content):
            hashed.update(piece)
        found = hashed.hexdigest()
        parts[place]["weights"] = {"file": name, "sha256": found}
        if short:
            parts[place]["weights"]["dtype"] = short.dtype
        # Frozen parts stay as they are from save to save.
        if name not in there or sha256(folder / name) != found:
            write_file(folder / name, pieces(content))
    before = _files_of(folder)
    _write_description(folder, parts)
    for name in before - _files(parts):
        (folder / name).unlink(missing_ok=True)
    return identity(parts)


def _write_description(folder: Path, parts: Parts) -> None:
    whole: dict[str, Any] = {
        "format": FORMAT,
        "pushforward": __version__,
        "sha256": identity(parts),
        "parts": parts,
    }
    whole["check"] = check_of(whole)
    write_file(folder / DESCRIPTION, (json.dumps(whole, indent=1) + "\n").encode())


def identity(parts: Parts) -> str:
    """The SHA-256 of the weights of all parts: of their file, or of a list of these where there are several."""
    found = {
        place: entry["weights"]["sha256"] if "weights" in entry else entry["digest"]
        for place, entry in parts.items()
        if "weights" in entry or "reference" in entry
    }
    if len(found) == 1:
        return str(next(iter(found.values())))
    lines = "".join(f"{place} {value}\n" for place, value in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of all of a description but this."""
    rest = {key: value for key, value in description.items() if key != "check"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _files(parts: Parts) -> set[str]:
    return {entry["weights"]["file"] for entry in parts.values() if "weights" in entry}


def _files_of(folder: Path) -> set[str]:
    """The files of weights of the model that is in a folder; none if there is no such model."""
    try:
        parts = read_description(folder).parts
        return {name for name in _files(parts) if Path(name).name == name}
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return set()


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model."""
    return (folder / DESCRIPTION).is_file()


def save_records(model: ModelBase, folder: str | Path) -> None:
    """Write the records of a model anew into the folder that it was loaded from; the weights there stay untouched."""
    folder = Path(folder)
    there = read_description(folder)
    held = {p: e["reference"] for p, e in there.parts.items() if "reference" in e}
    parts: Parts = json.loads(json.dumps(describe(model, held).parts))
    for place, entry in there.parts.items():
        if "weights" in entry:
            parts[place]["weights"] = entry["weights"]
    _write_description(folder, parts)


@dataclass(frozen=True)
class Description:
    """What a folder says of its model: version of this library, SHA-256 of the weights, parts by place."""

    pushforward: str
    sha256: str
    parts: Parts

    @property
    def kind(self) -> str:
        """The class of the whole."""
        return str(self.parts[SELF]["class"])


def read_description(folder: str | Path) -> Description:
    """model.json, after its SHA-256 has been compared."""
    folder = Path(folder)
    refuse_foreign(folder, str(folder), DESCRIPTION)
    if not folder.exists():
        raise CheckpointError(f"there is no folder {folder}{shipped.hint()}")
    if not (folder / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{folder} holds no model: {DESCRIPTION} is missing. A run writes it with its first checkpoint"
        )
    try:
        found = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(found, dict):
            raise CheckpointError("it is not a description of a model")
        refuse_format(found, FORMAT)
        if found.get("check") != check_of(found):
            raise CheckpointError("it is damaged or was edited: its SHA-256 differs")
        return Description(str(found["pushforward"]), str(found["sha256"]), found["parts"])
    except CheckpointError as error:
        raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from error
    except (ValueError, OSError, RecursionError, KeyError) as error:
        raise CheckpointError(f"cannot read {folder / DESCRIPTION}: {error}") from error


def load(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    parts: Collection[type] = (),
    references: References | None = None,
) -> Any:
    """The model in a folder, ready to sample. `model.provenance.sha256` is the hash of its weights.

    folder:     or the name of a model that comes with the library, such as "scenes", or of one on the Hugging Face Hub,
                "hub:OWNER/NAME" or "hub:OWNER/NAME@REVISION".

    parts:      your own classes that it was saved with: networks, paths, preconditionings, encoders.
    references: the frozen parts that it holds by reference, by name: each the part itself, a model with it, or a folder
                that either is in. A name that is the path of such a folder, seen from here or from the model's own,
                need not be given.

    Raises CheckpointError if it is missing, damaged or not of this library. Nothing in the files is executed.
    """
    model = _load(folder, device, parts, references)
    if isinstance(model, NoisyClassifier):
        raise CheckpointError(
            f"{folder} holds a classifier, which guides a model and draws nothing by itself"
        )
    if isinstance(model, AutoencoderModel):
        raise CheckpointError(
            f"{folder} holds an autoencoder, which draws nothing by itself: train a model on its latents with "
            f"--latents {folder}"
        )
    if isinstance(model, CLIPModel):
        raise CheckpointError(
            f"{folder} holds a CLIP, which draws nothing by itself: judge prompts by it with pushforward evaluate RUN "
            f"--clip {folder}"
        )
    if isinstance(model, CaptionModel):
        raise CheckpointError(
            f"{folder} holds a captioner, which draws nothing: ask it what pictures show with pushforward caption "
            f"{folder}"
        )
    return model


def load_any(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    parts: Collection[type] = (),
    references: References | None = None,
) -> Any:
    """The model in a folder, of whatever kind, as `load` does those that draw samples."""
    return _load(folder, device, parts, references)


def load_classifier(
    folder: str | Path, device: torch.device | str = "cpu", *, parts: Collection[type] = ()
) -> NoisyClassifier:
    """The noisy classifier in a folder, as `load` does a model."""
    model = _load(folder, device, parts, None)
    if not isinstance(model, NoisyClassifier):
        raise CheckpointError(f"{folder} holds a model that draws samples, and no classifier")
    return model


def load_autoencoder(
    folder: str | Path, device: torch.device | str = "cpu", *, parts: Collection[type] = ()
) -> AutoencoderModel:
    """The autoencoder in a folder, as `load` does a model."""
    model = _load(folder, device, parts, None)
    if not isinstance(model, AutoencoderModel):
        raise CheckpointError(
            f"{folder} holds a {type(model).__name__}, and no autoencoder: train one with pushforward train autoencoder"
        )
    return model


def load_clip(
    folder: str | Path, device: torch.device | str = "cpu", *, parts: Collection[type] = ()
) -> CLIPModel:
    """The CLIP in a folder, as `load` does a model."""
    model = _load(folder, device, parts, None)
    if not isinstance(model, CLIPModel):
        raise CheckpointError(
            f"{folder} holds a {type(model).__name__}, and no CLIP: train one with pushforward train clip"
        )
    return model


def load_captioner(
    folder: str | Path, device: torch.device | str = "cpu", *, parts: Collection[type] = ()
) -> CaptionModel:
    """The captioner in a folder, as `load` does a model."""
    model = _load(folder, device, parts, None)
    if not isinstance(model, CaptionModel):
        raise CheckpointError(
            f"{folder} holds a {type(model).__name__}, and no captioner: train one with pushforward train captioner"
        )
    return model


def load_part(
    folder: str | Path,
    place: str,
    device: torch.device | str = "cpu",
    *,
    parts: Collection[type] = (),
    references: References | None = None,
) -> Any:
    """One part of the model in a folder, by its place, as `load` does the whole."""
    return _load(folder, device, parts, references, place)


def _load(
    folder: str | Path,
    device: torch.device | str,
    parts: Collection[type],
    references: References | None,
    place: str = SELF,
) -> Any:
    folder = fetch(folder) if is_on_hub(folder) else shipped.find(folder)
    if isinstance(parts, type) or not all(isinstance(cls, type) for cls in parts):
        raise InputError("parts are classes: parts=[MyNet, MyPath]")
    there = read_description(folder)
    try:
        files = _Files(Path(folder), there.parts, dict(references or {}), parts)
        model = build(there.parts, parts, files, place)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Error as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except Exception as error:  # whatever is not of the kind that it must be
        raise CheckpointError(
            f"{folder}: not a description of a model: {type(error).__name__}: {error}"
        ) from error
    if isinstance(model, nn.Module):
        model.to(device).requires_grad_(False).eval()
    if isinstance(model, ModelBase):
        model.provenance = replace(model.provenance, sha256=there.sha256)
    return model


class _Files:
    """The tensors of the parts in a folder, whose files are as they were written."""

    values = True

    def __init__(
        self, folder: Path, parts: Parts, references: References, own: Collection[type]
    ) -> None:
        self.folder, self.references, self.own = folder, dict(references), own
        self.files: dict[str, Path] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        if not isinstance(parts, dict) or SELF not in parts:
            raise CheckpointError(f"{DESCRIPTION} names no part {SELF!r}")
        for place, entry in parts.items():
            if "weights" in entry:
                self.files[place] = self._checked(place, entry["weights"])
                if "dtype" in entry["weights"]:
                    self.dtypes[place] = full_precision(entry["weights"]["dtype"], place)

    def _checked(self, place: str, weights: Mapping[str, Any]) -> Path:
        name = weights["file"]
        if name not in (WEIGHTS, f"{place}.safetensors") or Path(name).name != name:
            raise CheckpointError(f"the weights of {place} cannot be in {name!r}")
        path = self.folder / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing, which holds the weights of {place}")
        try:
            found = sha256(path)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error
        if found != weights["sha256"]:
            raise CheckpointError(
                f"{name} is not the file that {DESCRIPTION} describes (its SHA-256 differs): it is damaged or from "
                f"elsewhere"
            )
        return path

    def header(self, place: str) -> dict[str, Tensor]:
        found = header(self.files[place]) if place in self.files else {}
        return lengthened(found, self.dtypes.get(place))

    def read(self, place: str) -> dict[str, Tensor]:
        return lengthened(read(self.files[place]), self.dtypes.get(place))

    def held(self, place: str, entry: Mapping[str, Any]) -> nn.Module:
        name = entry["reference"]
        if name not in self.references:
            found = [
                path
                for path in (self.folder / name, Path(name))
                if is_model(path) and path.resolve() != self.folder.resolve()
            ]
            if not found:
                raise CheckpointError(
                    f"its part {place} is held by reference to {name!r}: pass it, pf.load(folder, "
                    f"references={{{name!r}: the part, or a folder that it was saved in}})"
                )
            self.references[name] = found[0]
        whole = self.references[name]
        if not isinstance(whole, nn.Module):
            whole = self.references[name] = _load(whole, "cpu", self.own, self.references)
        for part in (whole, *(m for m in whole.modules() if m is not whole and has_config(m))):
            if digest(part.state_dict()) == entry["digest"]:
                return part
        raise CheckpointError(
            f"the reference {name!r} is not the part {place} that the model was saved with: its SHA-256 differs"
        )
