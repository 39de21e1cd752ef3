"""`pushforward tune`."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from pushforward.cli.base import say
from pushforward.cli.sampling import Guided, OfModel
from pushforward.recipes.options import option

if TYPE_CHECKING:
    from pushforward.recipes.experiment import Sampled
    from pushforward.sampling.tune import Tuned


class Tune(Guided, OfModel):
    """Fit a sampler to a trained model, for each number of network calls, and keep it with the model.

    sample and evaluate then use it at that number of calls, and so does pf.generate. It belongs to the weights it was
    fitted to: when training goes on, it is dropped.
    """

    nfe: tuple[tuple[int, ...], ...] = option(
        (), "Network calls for each sample: one number or more.", append=True
    )
    method: Literal["gradient", "least-squares"] = option(
        "gradient",
        "How: by gradients through the sampler, or without them, for large networks.",
    )
    num: int = option(128, "Samples to fit it on; more for data of few dimensions.", ge=8)
    held_out: int = option(64, "Further samples to judge it by.", ge=1)
    iterations: int = option(60, "Steps of the gradient method.", ge=1)
    batch_size: int = option(24, "Samples at a time.", ge=1)

    def opening(self) -> str:
        return f"fitting samplers to {self.folder}"

    def run(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from pushforward.core.errors import InputError
        from pushforward.core.fields import FlowMap, require_nulls
        from pushforward.core.progress import counted
        from pushforward.sampling.tune import tune

        calls = sorted(set(chain.from_iterable(self.nfe)))
        if not calls:
            raise InputError("for how many network calls? Give --nfe, as in --nfe 6 10")
        if calls[0] < 3:
            raise InputError(f"--nfe is {calls[0]}; a fitted sampler takes at least 3 calls")
        model = self.load()
        if isinstance(model, FlowMap):
            raise InputError(
                "samplers are fitted to a velocity, and this model is a flow map, which leaves them nothing to do"
            )
        if self.guidance is not None:
            require_nulls(model)
        given = self.given(model)
        console = Console(highlight=False)
        table = Table("calls", "learned", "fitted", "ratio", "seconds", "kept")
        for column in table.columns[:-1]:
            column.justify = "right"
        for nfe in counted("samplers", calls):
            tuned = tune(
                model,
                nfe,
                num=self.num,
                held_out=self.held_out,
                iterations=self.iterations,
                method=self.method,
                batch_size=self.batch_size,
                guidance=self.guidance,
                seed=self.seed,
                **given,
            )
            better = tuned.after < tuned.before
            if better:
                self.keep(model, tuned)
            table.add_row(
                str(nfe),
                f"{tuned.before:.2e}",
                f"{tuned.after:.2e}",
                f"{tuned.after / tuned.before:.2f}",
                f"{tuned.seconds:.0f}",
                "yes" if better else "no, it is not better",
            )
        say(f"RMSE against a precise solver, on {self.held_out} samples that no fit has seen")
        console.print(table)
        return 0

    def given(self, model: Sampled) -> dict[str, Any]:
        """What each sample is drawn for: classes in turn, with hints and captions of data that were held out."""
        import torch

        from pushforward.models.model import Model
        from pushforward.recipes.config import experiment_of
        from pushforward.saving.control import controls_of

        if not model.encoders and not (isinstance(model, Model) and controls_of(model)):
            return {}
        number = self.num + self.held_out
        label = None if model.classes is None else torch.arange(number) % model.classes
        experiment = experiment_of(self.folder, device=self.device, resume=True)
        found = dict(experiment.columns(number, self.seed, label))
        return found if label is None else {"label": label} | found

    def keep(self, model: Sampled, tuned: Tuned) -> None:
        """Write the sampler into the model's folder, beside those that are there by now."""
        from pushforward.core.errors import CheckpointError
        from pushforward.runtime.files import locked
        from pushforward.saving.folder import load, save_records

        with locked(self.folder):
            there = load(self.folder)
            if there.provenance.sha256 != model.provenance.sha256:
                raise CheckpointError(
                    f"the weights in {self.folder} changed while a sampler was fitted to them: fit it again"
                )
            tuned.attach(there)
            save_records(there, self.folder)
