"""`pushforward sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pushforward.cli.base import say
from pushforward.cli.chained import Chained, require_single
from pushforward.cli.control import Hinted
from pushforward.cli.prompts import Prompted
from pushforward.cli.sampling import Sampling, described
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pushforward.core.fields import Field as ModelField
    from pushforward.core.spec import DataSpec
    from pushforward.recipes.experiment import Sampled
    from pushforward.sampling.sampler import Sampler

# Pictures of each prompt.
PER_PROMPT = 8


class Sample(Hinted, Chained, Prompted, Sampling):
    """Draw samples from a trained model: an .npz file, a picture of them all, or a picture of each."""

    shareable: ClassVar[bool] = True
    systems: ClassVar[bool] = True

    num: int | None = option(
        None, "How many. Default: 8 of each class, 64, or 4000 points of the plane.", ge=1
    )
    label: tuple[str, ...] = option(
        (), "Classes to draw, in turn, by name or number; none for no class. Default: all."
    )
    condition: tuple[str, ...] = option(
        (), "Other conditions, as in horizontal=0.5. Default: those of samples of the data."
    )
    classifier: Path | None = option(
        None, "Run folder of a noisy classifier that guides towards --label."
    )
    classifier_scale: float = option(
        1.0, "Scale of its guidance; more is stronger. Needs --classifier."
    )
    shift: float | None = option(
        None,
        "How much more noise times have than those of --grid, uniform ones by default. Default: with --size, the root "
        "of how many times as many pixels it has as in training; else 1.",
        gt=0,
        rare=True,
    )
    format: tuple[Literal["npz", "grid", "png"], ...] = option(
        ("npz", "grid"),
        "What is written: samples.npz; samples.png with all samples; a .png for each, named by its number.",
    )
    out: Path | None = option(None, "Folder for the results. Default: RUN/generated.")
    overwrite: bool = option(False, "Replace earlier samples in the folder.")

    def opening(self) -> str:
        return f"drawing samples of {self.folder}"

    def moved(self, model: Sampled) -> float:
        """By what times are shifted; 1 for a size that the model was trained on, or one of about that area."""
        from pushforward.core.fields import FlowMap
        from pushforward.core.paths import CondOT
        from pushforward.data.images.buckets import TOLERANCE

        if self.shift is not None:
            return self.shift
        size, trained = self.pixels(model), model.spec.shape
        fits = size is not None and len(trained) == 3 and isinstance(model.path, CondOT)
        chosen = self.solver != "auto" or self.grid != "auto"
        if not fits or chosen or isinstance(model, FlowMap):
            return 1.0
        assert size is not None
        ratio = size[0] * size[1] / (trained[1] * trained[2])
        return 1.0 if abs(ratio - 1) <= TOLERANCE else float(ratio**0.5)

    def sampler(self, model: Sampled, field: ModelField | None = None) -> Sampler:
        """What draws the samples, at times that are shifted once, for a size or by --shift."""
        from pushforward.core import times
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.core.paths import CondOT
        from pushforward.recipes.choices import SOLVERS, grid
        from pushforward.recipes.images import tell
        from pushforward.sampling.sampler import find_sampler

        shift = self.moved(model)
        if shift == 1:
            return super().sampler(model, field)
        if isinstance(model, FlowMap) or not isinstance(model.path, CondOT):
            raise InputError("--shift moves the times of a velocity on the path condot")
        rule = (lambda n, path: times.uniform(n)) if self.grid == "auto" else grid(self.grid)
        found = find_sampler(
            field or model,
            None if self.solver == "auto" else SOLVERS[self.solver].make(path=model.path),
            lambda n, path: times.moved(rule(n, path), shift),
            self.nfe,
            self.guidance,
            self.renoise,
        )
        tell([f"times have {shift:.3g} times the noise (--shift), for pictures of another size"])
        base = "uniform" if self.grid == "auto" else self.grid
        return found._replace(names=(found.names[0], f"{base}, shifted by {shift:.3g},"))

    def guided(self, model: Sampled) -> ModelField:
        """The model under the guidance of the classifier, if there is one: the unconditional model then."""
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.guidance import ClassifierGuidance
        from pushforward.saving.folder import load_classifier

        if self.classifier is None:
            if self.classifier_scale != 1:
                raise InputError("--classifier-scale needs --classifier")
            return model
        if self.guidance is not None:
            raise InputError("give either --guidance or --classifier, not both")
        if isinstance(model, FlowMap):
            raise InputError("a classifier guides a velocity, and this model is a flow map")
        classifier = load_classifier(self.classifier, next(model.parameters()).device)
        if classifier.clean:
            raise InputError(
                f"{self.classifier} holds a classifier of clean images, and guidance asks at every level of noise: "
                f"give one that was trained with noise, such as digits-classifier"
            )
        if classifier.shape != model.shape:
            raise InputError(
                f"the classifier takes samples {classifier.shape}, the model draws {model.shape}"
            )
        return ClassifierGuidance(model, classifier, self.classifier_scale)

    def labels(self, field: ModelField, prompts: Sequence[str] = ()) -> tuple[int, Tensor | None]:
        """How many samples, and the label of each; None without classes."""
        import torch

        from pushforward.core.errors import InputError
        from pushforward.evaluate import kinds
        from pushforward.evaluate.labels import present

        spec = self.spec(field)
        if spec.classes is None:
            if self.label:
                raise InputError("--label needs a model with classes, and this one has none")
            if prompts:
                return self.num or PER_PROMPT * len(prompts), None
            return self.num or kinds.of(spec).number(spec), None
        chosen = [spec.label(name) for name in self.label] or list(present(spec))
        num = self.num or (kinds.of(spec).per_class or 8) * len(chosen)
        return num, torch.tensor([chosen[i % len(chosen)] for i in range(num)])

    def spec(self, field: ModelField) -> DataSpec:
        """Of the samples; the classes of a model without any are those of the classifier that guides it."""
        from pushforward.evaluate.labels import spec_of

        spec = spec_of(field)
        if spec.classes is None and self.classifier is not None:
            known = field.classifier.spec  # type: ignore[attr-defined]
            spec = spec.with_(classes=known.classes, class_names=known.class_names)
        return spec

    def conditions(self, model: Sampled, num: int, label: Tensor | None) -> dict[str, Any]:
        """The continuous conditions of each sample."""
        import torch

        from pushforward.core.errors import InputError
        from pushforward.recipes.config import experiment_of
        from pushforward.recipes.flat import no_such

        columns = model.spec.columns
        found: dict[str, Any] = {}
        for entry in self.condition:
            name, _, value = entry.partition("=")
            if name not in columns:
                raise InputError(
                    no_such("--condition", name, columns)
                    if columns
                    else "--condition needs a model with conditions other than classes, and this one has none"
                )
            try:
                numbers = [float(part) for part in value.split(",")]
            except ValueError as error:
                raise InputError(f"--condition {entry}: give numbers, as in {name}=0.5") from error
            each = torch.tensor(numbers if len(numbers) > 1 else numbers[0])
            found[name] = each.expand(num, *each.shape)
        if len(found) < len(columns):
            experiment = experiment_of(self.folder, device=self.device, resume=True)
            found = experiment.columns(num, self.seed, label) | found
        return found

    def hinted(
        self, model: Sampled, hints: dict[str, Tensor], num: int, label: Tensor | None
    ) -> dict[str, Any]:
        """The condition `control`: these hints for all samples, or else those of data, and their captions."""
        from pushforward.recipes.config import experiment_of

        if hints:
            return {
                "control": {name: hint.expand(num, *hint.shape[1:]) for name, hint in hints.items()}
            }
        experiment = experiment_of(self.folder, device=self.device, resume=True)
        found = experiment.columns(num, self.seed, label)
        return {"control": found["control"]} if self.prompt or self.prompts else found

    def run(self) -> int:
        from pushforward.cli.unclip import sampled
        from pushforward.cli.write import Writer
        from pushforward.core.errors import InputError
        from pushforward.recipes.images import tell
        from pushforward.runtime.processes import Processes
        from pushforward.sampling.generate import generate_together
        from pushforward.systems.unclip import UnCLIP

        writer = Writer(self.out or self.folder / "generated", self.format, self.overwrite)
        lead = Processes.current().lead
        model = self.load()
        if isinstance(model, UnCLIP):
            return sampled(self, model)
        require_single(self, self.folder)
        sides = self.shape(model) or model.shape
        model, hints, steering = self.steered(model, self.folder, (sides[-2:] or (0, 0)))  # type: ignore[arg-type]
        field = self.guided(model)
        prompts = self.lines(model)
        if prompts and self.condition:
            raise InputError("give either prompts or --condition")
        num, label = self.labels(field, prompts)
        if len(prompts) > num:
            tell([f"{len(prompts)} prompts for {num} samples: the first {num} are drawn"])
        if "prompt" in model.encoders and not prompts:
            tell(["these samples are drawn without a prompt: give one by --prompt"])
        spec, sampler = self.spec(field), self.sampler(model, field)
        if lead:
            writer.require_room(num, spec)
        asked = [prompts[i % len(prompts)] for i in range(num)] if prompts else []
        cond = {} if asked else self.conditions(model, num, label)
        given: dict[str, Any] = {"prompt": asked} if asked else dict(cond)
        if steering:
            shown = self.hinted(model, hints, num, label)
            given |= shown
            cond |= {f"control_{name}": hint for name, hint in shown.get("control", {}).items()}
        if self.negative is not None:
            given["negative"] = {"prompt": self.negative}
        samples = generate_together(
            field,
            num,
            label=label,
            shape=self.shape(model),
            **given,
            **self.arguments(sampler, model),
        ).cpu()
        if not lead:
            return 0
        settings = self.settings(model, sampler, bool(asked)) | {"num": num} | steering
        settings["label"] = [] if label is None else list(dict.fromkeys(label.tolist()))
        if self.classifier is not None:
            settings["classifier"] = field.classifier.provenance.sha256  # type: ignore[attr-defined]
            settings["classifier_scale"] = self.classifier_scale
        if asked:
            settings["prompt"] = list(dict.fromkeys(asked))
        if self.negative is not None:
            settings["negative"] = self.negative
        written = writer.write(samples, label, cond, spec, settings, asked)
        say(f"{num} samples ({described(sampler)}) in " + " and ".join(written))
        return 0
