"""Annotations of an image: a JSON object, in a line of metadata.jsonl or in a member of an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pushforward.data.labels import some

# Besides "label" and "text", which are checked: the first of these fields that can be one is taken.
OTHER_LABELS = ("class", "class_name", "category", "target")
OTHER_TEXTS = ("caption", "prompt")
# Fields that name the image and say nothing else of it.
NAMES = ("file_name", "key", "__key__")


@dataclass(frozen=True)
class Described:
    """Annotations of an image: label and text, the field that the label was in, and the fields that are not used."""

    label: str | int | None = None
    text: str | None = None
    field: str | None = None
    others: tuple[str, ...] = ()


def described(item: Mapping[str, Any]) -> Described:
    """Label and text of an object. Raises ValueError with the reason if they are of other types."""
    label, text = item.get("label"), item.get("text")
    field = None if label is None else "label"
    wording = None if text is None else "text"
    if text is not None and not isinstance(text, str):
        raise ValueError(f"its text is {text!r}, not a string")
    if label is not None and not _is_label(label):
        raise ValueError(f"its label is {label!r}; it must be a string or a whole number")
    if isinstance(label, int) and label < 0:
        raise ValueError(f"its label is {label}; it must not be negative")
    if label is None:
        field = next((name for name in OTHER_LABELS if _is_label(item.get(name))), None)
        label = None if field is None else item[field]
    if text is None:
        wording = next((name for name in OTHER_TEXTS if isinstance(item.get(name), str)), None)
        text = None if wording is None else item[wording]
        odd = [name for name in OTHER_TEXTS if item.get(name) is not None]
        if text is None and odd:
            raise ValueError(f"its {odd[0]} is {item[odd[0]]!r}, not a string")
    used = {field, wording, *NAMES}
    others = tuple(name for name in item if name not in used and item[name] is not None)
    return Described(label, text, field, others)


def _is_label(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and value < 2**63
    return whole or isinstance(value, str)


def notes_on_fields(where: str, field: str | None, others: Sequence[str]) -> list[str]:
    """Notes on the field of the labels, if it is not called "label", and on fields that are not used."""
    notes = []
    if field is not None and field != "label":
        notes.append(f"{where}: the field {field!r} is taken for the label")
    if others:
        notes.append(f"{where}: not used: the fields {some(map(repr, others))}")
    return notes
