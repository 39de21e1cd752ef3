"""`pushforward evaluate`: one model against its data. What it is with --compare and --students is in their modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pushforward.cli.base import (
    DEVICE,
    Command,
    reopen,
    require_same_data,
    run_folder,
    say,
    show,
    write_json,
)
from pushforward.cli.parse import named, parse
from pushforward.cli.sampling import Sampling, described
from pushforward.recipes import flat
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.evaluate.features import Features
    from pushforward.recipes.experiment import Experiment

# Samples whose exact transport is computed: a few seconds.
TRANSPORTED = 2000


class Evaluate(Sampling):
    """Judge a run's model against its data: a table, and evaluation.json in the run folder.

    Of a classifier: its accuracy; of an autoencoder: its reconstructions; of a captioner: its captions; of a prior:
    ranks; of an unCLIP: prompts. With --compare: solvers against each other. With --students: few-step models beside
    their teacher. Each has options of its own, in --compare --help and --students --help.
    """

    shareable: ClassVar[bool] = True

    num: int = option(5000, "Samples to judge.", ge=2)
    transport: bool = option(
        False,
        "Measure the flow as a transport, too: exact 2-Wasserstein distance of its ends to the data, normalised path "
        "energy, straightness and costs, with standard errors, of 2000 samples.",
    )
    features: str | None = option(
        None,
        "Frechet and kernel distance, precision, recall, density and coverage by these features, too: pixels; "
        "efficientnet; inception, which needs --weights; or the run folder of a classifier.",
    )
    weights: Path | None = option(
        None,
        "Weights of the FID's Inception network, .pth or .safetensors, for --features inception.",
    )
    classifier: Path | None = option(
        None,
        "Run folder of a classifier that says whether samples are of their class. Default: one is fitted.",
    )
    clip: Path | None = option(
        None,
        "Run folder of a CLIP: of a model of prompts, how many pictures find their own caption among 100.",
    )
    neighbours: bool = option(
        False,
        "Look for copies of training images: the nearest to each sample, by pixels and by --features, and "
        "neighbours.png in the run folder.",
    )
    compare: bool = option(False, "Compare solvers instead: see --compare --help.")
    students: tuple[Path, ...] = option(
        (), "Compare these distilled runs with this one instead: see --students --help."
    )

    @classmethod
    def read(cls, words: Sequence[str], prog: str) -> Any:
        kind: type[Command] = cls
        flags = named(words)
        if "students" in flags:
            from pushforward.cli.students import Students

            kind = Students
        elif "compare" in flags:
            from pushforward.cli.compare import Compare

            kind = Compare
        elif any(is_run(folder, "classifier") for folder in arguments(words)):
            kind = Accuracy
        elif any(is_run(folder, "autoencoder") for folder in arguments(words)):
            from pushforward.cli.reconstruct import Reconstruct

            kind = Reconstruct
        elif any(is_run(folder, "unclip") for folder in arguments(words)):
            from pushforward.cli.judge_unclip import JudgeUnCLIP

            kind = JudgeUnCLIP
        elif any(is_run(folder, "clip") for folder in arguments(words)):
            from pushforward.cli.retrieve import Retrieve

            kind = Retrieve
        elif any(is_run(folder, "captioner") for folder in arguments(words)):
            from pushforward.cli.judge_captions import JudgeCaptions

            kind = JudgeCaptions
        elif any(is_run(folder, "prior") for folder in arguments(words)):
            from pushforward.cli.judge_unclip import JudgePrior

            kind = JudgePrior
        return flat.make(kind, parse(kind, words, prog))

    def opening(self) -> str:
        return f"judging {self.num} samples of {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.evaluate.metrics.wasserstein import library
        from pushforward.recipes.card import write_card
        from pushforward.recipes.set_to_set import CellMapping, Refinement
        from pushforward.runtime.files import write_file
        from pushforward.runtime.processes import Processes

        if self.weights is not None and self.features != "inception":
            raise InputError("--weights needs --features inception")
        asked = bool(self.features or self.classifier or self.neighbours)
        if Processes.current().count > 1 and (self.transport or asked or self.clip):
            raise InputError(
                "several processes draw the samples of a plain evaluation; --transport, --features, --classifier, "
                "--clip and --neighbours are for one: leave them or torchrun out"
            )
        if self.transport:
            library()
        model = self.load()
        experiment = reopen(self.folder, self.device, model)
        if self.transport and isinstance(model, FlowMap):
            raise InputError(
                "--transport follows a velocity, and this model is a flow map: ask its teacher"
            )
        sampler = self.sampler(model)
        settings = self.settings(model, sampler, getattr(experiment, "scenes", False)) | {
            "num": self.num
        }
        clip = None if self.clip is None else self.judge_of_prompts(self.clip, model)
        judging, features = self.judges(experiment, settings) if asked else ({}, None)
        figures, samples, _ = experiment.judge(
            self.num, **judging, **self.arguments(sampler, model)
        )
        if not Processes.current().lead:
            return 0
        if clip is not None:
            from pushforward.evaluate.clip import judge_pictures

            settings["clip"] = clip.provenance.sha256
            lines = experiment.lines(self.num, self.seed)  # type: ignore[attr-defined]
            found, _ = judge_pictures(clip, model, lines, **self.arguments(sampler, model))
            figures |= {f"clip_{name}": value for name, value in found.items()}
        if self.transport:
            figures |= experiment.transport(TRANSPORTED, self.seed)
        if features is not None or self.neighbours:
            figures |= self.by_features(experiment, samples, features, settings)
        if isinstance(experiment, Refinement | CellMapping):
            shown = min(self.num, experiment.shown)
            page = experiment.figure(shown, settings, **self.arguments(sampler, model))
            write_file(self.folder / "evaluation.png", page)
            say(f"in {self.folder / 'evaluation.png'}")
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        write_card(self.folder)
        show(figures, f"{self.num} samples, {described(sampler)}, seed {self.seed}")
        return 0

    def judge_of_prompts(self, folder: Path, model: Any) -> Any:
        """The CLIP in a folder, which must see pictures of the model's size."""
        from pushforward.core.errors import InputError
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_clip

        clip = load_clip(folder, find_device(self.device))
        if "prompt" not in model.encoders:
            raise InputError("--clip is for models that are asked by prompts, and this one is not")
        if clip.net.image.size != model.spec.shape[-1] or clip.spec.shape != model.spec.shape:
            raise InputError(
                f"the CLIP {folder} sees pictures {clip.spec.shape}, and this model draws {model.spec.shape}"
            )
        return clip

    def judges(
        self, experiment: Experiment, settings: dict[str, Any]
    ) -> tuple[dict[str, Any], Features | None]:
        """Options of `judge`, and features, as they were asked for; what they are goes into the settings."""
        from pushforward.core.errors import InputError
        from pushforward.data import Dataset
        from pushforward.evaluate.features import find_features
        from pushforward.evaluate.metrics.agreement import trained_classifier
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_classifier

        asked = ("features", "classifier", "neighbours")
        name = next(name for name in asked if getattr(self, name))
        data, held_out = experiment.data, experiment.held_out
        if not isinstance(data, Dataset) or held_out is None:
            raise InputError(f"--{name} compares with data kept apart, and {self.folder} has none")
        if not data.images and (self.features or self.neighbours):
            raise InputError(
                f"--{name} is for images, and the data of {self.folder} are of shape {data.shape}"
            )
        device = find_device(self.device)
        options: dict[str, Any] = {}
        if self.classifier is not None:
            if experiment.model.classes is None:
                raise InputError("--classifier needs a model with classes, and this one has none")
            judge = trained_classifier(load_classifier(self.classifier, device), held_out)
            options["classifier"] = judge
            settings["classifier"] = judge.model.provenance.sha256
        if self.features is None:
            return options, None
        features = find_features(
            self.features, self.weights, shape=data.shape, load=load_classifier, device=device
        )
        settings["features"] = {"name": features.name, "key": features.key}
        return options, features

    def by_features(
        self,
        experiment: Experiment,
        samples: Tensor,
        features: Features | None,
        settings: dict[str, Any],
    ) -> dict[str, float]:
        """Figures by features; with --neighbours also a picture of the training images nearest to samples."""
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.figures.neighbours import neighbours
        from pushforward.evaluate.report import judge_features
        from pushforward.runtime.files import write_file

        train: Any = experiment.data
        held_out: Any = experiment.held_out
        found = judge_features(
            samples, train, held_out, features, self.neighbours, self.seed, write_file
        )
        if found.nearest is not None:
            page = neighbours(samples, found.nearest, train, space=found.space)
            write_file(self.folder / "neighbours.png", png(page, settings))
            say(f"in {self.folder / 'neighbours.png'}")
        return found.figures


