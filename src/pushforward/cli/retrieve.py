"""`pushforward evaluate` of a CLIP."""

from __future__ import annotations

from pathlib import Path

from pushforward.cli.base import (
    DEVICE,
    Command,
    require_same_data,
    run_folder,
    show,
    write_json,
)
from pushforward.recipes.options import option


class Retrieve(Command):
    """Judge a CLIP by held-out pictures and captions: how many find each other among 100, and of scenes the share of
    objects whose colour and shape are recognised. A table, and evaluation.json in the run folder."""

    folder: Path = run_folder("Run folder of a CLIP.")
    num: int = option(1000, "Held-out pairs to judge by.", ge=2)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"judging the CLIP {self.folder}"

    def run(self) -> int:
        from pushforward.evaluate.clip import judge_clip, judge_scene_classes
        from pushforward.recipes.card import write_card
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Contrasting
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_clip

        model = load_clip(self.folder, find_device(self.device))
        recipe = recipe_of(self.folder, device=self.device)
        experiment = recipe.build()
        assert isinstance(experiment, Contrasting)
        require_same_data(self.folder, model.spec, experiment.fingerprint)
        count = min(self.num, len(experiment.held_out))
        figures = judge_clip(model, experiment.held_out, count)
        if recipe.flat()["data"] == "scenes":
            figures |= judge_scene_classes(model, count, model.spec.shape[-1])
        settings = {"num": count, "model": model.provenance.sha256}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        show(figures, f"{count} held-out pictures and captions")
        return 0
