"""A new run that begins with the weights of another: for other data, another size of images, other classes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec
from pushforward.models.base import ModelBase
from pushforward.saving.folder import References, load
from pushforward.saving.parts import class_of, config_of, has_config, rebuild
from pushforward.saving.tensors import digest


@dataclass(frozen=True)
class Taken:
    """What a model took of the weights of another, by the names of tensors.

    taken:   copied whole. by_class: copied row by row, of the classes of the same name. fresh: left as they were
             initialised, since the other model has none of this name and shape. unused: of the other model.
    classes: names of the classes whose rows were copied. fresh_classes: of those whose rows are fresh.
    notes:   what the networks mean differently.
    """

    taken: tuple[str, ...]
    by_class: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    classes: tuple[str, ...] = ()
    fresh_classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{len(self.taken)} tensors taken"]
        if self.by_class:
            words.append(
                f"{len(self.by_class)} taken by the names of {len(self.classes)} classes"
                + (
                    f", with fresh rows for {_some(self.fresh_classes)}"
                    if self.fresh_classes
                    else ""
                )
            )
        if self.fresh:
            words.append(f"{len(self.fresh)} fresh ({_some(self.fresh)})")
        if self.unused:
            words.append(f"{len(self.unused)} not used ({_some(self.unused)})")
        return "; ".join([*words, *self.notes])


@torch.no_grad()
def start_from(
    model: ModelBase,
    source: ModelBase | str | Path,
    *,
    parts: Collection[type] = (),
    references: References | None = None,
) -> Taken:
    """Give a model the weights of another, or of the run in a folder, where name and shape are the same.

    Tensors with a row for each class are taken row by row: that of a class by its name, or by its number where one of
    the models has no names; rows of new classes stay fresh. A model of one network takes them from one of another kind
    that has one network too, as a flow map does from the model that it is distilled from. `provenance.started_from` is
    then the SHA-256 of the source.

    parts, references: as for `pf.load`. Raises InputError if nothing fits.
    """
    if not isinstance(source, ModelBase):
        source = load(source, parts=parts, references=references)
        assert isinstance(source, ModelBase)
    alone = len(model.networks()) == len(source.networks()) == 1
    mine, theirs = dict(_tensors(model, alone)), dict(_tensors(source, alone))
    rows = _same_classes(model.spec, source.spec)
    mine_by_class, theirs_by_class = _class_tensors(model, alone), _class_tensors(source, alone)
    taken, by_class, fresh = [], [], []
    for name, tensor in mine.items():
        other = theirs.get(name)
        if other is None or other.shape[1:] != tensor.shape[1:] or other.ndim != tensor.ndim:
            fresh.append(name)
        elif name in mine_by_class and name in theirs_by_class:
            extra = len(tensor) - (model.classes or 0)
            for new, old in rows.items():
                tensor[new] = other[old].to(tensor)
            if extra:  # what stands for no class
                tensor[-extra:] = other[-extra:].to(tensor)
            by_class.append(name)
        elif other.shape == tensor.shape:
            tensor.copy_(other)
            taken.append(name)
        else:
            fresh.append(name)
    if not taken and not by_class:
        raise InputError(
            f"no tensor of the {type(source).__name__} has the name and the shape of one of the new model: it begins "
            f"with {_some(list(theirs))}, and the new one with {_some(list(mine))}"
        )
    sha256 = source.provenance.sha256 or digest(source.state_dict())
    model.provenance = replace(model.provenance, started_from=sha256)
    used = bool(by_class)
    return Taken(
        tuple(taken),
        tuple(by_class),
        tuple(fresh),
        tuple(name for name in theirs if name not in {*taken, *by_class}),
        tuple(model.spec.name(row) for row in rows) if used else (),
        tuple(model.spec.name(row) for row in range(model.classes or 0) if row not in rows)
        if used
        else (),
        tuple(_notes(model, source)),
    )


def _tensors(model: ModelBase, alone: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model by name. alone: those of its only network without its place."""
    place = next(iter(model.networks()))
    for name, tensor in model.state_dict().items():
        yield (name.removeprefix(f"{place}.") if alone else name), tensor


def _class_tensors(model: ModelBase, alone: bool) -> set[str]:
    """The names of tensors with a row for each class: those that would have one more if there was one more class."""
    return {
        name if alone else f"{place}.{name}"
        for place, net in model.networks().items()
        for name in _grows(net)
    }


def _grows(net: nn.Module) -> Iterator[str]:
    config = config_of(net) if has_config(net) else {}
    classes = config.get("classes")
    if type(classes) is not int:
        return
    try:
        with torch.device("meta"):
            larger = rebuild(class_of(net), {**config, "classes": classes + 1}).state_dict()
    except Exception:  # a network of somebody's own that cannot be built without values
        return
    for name, tensor in net.state_dict().items():
        more = larger.get(name)
        if more is not None and tensor.ndim and more.shape == (len(tensor) + 1, *tensor.shape[1:]):
            yield name


def _same_classes(mine: DataSpec, theirs: DataSpec) -> Mapping[int, int]:
    """The label there of each label here that is the same class."""
    if mine.classes is None or theirs.classes is None:
        return {}
    if mine.class_names is None or theirs.class_names is None:
        return {label: label for label in range(min(mine.classes, theirs.classes))}
    there = {name: label for label, name in enumerate(theirs.class_names)}
    return {label: there[name] for label, name in enumerate(mine.class_names) if name in there}


def _notes(model: ModelBase, source: ModelBase) -> Iterator[str]:
    for name in ("path", "prediction"):
        mine, theirs = getattr(model, name, None), getattr(source, name, None)
        if mine != theirs:
            yield f"its {name} is {mine}, and that of the weights {theirs}"


def _some(names: Collection[str]) -> str:
    shown = list(names)[:4]
    return ", ".join(shown) + (", ..." if len(names) > 4 else "")
