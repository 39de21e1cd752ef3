"""Pairs (x0, x1) that a teacher's flow joins, on disk: what a flow is rectified or distilled from.

    pairs.json            how they were made, and the SHA-256 of each shard
    00000.safetensors     x0, x1 (n, *shape) float32, with classes label (n,) int64, and further conditions as cond.NAME

A shard is there wholly or not at all, and pair i is a function of (teacher, solver, seed, i), so that a run that was
killed goes on with the next shard and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from pushforward.core import conditions
from pushforward.core.conditions import Tokens
from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.fields import Field, find_inside, networks
from pushforward.core.noise import Noise
from pushforward.core.progress import tell
from pushforward.data.batch import Batch
from pushforward.data.shares import labels_in_shares
from pushforward.laws.law import Law
from pushforward.runtime.files import clear_leftovers, locked, sha256, write_file
from pushforward.sampling.generate import generate, home, shape_of
from pushforward.solvers import Solver

FORMAT = 1
MANIFEST = "pairs.json"
# What the names of conditions begin with.
CONDITION = "cond."

Given = Callable[[int, int, "Tensor | None"], Mapping[str, Any]]


def generate_pairs(
    model: Field,
    folder: str | Path,
    num: int,
    *,
    solver: Solver | None = None,
    nfe: int = 100,
    guidance: float | None = None,
    source: Tensor | Law | None = None,
    seed: int = 0,
    label: int | Literal["shares", "balanced"] | None = "shares",
    shape: tuple[int, ...] | None = None,
    shard_size: int = 10_000,
    batch_size: int = 256,
    given: Given | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pairs:
    """Write `num` pairs (x0, ODE(x0)) into a folder, or what is missing of them.

    model, solver, nfe, guidance, source, shape, batch_size: as for `generate`, which makes them.
    label:    a class for all; "shares" draws labels in the shares of the training data, where the model knows them
              (`spec.class_counts`), and "balanced" gives sample i the class i mod classes. Without classes, none.
    given:    further conditions of samples, (num, seed, label (num,) or None) -> by name, such as those of captions:
              they are kept with the pairs. Drawn once for all, so that pair i has row i.
    progress: called with (pairs that are there, num), also before the first shard.

    Raises CheckpointError if the folder holds other pairs, a damaged shard, or is not to be written to; what was
    written before stays.
    """
    if num < 1 or shard_size < 1:
        raise InputError(f"num and shard_size must be positive, got {num} and {shard_size}")
    size = shape_of(model, shape, False) if not isinstance(source, Tensor) else source.shape[1:]
    if isinstance(source, Tensor) and len(source) != num:
        raise InputError(f"source has {len(source)} states for {num} pairs")
    classes: int | None = find_inside(model, "classes", None) if label is not None else None
    if label in ("shares", "balanced") and classes is None:
        label = None
    spec = find_inside(model, "spec", None)
    counts = None if spec is None else spec.class_counts
    if label == "shares" and counts is None:
        label = "balanced"
    drawn = labels_in_shares(num, counts, seed) if label == "shares" and counts else None
    every: Any = drawn
    if classes is not None and label == "balanced":
        every = torch.arange(num) % classes
    elif isinstance(label, int):
        every = torch.full((num,), label)
    cond = {} if given is None else given(num, seed, every)
    made = {
        "format": FORMAT,
        "num": num,
        "shard_size": shard_size,
        "shape": list(size),
        "classes": classes,
        "teacher": fingerprint(model, tuple(size)),
        "solver": "default" if solver is None else repr(solver),
        "nfe": nfe,
        "guidance": guidance,
        "source": _identity(source, seed),
        "seed": seed,
        "label": label,
        "class_counts": None if drawn is None else list(counts or ()),
    }
    if cond:
        made["conditions"] = _digest({name: digest_of(x) for name, x in flattened(cond).items()})
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from error
    with locked(folder):
        clear_leftovers(folder)
        shards = _shards_of(folder, made)
        for k in range(-(-num // shard_size)):
            name, first = f"{k:05d}.safetensors", k * shard_size
            tell("pairs", first, num)
            if progress is not None:
                progress(first, num)
            if name in shards and (folder / name).exists():
                _check(folder / name, shards[name])
                continue
            count = min(shard_size, num - first)
            rows = slice(first, first + count)
            labels: Any = None if every is None else every[rows]
            here = conditions.take(cond, rows)
            starts: list[Tensor] = []

            def keep(i: int, t: Tensor, x: Tensor, starts: list[Tensor] = starts) -> None:
                if i == 0:
                    starts.append(x)

            x1 = generate(
                model, count, solver=solver, nfe=nfe, guidance=guidance, shape=size, seed=seed,
                source=source[first : first + count] if isinstance(source, Tensor) else source,
                start=first, batch_size=batch_size, callback=keep, label=labels, decode=False, **here,
            )  # fmt: skip
            tensors = {"x0": torch.cat(starts), "x1": x1}
            tensors = {key: x.float().cpu().contiguous() for key, x in tensors.items()}
            if labels is not None:
                tensors["label"] = labels.long().contiguous()
            tensors |= {name: x.cpu().contiguous() for name, x in flattened(here).items()}
            content = save_tensors(tensors)
            write_file(folder / name, content)
            shards[name] = hashlib.sha256(content).hexdigest()
            _write_manifest(folder, made, shards)
    if progress is not None:
        progress(num, num)
    return Pairs(folder)


class Pairs:
    """The pairs in a folder, mapped and never read as a whole: a data set for `Shuffled`.

        batch = pairs[torch.tensor([3, 1, 4])]      # Batch: x1, x0 (3, *shape) float32, cond["label"] (3,) int64

    Train on them along a path with gaussian_source=False: x0 is not independent of x1. Each shard is compared with its
    SHA-256 when it is first used. Raises CheckpointError for a folder without pairs or with some missing, and for a
    shard that is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.made, self.shards = _read_manifest(self.folder)
        count = -(-self.made["num"] // self.made["shard_size"])
        if len(self.shards) != count:
            raise CheckpointError(
                f"{self.folder} holds {len(self.shards)} of {count} shards: run what makes them again, and it goes on"
            )
        self.shape: tuple[int, ...] = tuple(self.made["shape"])
        self.classes: int | None = self.made["classes"]
        self._shard = lru_cache(maxsize=None)(self._open)

    def __len__(self) -> int:
        return int(self.made["num"])

    def __getitem__(self, indices: Tensor) -> Batch:
        """The pairs at `indices` (B,) int64, in that order. Their indices are the batch's ids."""
        index = indices.cpu()
        if index.ndim != 1 or index.dtype != torch.int64:
            raise InputError(f"indices must be int64 (B,), got {index.dtype} {tuple(index.shape)}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise InputError(f"indices must lie in [0, {len(self)}), got {index.tolist()[:8]}")
        size = self.made["shard_size"]
        out: dict[str, Tensor] = {}
        for k in (index // size).unique().tolist():
            here = index // size == k
            rows = index[here] - k * size
            for name, values in self._shard(k).items():
                part = values[rows]
                whole = out.setdefault(name, part.new_empty((len(index), *part.shape[1:])))
                whole[here] = part
        cond = {"label": out["label"]} if "label" in out else {}
        more = {name: x for name, x in out.items() if name.startswith(CONDITION)}
        return Batch(out["x1"], cond | conditions.trimmed(unflattened(more)), out["x0"], index)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of how the pairs were made and of all shards."""
        return _digest(self.made | {"shards": self.shards})

    def _open(self, k: int) -> Mapping[str, Tensor]:
        path = self.folder / f"{k:05d}.safetensors"
        _check(path, self.shards[path.name])
        # Tensors in the memory of the file, of which only the rows that are asked for are read.
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def flattened(cond: Mapping[str, Any]) -> dict[str, Tensor]:
    """Conditions as tensors by name: "cond.text.values" and "cond.text.mask" of Tokens."""
    found: dict[str, Tensor] = {}
    for name, value in conditions.leaves(cond):
        if isinstance(value, Tokens):
            found[f"{CONDITION}{name}.values"], found[f"{CONDITION}{name}.mask"] = (
                value.values,
                value.mask,
            )
        else:
            found[f"{CONDITION}{name}"] = value
    return found


def unflattened(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Conditions from what `flattened` made of them."""
    found: dict[str, Any] = {}
    for name in tensors:
        place = name.removeprefix(CONDITION)
        if place.endswith(".mask"):
            continue
        value: Any = tensors[name]
        if place.endswith(".values"):
            place = place.removesuffix(".values")
            value = Tokens(value, tensors[f"{CONDITION}{place}.mask"])
        *groups, last = place.split(".")
        inside = found
        for group in groups:
            inside = inside.setdefault(group, {})
        inside[last] = value
    return found


def digest_of(x: Tensor) -> str:
    return hashlib.sha256(
        x.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    ).hexdigest()


def fingerprint(model: Field, shape: tuple[int, ...]) -> str:
    """SHA-256 of a field: of its path and its weights; if it has none, of its velocity at some points."""
    device, dtype = home(model)
    digest = hashlib.sha256(repr(model.path).encode())
    inside = networks(model)
    for number, net in enumerate(inside):
        for name, value in sorted(net.state_dict().items()):
            digest.update(f"{number}.{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    if not inside:
        x = Noise.batch(16, 0, device=device).normal(shape, dtype=dtype)
        u = model(x, 0.5).double()
        # Six digits, so that another processor's rounding is no other field.
        digest.update(" ".join(f"{v:.5e}" for v in u.flatten().tolist()).encode())
    return digest.hexdigest()


def _identity(source: Tensor | Law | None, seed: int) -> str | None:
    """SHA-256 of the states to start from, or of the first ones that a law draws."""
    if source is None:
        return None
    x = source if isinstance(source, Tensor) else source.draw(Noise.batch(16, seed))
    return hashlib.sha256(x.detach().cpu().double().contiguous().numpy().tobytes()).hexdigest()


def _shards_of(folder: Path, made: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the shards that are there already, if they are of the pairs to be made."""
    if not (folder / MANIFEST).exists():
        _write_manifest(folder, made, {})
        return {}
    there, shards = _read_manifest(folder)
    differences = [
        f"{key}: {there.get(key)} there, {made.get(key)} here"
        for key in sorted({*there, *made})
        if there.get(key) != made.get(key)
    ]
    if differences:
        raise CheckpointError(
            f"{folder} holds other pairs ({'; '.join(differences)}): choose another folder, or remove it"
        )
    return shards


def _write_manifest(folder: Path, made: Mapping[str, Any], shards: Mapping[str, str]) -> None:
    whole = {**made, "shards": dict(shards)}
    text = json.dumps(whole | {"check": _digest(whole)}, indent=1) + "\n"
    write_file(folder / MANIFEST, text.encode())


def _read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    path = folder / MANIFEST
    try:
        whole = json.loads(path.read_text())
        check = whole.pop("check")
        shards = whole.pop("shards")
        if check != _digest({**whole, "shards": shards}):
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in it")
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no pairs in {folder}: {MANIFEST} is missing") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"cannot read {path}: {type(error).__name__}: {error}") from error
    if whole.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {whole.get('format')}; this version reads {FORMAT}"
        )
    return whole, shards


def _check(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if found != expected:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not that of {MANIFEST}. Remove it, and make the pairs again: only what "
            f"is missing is made"
        )


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
