"""Models to the Hugging Face Hub: a folder as it is saved, with its card.

model.json, *.safetensors     what is loaded; nothing in them is executed
README.md                     the card, with metadata that the Hub reads
config.toml, evaluation.json, pictures that the card shows
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.spec import DataSpec
from pushforward.core.version import __version__
from pushforward.saving.folder import DESCRIPTION, read_description
from pushforward.saving.hub import SCHEME, explained

CARD = "README.md"
BESIDE = ("config.toml", "evaluation.json")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool | None = None,
    message: str | None = None,
) -> str:
    """Upload the model in a folder to the Hub, as OWNER/NAME; returns the address of the commit.

    The repository is created if there is none. The card is README.md of the folder, or else a short one; to its
    metadata the figures of evaluation.json are added, which the Hub shows beside it.

    private: whether a new repository is; by default as the owner's settings have it. message: of the commit.

    Raises InputError for a name that the Hub cannot have, a model that holds parts by reference, and without leave to
    write.
    """
    folder = Path(folder)
    repository = str(name).removeprefix(SCHEME)
    parts = read_description(folder).parts
    held = [place for place, entry in parts.items() if "reference" in entry]
    if held:
        raise InputError(
            f"the model holds its part {held[0]} by reference, which would be missing on the Hub: save it whole, "
            f"pf.save(pf.load({str(folder)!r}), another folder), and push that"
        )
    weights = sorted({entry["weights"]["file"] for entry in parts.values() if "weights" in entry})
    missing = [file for file in weights if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {missing[0]} is missing")
    with explained(repository):
        from huggingface_hub import CommitOperationAdd, HfApi

        card = hub_card(folder, repository)
        names = [DESCRIPTION, *weights, *beside(folder, card)]
        files: list[Any] = [CommitOperationAdd(file, folder / file) for file in names]
        files.append(CommitOperationAdd(CARD, card.encode()))
        api = HfApi(library_name="pushforward", library_version=__version__)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, files, commit_message=message or "Upload model")
    return str(commit.commit_url)


def beside(folder: Path, card: str) -> list[str]:
    """Files of a folder that are uploaded beside the model and its card: its records, and pictures that the card
    shows."""
    home = folder.resolve()
    shown = [path for path in PICTURE.findall(card) if "://" not in path]
    inside = [path for path in shown if (home / path).resolve().is_relative_to(home)]
    return [path for path in dict.fromkeys((*BESIDE, *inside)) if (folder / path).is_file()]


def hub_card(folder: Path, repository: str) -> str:
    """The card of a folder as the Hub reads it: Markdown under a header of metadata."""
    from huggingface_hub import EvalResult, ModelCard
    from yaml import YAMLError

    path = folder / CARD
    try:
        card = ModelCard(path.read_text() if path.is_file() else short_card(folder, repository))
    except (OSError, ValueError, YAMLError) as error:
        raise InputError(f"{path} is no card that the Hub could read: {error}") from error
    data: Any = card.data
    data.library_name = data.library_name or "pushforward"
    data.tags = list(dict.fromkeys((*(data.tags or ()), "pushforward")))
    figures = _figures(folder)
    if figures and not data.eval_results:
        spec = _spec(folder)
        task = data.pipeline_tag or "other"
        data.model_name = data.model_name or repository.rpartition("/")[2]
        data.eval_results = [
            EvalResult(task, spec.kind, f"{spec.kind} data, held out", key, value) for key, value in figures.items()
        ]  # fmt: skip
    return str(card)


def short_card(folder: Path, repository: str) -> str:
    """The card of a model that was saved without one."""
    spec = _spec(folder)
    lines = ["---", "library_name: pushforward", "tags:", "- flow-matching", f"- {spec.kind}"]
    if spec.kind == "image":
        lines.append("pipeline_tag: unconditional-image-generation")
    shape = " x ".join(map(str, spec.shape)) or "unknown"
    lines += ["---", "", f"# {repository}", "", f"Samples of shape {shape} ({spec.kind})."]
    code = ["```python", "import pushforward as pf", "", f'model = pf.load("{SCHEME}{repository}")']
    return "\n".join([*lines, "", *code, "samples = pf.generate(model, 64)", "```", ""])


def _spec(folder: Path) -> DataSpec:
    """Of the data, as the folder describes them."""
    for entry in read_description(folder).parts.values():
        if entry.get("class") == DataSpec.__name__:
            return DataSpec.from_config(entry["config"])
    return DataSpec()


def _figures(folder: Path) -> dict[str, float]:
    """The figures of `pushforward evaluate`, those that are finite numbers."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return {}
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())["figures"]
        numbers = {
            k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return {key: float(value) for key, value in numbers.items() if abs(value) < float("inf")}
