"""Labels of data that come after a model, in the numbers that the model knows them by."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

import torch

from pushforward.core.errors import DataError
from pushforward.core.spec import DataSpec
from pushforward.data.dataset import Dataset
from pushforward.data.labels import some


def match_labels(data: Dataset, spec: DataSpec) -> Dataset:
    """`data` with the labels of a model's classes, matched by NAME; spec: of the model.

    A folder with the classes cat and fox numbers them 0 and 1, whatever a model that knows ant, cat, dog and fox does.
    Labels that are numbers on either side are matched with names that are the same numbers, if all are; else they are
    the model's own numbers. Data without labels, and data for a model without classes, stay as they are.

    Raises DataError for classes with samples that the model does not know.
    """
    if data.labels is None or spec.classes is None:
        return data
    known = spec.class_names
    used = data.labels.unique().tolist()
    if data.class_names is None and known is not None:
        # "2", "10" as names, and 2, 10 as numbers.
        by_name = all(str(label) in known for label in used)
        names = {
            label: str(label) if by_name else known[label] for label in used if label < len(known)
        }
        found = [names.get(label, str(label)) for label in used]
    elif data.class_names is None:
        found = [str(label) for label in used]
    else:
        found = [data.class_names[label] for label in used]
    numbers = {name: label for label, name in enumerate(known or map(str, range(spec.classes)))}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        near = get_close_matches(unknown[0], numbers, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(
            f"the data have {'classes' if len(unknown) > 1 else 'a class'} that the model does not know: "
            f"{some(unknown)}{hint}. It knows {some(numbers, 20)}"
        )
    table = torch.zeros(max(used, default=0) + 1, dtype=torch.int64)
    table[used] = torch.tensor([numbers[name] for name in found], dtype=torch.int64)
    return replace(
        data, labels=table[data.labels], classes=spec.classes, class_names=spec.class_names
    )