class Accuracy(Command):
    """Judge a classifier: the share of held-out data whose class it finds; of a noisy one, by time."""

    folder: Path = run_folder("Run folder of a classifier.")
    num: int | None = option(
        None, "Held-out data to judge by. Default: 5000, or 10000 without noise.", ge=2
    )
    seed: int = option(0, "Key of the noise.", ge=0, lt=2**64)
    device: str = option("auto", DEVICE)

    def opening(self) -> str:
        return f"judging the classifier {self.folder}"

    def run(self) -> int:
        from pushforward.evaluate.metrics.agreement import everything, trained_classifier
        from pushforward.objectives import noisy_accuracy
        from pushforward.recipes.config import recipe_of
        from pushforward.recipes.experiment import Classifying
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load_classifier

        device = find_device(self.device)
        model = load_classifier(self.folder, device)
        experiment = recipe_of(self.folder, device=self.device).build()
        assert isinstance(experiment, Classifying)
        require_same_data(self.folder, model.spec, experiment.fingerprint)
        count = min(self.num or (10_000 if model.clean else 5000), len(experiment.held_out))
        if model.clean:
            judge = trained_classifier(model, experiment.held_out, count)
            figures = {"accuracy at t = 1": judge.accuracy}
        else:
            x, label = everything(experiment.held_out, count)
            x, label = x.to(device), label.to(device)
            figures = {
                f"accuracy at t = {t:g}": noisy_accuracy(model, x, label, t, self.seed)
                for t in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
            }
        settings = {"num": count, "seed": self.seed, "model": model.provenance.sha256}
        write_json(self.folder / "evaluation.json", {"figures": figures, "settings": settings})
        noise = "" if model.clean else f" with noise, seed {self.seed}"
        show(figures, f"{count} held-out samples{noise}")
        return 0


def arguments(words: Sequence[str]) -> list[Path]:
    """Those of the words that are no flag and follow none."""
    return [
        Path(word)
        for k, word in enumerate(words)
        if not word.startswith("-") and (k == 0 or not words[k - 1].startswith("--"))
    ]


def is_run(folder: Path, recipe: str) -> bool:
    """Whether a folder holds the run of a recipe whose name ends so."""
    from pushforward.core.errors import CheckpointError
    from pushforward.recipes.config import read_config

    try:
        return read_config(folder)[0].endswith(recipe)
    except CheckpointError:
        return False
