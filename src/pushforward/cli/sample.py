"""`pushforward sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pushforward.cli.base import say
from pushforward.cli.sampling import Sampling, described

if TYPE_CHECKING:
    from pushforward.core.fields import Field as ModelField
    from pushforward.models.model import Model


class Sample(Sampling):
    """Draw samples from a trained model: samples.png (images and points of the plane) and samples.npz."""

    shareable = True

    num: int | None = Field(
        None, ge=1, description="How many. Left out: 8 of each class, 64, or 4000 points."
    )
    label: tuple[int, ...] = Field(
        (), description="Classes to draw, in turn; -1 for no class. Left out: all."
    )
    classifier: Path | None = Field(
        None, description="Run folder of a noisy classifier that guides towards --label."
    )
    classifier_scale: float = Field(
        1.0, description="Scale of its guidance; more is stronger. Needs --classifier."
    )
    out: Path | None = Field(None, description="Folder for the results. Left out: RUN/generated.")

    def guided(self, model: Model) -> ModelField:
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
        if classifier.info.get("times") == [1.0]:
            raise InputError(
                f"{self.classifier} holds a classifier of clean images, and guidance asks at every level of noise: "
                f"give one that was trained with noise, as digits-classifier is"
            )
        if classifier.shape != model.shape:
            raise InputError(
                f"the classifier takes samples {classifier.shape}, the model draws {model.shape}"
            )
        return ClassifierGuidance(model, classifier, self.classifier_scale)

    def run(self) -> int:
        import torch

        from pushforward.core.errors import InputError
        from pushforward.evaluate import kinds
        from pushforward.evaluate.figures import png
        from pushforward.evaluate.labels import present, spec_of
        from pushforward.runtime.files import write_file
        from pushforward.runtime.processes import Processes
        from pushforward.sampling.generate import generate_together

        model = self.model()
        field = self.guided(model)
        spec = spec_of(model)
        known = getattr(field, "classes", None)
        if spec.classes is None and known is not None:  # a classifier's, which guides
            spec = spec.with_(classes=known)
        kind = kinds.of(spec)
        classes = self.label or present(spec)
        if self.label and spec.classes is None:
            raise InputError("--label needs a model with classes, and this one has none")
        per_class = kind.per_class or 0
        num = self.num or per_class * len(classes) or kind.number(spec)
        label = torch.tensor([classes[i % len(classes)] for i in range(num)]) if classes else None
        sampler = self.sampler(model, field)
        samples = generate_together(field, num, label=label, **self.arguments(sampler, model)).cpu()
        if not Processes.current().lead:
            return 0
        out = self.out or self.folder / "generated"
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot create {out}: {error.strerror or error}") from error
        settings = self.settings(model, sampler) | {"num": num, "label": list(classes)}
        if field is not model:
            settings["classifier"] = field.classifier.info["sha256"]  # type: ignore[attr-defined]
            settings["classifier_scale"] = self.classifier_scale
        arrays = {"samples": samples.numpy()} | ({} if label is None else {"label": label.numpy()})
        write_file(out / "samples.npz", npz(arrays, settings))
        written = [out / "samples.npz"]
        if kind.drawable:
            write_file(out / "samples.png", png(kind.draw(samples, spec, label), settings))
            written.append(out / "samples.png")
        how = described(sampler)
        say(f"{num} samples ({how}) in " + " and ".join(map(str, written)))
        return 0


def npz(arrays: dict[str, Any], settings: dict[str, Any]) -> bytes:
    """Arrays as an .npz file, with the settings as JSON under "settings"."""
    import io
    import json

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, settings=np.array(json.dumps(settings)), **arrays)
    return buffer.getvalue()
