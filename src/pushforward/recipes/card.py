"""The model card of a run: README.md in its folder, a function of the files there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushforward.core.errors import CheckpointError
from pushforward.core.spec import DataSpec
from pushforward.recipes.experiment import CONFIG, read_config
from pushforward.runtime.files import write_file
from pushforward.saving.folder import Description, read_description
from pushforward.train.log import JSONLines

CARD = "README.md"
# Pictures that commands leave in a run folder, and what they show.
PICTURES = {
    "generated/samples.png": "Samples drawn with `pushforward sample`.",
    "neighbours.png": "Samples, each beside the training images nearest to it.",
    "comparison.png": "Error by network calls, of several solvers.",
    "students.png": "Quality by network calls, of the model and its students.",
}
# What a reader looks for first; all other options are in config.toml.
SHOWN = (
    "objective", "path", "prediction", "steps", "batch_size", "lr", "decay", "weight_decay", "ema", "precision", "seed",
)  # fmt: skip


def write_card(folder: Path) -> None:
    """Write the card anew, from what is in the folder by now."""
    write_file(folder / CARD, card(folder).encode())


def card(folder: Path) -> str:
    """Markdown: what the model is, its data, training, figures, pictures, and how to load it."""
    name, options = read_config(folder)
    try:
        model = read_description(folder)
        info = _info(model)
        facts = _facts(model, info)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot describe the model in {folder}: {error}") from error
    classifier = model.kind == "NoisyClassifier"
    lines = [f"# Model card: {name}", "", _summary(name, model), ""]
    lines += ["| | |", "|-|-|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    lines += ["## Data", "", _data(options, info), ""]
    lines += ["## Training", "", *_training(folder, options), ""]
    if figures := _figures(folder):
        lines += ["## Figures", "", *figures, ""]
    if pictures := _pictures(folder):
        lines += ["## Pictures", "", *pictures, ""]
    lines += ["## How to use it", "", *_use(info, classifier)]
    return "\n".join(lines) + "\n"


def _info(model: Description) -> dict[str, Any]:
    """The info of a model, which a flow map has in the model within it."""
    found = (entry["config"].get("info") for entry in model.parts.values() if "config" in entry)
    return next((info for info in found if info), {})


def _summary(name: str, model: Description) -> str:
    kinds = {
        "Model": "a model that draws samples by following a velocity",
        "FlowMapModel": "a flow map, which draws samples in one to a few calls",
        "NoisyClassifier": "a classifier",
        "BridgeModel": "a Schroedinger bridge",
        "HalfBridges": "a Schroedinger bridge of two half-bridges",
        "DiffFlowModel": "a DiffFlow",
    }
    return (
        f"Of the recipe `{name}` of pushforward {model.pushforward}: {kinds.get(model.kind, model.kind)}. "
        f"Nothing in this folder is executed when it is loaded."
    )


def _facts(model: Description, info: Mapping[str, Any]) -> dict[str, str]:
    facts = {}
    for place, entry in model.parts.items():
        last = place.rpartition(".")[2]
        if "weights" in entry or last == "path":
            arguments = ", ".join(f"{k}={v}" for k, v in entry["config"].items())
            name = "network" if last == "net" else last if last == "path" else f"network, {last}"
            facts[name] = f"{entry['class']}({arguments})"
        elif entry.get("class") == "DataSpec":
            spec = DataSpec.from_config(entry["config"])
        if "prediction" in entry.get("config", {}) and "net" in entry["config"]:
            facts["predicts"] = entry["config"]["prediction"]
    facts["sample shape"] = " x ".join(map(str, spec.shape))
    if spec.classes:
        names = info.get("class_names") or range(spec.classes)
        facts["classes"] = ", ".join(map(str, names))
    for key in ("method", "guidance", "teacher", "origin"):
        if key in info:
            facts[key] = str(info[key])
    facts["weights"] = f"EMA at step {info.get('step', '?')}, SHA-256 {model.sha256}"
    return facts


def _data(options: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    given = [
        f"`{key} = {options[key]!r}`" for key in ("data", "source", "target") if key in options
    ]
    where = f"Given as {', '.join(given)}. " if given else ""
    return f"{where}SHA-256 of what was trained on: `{info.get('data', 'not recorded')}`."


def _training(folder: Path, options: Mapping[str, Any]) -> list[str]:
    told = ", ".join(f"{key} {options[key]}" for key in SHOWN if key in options)
    lines = [f"{told}; all options are in [{CONFIG}]({CONFIG})."]
    entries = JSONLines(folder / "log.jsonl").read()
    if entries:
        last = entries[-1]
        lines.append("")
        lines.append(f"Loss at step {last['step']}: {last['loss']:.5f}.")
        held = [e for e in entries if "validation_loss" in e]
        if held:
            lines[-1] += (
                f" On held-out data at step {held[-1]['step']}: {held[-1]['validation_loss']:.5f}."
            )
    return lines


def _figures(folder: Path) -> list[str]:
    try:
        found = json.loads((folder / "evaluation.json").read_text())
        figures, settings = dict(found["figures"]), dict(found["settings"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {folder / 'evaluation.json'}: {error}") from error
    rows = [f"| {k} | {v:.4g} |" if isinstance(v, float) else f"| {k} | {v} |" for k, v in figures.items()]  # fmt: skip
    how = ", ".join(f"{k} {v}" for k, v in settings.items() if v is not None)
    return ["| figure | value |", "|-|-|", *rows, "", f"By `pushforward evaluate`: {how}."]


def _pictures(folder: Path) -> list[str]:
    found = [(p, words) for p, words in PICTURES.items() if (folder / p).is_file()]
    steps = sorted((folder / "samples").glob("step-*.png"))
    if steps:
        step = int(steps[-1].stem.removeprefix("step-"))
        found.insert(0, (f"samples/{steps[-1].name}", f"Samples at step {step}."))
    lines: list[str] = []
    for path, words in found:
        lines += [f"![{words}]({path})", "", words, ""]
    return lines[:-1]


def _use(info: Mapping[str, Any], classifier: bool) -> list[str]:
    """In the folder of this file, so that it holds wherever that is moved to."""
    if classifier:
        return ["`pushforward evaluate .` in this folder."]
    code = [
        "```python",
        "import pushforward as pf",
        "",
        'model = pf.load(".")  # this folder',
        "samples = pf.generate(model, 64, seed=0)",
        "```",
        "",
    ]
    return [
        *([] if info.get("source") else code),
        "`pushforward sample .` in this folder draws more.",
    ]
