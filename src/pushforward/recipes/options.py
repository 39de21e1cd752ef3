"""Groups of options, and choices among alternatives that each have options of their own. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pushforward.core.errors import InputError


class Options(BaseModel):
    """Named values with a description each, checked and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def require(self) -> None:
        """Raise InputError if a package that training by these options takes is not installed."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Options):
                value.require()


class Group(Options):
    """Options that belong together: a title in help, a table in config.toml."""


class Choice(Options):
    """One of several alternatives, told apart by `name`; its other fields are the options that it alone has."""

    name: str


def option(
    default: Any,
    description: str,
    *,
    rare: bool = False,
    free: bool = False,
    positional: bool = False,
    append: bool = False,
    **limits: Any,
) -> Any:
    """A field. `...` as its default: it must be given.

    rare: shown by --help-all only. free: may differ when a run is resumed, since it does not change what is computed.
    positional: without a flag on the command line. append: may be given several times.
    limits: those of pydantic (ge, gt, le, lt, multiple_of, min_length).
    """
    marks: dict[str, Any] = {"rare": rare, "free": free, "positional": positional, "append": append}
    return Field(default, description=description, json_schema_extra=marks, **limits)


def pick(default: Callable[[], Choice], description: str, *, rare: bool = False) -> Any:
    """A field that is a choice. default: makes the alternative that is chosen by default."""
    return Field(default_factory=default, description=description, json_schema_extra={"rare": rare})


def _own_copy(folder: Path) -> Path:
    if str(folder).startswith("hub:"):
        from pushforward.saving import hub

        return hub.own_copy(folder)
    from pushforward.runtime import shipped

    return shipped.own_copy(folder)


# A run folder, the name of a model that comes with the library, or hub:OWNER/NAME, a model on the Hugging Face Hub.
RunFolder = Annotated[Path, AfterValidator(_own_copy)]


class Place(Group):
    """Where a run goes and what it starts from. Not recorded with it."""

    out: Path | None = option(None, "Run folder. Default: runs/ and the recipe's name.")
    resume: bool = option(False, "Continue the run in the folder; --steps prolongs it.")
    from_: Path | None = option(
        None,
        "Run whose weights to start from, as far as they fit.",
    )
    overwrite: bool = option(False, "Delete an earlier run in the folder first.")
    device: str = option("auto", "cpu, cuda, cuda:1, ...; auto: CUDA if there is one.")
    tensorboard: bool = option(
        False, "Also write the log for TensorBoard into the run folder.", rare=True
    )

    def require(self) -> None:
        if not self.tensorboard:
            return
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise InputError(
                "--tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'"
            ) from error


class Machine(Group):
    """How the machine does the work. All but the precision change nothing but rounding."""

    precision: Literal["auto", "fp32", "bf16"] = option(
        "fp32",
        "What networks compute in; weights, moments and averages are float32. auto: bf16 where the processor has it "
        "and the objective is matching.",
        rare=True,
    )
    compile: Literal["auto", "on", "off"] = option(
        "off", "torch.compile of the networks; auto: on CUDA.", rare=True, free=True
    )
    accumulate: int = option(
        1,
        "Parts of a batch that are computed one after the other, to save memory.",
        ge=1,
        rare=True,
        free=True,
    )
    checkpointing: bool = option(
        False, "Recompute activations instead of storing them.", rare=True, free=True
    )
    parallel: Literal["ddp", "fsdp"] = option(
        "ddp",
        "What each process of torchrun holds: all weights (ddp) or a part of them (fsdp).",
        rare=True,
        free=True,
    )
    workers: int = option(
        0,
        "Threads that prepare batches in advance; 0: the training thread does.",
        ge=0,
        rare=True,
        free=True,
    )


class AdamWChoice(Choice):
    """AdamW."""

    name: Literal["adamw"] = "adamw"


class MuonChoice(Choice):
    """Muon for the matrices of hidden layers, AdamW for all else."""

    name: Literal["muon"] = "muon"
    momentum: float = option(0.95, "Momentum of Muon.", ge=0, lt=1, rare=True)


class Optimiser(Group):
    """How weights are updated and averaged."""

    optimiser: Annotated[AdamWChoice | MuonChoice, Field(discriminator="name")] = pick(
        AdamWChoice, "Optimiser.", rare=True
    )
    steps: int = option(2000, "Optimiser steps.", ge=1)
    batch_size: int = option(128, "Samples in a step.", ge=1)
    lr: float = option(1e-3, "Peak learning rate.", gt=0)
    warmup: int = option(100, "Steps over which the rate rises to its peak.", ge=0, rare=True)
    decay: Literal["constant", "cosine", "linear", "trapezoid", "inverse-root"] = option(
        "cosine", "How the rate falls afterwards.", rare=True
    )
    weight_decay: float = option(0.0, "Weight decay.", ge=0, rare=True)
    clip: float = option(1.0, "Largest norm of the gradient.", gt=0, rare=True)
    ema: float = option(
        0.995, "Decay of the average of the weights that is sampled.", ge=0, lt=1, rare=True
    )
    more_emas: tuple[float, ...] = option(
        (), "Decays of further averages, kept in emas/ of the run folder.", rare=True
    )

    def rules(self) -> dict[str, Any] | None:
        """The optimisers of a run that are not those of its other options; None for AdamW."""
        if not isinstance(self.optimiser, MuonChoice):
            return None
        from pushforward.train.optimizers import Muon

        own = {
            name: getattr(self, name) for name in ("lr", "warmup", "decay", "weight_decay", "clip")
        }
        return {"loss": Muon(**own, momentum=self.optimiser.momentum)}


class Logging(Group):
    """What a run reports and keeps."""

    log_every: int = option(50, "Steps between lines of the log.", ge=1, rare=True)
    sample_every: int = option(
        500, "Steps between pictures of samples; 0 for none.", ge=0, rare=True
    )
    validate_every: int = option(
        500, "Steps between losses on held-out data; 0 for none.", ge=0, rare=True
    )
    checkpoint_every: int = option(500, "Steps between checkpoints.", ge=1, rare=True)
    keep: int = option(2, "Checkpoints kept.", ge=1, rare=True)
