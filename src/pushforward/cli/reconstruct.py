"""`pushforward evaluate` of an autoencoder."""

from __future__ import annotations

from pathlib import Path

from pushforward.cli.base import (
    DEVICE,
    Command,
    require_same_data,
    run_folder,
    say,
    show,
    write_json,
)
from pushforward.recipes.options import option


class Reconstruct(Command):
    """Judge an autoencoder by its reconstructions of held-out pictures: PSNR, SSIM and L1, of scenes also the share
    whose objects are read back. A table, and evaluation.json and reconstructions.png in the run folder."""

    folder: Path = run_folder("Run folder of an autoencoder.")
    num: int = option(1000, "Held-out pictures to judge by.", ge=2)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"judging reconstructions of {self.folder}"

    def run(self) -> int:
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.reconstruction import judge_reconstruction
        from pushforward.recipes.card import write_card
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Reconstructing
        from pushforward.runtime.device import find_device
        from pushforward.runtime.files import write_file
        from pushforward.saving.folder import load_autoencoder

        model = load_autoencoder(self.folder, find_device(self.device))
        experiment = recipe_of(self.folder, device=self.device).build()
        assert isinstance(experiment, Reconstructing)
        require_same_data(self.folder, model.spec, experiment.fingerprint)
        count = min(self.num, len(experiment.held_out))
        figures = judge_reconstruction(model, experiment.held_out, count, experiment.scenes)
        settings = {"num": count, "model": model.provenance.sha256}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_file(self.folder / "reconstructions.png", png(experiment.picture(model), settings))
        write_card(self.folder)
        show(figures, f"{count} held-out pictures")
        say(f"in {self.folder / 'reconstructions.png'}")
        return 0
