"""`pushforward caption`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pushforward.cli.base import DEVICE, Command, run_folder, say
from pushforward.cli.decoding import DECODING, AnyDecoding, BeamChoice
from pushforward.recipes.options import Options, RunFolder, option, pick

if TYPE_CHECKING:
    from pushforward.models.captioner import CaptionModel


class Caption(Command):
    """Say what pictures show: one picture, or all of a data set, as a file with a line for each.

    A file that was begun is continued: no caption is lost or written twice. Its lines are those of metadata.jsonl, and
    `train text-to-image --recaptions` learns from them.
    """

    folder: RunFolder = run_folder("Run folder of a captioner.")
    image: Path | None = option(None, "Picture to caption.")
    data: str | None = option(None, "scenes, emoji, or a folder, archives or array of images.")
    num: int | None = option(
        None, "How many pictures, from the first on. Default: all; of scenes 1000.", ge=1
    )
    package: Path | None = option(
        None, "The package of the emoji, if it is not to be fetched.", rare=True
    )
    on_bad: Literal["error", "skip"] = option(
        "error", "Files that cannot be read: stop, or skip and report them.", rare=True
    )
    decoding: AnyDecoding = pick(BeamChoice, DECODING)
    out: Path | None = option(None, "File for the captions (.jsonl); needed with --data.")
    overwrite: bool = option(False, "Begin the file anew.")
    batch_size: int = option(64, "Pictures at a time.", ge=1)
    seed: int = option(0, "Key of random captions.", ge=0, lt=2**64)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"captioning {self.image or self.data or 'pictures'} by {self.folder}"

    def cut(self, above: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        # As many as a training on them has in a rehearsal.
        return {**above(self), "num": None if self.data is None else min(self.num or 200, 200)}

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_captioner

        if (self.image is None) == (self.data is None):
            raise InputError("give either --image or --data")
        if self.data is not None and self.out is None:
            raise InputError(
                "--data writes many captions: name a file by --out, as in captions.jsonl"
            )
        if self.image is not None and (self.num is not None or self.out is not None):
            raise InputError("--num and --out are for --data: the caption of an --image is printed")
        model = load_captioner(self.folder, find_device(self.device))
        if self.data is None or self.out is None:
            return self.one(model)
        return self.many(model, self.data, self.out)

    def one(self, model: CaptionModel) -> int:
        from pushforward.cli.edit import opened
        from pushforward.sampling.captions import captions

        assert self.image is not None
        channels, height, width = model.spec.shape
        x = opened(self.image, channels, (height, width)).float() / 127.5 - 1
        say(captions(model, model.scaled(x), self.decoding.build(), seed=self.seed)[0])
        return 0

    def many(self, model: CaptionModel, data: str, out: Path) -> int:
        from pushforward.core.progress import tell
        from pushforward.recipes.images import skipped
        from pushforward.recipes.images import tell as note
        from pushforward.recipes.recaption import pictures_of
        from pushforward.runtime.lines import Lines
        from pushforward.sampling.captions import captions

        pictures = pictures_of(data, model.spec.shape, self.num, self.package, self.on_bad)
        about = {
            "model": model.provenance.sha256, "data": data, "pictures": pictures.digest, "seed": self.seed,
            "decoding": self.decoding.model_dump(),
        }  # fmt: skip
        decoder, size, total, failed = self.decoding.build(), self.batch_size, len(pictures), 0
        with Lines(out, about, self.overwrite) as lines:
            done = lines.next
            if done:
                note([f"{out} has the first {done} of {total}: going on behind them"])
            # Batches begin at multiples of their size, as in a run that was not interrupted.
            for start in range(done - done % size, total if done < total else 0, size):
                tell("captions", max(start, done), total)
                rows = range(start, min(start + size, total))
                x, bad = pictures.read(rows)
                found = captions(
                    model, model.scaled(x), decoder, seed=self.seed, start=start, batch_size=size
                )
                entries = []
                for row, text in zip(rows, found, strict=True):
                    if row < done:
                        continue
                    said = {"error": bad[row]} if row in bad else {"text": text}
                    entries.append({"id": row, **pictures.called(row), **said})
                    if row in bad:
                        failed += 1
                        skipped(pictures.called(row).get("file_name", str(row)), bad[row])
                lines.append(entries)
            tell("captions", total, total)
        say(
            f"{max(done, total)} pictures in {out}"
            + (f", {failed} of them skipped" if failed else "")
        )
        return 0
