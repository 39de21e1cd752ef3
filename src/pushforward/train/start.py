"""A new run that begins with the weights of another: for other data, another size of images, other classes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.core.fields import find_inside
from pushforward.core.spec import DataSpec
from pushforward.models.base import ModelBase
from pushforward.models.text import PAD, UNKNOWN
from pushforward.runtime.hashes import digest
from pushforward.saving.folder import References, load_any
from pushforward.saving.parts import class_of, config_of, has_config, rebuild

# What stands for the end of a text among the numbers of rows.
END = -1


@dataclass(frozen=True)
class Taken:
    """What a model took of the weights of another, by the names of tensors.

    taken:   copied whole. by_class, by_word: copied row by row, of the classes and words of the same name. fresh: left
             as they were initialised, since the other model has none of this name and shape. unused: of the other.
    classes: names of the classes whose rows were copied. fresh_classes: of those whose rows are fresh.
    words, fresh_words: alike, of the words that an encoder has numbers for.
    notes:   what the networks mean differently.
    """

    taken: tuple[str, ...]
    by_class: tuple[str, ...]
    by_word: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    classes: tuple[str, ...] = ()
    fresh_classes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    fresh_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{len(self.taken)} tensors taken"]
        for tensors, what, rows, fresh in (
            (self.by_class, "the names of {} classes", self.classes, self.fresh_classes),
            (self.by_word, "{} words", self.words, self.fresh_words),
        ):
            if tensors:
                new = f", with fresh rows for {_some(fresh)}" if fresh else ""
                words.append(f"{len(tensors)} taken by {what.format(len(rows))}{new}")
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
    the models has no names; rows of new classes stay fresh. So are tensors with a row for each word of an encoder's
    vocabulary, by the words. A model of one network takes them from one of another kind
    that has one network too, as a flow map does from the model that it is distilled from. `provenance.started_from` is
    then the SHA-256 of the source.

    parts, references: as for `pf.load`. Raises InputError if nothing fits.
    """
    if not isinstance(source, ModelBase):
        source = load_any(source, parts=parts, references=references)
        assert isinstance(source, ModelBase)
    _require_same_codec(model, source)
    alone = len(model.networks()) == len(source.networks()) == 1
    mine, theirs = dict(_tensors(model, alone)), dict(_tensors(source, alone))
    rows = _same_classes(model.spec, source.spec)
    mine_by_class, theirs_by_class = _class_tensors(model, alone), _class_tensors(source, alone)
    my_words, their_words = _word_tensors(model, alone), _word_tensors(source, alone)
    taken, by_class, by_word, fresh = [], [], [], []
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
        elif name in my_words and name in their_words:
            same = {w: row for w, row in my_words[name].items() if w in their_words[name]}
            tensor[list(same.values())] = other[[their_words[name][w] for w in same]].to(tensor)
            by_word.append(name)
        elif other.shape == tensor.shape:
            tensor.copy_(other)
            taken.append(name)
        else:
            fresh.append(name)
    if not (taken or by_class or by_word):
        raise InputError(
            f"no tensor of the {type(source).__name__} has the name and the shape of one of the new model: it begins "
            f"with {_some(list(theirs))}, and the new one with {_some(list(mine))}"
        )
    sha256 = source.provenance.sha256 or digest(source.state_dict())
    model.provenance = replace(model.provenance, started_from=sha256)
    used = bool(by_class)
    own = {word for name in by_word for word in my_words[name] if isinstance(word, str)}
    there = {word for name in by_word for word in their_words[name] if isinstance(word, str)}
    return Taken(
        tuple(taken),
        tuple(by_class),
        tuple(by_word),
        tuple(fresh),
        tuple(name for name in theirs if name not in {*taken, *by_class, *by_word}),
        tuple(model.spec.name(row) for row in rows) if used else (),
        tuple(model.spec.name(row) for row in range(model.classes or 0) if row not in rows)
        if used
        else (),
        tuple(sorted(own & there)),
        tuple(sorted(own - there)),
        tuple(_notes(model, source)),
    )


def _require_same_codec(model: ModelBase, source: ModelBase) -> None:
    mine, theirs = model.codec, source.codec
    if mine is not None and theirs is not None and mine.digest != theirs.digest:
        raise InputError(
            "the weights are those of a model of the latents of another autoencoder: begin with a model that was "
            "trained with this one and the same data, or omit --from"
        )


def _tensors(model: ModelBase, alone: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model by name, but for its codec's. alone: those of its only network without its place."""
    place = next(iter(model.networks()))
    for name, tensor in model.state_dict().items():
        if "held_codec" in name.split("."):
            continue
        yield (name.removeprefix(f"{place}.") if alone else name), tensor


def _class_tensors(model: ModelBase, alone: bool) -> set[str]:
    """The names of tensors with a row for each class: those that would have one more if there was one more class."""
    return {
        name if alone else f"{place}.{name}"
        for place, net in model.networks().items()
        for name in _grows(net, "classes")
    }


def _word_tensors(model: ModelBase, alone: bool) -> dict[str, dict[str | int, int]]:
    """The names of tensors with a row for each word of an encoder, and the row of each word.

    Rows before those of words, for padding and unknown words, go by their numbers.
    """
    found: dict[str, dict[str | int, int]] = {}
    for encoder in find_inside(model, "encoders", {}).values():
        for one in getattr(encoder, "encoders", (encoder,)):
            words = getattr(one, "vocabulary", None)
            if words is None:
                continue
            for place, net in model.networks().items():
                for inside, module in net.named_modules():
                    if inside.rpartition(".")[2] != one.name:
                        continue
                    for name in _grows(module, "vocabulary"):
                        whole = f"{inside}.{name}" if alone else f"{place}.{inside}.{name}"
                        found[whole] = _rows(words, getattr(one, "end", False))
    return found


def _rows(words: Sequence[str], end: bool) -> dict[str | int, int]:
    last = {END: len(words) + 2} if end else {}
    return {PAD: PAD, UNKNOWN: UNKNOWN} | last | {word: row for row, word in enumerate(words, 2)}


def _grows(net: nn.Module, argument: str) -> Iterator[str]:
    """The names of tensors that have one more row where an argument of the network is one more."""
    config = config_of(net) if has_config(net) else {}
    number = config.get(argument)
    if type(number) is not int:
        return
    try:
        with torch.device("meta"):
            larger = rebuild(class_of(net), {**config, argument: number + 1}).state_dict()
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
