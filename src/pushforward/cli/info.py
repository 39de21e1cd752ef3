"""`pushforward info`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from pushforward.cli.base import Command, RunFolder, show


class Info(Command):
    """Say what is in a run folder."""

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")

    def run(self) -> int:
        from pushforward.recipes.experiment import CONFIG, read_config
        from pushforward.saving.folder import load
        from pushforward.train.checkpoint import Checkpoints
        from pushforward.train.log import JSONLines

        model = load(self.folder)
        count = sum(p.numel() for p in model.parameters())
        facts: dict[str, Any] = {
            "network": f"{networks(model)}, {count / 1e6:.3f} M parameters",
            "path": str(model.path),
            "predicts": predicted(model),
            **flow_map(model),
            "starts from": model.info.get("source", "Gaussian noise"),
            "sample shape": " x ".join(map(str, model.shape)),
            "classes": model.classes or "none",
            "weights": f"EMA at step {model.info.get('step', '?')}, SHA-256 {model.info['sha256'][:16]}",
        }
        if model.info.get("samplers"):
            facts["fitted samplers"] = "\n".join(map(described, model.info["samplers"]))
        if (self.folder / CONFIG).is_file():
            name, options = read_config(self.folder)
            steps = Checkpoints(self.folder / "checkpoints").steps()
            facts["recipe"] = name
            facts["trained"] = f"{steps[-1] if steps else 0} of {options.get('steps', '?')} steps"
            entries = JSONLines(self.folder / "log.jsonl").read()
            if entries:
                facts["last loss"] = f"{entries[-1]['loss']:.5f}"
        show(facts, str(self.folder))
        return 0


def flow_map(model: Any) -> dict[str, str]:
    """What there is to say of a flow map, and of a student."""
    facts: dict[str, str] = {}
    if (jumps := getattr(model, "jumps", None)) is not None:
        ways = {"any": "from any time to any other", "data": "from any time to the data"}
        facts["flow map"] = (
            ways[jumps] if isinstance(jumps, str) else f"in {len(jumps) - 1} steps of its own"
        )
    for key in ("method", "guidance", "teacher", "origin"):
        if key in model.info:
            value = str(model.info[key])
            facts[key] = f"SHA-256 {value[:16]}" if key in ("teacher", "origin") else value
    return facts


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
