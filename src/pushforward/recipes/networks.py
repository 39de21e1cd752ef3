"""Networks on the command line: one dial for their size, and the options of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Field

from pushforward.core.errors import InputError
from pushforward.recipes.choices import NETWORKS
from pushforward.recipes.options import Choice, option

if TYPE_CHECKING:
    from torch import nn

    UNetSizeName: TypeAlias = str
    DiTSizeName: TypeAlias = str
else:
    UNetSizeName = Literal[tuple(name for name in NETWORKS if name.startswith("unet-"))]
    DiTSizeName = Literal[tuple(name for name in NETWORKS if name.startswith("dit-"))]

NETWORK = "Network and its size; pushforward sizes lists them."


@dataclass(frozen=True)
class Text:
    """Texts as a network is given them: widths of their tokens, and of a pooled vector if there is one."""

    width: int
    pooled: int | None = None


@dataclass(frozen=True)
class Data:
    """What a network must know of its data.

    shape: of a sample. classes: number of labels. features: widths of continuous conditions, by name. text: what it is
    given of texts.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    features: Mapping[str, int] | None = None
    text: Text | None = None

    def arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.classes is not None:
            found["classes"] = self.classes
        features = dict(self.features or {})
        if self.text is not None:
            found["context"] = self.text.width
            if self.text.pooled is not None:
                features["sentence"] = self.text.pooled
        if features:
            found["features"] = features
        return found

    def grid(self) -> dict[str, Any]:
        """Of a network on a grid of pixels."""
        if len(self.shape) not in (2, 3, 4):
            raise InputError(
                f"U-Nets and DiTs are for signals (C, L), images (C, H, W) and volumes (C, D, H, W), and the data are "
                f"of shape {self.shape}: take --network mlp"
            )
        dims = len(self.shape) - 1
        return self.arguments() | ({} if dims == 2 else {"dims": dims})


class NetworkChoice(Choice):
    """A network and its size."""

    def build(self, data: Data, **more: Any) -> nn.Module:
        """The network for these data. more: outputs, two_times, time."""
        raise NotImplementedError

    @property
    def unit(self) -> int:
        """Sides that are multiples of this are halved, or cut into patches, without a rest."""
        return 1

    def network(self, *arguments: Mapping[str, Any]) -> nn.Module:
        """The network of this name, with these arguments; the last ones win."""
        together = {name: value for part in arguments for name, value in part.items()}
        network: nn.Module = NETWORKS[self.name].with_(**together).make()
        return network


class MLPChoice(NetworkChoice):
    """A residual multi-layer perceptron."""

    name: Literal["mlp"] = "mlp"
    width: int = option(128, "Width of the hidden layers.", ge=2, multiple_of=2)
    depth: int = option(3, "Residual blocks.", ge=1)

    def build(self, data: Data, **more: Any) -> nn.Module:
        if len(data.shape) != 1:
            raise InputError(
                f"--network mlp is for vectors, and the data are of shape {data.shape}"
            )
        arguments = {"dim": data.shape[0], "width": self.width, "depth": self.depth}
        return self.network(arguments, data.arguments(), more)


class UNetChoice(NetworkChoice):
    """A U-Net of any layout."""

    name: Literal["unet"] = "unet"
    width: int = option(32, "Channels at full resolution.", ge=8)
    multipliers: tuple[int, ...] = option(
        (1, 2), "Channels by resolution, over width.", min_length=1, rare=True
    )
    blocks: int = option(1, "Residual blocks at each resolution.", ge=1)
    attention: tuple[int, ...] = option(
        (), "Resolutions that attend, from 0, the full one.", rare=True
    )
    dropout: float = option(0.0, "Dropout in the residual blocks.", ge=0, lt=1, rare=True)

    @property
    def unit(self) -> int:
        return int(2 ** (len(self.multipliers) - 1))

    def build(self, data: Data, **more: Any) -> nn.Module:
        arguments = {"channels": data.shape[0]} | self.model_dump(exclude={"name"})
        return self.network(arguments, data.grid(), more)


