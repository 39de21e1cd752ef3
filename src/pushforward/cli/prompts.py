"""Options of commands that take prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pushforward.recipes.options import Options, option

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Sampled

SIZE = re.compile(r"(\d+)(?:x(\d+))?")


class Prompted(Options):
    """What to draw, in words."""

    prompt: tuple[str, ...] = option(
        (),
        "What to draw, in words; several, each after a --prompt of its own, in turn.",
        append=True,
    )
    prompts: Path | None = option(None, "File with a prompt on each line.", rare=True)
    negative: str | None = option(None, "What to move away from, in words. Needs --guidance.")
    size: str | None = option(
        None, "Width and height in pixels, as in 64x48. Default: as in training.", rare=True
    )

    def lines(self, model: Sampled) -> list[str]:
        """The prompts; [] if there are none. What the encoder does not know or cannot hold is said."""
        from pushforward.core.errors import InputError

        given = list(self.prompt)
        more = [text for text in (self.negative, getattr(self, "from_prompt", None)) if text]
        if self.prompts is not None:
            try:
                text = self.prompts.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"cannot read the prompts of {self.prompts}: {error}") from error
            given += [line.strip() for line in text.splitlines() if line.strip()]
            if not given:
                raise InputError(f"{self.prompts} holds no prompt")
        wanted = given or more or self.negative is not None
        if wanted and "prompt" not in model.encoders:
            raise InputError(
                "--prompt needs a model that was trained on captions, as by pushforward train text-to-image, and this "
                "one was not"
            )
        if any(not text.strip() for text in given):
            raise InputError("a prompt is empty: say what to draw, or omit --prompt")
        if wanted:
            tell([*given, *more], model.encoders["prompt"])
        return given

    def shape(self, model: Sampled) -> tuple[int, ...] | None:
        """The states of pictures of --size; None for those of training."""
        size, factor = self.pixels(model), getattr(model.codec, "factor", 1)
        return None if size is None else (model.shape[0], *(side // factor for side in size))

    def pixels(self, model: Sampled) -> tuple[int, int] | None:
        """Height and width by --size, which the model must be able to draw; None without it."""
        from pushforward.core.errors import InputError

        if self.size is None:
            return None
        found = SIZE.fullmatch(self.size)
        if found is None:
            raise InputError(f"--size {self.size}: give width and height, as in 64x48")
        width, height = int(found[1]), int(found[2] or found[1])
        if len(model.shape) != 3 or min(width, height) < 1:
            raise InputError("--size is for models of images, and of at least one pixel")
        factor = getattr(model.codec, "factor", 1)
        if width % factor or height % factor:
            raise InputError(
                f"--size {self.size}: this model draws latents of {factor} x {factor} pixels each; give multiples of "
                f"{factor}"
            )
        return height, width


def tell(lines: Sequence[str], encoder: Any) -> None:
    """Say, on stderr, which words of prompts have no meaning to a model, and what was cut."""
    from pushforward.recipes.images import tell as say

    unknown = getattr(encoder, "unknown", None)
    strange = (
        [] if unknown is None else list(dict.fromkeys(w for line in lines for w in unknown(line)))
    )
    if strange:
        say(
            [f"words that this model never saw, which say nothing to it: {', '.join(strange[:10])}"]
        )
    for line in dict.fromkeys(lines):
        left = encoder.cut(line) if hasattr(encoder, "cut") else None
        if left is not None:
            say([f'a prompt is too long for this model, which reads it as "{left}"'])
