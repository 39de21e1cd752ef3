"""Samples as files, with the settings that draw them again."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from torch import Tensor

from pushforward.evaluate import kinds
from pushforward.evaluate.figures import png
from pushforward.serve.job import labels
from pushforward.serve.settings import Settings
from pushforward.serve.subjects import Subject


def file(form: str, x: Tensor, subject: Subject, settings: Settings) -> bytes:
    """x as .npz (samples, label, settings as JSON) or .png (a figure, settings as JSON under "pushforward")."""
    about: dict[str, Any] = {**settings.about, "model": sha256(subject)}
    label = labels(subject, settings, len(x))
    if form == "png":
        figure = kinds.of(subject.spec).draw(x.float(), subject.spec, label)
        return png(figure, about)
    arrays = {"samples": x.numpy()}
    if label is not None:
        arrays["label"] = label.numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, settings=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def sha256(subject: Subject) -> str | None:
    return None if subject.exact else subject.field.provenance.sha256