class UNetSize(NetworkChoice):
    """A U-Net of a size, any part of which may be changed."""

    name: UNetSizeName = "unet-XS"
    width: int | None = option(
        None, "Channels at full resolution. Default: the size's.", ge=8, rare=True
    )
    multipliers: tuple[int, ...] | None = option(
        None,
        "Channels by resolution, over width. Default: the size's.",
        min_length=1,
        rare=True,
    )
    blocks: int | None = option(
        None, "Residual blocks at each resolution. Default: the size's.", ge=1, rare=True
    )
    attention: tuple[int, ...] | None = option(
        None, "Resolutions that attend, from 0, the full one. Default: the size's.", rare=True
    )
    dropout: float = option(0.0, "Dropout in the residual blocks.", ge=0, lt=1, rare=True)

    @property
    def unit(self) -> int:
        from pushforward.nets.sizes import UNET

        multipliers = self.multipliers or UNET[self.name.removeprefix("unet-")].multipliers
        return int(2 ** (len(multipliers) - 1))

    def build(self, data: Data, **more: Any) -> nn.Module:
        arguments = {"channels": data.shape[0]} | self.model_dump(
            exclude={"name"}, exclude_none=True
        )
        return self.network(arguments, data.grid(), more)


class DiTSize(NetworkChoice):
    """A diffusion transformer of a size."""

    name: DiTSizeName = "dit-mini"
    patch: int = option(2, "Pixels a side of a token.", ge=1)
    dropout: float = option(0.0, "Dropout in the blocks.", ge=0, lt=1, rare=True)

    @property
    def unit(self) -> int:
        return self.patch

    def build(self, data: Data, **more: Any) -> nn.Module:
        arguments = {"channels": data.shape[0], "patch": self.patch, "dropout": self.dropout}
        return self.network(arguments, data.grid(), more)


class MMDiTChoice(NetworkChoice):
    """A multimodal diffusion transformer, two streams of pixels and words."""

    name: Literal["mmdit"] = "mmdit"
    patch: int = option(2, "Pixels a side of a token.", ge=1)
    width: int = option(192, "Width of the tokens, a multiple of 64.", ge=64, multiple_of=64)
    depth: int = option(6, "Blocks.", ge=1)
    qk_norm: bool = option(True, "Normalise queries and keys.", rare=True)
    bottleneck: int | None = option(
        None,
        "Directions by which a patch is read, for large patches of pixels. Default: all.",
        ge=1,
        rare=True,
    )
    dropout: float = option(0.0, "Dropout in the blocks.", ge=0, lt=1, rare=True)

    @property
    def unit(self) -> int:
        return self.patch

    def build(self, data: Data, **more: Any) -> nn.Module:
        if len(data.shape) != 3:
            raise InputError(f"--network {self.name} is for images, and the data are {data.shape}")
        arguments = {"channels": data.shape[0], "heads": self.width // 64}
        texts = replace(data, text=None).arguments()
        if data.text is not None:
            texts |= {"text": data.text.width, "pooled": data.text.pooled}
        return self.network(arguments, self.model_dump(exclude={"name"}), texts, more)


class UViTChoice(NetworkChoice):
    """Convolutions on fine pixels and a transformer on coarse ones."""

    name: Literal["uvit"] = "uvit"
    levels: tuple[int, ...] = option(
        (32, 64), "Channels of the convolutions, from the finest level.", min_length=1, rare=True
    )
    width: int = option(192, "Width of the transformer, a multiple of 64.", ge=64, multiple_of=64)
    depth: int = option(6, "Blocks of the transformer.", ge=1)
    dropout: float = option(0.0, "Dropout in all blocks.", ge=0, lt=1, rare=True)

    @property
    def unit(self) -> int:
        return int(2 ** len(self.levels))

    def build(self, data: Data, **more: Any) -> nn.Module:
        data.grid()
        if len(data.shape) != 3:
            raise InputError(f"--network uvit is for images, and the data are {data.shape}")
        arguments = {"channels": data.shape[0], "heads": self.width // 64}
        return self.network(arguments, self.model_dump(exclude={"name"}), data.arguments(), more)


ImageNetwork = Annotated[
    UNetSize | DiTSize | UNetChoice | UViTChoice | MMDiTChoice, Field(discriminator="name")
]


class Auto(NetworkChoice):
    """Chosen by the shape of the data: an MLP for vectors, a U-Net for all else."""

    name: Literal["auto"] = "auto"

    def build(self, data: Data, **more: Any) -> nn.Module:
        return self.chosen(data.shape).build(data, **more)

    def chosen(self, shape: tuple[int, ...]) -> NetworkChoice:
        """The network for samples of this shape, with as many resolutions as their sides allow."""
        if len(shape) == 1:
            return MLPChoice()
        levels = max(1, min(2, min(shape[1:]).bit_length() - 1))
        return UNetChoice(multipliers=(1, 2)[:levels])


AnyNetwork = Annotated[
    Auto | MLPChoice | UNetSize | DiTSize | UNetChoice, Field(discriminator="name")
]
