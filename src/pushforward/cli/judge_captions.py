"""`pushforward evaluate` of a captioner."""

from __future__ import annotations

from pathlib import Path

from pushforward.cli.base import DEVICE, Command, require_same_data, run_folder, show, write_json
from pushforward.cli.decoding import DECODING, AnyDecoding, BeamChoice
from pushforward.recipes.options import option, pick


class JudgeCaptions(Command):
    """Judge a captioner by held-out pictures: BLEU and CIDEr by their captions, how many find each other among 100, and
    of scenes how many captions say everything right. A table, evaluation.json and captions.txt in the run folder."""

    folder: Path = run_folder("Run folder of a captioner.")
    num: int = option(1000, "Held-out pictures to judge by.", ge=2)
    decoding: AnyDecoding = pick(BeamChoice, DECODING)
    seed: int = option(0, "Key of random captions.", ge=0, lt=2**64)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"judging the captioner {self.folder}"

    def run(self) -> int:
        from pushforward.evaluate.captions import judge_captioner
        from pushforward.recipes.card import write_card
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Captioning
        from pushforward.runtime.device import find_device
        from pushforward.runtime.files import write_file
        from pushforward.saving.folder import load_captioner

        model = load_captioner(self.folder, find_device(self.device))
        experiment = recipe_of(self.folder, device=self.device).build()
        assert isinstance(experiment, Captioning)
        require_same_data(self.folder, model.spec, experiment.fingerprint)
        held_out = experiment.held_out
        count = min(self.num, len(held_out))
        figures, lines = judge_captioner(
            model, held_out, count, self.decoding.build(), seed=self.seed
        )
        given = held_out.sample(count).captions or ()
        pairs = (f"{line}\n    given: {own}\n" for line, own in zip(lines, given, strict=True))
        write_file(self.folder / "captions.txt", "".join(pairs).encode())
        settings = {
            "num": count, "seed": self.seed, "model": model.provenance.sha256, "decoding": self.decoding.model_dump(),
        }  # fmt: skip
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        show(figures, f"captions of {count} held-out pictures, in {self.folder / 'captions.txt'}")
        return 0
