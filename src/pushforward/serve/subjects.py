"""What can be drawn: exact laws, and models in run folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pushforward.core.errors import InputError
from pushforward.core.fields import FlowMap, find_inside, nulls_of
from pushforward.core.spec import DataSpec
from pushforward.core.version import __version__
from pushforward.evaluate.labels import present
from pushforward.laws import LAWS as KNOWN
from pushforward.models.model import Model
from pushforward.recipes.choices import GAUSSIAN_PATHS, GRIDS, PATHS, SOLVERS
from pushforward.recipes.config import CONFIG, find_source, recipe_of
from pushforward.recipes.control import Control
from pushforward.sampling.sampler import default_nfe
from pushforward.saving.control import controls_of
from pushforward.saving.folder import load
from pushforward.serve import laws, limits
from pushforward.serve.settings import Settings


@dataclass(frozen=True)
class Subject:
    """Something to draw.

    field:  a Field or flow map. spec: of its samples. truth: the law that it ought to draw, where it is known.
    source: what samples start from, None for Gaussian noise. hint: makes a hint (1, 1, H, W) of grey levels (H, W).
    """

    field: Any
    spec: DataSpec
    extent: float = 6.0
    truth: Any = None
    source: Any = None
    hint: Any = None

    @property
    def kind(self) -> str:
        return "plane" if self.spec.shape == (2,) else "pictures"

    @property
    def exact(self) -> bool:
        return not isinstance(self.field, torch.nn.Module)


def of_law(settings: Settings) -> Subject | None:
    """The law of these settings on their path; None where the subject is a run."""
    if settings.subject == "own":
        law, extent = laws.own(settings.components), laws.OWN_EXTENT
        names: tuple[str, ...] = tuple(map(str, range(limits.COMPONENTS)))
    elif settings.subject in laws.LAWS:
        offered = laws.LAWS[settings.subject]
        law, extent, names = offered.make(), offered.extent, offered.classes
    else:
        return None
    path = PATHS[settings.path].make()
    spec = DataSpec((2,), kind="plane", classes=len(names), class_names=names, extent=extent)
    return Subject(law.field(path), spec, extent, law)


class Runs(Mapping[str, Subject]):
    """Models in run folders, by the name of the folder."""

    def __init__(self, folders: Sequence[Path], device: torch.device) -> None:
        self._runs: dict[str, Subject] = {}
        self.titles: dict[str, str] = {}
        for folder in folders:
            base = re.sub(r"[^\w.-]+", "-", folder.resolve().name)[:60] or "run"
            name, k = f"run:{base}", 2
            while name in self._runs:
                name, k = f"run:{base}-{k}", k + 1
            self._runs[name] = of_run(folder, device)
            self.titles[name] = name.removeprefix("run:")

    def __getitem__(self, name: str) -> Subject:
        return self._runs[name]

    def __iter__(self) -> Any:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def of_run(folder: Path, device: torch.device) -> Subject:
    model: Any = load(folder, device)
    model.requires_grad_(False).eval()
    spec: DataSpec = model.spec
    channels = spec.shape[0] if len(spec.shape) == 3 else 0
    if not hasattr(model, "path") or (spec.shape != (2,) and channels not in (1, 3)):
        raise InputError(
            f"{folder} draws {spec.shape or 'samples of unknown shape'}: the page shows points of the plane and "
            f"pictures of 1 or 3 channels"
        )
    truth = KNOWN[spec.law]() if spec.law in KNOWN else None
    source = find_source(model, folder)
    hint = None
    if isinstance(model, Model) and controls_of(model):
        if len(controls_of(model)) > 1 or not (folder / CONFIG).is_file():
            raise InputError(f"{folder} has several controls, or is no run: train them one by one")
        recipe = recipe_of(folder)
        if not isinstance(recipe, Control):
            raise InputError(f"{folder} is a run of {recipe.name()}, and not of a control")
        hint = recipe.control.of_picture
    return Subject(model, spec, spec.extent or 6.0, truth, source, hint)


def described(name: str, title: str, subject: Subject) -> dict[str, Any]:
    """A subject as the page shows it."""
    spec, model = subject.spec, subject.field
    flow_map = isinstance(model, FlowMap)
    prompt = "prompt" in find_inside(model, "encoders", {})
    columns = list(spec.columns)
    found: dict[str, Any] = {
        "title": title,
        "kind": subject.kind,
        "exact": subject.exact,
        "classes": [spec.name(c) for c in range(spec.classes or 0)],
        "prompt": prompt,
        "guidance": bool(nulls_of(model))
        and not flow_map
        and bool(spec.classes or prompt or columns),
        "map": flow_map,
        "calls": default_nfe(model),
        "path": None if subject.exact else type(model.path).__name__,
        "extent": subject.extent,
        "source": None if subject.exact else find_inside(model, "sampling").source,
        "control": None,
    }
    if subject.kind == "pictures":
        pixels = list(spec.shape)
        found |= {
            "pixels": pixels,
            "edit": not flow_map and subject.source is None and model.path.gaussian_source,
            "control": next(iter(controls_of(model)), None) if subject.hint else None,
            "most": min(limits.PICTURES, limits.VALUES // (pixels[0] * pixels[1] * pixels[2])),
            "present": list(present(spec)),
        }
    return found


def catalogue(runs: Runs, device: torch.device) -> dict[str, Any]:
    """All that there is to choose from."""
    subjects: dict[str, Any] = {}
    for name, offered in laws.LAWS.items():
        one = of_law(Settings(subject=name))
        assert one is not None
        subjects[name] = described(name, offered.title, one)
    subjects["own"] = {
        **subjects["pair"], "title": "Your own Gaussians", "extent": laws.OWN_EXTENT,
        "classes": list(map(str, range(limits.COMPONENTS))),
    }  # fmt: skip
    subjects |= {name: described(name, runs.titles[name], run) for name, run in runs.items()}
    return {
        "version": __version__,
        "device": str(device),
        "subjects": subjects,
        "paths": list(GAUSSIAN_PATHS),
        "solvers": solvers(),
        "grids": list(GRIDS),
        "limits": {
            "points": limits.POINTS, "pictures": limits.PICTURES, "calls": limits.CALLS,
            "components": limits.COMPONENTS, "text": limits.TEXT,
        },
    }  # fmt: skip


def solvers() -> dict[str, dict[str, Any]]:
    """Solvers by name: order, calls of a step, and whether they put noise in on the way."""
    path = PATHS["condot"].make()
    made = {name: entry.make(path=path) for name, entry in SOLVERS.items()}
    return {
        name: {"order": float(s.order), "calls": s.calls, "stochastic": bool(s.stochastic)}
        for name, s in made.items()
    }


def check_encoded(subject: Subject, prompt: str) -> list[str]:
    """Words of a prompt that the model never saw."""
    encoder = find_inside(subject.field, "encoders", {}).get("prompt")
    unknown = getattr(encoder, "unknown", None)
    words = [] if unknown is None else [w for w in unknown(prompt) if any(c.isalnum() for c in w)]
    return list(dict.fromkeys(words))[:10]
