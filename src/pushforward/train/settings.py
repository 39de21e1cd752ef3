"""How to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pushforward.core.errors import InputError
from pushforward.train.optimizers import AdamW, Rule
from pushforward.train.parallel import Strategy
from pushforward.train.schedules import Decay

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Settings:
    """How to train.

    steps:      of the optimisers.
    lr, warmup, decay, weight_decay, clip: of AdamW; see `optimizers.Rule`.
    optimizers: others, by the key of the losses that each minimises.
    ema:        decay of the average that is saved and sampled; more_emas: of others, kept in emas/.
    precision:     "bf16" runs the networks in bfloat16; weights, moments and averages stay float32.
    compile:       the networks by torch.compile.
    accumulate:    parts in which a batch is taken, one after the other: the same gradient, for less memory.
    checkpointing: recompute activations in the backward pass instead of storing them.
    parallel:      what each process holds: "ddp", whole copies of the networks; "fsdp", a part of each.
    *_every: steps between log lines, sample pictures, validation losses (0 for none) and checkpoints.
    keep:       number of checkpoints kept.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "constant"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    more_emas: tuple[float, ...] = ()
    seed: int = 0
    precision: Precision = "fp32"
    compile: bool = False
    accumulate: int = 1
    checkpointing: bool = False
    parallel: Strategy = "ddp"
    log_every: int = 50
    sample_every: int = 500
    validate_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2
    optimizers: Mapping[str, Rule] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("sample_every", "validate_every"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}; it must be fp32 or bf16")
        if self.ema in self.more_emas or len(set(self.more_emas)) < len(self.more_emas):
            raise InputError("the decays of all EMAs must differ")
        if self.optimizers is not None and not self.optimizers:
            raise InputError("optimizers is empty: give one for each key of the losses, or None")
        self.rules()

    def rules(self) -> Mapping[str, Rule]:
        """An optimiser for each key of the losses."""
        if self.optimizers is not None:
            return self.optimizers
        return {
            "loss": AdamW(
                lr=self.lr,
                warmup=self.warmup,
                decay=self.decay,
                weight_decay=self.weight_decay,
                clip=self.clip,
            )
        }
