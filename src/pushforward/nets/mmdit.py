"""The multimodal diffusion transformer of Stable Diffusion 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, addcmul, nn
from torch.nn.functional import silu

from pushforward.core.conditions import Tokens
from pushforward.core.errors import InputError
from pushforward.nets.attention import check_heads, read_context
from pushforward.nets.block import xavier
from pushforward.nets.grids import count_channels, join_control, states
from pushforward.nets.joint import JointAttention, JointBlock, Modulation, SingleBlock, Text
from pushforward.nets.layers import (
    FeatureEmbedding,
    LabelEmbedding,
    LayerNorm,
    check_features,
    feature_widths,
    recomputing,
    zero,
)
from pushforward.nets.linear import Linear
from pushforward.nets.network import Network, refuse_mask
from pushforward.nets.patches import Patches, Positions, check_positions, unpatched
from pushforward.nets.stages import At, Stage

TIME_FEATURES = 256


class MMDiT(Network):
    """A transformer over the patches of an image and the tokens of a text, two streams that attend to one another.

    (B, channels, H, W) -> (B, outputs channels, H, W), for any H and W: what a side lacks to a multiple of `patch` is
    filled up with zeros, and cut off at the end.

    patch:      side of the squares of pixels that are a token each, 1 to 16 or so.
    width, depth, heads: of the tokens, number of blocks with two streams, heads of each attention. Published sizes have
                width 64 d, d blocks and d heads, see `sizes.mmdit`.
    text:       width of the tokens of `text`: `Tokens`, or a tensor (B, L, text) if all of them are there. None for a
                network that takes no text and has one stream.
    pooled:     width of the vector `pooled` (B, pooled) that is added to the features of time. None for none.
    classes:    number of labels, None for none.
    qk_norm:    queries and keys of root mean square 1.
    dual_attention: the blocks that have a second attention among the tokens of the image alone.
    single_blocks: number of blocks that follow, in which both streams are one, as in FLUX.1.
    positions, size, max_size, bottleneck, stem: see `Patches`; "sincos" and "rope" take any size, "table" is that of
                Stable Diffusion 3. For pixels with large patches, a bottleneck.
    in_channels: channels of the state and of `control` together; see `DiT`.
    outputs:    answers for each channel, one after the other: 2 for a learned variance or a score beside the velocity.
    two_times:  the network also takes a time s, for flow maps.
    time:       "sinusoidal", or "smooth": frequencies up to 8 instead of 1000, for networks whose derivative in time is
                part of the loss, such as flow maps (Lu & Song 2024, arXiv 2410.11081, sec. 4.1).
    features:   continuous conditions, see `DiT`.

    t: (B,), 0 for noise and 1 for data; the features are those of Stable Diffusion 3's time 1000 (1 - t).

    No pooled vector is one of zeros. Without any token, or without `text`, the image attends to itself alone. Padding
    of a text never changes a result, wherever it stands and whatever it holds. All tokens of a text are alike but for
    what they hold: their order is the encoder's affair.

    Attribute `checkpointing`: activations of a block are recomputed in the backward pass instead of stored.

    The last layer starts at 0, and each block as the identity. The state is carried from block to block in the
    precision of x, under autocast as well.

    Esser et al. 2024 (arXiv 2403.03206). Names, order and shapes of the weights, and outputs, are those of diffusers'
    `SD3Transformer2DModel`, whose state dict loads; `nets.sd3` has what else belongs to it.
    """

    double_times = True

    def __init__(
        self,
        channels: int,
        patch: int = 2,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        text: int | None = None,
        pooled: int | None = None,
        classes: int | None = None,
        positions: Positions = "sincos",
        size: int | None = None,
        max_size: int | None = None,
        qk_norm: bool = False,
        dual_attention: Sequence[int] = (),
        single_blocks: int = 0,
        bottleneck: int | None = None,
        stem: int | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
        two_times: bool = False,
        *,
        time: str = "sinusoidal",
        in_channels: int | None = None,
        features: Mapping[str, int] | Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1), ("patch", patch, 1), ("width", width, 1), ("depth", depth, 1),
            ("text", text, 1), ("pooled", pooled, 1), ("single_blocks", single_blocks, 0),
            ("bottleneck", bottleneck, 1), ("stem", stem, 1), ("outputs", outputs, 1),
        ):  # fmt: skip
            if value is not None and value < least:
                raise InputError(f"{name} of an MMDiT is at least {least}, not {value}")
        check_heads(width, heads)
        check_positions(positions, width, heads, patch, size, max_size)
        if not set(dual_attention) <= set(range(depth)):
            raise InputError(
                f"dual_attention names blocks of 0 to {depth - 1}, not {list(dual_attention)}"
            )
        inside, self.control, outside = count_channels(channels, outputs, in_channels, None)
        self.channels, self.patch, self.dims, self.head_width = channels, patch, 2, width // heads
        self.outputs, self.text, self.width = outputs, text, width
        self.staged = (depth + 1) // 2  # of its blocks are stages
        self.checkpointing = False
        self.pos_embed = Patches(inside, width, patch, positions, size, max_size, bottleneck, stem)
        self.time_text_embed = Embedding(
            width, pooled, classes, two_times, feature_widths(features), time
        )
        if text is not None:
            self.context_embedder = Linear(text, width)
        kinds: list[Text] = ["none"] * depth if text is None else ["stream"] * depth
        if text is not None and not single_blocks:
            kinds[-1] = "keys"
        self.transformer_blocks = nn.ModuleList(
            JointBlock(width, heads, qk_norm, kind, k in set(dual_attention), dropout)
            for k, kind in enumerate(kinds)
        )
        if single_blocks:
            self.single_transformer_blocks = nn.ModuleList(
                SingleBlock(width, heads, dropout) for _ in range(single_blocks)
            )
        self.single = single_blocks > 0
        self.layer_norm, self.norm_out = LayerNorm(), Modulation(width, 2)
        self.proj_out = Linear(width, patch * patch * outside)
        self._initialise()

    def _initialise(self) -> None:
        """As in the code of Peebles & Xie 2023."""
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        for layer in (*self.transformer_blocks, *convolutions):
            xavier(layer)
        if self.single:
            xavier(self.single_transformer_blocks)
        if self.text is not None:
            xavier(self.context_embedder)
        self.time_text_embed.initialise()
        for module in self.modules():
            if isinstance(module, Modulation):
                zero(module)
            if isinstance(module, JointAttention) and module.text == "keys":
                # In no result, and the same in every network: a run that goes on compares what it does not train.
                zero(module.add_q_proj)
        zero(self.proj_out)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | Tokens | None = None,
        pooled: Tensor | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        label: Tensor | None = None,
        s: Tensor | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Tensor:
        return self.finish(
            self.begin(None, x, t, text, pooled, control, label, s, mask, **features)
        )

    def stages(self) -> tuple[Stage, ...]:
        """The tokens of the image after each block of the first half."""
        return (Stage(self.width, "tokens"),) * self.staged

    def begin(
        self,
        at: At | None,
        x: Tensor,
        t: Tensor,
        text: Tensor | Tokens | None = None,
        pooled: Tensor | None = None,
        control: Tensor | Mapping[str, Tensor] | None = None,
        label: Tensor | None = None,
        s: Tensor | None = None,
        mask: Tensor | None = None,
        **features: Tensor | None,
    ) -> Any:
        """See `Staged`."""
        refuse_mask("MMDiT", mask)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(f"this MMDiT takes {states(self.channels, 2)}, got {tuple(x.shape)}")
        condition = silu(self.time_text_embed(t, pooled, label, s, features))
        values, there = read_context("MMDiT", self.text, x, text, "text")
        joined = join_control("MMDiT", x, control, self.control)
        grid = self.pos_embed.grid(joined)
        h = self.pos_embed(joined).to(x.dtype)
        angle = self.pos_embed.angles(grid, self.head_width, h)
        c = None if values is None else self.context_embedder(values).to(x.dtype)
        keep = None
        if there is not None:
            keep = torch.cat((there.new_ones(h.shape[:2]), there), dim=1)

        call = recomputing(self)
        for k, block in enumerate(self.transformer_blocks[: self.staged]):
            h, c = call(block, h, c, condition, angle, keep)
            h = h if at is None else at(k, h)
        return h, c, condition, angle, keep, grid, x.shape[2:]

    def finish(self, begun: Any) -> Tensor:
        """See `Staged`."""
        h, c, condition, angle, keep, grid, sides = begun
        call, count = recomputing(self), h.shape[1]
        for block in self.transformer_blocks[self.staged :]:
            h, c = call(block, h, c, condition, angle, keep)
        if self.single:
            if c is not None:
                # A text is not turned: FLUX has its tokens at place 0.
                angle = None if angle is None else nn.functional.pad(angle, (0, 0, 0, c.shape[1]))
                h = torch.cat((h, c), dim=1)
            for block in self.single_transformer_blocks:
                h = call(block, h, condition, angle, keep)

        a, b = self.norm_out(condition)  # the other way round than in the blocks
        h = self.proj_out(addcmul(b, 1 + a, self.layer_norm(h[:, :count])))
        return unpatched(h, grid, self.patch, sides)

    def halve(self) -> None:
        """See `Staged`. The last block that is left has no stream of the text any more, which nothing would see."""
        del self.transformer_blocks[self.staged :], self.layer_norm, self.norm_out, self.proj_out
        if self.single:
            del self.single_transformer_blocks
        last = cast(JointBlock, self.transformer_blocks[-1])
        if last.text == "stream":
            config, k = self.config, self.staged - 1
            self.transformer_blocks[k] = JointBlock(
                self.width, config["heads"], config["qk_norm"], "keys", k in config["dual_attention"], config["dropout"]
            )  # fmt: skip

    def first_half(self) -> dict[str, Tensor]:
        """See `Staged`."""
        state, k = self.state_dict(), self.staged - 1
        if cast(JointBlock, self.transformer_blocks[k]).text == "stream":
            for name in ("weight", "bias"):
                place = f"transformer_blocks.{k}.norm1_context.linear.{name}"
                shift, gain = state[place].split(self.width)[:2]
                state[place] = torch.cat((gain, shift))  # the other way round than in a stream
        return state


class Embedding(nn.Module):
    """Time, and what else is one vector for a sample, as their sum (B, width).

        W2 silu(W1 features(1000 (1 - t))) + V2 silu(V1 pooled) + E(label) + way(features(1000 (s - t))) + G(features)

    features(u) = (cos u w, sin u w),  w_k = 10000^{-k/128},  k = 0 ... 127, or w_k = 0.008 100^{-k/128} where they are
    smooth. The last layer of `way` starts at 0, so that a second time makes no difference at first.
    """

    frequencies: Tensor

    def __init__(
        self,
        width: int,
        pooled: int | None,
        classes: int | None,
        two_times: bool,
        columns: Mapping[str, int],
        time: str,
    ) -> None:
        super().__init__()
        if time not in ("sinusoidal", "smooth"):
            raise InputError(
                f"time features of an MMDiT are 'sinusoidal' or 'smooth', not {time!r}"
            )
        fastest, period = (1.0, 10000) if time == "sinusoidal" else (8e-3, 100)
        half = TIME_FEATURES // 2
        # In float32, as diffusers has it: at 1000 radians each bit counts.
        w = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32) / half) * fastest
        self.register_buffer("frequencies", w, persistent=False)
        self.timestep_embedder = Perceptron(TIME_FEATURES, width)
        self.text_embedder = None if pooled is None else Perceptron(pooled, width)
        self.pooled = pooled
        self.label = None if classes is None else LabelEmbedding(classes, width)
        self.way = Perceptron(TIME_FEATURES, width) if two_times else None
        self.columns = FeatureEmbedding(columns, width) if columns else None

    def initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        if self.way is not None:
            zero(self.way.linear_2)

    def forward(
        self,
        t: Tensor,
        pooled: Tensor | None,
        label: Tensor | None,
        s: Tensor | None,
        given: Mapping[str, Tensor | None],
    ) -> Tensor:
        out = self.timestep_embedder(self.features(1000 * (1 - t)))
        if self.text_embedder is not None:
            assert self.pooled is not None
            if pooled is None:
                pooled = out.new_zeros(t.shape[0], self.pooled)
            if pooled.shape != (t.shape[0], self.pooled):
                raise InputError(
                    f"this MMDiT takes pooled vectors ({t.shape[0]}, {self.pooled}), got {tuple(pooled.shape)}"
                )
            out = out + self.text_embedder(pooled.to(self.frequencies.dtype))
        elif pooled is not None:
            raise InputError(
                "a pooled vector was given to a network that was built without: build it with pooled= its width"
            )
        if self.way is not None:
            out = out + self.way(
                self.features(torch.zeros_like(t) if s is None else 1000 * (s - t))
            )
        elif s is not None:
            raise InputError(
                "a second time was given to a network that was built without one: build it with two_times=True"
            )
        if self.label is not None:
            out = out + self.label(label, t.shape[0])
        elif label is not None:
            raise InputError("a label was given to a network that was built without classes")
        check_features(given, () if self.columns is None else tuple(self.columns.names))
        if self.columns is not None:
            out = out + self.columns(given, out, t.shape[0])
        return out

    def features(self, u: Tensor) -> Tensor:
        angle = u[:, None] * self.frequencies.to(u.dtype)
        return torch.cat((angle.cos(), angle.sin()), dim=1).to(self.frequencies.dtype)


class Perceptron(nn.Module):
    """`W2 silu(W1 x)`, under the names that diffusers has."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = Linear(inside, width), Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(silu(self.linear_1(x)))
