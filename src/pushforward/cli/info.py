"""`pushforward info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pushforward.cli.base import Command, run_folder, show
from pushforward.recipes.options import RunFolder

if TYPE_CHECKING:
    from pushforward.core.spec import DataSpec


class Info(Command):
    """Say what is in a run folder."""

    folder: RunFolder = run_folder()

    def run(self) -> int:
        from pushforward.core.paths import Path
        from pushforward.data import describe
        from pushforward.recipes.config import CONFIG, read_config
        from pushforward.saving.folder import load
        from pushforward.train.checkpoint import Checkpoints
        from pushforward.train.log import JSONLines

        model = load(self.folder)
        if not isinstance(getattr(model, "path", None), Path):
            show(of_system(model), str(self.folder))
            return 0
        count = sum(p.numel() for p in model.parameters())
        facts: dict[str, Any] = {
            "network": f"{networks(model)}, {count / 1e6:.3f} M parameters",
            "path": str(model.path),
            "predicts": predicted(model),
            **flow_map(model),
            "starts from": model.sampling.source or "Gaussian noise",
            "samples": describe(model.spec),
            **latents(model),
            "classes": classes(model.spec),
            "weights": f"EMA at step {model.provenance.step or '?'}, SHA-256 {str(model.provenance.sha256)[:16]}",
        }
        if model.sampling.fitted:
            facts["fitted samplers"] = "\n".join(map(described, model.sampling.fitted))
        if (self.folder / CONFIG).is_file():
            name, options = read_config(self.folder)
            steps = Checkpoints(self.folder / "checkpoints").steps()
            facts["recipe"] = name
            facts["trained"] = (
                f"{steps[-1] if steps else 0} of {options.get('optimiser', {}).get('steps', '?')} steps"
            )
            entries = JSONLines(self.folder / "log.jsonl").read()
            if entries:
                facts["last loss"] = f"{entries[-1]['loss']:.5f}"
        show(facts, str(self.folder))
        return 0


def of_system(model: Any) -> dict[str, str]:
    """What there is to say of what follows no path: a prior of buckets, or a chain of several models."""
    from pushforward.data import describe

    def size(part: Any) -> str:
        return f"{sum(p.numel() for p in part.parameters()) / 1e6:.3f} M parameters"

    facts = {"model": f"{type(model).__name__}, {size(model)}", "samples": describe(model.spec)}
    for name in ("clip", "prior", "decoder"):
        if (part := getattr(model, name, None)) is not None:
            shape = " x ".join(map(str, part.shape))
            facts[name] = f"{size(part)}, {shape}"
    for k, stage in enumerate(getattr(model, "stages", ())):
        shape = " x ".join(map(str, stage.shape))
        facts[f"stage {k + 1} of the cascade"] = (
            f"{size(stage)}, {shape}, {stage.augmentation}, at level {stage.level:g}"
        )
    if (clip := getattr(model, "clip", None)) is not None:
        facts["CLIP"] = f"SHA-256 {clip.digest[:16]}"
    facts["weights"] = f"SHA-256 {str(model.provenance.sha256)[:16]}"
    return facts


def flow_map(model: Any) -> dict[str, str]:
    """What there is to say of a flow map, and of a student."""
    facts: dict[str, str] = {}
    if (jumps := getattr(model, "jumps", None)) is not None:
        ways = {"any": "from any time to any other", "data": "from any time to the data"}
        facts["flow map"] = (
            ways[jumps] if isinstance(jumps, str) else f"in {len(jumps) - 1} steps of its own"
        )
    records = {
        "method": model.provenance.method,
        "guidance": model.sampling.guidance,
        "prompt guidance": model.sampling.prompt_guidance,
        "teacher": model.provenance.teacher,
        "origin": model.provenance.origin,
        "started from": model.provenance.started_from,
    }
    for key, value in records.items():
        if value is not None:
            hashed = key in ("teacher", "origin", "started from")
            facts[key] = f"SHA-256 {str(value)[:16]}" if hashed else str(value)
    return facts


def latents(model: Any) -> dict[str, str]:
    """What the states of a model of latents are."""
    if model.codec is None:
        return {}
    shape = " x ".join(map(str, model.shape))
    return {"latents": f"{shape}, of an autoencoder of SHA-256 {model.codec.digest[:16]}"}


def classes(spec: DataSpec) -> str:
    """Classes by number and name, with how many samples each has in training."""
    if spec.classes is None:
        return "none"
    counts = spec.class_counts or (None,) * spec.classes
    words = [
        spec.name(c) if spec.class_names is None else f"{c} {spec.name(c)}"
        for c in range(spec.classes)
    ]
    said = [
        word if count is None else f"{word} ({count})"
        for word, count in zip(words, counts, strict=True)
    ]
    return ", ".join(said[:40]) + (f", ... {spec.classes} in all" if len(said) > 40 else "")


def networks(model: Any) -> str:
    """The classes of a model's networks."""
    net = getattr(model, "net", None)
    parts = model.children() if net is None else [net]
    return " and ".join(type(part).__name__ for part in parts)


def predicted(model: Any) -> str:
    """What a model predicts, in words."""
    if not isinstance(getattr(model, "prediction", None), str):
        return "velocity and score"
    return str(model.prediction) + (" (EDM preconditioning)" if model.preconditioning else "")


def described(entry: Mapping[str, Any]) -> str:
    """A sampler that was fitted to the model, in words."""
    guided = "" if entry["guidance"] is None else f" under guidance {entry['guidance']:g}"
    return (
        f"{entry['nfe']} calls{guided}: error {entry['after']:.2g}, learned {entry['before']:.2g}"
    )
