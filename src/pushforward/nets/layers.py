"""Parts that several networks share: features of time, embeddings of conditions, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.nn.functional import group_norm
from torch.utils.checkpoint import checkpoint

from pushforward.core.errors import InputError
from pushforward.nets.network import did_you_mean


class SinusoidalTime(nn.Module):
    """Sines and cosines of `scale t` at geometrically spaced frequencies.

        w_k = max_period^{-k/(dim/2)},   k = 0 ... dim/2 - 1:   (cos(scale t w), sin(scale t w))

    t: (B,) -> (B, dim). Vaswani et al. 2017, sec. 3.5; with scale 1000, t in [0, 1] is spread as the steps of DDPM are.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 1000.0, max_period: float = 10000.0) -> None:
        super().__init__()
        _check_even(dim)
        exponent = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2)
        self.register_buffer(
            "frequencies", (scale * max_period**-exponent).float(), persistent=False
        )

    def forward(self, t: Tensor) -> Tensor:
        return _waves(t, self.frequencies)


class FourierTime(nn.Module):
    """Random Fourier features: cosines and sines of `2 pi t w`, w ~ N(0, scale^2), drawn once and kept.

    t: (B,) -> (B, dim). Tancik et al. 2020 (arXiv 2006.10739); Song et al. 2021 (arXiv 2011.13456), app. G.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float = 16.0) -> None:
        super().__init__()
        _check_even(dim)
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(dim // 2))

    def forward(self, t: Tensor) -> Tensor:
        return _waves(t, self.frequencies)


def _waves(t: Tensor, frequencies: Tensor) -> Tensor:
    # The angles reach 1000: they are computed in t's precision and not in the network's, which may be bfloat16.
    angle = t[:, None] * frequencies.to(t.dtype)
    return torch.cat((angle.cos(), angle.sin()), dim=1).to(frequencies.dtype)


def _check_even(dim: int) -> None:
    if dim < 2 or dim % 2:
        raise InputError(
            f"time features come in pairs: their number must be even and positive, not {dim}"
        )


class LabelEmbedding(nn.Module):
    """A vector for each class, and one for "no class", which is asked for by label -1 or by no label at all.

    label: (B,) int64 in [-1, classes), or None for all -1 -> (B, dim).
    """

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"classes must be positive, or None for none, got {classes}")
        self.classes = classes
        self.table = nn.Embedding(classes + 1, dim)

    def forward(self, label: Tensor | None, size: int) -> Tensor:
        if label is None:
            return self.table.weight[-1].expand(size, -1)
        return self.table(torch.where(label < 0, self.classes, label))


class FeatureEmbedding(nn.Module):
    """A vector for some continuous numbers, any of which may be unknown.

        W2 silu(W1 (f, m) + b1) + b2        m = 1 and f = 0 where a number is NaN, and m = 0 elsewhere

    The columns of W1 that belong to m are what is learned for "unknown". Numbers should be of the order of 1.

    names: the width of each condition by its name, 1 for a single number (B,) and K for a vector (B, K).
    """

    def __init__(self, names: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.names = dict(names)
        inputs = 2 * sum(names.values())
        self.mix = nn.Sequential(nn.Linear(inputs, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, given: Mapping[str, Tensor | None], like: Tensor, size: int) -> Tensor:
        """given: by name; what is missing or None is unknown -> (size, dim). like: has the device and precision."""
        parts = []
        for name, width in self.names.items():
            value = given.get(name)
            if value is None:
                parts.append(like.new_full((size, width), math.nan))
                continue
            if value.ndim == 1 and width == 1:
                value = value[:, None]
            if value.shape != (size, width):
                shape = f"({size},)" if width == 1 else f"({size}, {width})"
                raise InputError(f"{name} must have shape {shape}, got {tuple(value.shape)}")
            parts.append(value.to(like))
        f = torch.cat(parts, dim=1)
        unknown = f.isnan()
        out: Tensor = self.mix(torch.cat((torch.where(unknown, 0, f), unknown.to(f)), dim=1))
        return out


def feature_widths(features: Mapping[str, int] | Sequence[str] | None) -> dict[str, int]:
    """Continuous conditions by name with their widths; a sequence of names stands for single numbers."""
    if isinstance(features, str):
        raise InputError(
            f"features are names or a width by name, such as [{features!r}]: not a string"
        )
    widths = dict(features) if isinstance(features, Mapping) else dict.fromkeys(features or (), 1)
    for name, width in widths.items():
        if name in RESERVED:
            raise InputError(
                f"a continuous condition cannot be called {name!r}: networks have an argument of this name"
            )
        if type(width) is not int or width < 1:
            raise InputError(f"the width of the condition {name} is {width!r}; it must be positive")
    return widths


# Arguments of networks' forward passes.
RESERVED = ("x", "t", "label", "s", "context", "control", "mask", "text", "pooled")


def check_features(given: Mapping[str, Tensor | None], known: Sequence[str]) -> None:
    """InputError if a condition is given that is not among those known."""
    for name in given:
        if name not in known:
            raise InputError(
                f"a condition {name!r} was given to a network that was built without it: build it with "
                f"features=[{name!r}]{did_you_mean(name, [*RESERVED[2:], *known])}"
            )


class Conditioning(nn.Module):
    """Time, the label if there are classes, a second time if there is one, and continuous conditions, as one vector.

        mix(features(t)) + E(label) + way(features(s - t)) + G(columns)

    t: (B,), label: (B,) or None, s: (B,), or None for s = t -> (B, dim).

    time: "sinusoidal", "fourier", or "smooth": sinusoidal features of frequencies up to 8 instead of 1000, for
    networks whose derivative in time is part of the loss (Lu & Song 2024, arXiv 2410.11081, sec. 4.1).
    two_times: for flow maps; the last layer of `way` starts at 0, so that s makes no difference at first. t and s - t
    are the pair that did best in MeanFlow (Geng et al. 2025, arXiv 2505.13447, table 1c).
    features: number of features of a time, dim if None.
    columns: continuous conditions, see `FeatureEmbedding`.
    """

    def __init__(
        self,
        dim: int,
        classes: int | None,
        time: str,
        two_times: bool = False,
        features: int | None = None,
        columns: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        number = dim if features is None else features
        self.features = time_features(time, number)
        self.mix = nn.Sequential(nn.Linear(number, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = None if classes is None else LabelEmbedding(classes, dim)
        self.way = (
            nn.Sequential(nn.Linear(number, dim), nn.SiLU(), zero(nn.Linear(dim, dim)))
            if two_times
            else None
        )
        self.columns = FeatureEmbedding(columns, dim) if columns else None

    def forward(
        self,
        t: Tensor,
        label: Tensor | None,
        s: Tensor | None = None,
        given: Mapping[str, Tensor | None] | None = None,
    ) -> Tensor:
        out = self.mix(self.features(t))
        if self.way is not None:
            out = out + self.way(self.features(torch.zeros_like(t) if s is None else s - t))
        elif s is not None:
            raise InputError(
                "a second time was given to a network that was built without one: build it with two_times=True"
            )
        if self.label is not None:
            out = out + self.label(label, t.shape[0])
        elif label is not None:
            raise InputError("a label was given to a network that was built without classes")
        check_features(given or {}, () if self.columns is None else tuple(self.columns.names))
        if self.columns is not None:
            out = out + self.columns(given or {}, out, t.shape[0])
        return out


def time_features(name: str, dim: int) -> SinusoidalTime | FourierTime:
    match name:
        case "sinusoidal":
            return SinusoidalTime(dim)
        case "fourier":
            return FourierTime(dim)
        case "smooth":
            return SinusoidalTime(dim, scale=8.0, max_period=100.0)
    raise InputError(f"time features are 'sinusoidal', 'fourier' or 'smooth', not {name!r}")


class LayerNorm(nn.Module):
    """`(x - mean x) / sqrt(var x + eps)` over the last dimension, without parameters.

    All its derivatives are right, which those of torch's own `layer_norm` are not: gradients of its derivative in
    forward mode, and third derivatives by backward passes (pytorch/pytorch#196700). Flow maps learn by the former. Its
    kernels are used where they are right, and one group of `group_norm` in forward mode and in torch.func's transforms.

    Ba, Kiros & Hinton 2016 (arXiv 1607.06450), eq. 3.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if is_plain():
            out: Tensor = _LayerNorm.apply(x, self.eps)
            return out
        return group_norm(x.reshape(-1, x.shape[-1]), 1, eps=self.eps).reshape(x.shape)


class _LayerNorm(torch.autograd.Function):
    """torch's kernels for values and first derivatives; further ones are those of the equation of the first.

    dL/dx = (g - mean g - y mean(g y)) / sqrt(var x + eps)        g = dL/dy
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        y, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, mean, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, mean, scale = ctx.saved_tensors
        if not torch.is_grad_enabled():
            given = (g, x, x.shape[-1:], mean, scale, None, None, [True, False, False])
            return torch.ops.aten.native_layer_norm_backward(*given)[0], None
        wide = torch.promote_types(x.dtype, torch.float32)
        h, g = x.to(wide), g.to(wide)
        h = h - h.mean(-1, keepdim=True)
        scale = (h.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
        y = scale * h
        d = scale * (g - g.mean(-1, keepdim=True) - y * (g * y).mean(-1, keepdim=True))
        return d.to(x.dtype), None


def is_plain() -> bool:
    """Whether layers are called one by one and have derivatives by backward passes only: there is no derivative in
    forward mode, no transform of torch.func and no compiler at work.
    """
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level < 0 and peek_interpreter_stack() is None


def recomputing(net: nn.Module) -> Callable[..., Any]:
    """How a network calls its layers, `call(layer, *arguments)`: with its attribute `checkpointing` set, activations
    are recomputed in the backward pass instead of stored.

    Not in forward mode: what is recomputed would no longer have its derivative.
    """
    if not (net.checkpointing and torch.is_grad_enabled() and forward_ad._current_level < 0):
        return lambda layer, *arguments: layer(*arguments)
    draws = net.training and any(m.p > 0 for m in net.modules() if isinstance(m, nn.Dropout))
    return partial(checkpoint, use_reentrant=False, preserve_rng_state=draws)


def zero(module: nn.Module) -> nn.Module:
    """The same module with all parameters at 0, so that a residual block starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
