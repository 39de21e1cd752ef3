"""Text encoders: parts of a model that make conditions of prompts."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from pushforward.core.conditions import Condition, Fill, Null, Tokens
from pushforward.core.errors import InputError

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[^\w\s]")
PAD, UNKNOWN = 0, 1
# Marks that stand at the word before them, or at the one behind.
CLOSING, OPENING = re.compile(r" (?=[.,;:!?)\]}%])"), re.compile(r"(?<=[(\[{]) ")


@dataclass(frozen=True)
class NoText:
    """No text: sequences without tokens, and pooled vectors of zeros."""

    def __call__(self, value: Condition) -> Condition:
        if isinstance(value, Tokens):
            return Tokens(torch.zeros_like(value.values), torch.zeros_like(value.mask))
        if isinstance(value, Mapping):
            return {name: self(part) for name, part in value.items()}
        return Fill(0)(value)


def split_words(text: str) -> list[str]:
    """A text as words and marks, in lower case."""
    return WORD.findall(text.lower())


def check_texts(texts: Sequence[str]) -> None:
    """InputError unless all are texts."""
    odd = [texts] if isinstance(texts, str) else [t for t in texts if not isinstance(t, str)]
    if odd:
        raise InputError(f"an encoder takes a list of texts, not {odd[0]!r}")


@dataclass(frozen=True)
class Words:
    """Texts as ids of words: {name: Tokens of ids (B, L)}.

    vocabulary: the words that have an id, from 2 on; 0 is padding and 1 an unknown word.
    length:     the most words of a text, its end included; longer ones are cut, between words.
    name:       of the condition.
    end:        whether a text has an end, a last word whose id is the largest, as `CLIPText` needs it.
    """

    vocabulary: tuple[str, ...]
    length: int = 64
    name: str = "words"
    end: bool = False

    # Encoding is as quick as reading what was kept of it.
    quick: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.length < 1 + self.end or not self.vocabulary:
            raise InputError("an encoder of words needs a vocabulary and a positive length")

    @classmethod
    def of(
        cls, texts: Iterable[str], most: int = 10_000, length: int = 64, end: bool = False
    ) -> Words:
        """With the words of these texts, the most frequent ones first."""
        counts = Counter(word for text in texts for word in split_words(text))
        found = sorted(counts, key=lambda word: (-counts[word], word))[:most]
        if not found:
            raise InputError("the captions hold no words: a model of texts needs some")
        return cls(tuple(found), length, end=end)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary, 2)}

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.vocabulary) + 2 + self.end

    @property
    def room(self) -> int:
        """The most words of a text beside its end."""
        return self.length - self.end

    @cached_property
    def digest(self) -> str:
        text = json.dumps([self.vocabulary, self.length, self.name, *([True] if self.end else [])])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def nulls(self) -> Mapping[str, Null]:
        return {self.name: NoText()}

    def unknown(self, text: str) -> list[str]:
        """The words of a text that have no id."""
        return [word for word in split_words(text) if word not in self.ids]

    def cut(self, text: str) -> str | None:
        """What is left of a text that is too long, or None if it fits."""
        words = split_words(text)
        return " ".join(words[: self.room]) if len(words) > self.room else None

    def text(self, ids: Iterable[int]) -> str:
        """The text of these ids up to the end: words with spaces between them, marks at the words that they belong to.

        Its own ids are these, but for padding and unknown words, which are omitted.
        """
        words = []
        for i in ids:
            if self.end and i == self.size - 1:
                break
            if i > UNKNOWN:
                words.append(self.vocabulary[i - 2])
        return OPENING.sub("", CLOSING.sub("", " ".join(words)))

    def __call__(self, texts: Sequence[str]) -> dict[str, Condition]:
        check_texts(texts)
        last = [self.size - 1] if self.end else []
        rows = [
            [self.ids.get(w, UNKNOWN) for w in split_words(t)[: self.room]] + last for t in texts
        ]
        longest = max(1, *map(len, rows)) if rows else 1
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = True
        return {self.name: Tokens(ids, mask)}

    def to_config(self) -> dict[str, Any]:
        config = {"vocabulary": list(self.vocabulary), "length": self.length, "name": self.name}
        return config | ({"end": True} if self.end else {})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Words:
        return cls(**{**config, "vocabulary": tuple(config["vocabulary"])})


@dataclass(frozen=True)
class Together:
    """Several encoders of one text: the conditions of all of them, each dropped on its own."""

    encoders: tuple[Any, ...]

    def __post_init__(self) -> None:
        names = [name for encoder in self.encoders for name in encoder.nulls]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice or not names:
            raise InputError(
                f"two encoders give the condition {twice[0]!r}: name them apart (name=)"
                if twice
                else "at least one encoder is needed"
            )

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(" ".join(e.digest for e in self.encoders).encode()).hexdigest()

    @property
    def nulls(self) -> Mapping[str, Null]:
        return {name: null for e in self.encoders for name, null in e.nulls.items()}

    def cut(self, text: str) -> str | None:
        """The least that any of them leaves of a text that is too long, or None if it fits all."""
        left = [
            part for e in self.encoders if hasattr(e, "cut") and (part := e.cut(text)) is not None
        ]
        return min(left, key=len, default=None)

    def __call__(self, texts: Sequence[str]) -> dict[str, Condition]:
        return {name: value for e in self.encoders for name, value in e(texts).items()}

    def to_config(self) -> dict[str, Any]:
        return {"encoders": list(self.encoders)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Together:
        return cls(tuple(config["encoders"]))
