"""Networks of diffusers as networks of this library, for layouts that the library has no equal of.

An adapter is asked at (x, t) as any network here, and asks the module within at (x, tau): tau = clock(t). Its arguments
are those of diffusers' class, as in config.json, and four more:

    clock:   how the module counts time.
    sign:    what its answer is multiplied by: -1 for a flow, since diffusers predicts noise - data there.
    outputs: answers for each channel; 2 for a learned variance.

diffusers is imported when an adapter is built (the extra `diffusers`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.clocks import Clock, NoiseClock, StepClock
from pushforward.nets.network import Network, did_you_mean


def diffusers_class(name: str) -> Any:
    """A class of diffusers; InputError if that is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            f"{name} is a network of diffusers, which is not installed: pip install -e '.[diffusers]', or "
            f"pip install diffusers transformers"
        ) from error
    return getattr(diffusers, name)


def accepted(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config.json that the class of this name takes."""
    known = inspect.signature(diffusers_class(name).__init__).parameters
    return {key: value for key, value in config.items() if key in known and key != "self"}


def check_arguments(name: str, config: Mapping[str, Any]) -> None:
    """InputError unless the class of diffusers of this name takes all of these."""
    known = list(inspect.signature(diffusers_class(name).__init__).parameters)[1:]
    for given in config:
        if given not in known:
            raise InputError(f"{name} has no argument {given!r}{did_you_mean(given, known)}")


class Adapter(Network):
    """A denoiser of diffusers: `sign * module(x, clock(t), conditions)`.

    The state dict is the module's, each name after `inner.`.
    """

    double_times = True
    kind: ClassVar[str]  # the name of diffusers' class

    inner: Any

    def __init__(
        self, clock: Clock | None = None, sign: int = 1, outputs: int = 1, **config: Any
    ) -> None:
        super().__init__()
        check_arguments(self.kind, config)
        if sign not in (1, -1):
            raise InputError(f"sign is 1 or -1, not {sign}")
        if outputs not in (1, 2):
            raise InputError(f"outputs is 1 or 2, not {outputs}")
        self.clock: Clock = self._default_clock() if clock is None else clock
        self.config["clock"] = self.clock
        self.sign = sign
        self.inner = diffusers_class(self.kind)(**config)
        # A label is dropped by training here, by its own keyed numbers, and never inside of a network.
        for layer in self.inner.modules():
            if hasattr(layer, "dropout_prob"):
                layer.dropout_prob = 0.0
            if isinstance(layer, nn.GroupNorm):
                layer.register_forward_pre_hook(in_order)

    @staticmethod
    def _default_clock() -> Clock:
        return StepClock()

    def to_config(self) -> dict[str, Any]:
        return dict(self.config)

    @property
    def inner_config(self) -> dict[str, Any]:
        """The arguments of diffusers' class, as its config.json has them, defaults included."""
        found: Mapping[str, Any] = self.inner.config
        return {name: value for name, value in found.items() if not name.startswith("_")}

    @property
    def checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass."""
        return bool(getattr(self.inner, "is_gradient_checkpointing", False))

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        switch = "enable" if value else "disable"
        getattr(self.inner, f"{switch}_gradient_checkpointing")()

    def _asked(self, x: Tensor, t: Tensor) -> Tensor:
        """tau (B,), computed in t's precision and never below float32."""
        return self.clock(t).to(torch.promote_types(x.dtype, torch.float32))

    def _answer(self, *arguments: Any, **named: Any) -> Tensor:
        with differentiable():
            out: Tensor = self.inner(*arguments, **named, return_dict=False)[0]
        return out if self.sign == 1 else -out


@contextmanager
def differentiable() -> Iterator[None]:
    """In forward mode attention is computed by its definition: fused kernels have no such derivative."""
    if forward_ad._current_level < 0:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def in_order(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """In forward mode a group norm takes what lies in memory in its own order, derivative included."""
    if forward_ad._current_level < 0:
        return None
    return tuple(x.clone(memory_format=torch.contiguous_format) for x in inputs)


def rows(label: Tensor | None, count: int, x: Tensor, none: int | None, kind: str) -> Tensor:
    """Labels (B,) as rows of a table of `count`, -1 being row `none`."""
    if label is None:
        label = torch.full((len(x),), -1, device=x.device)
    label = label.to(x.device, torch.int64)
    if none is not None:
        return torch.where(label < 0, none, label)
    if bool((label < 0).any()):
        raise InputError(
            f"this {kind} has a class for every sample, and none for no class: give label= of 0 to {count - 1}"
        )
    return label


def scale_features(scale: Tensor, count: int) -> Tensor:
    """(sin u w, cos u w) of the scale's strength u = 1000 (scale - 1), w_k = 10000^{-k/(count/2 - 1)}.

    Luo et al. 2023 (LCM, arXiv 2310.04378), by its code.
    """
    half = count // 2
    k = torch.arange(half, device=scale.device, dtype=scale.dtype)
    angle = 1000 * (scale - 1)[:, None] * torch.exp(-math.log(10000) * k / (half - 1))
    features = torch.cat((angle.sin(), angle.cos()), dim=1)
    return torch.nn.functional.pad(features, (0, count - 2 * half))


def joined(x: Tensor, control: Tensor | None, channels: int, kind: str) -> Tensor:
    """x with the control behind its channels."""
    parts = [x] if control is None else [x, control.to(x.dtype)]
    found = sum(part.shape[1] for part in parts)
    if x.ndim != 4 or found != channels:
        raise InputError(
            f"this {kind} takes (B, {channels}, H, W), those of control= included, got {found} channels "
            f"of {tuple(x.shape)}"
        )
    return torch.cat(parts, dim=1)


class DiffusersUNet2D(Adapter):
    """diffusers' `UNet2DModel`: a U-Net of images (B, C, H, W), with a label for each if it has classes.

    It has no class for "none": it cannot be guided, unless one of its own classes stands for that.
    """

    kind = "UNet2DModel"

    def forward(
        self, x: Tensor, t: Tensor, label: Tensor | None = None, control: Tensor | None = None
    ) -> Tensor:
        config = self.inner.config
        joint = joined(x, control, config["in_channels"], self.kind)
        count, tau = config["num_class_embeds"], self._asked(x, t)
        if config["time_embedding_type"] == "learned":
            tau = tau.round().long()
        given = None
        if self.inner.class_embedding is not None:
            given = rows(label, count or 0, x, None, self.kind)
            if config["class_embed_type"] is not None:
                given = given.to(x.dtype)
        elif label is not None:
            raise InputError("a label was given to a network that was built without classes")
        return self._answer(joint, tau, class_labels=given)


class DiffusersUNet2DCondition(Adapter):
    """diffusers' `UNet2DConditionModel`, the U-Net of Stable Diffusion 1, 2 and XL.

    text:    tokens (B, L, cross_attention_dim): a tensor, all of which is attended to, or `Tokens`, of which padding is
             not. None: zeros of one token.
    pooled, time_ids: of Stable Diffusion XL: a vector (B, P), and (B, 6): original size, crop and target size (height
             first) in pixels, by default those of x, a latent being 8 pixels.
    label:   with `class_embed_type=None` and num_class_embeds.
    scale:   (B,), of the guidance that a distilled network was trained to follow (LCM). None: 7.5 for all.
    control: further channels of the input, such as mask and masked latents of an inpainting network.
    """

    kind = "UNet2DConditionModel"

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | Tokens | None = None,
        pooled: Tensor | None = None,
        time_ids: Tensor | None = None,
        label: Tensor | None = None,
        scale: Tensor | None = None,
        control: Tensor | None = None,
    ) -> Tensor:
        config = self.inner.config
        joint = joined(x, control, config["in_channels"], self.kind)
        width = config["cross_attention_dim"]
        width = width[0] if isinstance(width, list | tuple) else width
        values, mask = (text.values, text.mask) if isinstance(text, Tokens) else (text, None)
        if values is None:
            values = x.new_zeros(len(x), 1, width)
        more: dict[str, Any] = {"encoder_attention_mask": mask}
        if config["addition_embed_type"] == "text_time":
            more["added_cond_kwargs"] = self._added(x, pooled, time_ids)
        elif pooled is not None or time_ids is not None:
            raise InputError("this UNet2DConditionModel takes no pooled vector and no time_ids")
        if config["num_class_embeds"] and config["class_embed_type"] is None:
            more["class_labels"] = rows(label, config["num_class_embeds"], x, None, self.kind)
        elif label is not None:
            raise InputError("a label was given to a network that was built without classes")
        if (features := config["time_cond_proj_dim"]) is not None:
            strength = x.new_full((len(x),), 7.5) if scale is None else scale.to(x)
            more["timestep_cond"] = scale_features(strength, features)
        elif scale is not None:
            raise InputError("this UNet2DConditionModel was not distilled to follow a scale")
        return self._answer(joint, self._asked(x, t), values.to(x.dtype), **more)

    def _added(
        self, x: Tensor, pooled: Tensor | None, time_ids: Tensor | None
    ) -> dict[str, Tensor]:
        config = self.inner.config
        if time_ids is None:
            height, width = (8 * side for side in x.shape[2:])
            row = torch.tensor([height, width, 0, 0, height, width], device=x.device)
            time_ids = row.expand(len(x), 6)
        if pooled is None:
            ids = time_ids.shape[1] * config["addition_time_embed_dim"]
            pooled = x.new_zeros(len(x), config["projection_class_embeddings_input_dim"] - ids)
        return {"text_embeds": pooled.to(x.dtype), "time_ids": time_ids.to(x.dtype)}


class DiffusersDiT(Adapter):
    """diffusers' `DiTTransformer2DModel`: DiT by class, (B, C, H, W) -> (B, outputs C, H, W). Its last row is no class.

    Peebles & Xie 2023 (arXiv 2212.09748).
    """

    kind = "DiTTransformer2DModel"

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        config = self.inner.config
        joint = joined(x, None, config["in_channels"], self.kind)
        count = config["num_embeds_ada_norm"]
        given = rows(label, count, x, count, self.kind)
        return self._answer(joint, timestep=self._asked(x, t), class_labels=given)


class DiffusersPixArt(Adapter):
    """diffusers' `PixArtTransformer2DModel`, PixArt-alpha and -sigma: (B, C, H, W) -> (B, outputs C, H, W).

    text: tokens (B, L, caption_channels), of T5: a tensor, all of which is attended to, or `Tokens`, of which padding
          is not. None: zeros of one token.

    Where it was trained with resolution and aspect ratio as conditions, these are those of x, a latent being 8 pixels.

    Chen et al. 2023 (arXiv 2310.00426).
    """

    kind = "PixArtTransformer2DModel"

    def forward(self, x: Tensor, t: Tensor, text: Tensor | Tokens | None = None) -> Tensor:
        config = self.inner.config
        joint = joined(x, None, config["in_channels"], self.kind)
        values, mask = (text.values, text.mask) if isinstance(text, Tokens) else (text, None)
        if values is None:
            width = config["caption_channels"] or config["cross_attention_dim"]
            values = x.new_zeros(len(x), 1, width)
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.inner.use_additional_conditions:
            height, width = (8 * side for side in x.shape[2:])
            added["resolution"] = x.new_tensor([[height, width]]).expand(len(x), 2)
            added["aspect_ratio"] = x.new_full((len(x), 1), height / width)
        return self._answer(
            joint, encoder_hidden_states=values.to(x.dtype), encoder_attention_mask=mask, timestep=self._asked(x, t),
            added_cond_kwargs=added,
        )  # fmt: skip


class DiffusersFlux(Adapter):
    """diffusers' `FluxTransformer2DModel`, whose tokens are 2 x 2 latents: (B, C, H, W) -> (B, C, H, W), even H, W.

    text:     tokens (B, L, joint_attention_dim), of T5. Padding is attended to, as FLUX does. None: zeros of one token.
    pooled:   (B, pooled_projection_dim), of CLIP. None: zeros.
    clock, sign: by default those of a flow, NoiseClock(1) and -1: its network has a factor of 1000 of its own.
    scale:    (B,), of the guidance that a distilled network was trained to follow. None: `distilled_guidance`, by
              default 3.5, as FLUX.1-dev is sampled.
    """

    kind = "FluxTransformer2DModel"

    def __init__(
        self,
        clock: Clock | None = None,
        sign: int = -1,
        outputs: int = 1,
        distilled_guidance: float = 3.5,
        **config: Any,
    ) -> None:
        super().__init__(clock, sign, outputs, **config)
        self.distilled_guidance = distilled_guidance

    @staticmethod
    def _default_clock() -> Clock:
        return NoiseClock(1.0)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | Tokens | None = None,
        pooled: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        config = self.inner.config
        channels = config["in_channels"] // 4
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % 2 or x.shape[3] % 2:
            raise InputError(
                f"this {self.kind} takes (B, {channels}, H, W) with even H and W, got {tuple(x.shape)}"
            )
        values = text.values if isinstance(text, Tokens) else text
        if values is None:
            values = x.new_zeros(len(x), 1, config["joint_attention_dim"])
        if pooled is None:
            pooled = x.new_zeros(len(x), config["pooled_projection_dim"])
        strength = None
        if config["guidance_embeds"]:
            strength = x.new_full((len(x),), self.distilled_guidance)
            strength = strength if scale is None else scale.to(x)
        elif scale is not None:
            raise InputError("this FluxTransformer2DModel was not distilled to follow a scale")
        height, width = (side // 2 for side in x.shape[2:])
        tokens = x.unflatten(2, (height, 2)).unflatten(4, (width, 2))
        tokens = tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        places = torch.zeros(height, width, 3, device=x.device)
        places[..., 1] = torch.arange(height, device=x.device)[:, None]
        places[..., 2] = torch.arange(width, device=x.device)
        out = self._answer(
            hidden_states=tokens,
            encoder_hidden_states=values.to(x.dtype),
            pooled_projections=pooled.to(x.dtype),
            timestep=self._asked(x, t),
            img_ids=places.flatten(0, 1),
            txt_ids=torch.zeros(values.shape[1], 3, device=x.device),
            guidance=strength,
        )
        out = out.unflatten(1, (height, width)).unflatten(3, (-1, 2, 2))
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
