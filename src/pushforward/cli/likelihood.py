"""`pushforward likelihood`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pushforward.cli.base import Command, Device, RunFolder, reopen, show, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from pushforward.laws.law import Law
    from pushforward.models.model import Model


class Likelihood(Command):
    """How likely held-out data are to a run's model: a table, and likelihood.json in the run folder.

    Images in bits per dimension, dequantised by uniform noise; points in nats.
    """

    folder: RunFolder = Field(description="Run folder, or any folder with a model.")
    data: str = Field(
        "held-out",
        description="A folder of images or a .npy or .npz file; held-out is what the run kept apart, "
        "or fresh draws from its law.",
    )
    num: int = Field(200, ge=2, description="Samples, the first of the data.")
    probes: int | None = Field(
        None,
        ge=1,
        description="Random probes of the divergence for each sample. Left out: 4, and none, exact, in up to "
        "8 dimensions.",
    )
    tolerance: float = Field(1e-4, gt=0, description="Relative tolerance of the ODE solver.")
    bound: bool = Field(False, description="Work out the variational bound of DDPM, too.")
    bound_terms: int | None = Field(
        None, ge=1, description="Random terms of the bound for each sample. Left out: all."
    )
    bound_steps: int | None = Field(
        None,
        ge=2,
        description="Steps of the bound. Left out: those of a discrete path, or 1000.",
    )
    variance: Literal["beta", "beta-tilde", "learned"] = Field(
        "beta-tilde", description="Variance of the steps of the bound."
    )
    unconditional: bool = Field(False, description="Leave the labels of the data out.")
    seed: int = Field(0, ge=0, lt=2**64, description="Key of probes and noise.")
    batch_size: int = Field(256, ge=1, description="Samples at a time.")
    device: Device = "auto"

    def run(self) -> int:
        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap
        from pushforward.evaluate.metrics.likelihood import Settings, judge
        from pushforward.recipes.experiment import find_source
        from pushforward.runtime.device import find_device
        from pushforward.saving.folder import load

        model = load(self.folder, find_device(self.device))
        if isinstance(model, FlowMap):
            raise InputError(
                "a likelihood takes the velocity of a flow, and this model is a flow map: ask its teacher, or in "
                "Python "
                "log_prob(InstantaneousField(model), x) of one that knows any jump"
            )
        x, label, law, width = self.samples(model)
        if self.unconditional or model.classes is None:
            label = None
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
        figures, facts = judge(model, x, label, settings, source, width)
        if law is not None:
            figures["law"] = -float(law.log_prob(x.double()).mean())
        facts = facts | {"data": self.data, "num": len(x), "model": model.info["sha256"]}
        facts["conditional"] = label is not None
        report = {"figures": figures, "settings": facts}
        write_json(self.folder / "likelihood.json", report)
        unit = "nats" if facts["bin_width"] is None else "bits per dimension"
        show(figures, f"{len(x)} samples of {self.data}, in {unit}, seed {self.seed}")
        return 0

    def samples(self, model: Model) -> tuple[Tensor, Tensor | None, Law | None, float | None]:
        """The data, their labels or None, the law that they are drawn from or None, and the bin width or None."""
        from pushforward.core.errors import InputError
        from pushforward.data import Dataset, load_array, load_folder
        from pushforward.data.match import match_labels
        from pushforward.evaluate.labels import spec_of
        from pushforward.evaluate.metrics.agreement import everything

        if self.data == "held-out":
            experiment = reopen(self.folder, self.device, model)
            if not isinstance(experiment.data, Dataset):
                # A seed apart from those of training and sampling.
                draws = experiment.data.sample(self.num, seed=(self.seed + 1) % 2**64)
                return draws.float(), None, experiment.data, None
            if experiment.held_out is None:
                raise InputError("this run kept no data apart: give some with --data")
            data = experiment.held_out
        else:
            place = Path(self.data)
            if place.suffix in (".npy", ".npz") and not place.is_dir():
                data = load_array(place)
            elif len(model.shape) == 3:
                channels = 1 if model.shape[0] == 1 else 3
                data = load_folder(place, model.shape[1], channels)
            else:
                raise InputError(f"--data must be a .npy or .npz file of samples {model.shape}")
        if data.shape != model.shape:
            raise InputError(
                f"{self.data} holds samples {data.shape}; the model's are {model.shape}"
            )
        spec = spec_of(model)
        x, label = everything(match_labels(data, spec), self.num)
        if len(x) < 2:
            raise InputError(f"{self.data} holds {len(x)} sample; a mean with its error takes 2")
        return x, label, None, data.bin_width if spec.bin_width is None else spec.bin_width
