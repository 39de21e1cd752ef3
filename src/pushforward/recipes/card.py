"""The model card of a run: README.md in its folder, a function of the files there.

Its header is the metadata of a card on the Hugging Face Hub, so that huggingface_hub's `ModelCard.load` reads it. That
package is not needed to write one: it brings a client of a server and ten packages more, and a card is text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushforward.core.errors import CheckpointError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults
from pushforward.data import describe
from pushforward.recipes.config import CONFIG, read_config, recipe_of
from pushforward.runtime.files import write_file
from pushforward.saving.folder import Description, read_description
from pushforward.train.log import JSONLines

CARD = "README.md"
# The part that reads prompts.
PROMPT = "encoders.prompt"
# Pictures that commands leave in a run folder, and what they show.
PICTURES = {
    "generated/samples.png": "Samples drawn with `pushforward sample`.",
    "reconstructions.png": "Held-out pictures, each with its reconstruction.",
    "evaluation.png": "Held-out data, what the model makes of them, and the target.",
    "neighbours.png": "Samples, each beside the training images nearest to it.",
    "comparison.png": "Error by network calls, of several solvers.",
    "students.png": "Quality by network calls, of the model and its students.",
}
# What a reader looks for first; all other options are in config.toml.
SHOWN = (
    "objective", "path", "prediction", "steps", "batch_size", "lr", "decay", "weight_decay", "ema", "precision", "seed",
)  # fmt: skip
KINDS = {
    "Model": "a model that draws samples by following a velocity",
    "FlowMapModel": "a flow map, which draws samples in one to a few calls",
    "NoisyClassifier": "a classifier",
    "AutoencoderModel": "an autoencoder of images, by whose latents other models are trained",
    "CLIPModel": "a CLIP, which compares pictures with texts",
    "AutoregressivePrior": "a prior, which draws the vector of a picture from a text, bucket by bucket",
    "UnCLIP": "an unCLIP: a prior, a decoder and a cascade on the vectors of a CLIP",
    "CaptionModel": "a captioner, which writes what pictures show",
    "BridgeModel": "a Schroedinger bridge",
    "HalfBridges": "a Schroedinger bridge of two half-bridges",
    "DiffFlowModel": "a DiffFlow",
}


def write_card(folder: Path) -> None:
    """Write the card anew, from what is in the folder by now."""
    write_file(folder / CARD, card(folder).encode())


def card(folder: Path) -> str:
    """Markdown: what the model is, its data, training, figures, pictures, and how to load it."""
    name, _ = read_config(folder)
    options = recipe_of(folder).flat()
    try:
        model = read_description(folder)
        spec, sampling, provenance = records(model)
        facts = _facts(model, spec, sampling, provenance)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot describe the model in {folder}: {error}") from error
    lines = [
        *_metadata(spec, model, provenance),
        f"# Model card: {name}",
        "",
        _summary(name, model),
        "",
    ]
    lines += ["| | |", "|-|-|", *(f"| {key} | {value} |" for key, value in facts.items()), ""]
    if spec.classes:
        lines += ["## Classes", "", *_classes(spec), ""]
    lines += ["## Data", "", _data(options, spec), ""]
    lines += ["## Training", "", *_training(folder, options), ""]
    if figures := _figures(folder):
        lines += ["## Figures", "", *figures, ""]
    if pictures := _pictures(folder):
        lines += ["## Pictures", "", *pictures, ""]
    lines += ["## How to use it", "", *_use(sampling, model)]
    return "\n".join(lines) + "\n"


def records(model: Description) -> tuple[DataSpec, SamplingDefaults, Provenance]:
    """The records of a saved model, which a flow map has in the model within it."""
    found: dict[str, Any] = {}
    # Its own before those of its parts.
    own = [model.parts[p] for p in ("spec", "sampling", "provenance") if p in model.parts]
    for entry in (*own, *model.parts.values()):
        for kind in (DataSpec, SamplingDefaults, Provenance):
            if entry.get("class") == kind.__name__:
                found.setdefault(kind.__name__, kind.from_config(entry["config"]))
    return (
        found.get("DataSpec", DataSpec()),
        found.get("SamplingDefaults", SamplingDefaults()),
        found.get("Provenance", Provenance()),
    )


def _metadata(spec: DataSpec, model: Description, provenance: Provenance) -> list[str]:
    """The header of a card on the Hub."""
    asked = PROMPT in model.parts or model.kind == "UnCLIP"
    tasks = {"image": "text-to-image" if asked else "unconditional-image-generation"}
    lines = ["---", "library_name: pushforward", "tags:", "- flow-matching", f"- {spec.kind}"]
    if (
        model.kind not in ("NoisyClassifier", "AutoencoderModel", "CLIPModel", "CaptionModel")
        and spec.kind in tasks
    ):
        lines.append(f"pipeline_tag: {tasks[spec.kind]}")
    if model.kind == "CaptionModel":
        lines.append("pipeline_tag: image-to-text")
    if provenance.licence is not None:
        lines.append(f"license: {provenance.licence}")
    return [*lines, "---", ""]


def _summary(name: str, model: Description) -> str:
    return (
        f"Of the recipe `{name}` of pushforward {model.pushforward}: {KINDS.get(model.kind, model.kind)}. "
        f"Nothing in this folder is executed when it is loaded."
    )


def _facts(
    model: Description, spec: DataSpec, sampling: SamplingDefaults, provenance: Provenance
) -> dict[str, str]:
    facts = {}
    for place, entry in model.parts.items():
        last = place.rpartition(".")[2]
        if "weights" in entry or last == "path":
            arguments = ", ".join(f"{k}={v}" for k, v in entry["config"].items())
            name = "network" if last == "net" else last if last == "path" else f"network, {last}"
            if "codec" in place.split("."):
                name = "autoencoder" if last == "net" else "latents"
            facts[name] = f"{entry['class']}({arguments})"
        if "prediction" in entry.get("config", {}) and "net" in entry["config"]:
            facts["predicts"] = entry["config"]["prediction"]
    if PROMPT in model.parts:
        facts["reads prompts by"] = _encoder(model)
    facts["samples"] = describe(spec)
    more = {
        "starts from": sampling.source,
        "method": provenance.method,
        "guidance": sampling.guidance,
        "guidance towards prompts, if none is asked for": sampling.prompt_guidance,
        "teacher": provenance.teacher,
        "origin": provenance.origin,
        "started from": provenance.started_from,
        "licence of the weights": provenance.licence,
    }
    facts |= {name: str(value) for name, value in more.items() if value is not None}
    step = "?" if provenance.step is None else provenance.step
    facts["weights"] = f"EMA at step {step}, SHA-256 {model.sha256}"
    return facts


def _encoder(model: Description) -> str:
    """What reads prompts, in words."""
    found = {k: v for k, v in model.parts.items() if k == PROMPT or k.startswith(f"{PROMPT}.")}
    names = [
        f"{entry['class']} ({len(words)} words)"
        if (words := entry["config"].get("vocabulary"))
        else entry["class"]
        for entry in found.values()
    ]
    return ", ".join(names)


def _classes(spec: DataSpec) -> list[str]:
    """Classes by number and name, with how many samples each has in training."""
    assert spec.classes is not None
    lines = ["| number | name | training samples |", "|-|-|-|"]
    counts = spec.class_counts or ("",) * spec.classes
    shown = [f"| {c} | {spec.name(c)} | {count} |" for c, count in enumerate(counts)]
    return [*lines, *shown[:1000], *(["", f"{len(shown)} in all."] if len(shown) > 1000 else [])]


def _data(options: Mapping[str, Any], spec: DataSpec) -> str:
    given = [
        f"`{key} = {str(options[key])!r}`"
        for key in ("data", "source_data", "source", "target")
        if options.get(key) is not None
    ]
    where = f"Given as {', '.join(given)}. " if given else ""
    credit = "" if spec.credit is None else f"\n\n{spec.credit}"
    return f"{where}SHA-256 of what was trained on: `{spec.fingerprint or 'not recorded'}`.{credit}"


def _training(folder: Path, options: Mapping[str, Any]) -> list[str]:
    shown = ", ".join(f"{key} {options[key]}" for key in SHOWN if key in options)
    lines = [f"{shown}; all options are in [{CONFIG}]({CONFIG})."]
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


def _use(sampling: SamplingDefaults, model: Description) -> list[str]:
    """In the folder of this file, so that it holds wherever that is moved to."""
    if model.kind == "AutoencoderModel":
        return [
            "`pushforward evaluate .` in this folder; `pushforward train text-to-image --latents FOLDER` trains on its "
            "latents."
        ]
    if model.kind == "CLIPModel":
        return [
            "`pushforward evaluate .` in this folder; `pushforward evaluate RUN --clip FOLDER` judges by it whether "
            "the pictures of a text-to-image run show what they were asked for."
        ]
    if model.kind == "CaptionModel":
        return [
            "`pushforward caption . --image X` in this folder says what a picture shows, and `pushforward caption . "
            "--data FOLDER --out captions.jsonl` what all of a folder do."
        ]
    if model.kind == "NoisyClassifier":
        return ["`pushforward evaluate .` in this folder."]
    asked = PROMPT in model.parts or model.kind == "UnCLIP"
    what = 'prompt=["..."] * 8' if asked else "64"
    calls = {
        "UnCLIP": 'samples = model.draw(["..."] * 8, seed=0)',
        "AutoregressivePrior": 'vectors = model.vectors(["..."] * 8, seed=0)',
    }
    code = [
        "```python",
        "import pushforward as pf",
        "",
        'model = pf.load(".")  # this folder',
        calls.get(model.kind, f"samples = pf.generate(model, {what}, seed=0)"),
        "```",
        "",
    ]
    if model.kind == "AutoregressivePrior":
        return [
            *code,
            "`pushforward train unclip --prior-run .` in this folder puts it into a system.",
        ]
    return [
        *([] if sampling.source else code),
        f"`pushforward sample .{' --prompt ...' if asked else ''}` in this folder draws more.",
    ]
