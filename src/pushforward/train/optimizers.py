"""Optimisers as data: which parameters each one has, and how it takes its steps.

An objective returns losses under one key for each optimiser, and the gradient of the losses under a key is taken with
respect to the parameters of that optimiser alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pushforward.core.errors import InputError
from pushforward.train.schedules import Decay, learning_rate

Parameters = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate or a weight decay of their own.

    names:        pattern of their names in the model, as of files in a shell: "*.bias", "net.conv_in.*".
    lr:           factor of the optimiser's rate.
    weight_decay: None for that of the optimiser.
    """

    names: str
    lr: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class Built:
    """An optimiser of torch. state: what it keeps of each parameter, by the names that torch gives it."""

    optimizer: torch.optim.Optimizer
    state: tuple[str, ...]


@dataclass(frozen=True)
class Rule(ABC):
    """An optimiser of the parameters whose names fit `parameters`.

    lr, warmup, decay: see `learning_rate`. clip: largest norm of the gradient of all its parameters.
    weight_decay:  decoupled, as in AdamW. decay_vectors: whether also of biases, gains of norms and other parameters
                   with fewer than two dimensions.
    groups:        exceptions; the first that fits a parameter holds.
    """

    lr: float = 1e-3
    warmup: int = 100
    decay: Decay = "constant"
    weight_decay: float = 0.0
    clip: float = 1.0
    parameters: tuple[str, ...] = ("*",)
    groups: tuple[Group, ...] = ()
    decay_vectors: bool = True

    def __post_init__(self) -> None:
        for name in ("warmup", "weight_decay"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive and finite")

    @abstractmethod
    def build(self, model: nn.Module, parameters: Parameters, fused: bool) -> list[Built]:
        """The optimisers of torch for these parameters. fused: whether to take one pass over memory for each."""

    def takes(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.parameters)

    def rate(self, step: int, steps: int) -> float:
        return learning_rate(step, steps, self.lr, self.warmup, self.decay)

    def grouped(self, parameters: Parameters) -> list[dict[str, Any]]:
        """Groups in the order of their first parameters. "factor": of the learning rate."""
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            group = next((g for g in self.groups if fnmatchcase(name, g.names)), Group("*"))
            weight_decay = group.weight_decay
            if weight_decay is None:
                plain = self.decay_vectors or parameter.ndim > 1
                weight_decay = self.weight_decay if plain else 0.0
            found.setdefault((group.lr, weight_decay), []).append(parameter)
        return [
            {"params": some, "weight_decay": weight_decay, "factor": factor}
            for (factor, weight_decay), some in found.items()
        ]


@dataclass(frozen=True)
class AdamW(Rule):
    """Adam with decoupled weight decay. Loshchilov & Hutter 2019 (arXiv 1711.05101).

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) g^2
        W <- (1 - lr wd) W - lr m' / (sqrt(v') + eps)

    m', v': without the bias of their first steps. betas: (b1, b2).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    state: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")

    def build(self, model: nn.Module, parameters: Parameters, fused: bool) -> list[Built]:
        made = torch.optim.AdamW(
            self.grouped(parameters), lr=self.lr, betas=self.betas, eps=self.eps, fused=fused
        )
        return [Built(made, self.state)]


@dataclass(frozen=True)
class Muon(Rule):
    """Steps of orthogonal matrices for the hidden layers, and AdamW for all else.

        M <- b M + (1 - b) g,    O ~ U V^T of (1 - b) g + b M = U S V^T
        W <- (1 - lr wd) W - 0.2 sqrt(max(rows, columns)) lr O

    O comes of five steps of Newton-Schulz; the factor gives each entry of a step the size that AdamW's has, so that
    both share one learning rate and one weight decay.

    outside:  patterns of the matrices that are not hidden: those at the input and the output. Embeddings never are, nor
              what does not have two dimensions, such as convolutions.
    momentum: b. betas, eps: of AdamW.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the factor of Liu et al. 2025 (arXiv 2502.16982), eq. 4.
    Needs torch 2.9.
    """

    outside: tuple[str, ...] = ("*conv_in.*", "*conv_out.*")
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, model: nn.Module, parameters: Parameters, fused: bool) -> list[Built]:
        if not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"Muon needs torch 2.9 or later, this is {torch.__version__}: take AdamW, or update torch"
            )
        embeddings = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        hidden = {
            name: p
            for name, p in parameters.items()
            if p.ndim == 2
            and id(p) not in embeddings
            and not any(fnmatchcase(name, pattern) for pattern in self.outside)
        }
        if not hidden:
            raise InputError(
                "Muon is for matrices of hidden layers, and this model has none: take AdamW"
            )
        made = torch.optim.Muon(
            self.grouped(hidden),
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = {name: p for name, p in parameters.items() if name not in hidden}
        found = [Built(made, ("momentum_buffer",))]
        if rest:
            adam = torch.optim.AdamW(
                self.grouped(rest), lr=self.lr, betas=self.betas, eps=self.eps, fused=fused
            )
            found.append(Built(adam, AdamW.state))
        return found


class Optimizers:
    """The optimisers of a run by the keys of their losses. parameters: those that are trained, by name."""

    def __init__(
        self, rules: Mapping[str, Rule], model: nn.Module, parameters: Parameters, fused: bool
    ) -> None:
        self.rules, self.parameters = dict(rules), parameters
        self.of_key: dict[str, Parameters] = {key: {} for key in rules}
        for name, parameter in parameters.items():
            keys = [key for key, rule in rules.items() if rule.takes(name)]
            if len(keys) != 1:
                whose = f"is taken by {' and '.join(keys)}" if keys else "is taken by no optimiser"
                raise InputError(
                    f"the parameter {name} {whose}: the patterns in `parameters` must give each one to one optimiser, "
                    f"or freeze it"
                )
            self.of_key[keys[0]][name] = parameter
        for key, some in self.of_key.items():
            if not some:
                raise InputError(
                    f"the optimiser {key!r} has no parameters: none fits {', '.join(rules[key].parameters)}"
                )
        self.built = {
            key: rule.build(model, self.of_key[key], fused) for key, rule in rules.items()
        }

    def __iter__(self) -> Iterator[Built]:
        for some in self.built.values():
            yield from some

    def set_rates(self, step: int, steps: int) -> dict[str, float]:
        """The learning rates of this step, by key."""
        rates = {}
        for key, rule in self.rules.items():
            rates[key] = rate = rule.rate(step, steps)
            for built in self.built[key]:
                for group in built.optimizer.param_groups:
                    group["lr"] = rate * group["factor"] if group["factor"] != 1 else rate
        return rates

    def step(self) -> None:
        for built in self:
            built.optimizer.step()
            built.optimizer.zero_grad(set_to_none=True)

    def _owners(self) -> dict[nn.Parameter, Built]:
        return {
            parameter: built
            for built in self
            for group in built.optimizer.param_groups
            for parameter in group["params"]
        }

    def kept(self) -> tuple[dict[str, Tensor], list[str]]:
        """What the optimisers keep of each parameter, by name, and the parameters of which they keep nothing yet."""
        tensors: dict[str, Tensor] = {}
        untrained, owners = [], self._owners()
        for name, parameter in self.parameters.items():
            state = owners[parameter].optimizer.state.get(parameter, {})
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
            untrained += [] if state else [name]
        return tensors, untrained

    def wanted(self, given: Mapping[str, Any], untrained: list[str]) -> dict[str, Tensor]:
        """What must be given to go on, by name, as tensors of the same kind."""
        wanted: dict[str, Tensor] = {}
        owners = self._owners()
        for name, parameter in self.parameters.items():
            whole = {
                f"{name}.{key}": torch.zeros(()) if key == "step" else parameter.detach()
                for key in owners[parameter].state
            }
            if name not in untrained or any(key in given for key in whole):
                wanted |= whole
        return wanted

    def take(self, given: Mapping[str, Tensor]) -> None:
        """Go on with what was kept."""
        for parameter_name, parameter in self.parameters.items():
            built = self._owners()[parameter]
            fused = built.optimizer.defaults.get("fused")
            for key in built.state:
                value = given.get(f"{parameter_name}.{key}")
                if value is not None:
                    place = "cpu" if key == "step" and not fused else parameter.device
                    built.optimizer.state[parameter][key] = value.clone().to(place)
