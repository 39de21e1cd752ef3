"""Runs of models that others trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def keep(model: Any, folder: Path, data: Path | None = None) -> str:
    """Write an imported model as a run folder; returns the SHA-256 of its weights.

    data: images like those that it draws, in a folder, archives or an array. With them the folder is a run of the
    recipe `images`, of no steps here, which is evaluated, distilled and prolonged like any other. They are checked
    before anything is written.
    """
    from pushforward.runtime.files import write_file
    from pushforward.saving.folder import save

    if data is None:
        return save(model, folder)
    from pushforward.recipes.config import CONFIG, written

    recipe = _recipe(model, data)
    experiment = recipe.build()
    model.spec = _spec(model.spec, experiment.model.spec, data)
    sha256 = save(model, folder)
    write_file(folder / CONFIG, written(recipe))
    return sha256


def _recipe(model: Any, data: Path) -> Any:
    from pushforward.core.errors import InputError
    from pushforward.recipes.images import Images

    shape = model.spec.shape
    if model.codec is not None or model.encoders:
        raise InputError(
            "--data is for models of pixels, by class or by nothing: judge those of latents and of prompts in Python"
        )
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] not in (1, 3):
        raise InputError(
            f"--data is for square grey or colour images, and this model draws {shape}"
        )
    pictures = {"size": shape[1], "channels": shape[0]}
    return Images.model_validate({"data": data.resolve(), "pictures": pictures})


def _spec(own: Any, found: Any, data: Path) -> Any:
    """What the model says of its data, with names, counts and fingerprint of these."""
    from pushforward.core.errors import InputError

    if own.shape != found.shape:
        raise InputError(f"{data} has images {found.shape}, and the model draws {own.shape}")
    if own.classes != found.classes:
        raise InputError(
            f"{data} has {found.classes or 'no'} classes, and the model was trained with {own.classes or 'none'}: give "
            f"a folder with a subfolder for each class of the model, or without subfolders if it has none"
        )
    return own.with_(
        fingerprint=found.fingerprint,
        class_names=own.class_names or found.class_names,
        class_counts=found.class_counts,
    )
