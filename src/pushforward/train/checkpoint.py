"""The state of a run on disk: complete, checked, and never half-written.

    checkpoints/00000500/state.safetensors    weights, EMA, optimiser; or, of a run whose processes hold parts of them,
                         shard-*.safetensors  those of each process
                         state.json           step, running sums, length of the log, identity of the run, frozen parts
                         manifest.json        SHA-256 of all of them

A checkpoint is written to a temporary folder, synced and renamed, so that a folder named by a number is complete.
Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from pushforward.core.errors import CheckpointError
from pushforward.runtime.files import explain, sha256, sync_folder, write_file, write_folder
from pushforward.saving.tensors import serialise

FORMAT = 2
TENSORS, STATE, MANIFEST = "state.safetensors", "state.json", "manifest.json"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class State:
    """What a checkpoint holds besides tensors.

    step:      optimiser steps taken. steps: of the whole run, which may have been prolonged since.
    sums:      of losses and figures since the last line of the log, by name, each with its number of terms.
    log_bytes: length of the log.
    identity:  what must be the same for a run to go on.
    untrained: parameters of which the optimiser keeps nothing. frozen: SHA-256 of the parts that are not trained.
    """

    step: int
    steps: int
    sums: dict[str, list[float]]
    log_bytes: int
    identity: dict[str, str]
    untrained: list[str]
    frozen: dict[str, str]
    format: int = FORMAT


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Steps at which there is a whole checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.is_dir() and p.name.isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"{step:08d}"

    def write(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        path = self.path(state.step)
        if path.exists():
            return  # Steps are deterministic: it holds the same.
        files = {
            TENSORS: serialise(tensors),
            STATE: (json.dumps(asdict(state), indent=1) + "\n").encode(),
        }
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        files[MANIFEST] = (json.dumps(digests, indent=1) + "\n").encode()
        write_folder(path, files)
        self.prune()

    def adopt(self, state: State, folder: Path) -> None:
        """Turn a folder into which all processes have written their shards into a checkpoint; remove it on failure."""
        try:
            write_file(folder / STATE, (json.dumps(asdict(state), indent=1) + "\n").encode())
            digests = {part.name: sha256(part) for part in sorted(folder.iterdir())}
            write_file(folder / MANIFEST, (json.dumps(digests, indent=1) + "\n").encode())
            os.replace(folder, self.path(state.step))
            sync_folder(self.folder)
        except (OSError, CheckpointError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, CheckpointError):
                raise
            raise explain(self.path(state.step), error) from error
        self.prune()

    def prune(self) -> None:
        """Remove all but the newest `keep`, and temporary folders of writers that were killed."""
        try:
            for step in self.steps()[: -self.keep]:
                # Renamed first: a number always stands for a whole checkpoint.
                self.path(step).rename(self.folder / f".{step:08d}.old")
        except OSError as error:
            raise explain(self.folder, error) from error
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def open(self, identity: Mapping[str, str]) -> tuple[State, Path]:
        """The state in the newest checkpoint and its folder, after all hashes and the identity have been checked."""
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f"there is no checkpoint in {self.folder}, so there is nothing to resume; "
                f"to start anew, choose another --out or remove the run's folder"
            )
        path = self.path(steps[-1])
        advice = (
            f". The checkpoint of step {steps[-2]} is still there: remove {path} to go on from it"
            if len(steps) > 1
            else ". There is no earlier one"
        )
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            have = {part.name for part in path.iterdir()} - {MANIFEST}
            if STATE not in manifest or not any(name.endswith(SUFFIX) for name in manifest):
                raise CheckpointError(f"{path / MANIFEST} is damaged: it names no state{advice}")
            for name in sorted(have ^ manifest.keys()):
                missing = "missing" if name in manifest else "not in the manifest"
                raise CheckpointError(f"{path / name} is {missing}{advice}")
            for name in sorted(manifest):
                if manifest[name] != sha256(path / name):
                    raise CheckpointError(
                        f"{path / name} is damaged: its SHA-256 is not that of the manifest{advice}"
                    )
            fields = json.loads((path / STATE).read_text())
            if fields.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} has format {fields.get('format')}; this version reads {FORMAT}"
                )
            state = State(**fields)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"cannot read the checkpoint {path}: {error}{advice}") from error
        differences = [
            f"{key}: {state.identity.get(key)} there, {identity.get(key)} here"
            for key in sorted({*state.identity, *identity})
            if state.identity.get(key) != identity.get(key)
        ]
        if differences:
            raise CheckpointError(f"{path} belongs to another run ({'; '.join(differences)})")
        return state, path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that one process has written."""
    try:
        return load_tensors((path / TENSORS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
