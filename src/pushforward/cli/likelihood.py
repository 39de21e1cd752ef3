"""`pushforward likelihood`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pushforward.cli.base import reopen, show, write_json
from pushforward.cli.sampling import OfModel
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.data import Dataset
    from pushforward.laws.law import Law
    from pushforward.recipes.experiment import Sampled


class Likelihood(OfModel):
    """How likely held-out data are to a run's model: a table, and likelihood.json in the run folder.

    Images in bits per dimension, dequantised by uniform noise; points in nats.
    """

    data: str = option(
        "held-out",
        "A folder of images, archives, or a .npy or .npz file; held-out is what the run kept apart, or fresh draws "
        "from its law.",
    )
    num: int = option(200, "Samples, of each class its share.", ge=2)
    probes: int | None = option(
        None,
        "Random probes of the divergence for each sample. Default: 4, and none, exact, in up to 8 dimensions.",
        ge=1,
    )
    tolerance: float = option(1e-4, "Relative tolerance of the ODE solver.", gt=0)
    bound: bool = option(False, "Compute DDPM's variational bound, too.")
    bound_terms: int | None = option(
        None, "Random terms of the bound for each sample. Default: all.", ge=1
    )
    bound_steps: int | None = option(
        None, "Steps of the bound. Default: those of a discrete path, or 1000.", ge=2
    )
    variance: Literal["beta", "beta-tilde", "learned"] = option(
        "beta-tilde", "Variance of the steps of the bound."
    )
    unconditional: bool = option(False, "Without the labels or captions of the data.")

    def opening(self) -> str:
        return f"likelihood of {self.data} data to {self.folder}"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.evaluate.metrics.likelihood import Settings, judge
        from pushforward.recipes.config import find_source

        model = self.load()
        if isinstance(model, FlowMap):
            raise InputError(
                "a likelihood takes the velocity of a flow, and this model is a flow map: ask its teacher, or in "
                "Python log_prob(InstantaneousField(model), x) of one that knows any jump"
            )
        x, label, law, width, cond = self.samples(model)
        if self.unconditional or model.classes is None:
            label = None
        if self.unconditional:
            cond = {name: value for name, value in cond.items() if name == "control"}
        settings = Settings(
            self.probes,
            self.tolerance,
            self.bound,
            self.bound_terms,
            self.bound_steps,
            self.variance,
            self.seed,
            self.batch_size,
        )
        source = find_source(model, self.folder)
        figures, facts = judge(model, x, label, settings, source, width, cond)  # type: ignore[arg-type]
        if law is not None:
            figures["law"] = -float(law.log_prob(x.double()).mean())
        facts = facts | {"data": self.data, "num": len(x), "model": model.provenance.sha256}
        facts["conditional"] = [*(["label"] if label is not None else []), *cond]
        report = {"figures": figures, "settings": facts}
        write_json(self.folder / "likelihood.json", report)
        unit = "nats" if facts["bin_width"] is None else "bits per dimension"
        show(figures, f"{len(x)} samples of {self.data}, in {unit}, seed {self.seed}")
        return 0

    def samples(
        self, model: Sampled
    ) -> tuple[Tensor, Tensor | None, Law | None, float | None, dict[str, Any]]:
        """The data, their labels or None, the law that they are drawn from or None, the bin width or None, and other
        conditions: the hints and captions of data that the run kept apart.
        """
        import torch

        from pushforward.core.errors import InputError
        from pushforward.data import Dataset
        from pushforward.data.match import match_labels
        from pushforward.evaluate.metrics.agreement import everything
        from pushforward.models.model import Model
        from pushforward.saving.control import controls_of

        if self.data == "held-out":
            experiment = reopen(self.folder, self.device, model)
            if not isinstance(experiment.data, Dataset):
                # A seed apart from those of training and sampling.
                draws = experiment.data.sample(self.num, seed=(self.seed + 1) % 2**64)
                return draws.float(), None, experiment.data, None, {}
            if experiment.held_out is None:
                raise InputError("this run kept no data apart: give some with --data")
            data = experiment.held_out
        elif isinstance(model, Model) and controls_of(model):
            raise InputError(
                "a control takes a hint with each picture, which --data has not: take the held-out data of the run"
            )
        else:
            data = named_data(Path(self.data), model.shape)
        if model.codec is not None:
            raise InputError(
                "this model draws latents, which many pictures share: a picture has no likelihood under it"
            )
        if data.shape != model.shape:
            raise InputError(
                f"{self.data} holds samples {data.shape}; the model's are {model.shape}"
            )
        spec = model.spec
        x, label = everything(match_labels(data, spec), self.num)
        if len(x) < 2:
            raise InputError(f"{self.data} holds {len(x)} sample; a mean with its error takes 2")
        # Those of the same samples.
        chosen = data.sample(self.num)
        own = chosen[torch.arange(len(chosen))].cond if data.encodings or data.hints else {}
        cond = {name: value for name, value in own.items() if name in {*data.encodings, "control"}}
        return x, label, None, data.bin_width if spec.bin_width is None else spec.bin_width, cond


def named_data(place: Path, shape: tuple[int, ...]) -> Dataset:
    """Data for a model of samples of this shape: an array, or images of its size and channels."""
    from pushforward.core.errors import InputError
    from pushforward.data import load_array, load_images

    if place.suffix in (".npy", ".npz") and not place.is_dir():
        return load_array(place)
    if len(shape) != 3:
        raise InputError(f"--data must be a .npy or .npz file of samples {shape}")
    channels, *sides = shape
    # Images are made square of any size, or keep the one size that they have.
    size = sides[0] if len(set(sides)) == 1 else None
    return load_images(place, size, 1 if channels == 1 else 3)
