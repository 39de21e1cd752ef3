"""A trained network steered by pictures: the network locked, trained copies of its first half added to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from pushforward.core.errors import InputError
from pushforward.nets.dit import DiT
from pushforward.nets.layers import zero
from pushforward.nets.mmdit import MMDiT
from pushforward.nets.network import Network, did_you_mean
from pushforward.nets.stages import Staged
from pushforward.nets.unet import UNet
from pushforward.nets.uvit import UViT

# What the copy calls the features of the hint among its controls: behind all names of letters.
HINT = "~hint"


class Branch(Network):
    """A trained copy of the first half of a network, which also sees a hint, and answers with what to add.

        r_k = Z_k h_k(x, t, c, f),    f = silu(W2 silu(W1 hint)),    k = 0, 1, ...

    h_k: the k-th stage of the copy. Z_k: a 1 x 1 convolution of a map, or a linear layer of tokens, that starts at 0.
    f comes into the copy's first layer beside x, by weights that start at 0. So the sum of a network and its branch
    starts as the network.

    network, config: name of the class of the network and its arguments. hint: channels of the hint. width: channels of
    f. factor: pixels of the hint for each side of a pixel of the state, as where states are latents.

    Hints are (B, hint, factor H, factor W), of values between 0 and 1.

    At first the loss has a gradient in Z_k alone, and where the network is the best that there is without a hint, that
    is the noise of batches: the point is a saddle, which training leaves by that noise.

    Zhang, Rao & Agrawala 2023 (ControlNet, arXiv 2302.05543), sec. 3. The hint's features are joined to x, and meet a
    convolution of the first layer's size where the paper has one of 1 x 1.
    """

    double_times = True
    # Classes by name; add your own in a subclass.
    kinds: ClassVar[Mapping[str, type[Network]]] = {
        cls.__name__: cls for cls in (UNet, DiT, UViT, MMDiT)
    }

    def __init__(
        self,
        network: str,
        config: Mapping[str, Any],
        hint: int = 1,
        width: int = 32,
        factor: int = 1,
    ) -> None:
        super().__init__()
        if network not in self.kinds:
            raise InputError(
                f"a branch is the copy of a network of the library, not of a {network!r}"
                f"{did_you_mean(network, list(self.kinds))}"
            )
        if min(hint, width, factor) < 1:
            raise InputError(
                f"hint, width and factor of a branch are positive: not {hint}, {width}, {factor}"
            )
        self.hint, self.width, self.factor = hint, width, factor
        inside = config.get("in_channels") or config["channels"]
        copy: Any = self.kinds[network].from_config({**config, "in_channels": inside + width})
        check_controllable(copy)
        stages = copy.stages()
        copy.halve()
        self.copy: nn.Module = copy
        self.read = nn.Sequential(
            nn.Conv2d(hint * factor**2, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.zeros = nn.ModuleList(
            zero(
                nn.Conv2d(stage.channels, stage.channels, 1)
                if stage.kind == "map"
                else nn.Linear(stage.channels, stage.channels)
            )
            for stage in stages
        )

    @classmethod
    @torch.no_grad()
    def of(cls, net: Staged, hint: int = 1, width: int = 32, factor: int = 1) -> Self:
        """A branch that starts with the weights of this network."""
        check_controllable(net)
        found = cls(type(net).__name__, dict(net.config), hint, width, factor)
        there, inside = net.first_half(), net.channels + net.control
        for name, value in found.copy.state_dict().items():
            own = there[name]
            if own.shape != value.shape:
                # A layer that sees the features of the hint too, behind what it saw.
                seen, rest = own.split([inside, own.shape[1] - inside], dim=1)
                gap = seen.new_zeros(own.shape[0], width, *own.shape[2:])
                own = torch.cat((seen, gap, rest), dim=1)
            value.copy_(own)
        found.to(next(iter(there.values())).device)
        return found

    @property
    def checkpointing(self) -> bool:
        return bool(self.copy.checkpointing)

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        self.copy.checkpointing = value  # type: ignore[assignment]

    def check(self, name: str, hint: Any, x: Tensor) -> None:
        """That this is a hint for states x (B, C, H, W)."""
        wanted = (x.shape[0], self.hint, *(self.factor * side for side in x.shape[2:]))
        if not isinstance(hint, Tensor) or hint.shape != wanted:
            found = tuple(hint.shape) if isinstance(hint, Tensor) else type(hint).__name__
            raise InputError(
                f"the hint of the control {name!r} is (B, channels, H, W) = {wanted} here, got {found}"
            )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        hint: Tensor,
        control: Mapping[str, Tensor] | None = None,
        **cond: Any,
    ) -> tuple[Tensor, ...]:
        """What to add at each stage. control: of the network itself, where it takes any."""
        found: list[Tensor] = []

        def at(k: int, h: Tensor) -> Tensor:
            found.append(h)
            return h

        features = self.read(pixel_unshuffle(hint.to(x.dtype), self.factor))
        given = {**(control or {}), HINT: features}
        cast(Staged, self.copy).begin(at, x, t, control=given, **cond)
        return tuple(layer(h) for layer, h in zip(self.zeros, found, strict=True))


class Controlled(nn.Module):
    """A network to which branches are added at the stages of its first half, each times its strength.

        h_k <- h_k + sum_b strength_b r_bk

    net:       the network, which is not trained. branches: by the name of the condition each takes its hint from.
    strengths: 1 where none is given. At 0 a branch takes no hint, and the answer is that of the rest, bit for bit.

    (x, t, control={name: hint, ...}, **cond); of a single branch the hint may be given alone. Entries of `control` that
    no branch takes are the network's own.
    """

    def __init__(
        self,
        net: nn.Module,
        branches: Mapping[str, Branch],
        strengths: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        check_controllable(net)
        if not branches:
            raise InputError("a controlled network has at least one branch")
        self.net, self.branches = net, nn.ModuleDict(branches)
        for name in strengths or {}:
            if name not in branches:
                raise InputError(
                    f"there is no control {name!r}{did_you_mean(name, list(branches))}"
                )
        self.strengths = {name: float((strengths or {}).get(name, 1)) for name in branches}
        for name, branch in branches.items():
            if (
                branch.config["network"] != type(net).__name__
                or branch.config["config"] != net.config
            ):
                raise InputError(
                    f"the control {name!r} is for another network: for a {branch.config['network']} of "
                    f"{branch.config['config']}"
                )

    @property
    def double_times(self) -> bool:
        return bool(self.net.double_times)

    @property
    def checkpointing(self) -> bool:
        return bool(self.net.checkpointing)

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        for module in (self.net, *self.branches.values()):
            module.checkpointing = value  # type: ignore[assignment]

    @property
    def config(self) -> dict[str, Any]:
        return {
            "net": self.net,
            "branches": dict(self.branches.items()),
            "strengths": dict(self.strengths),
        }

    def to_config(self) -> dict[str, Any]:
        return self.config

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        control: Tensor | Mapping[str, Tensor] | None = None,
        **cond: Any,
    ) -> Tensor:
        hints, own = self._sorted(control)
        given = {**cond, "control": own} if own else cond
        added: list[Tensor] = []
        for name, branch, strength in self._acting():
            if name not in hints:
                raise InputError(
                    f"the control {name!r} has no hint: give it as control={{{name!r}: (B, channels, H, W)}}, or set "
                    f"its strength to 0"
                )
            branch.check(name, hints[name], x)
            found = branch(x, t, hints[name], **given)
            found = found if strength == 1 else [strength * r for r in found]
            added = [a + r for a, r in zip(added, found, strict=True)] if added else list(found)
        net = cast(Staged, self.net)
        if not added:
            return net(x, t, **given)
        return net.finish(net.begin(lambda k, h: h + added[k].to(h.dtype), x, t, **given))

    def _acting(self) -> Iterator[tuple[str, Branch, float]]:
        for name, branch in self.branches.items():
            if self.strengths[name] != 0:
                yield name, cast(Branch, branch), self.strengths[name]

    def _sorted(
        self, control: Tensor | Mapping[str, Tensor] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The hints of the branches, and the network's own controls, by name."""
        if control is None:
            return {}, {}
        if not isinstance(control, Mapping):
            if len(self.branches) > 1:
                raise InputError(
                    f"this network has several controls: give their hints by name, control={{...}} of "
                    f"{', '.join(self.branches)}"
                )
            control = dict.fromkeys(self.branches, control)
        hints = {name: hint for name, hint in control.items() if name in self.branches}
        own = {name: part for name, part in control.items() if name not in self.branches}
        if own and not cast(Staged, self.net).control:
            name = next(iter(own))
            raise InputError(
                f"there is no control {name!r}{did_you_mean(name, list(self.branches))}"
            )
        return hints, own


def check_controllable(net: Any) -> None:
    """InputError for a network that has no stages, or not those of an image."""
    if not isinstance(net, Staged):
        raise InputError(
            f"a {type(net).__name__} has no stages to add a control at: take a UNet, UViT, DiT or MMDiT"
        )
    if net.dims != 2 or net.config.get("channels_last"):
        raise InputError(
            "controls are for networks of images (B, channels, H, W), and this one is for others"
        )
