"""What all models have: records of their data, sampling and origin, nulls, and their networks by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

from torch import Tensor, nn

from pushforward.core.conditions import Condition, Null, Nulls, as_nulls
from pushforward.core.errors import InputError
from pushforward.core.spec import DataSpec, Provenance, SamplingDefaults


class ModelBase(nn.Module):
    """A module with records.

    spec:       what data it draws or judges: shape, kind, classes by name and number.
    sampling:   how it is sampled by default.
    provenance: which run made it, from which data and teacher.
    nulls:      what stands for each condition that may be dropped, by its name. The default with classes is
                {"label": Fill(-1)}. A null that is a module, such as a learned row, is trained with the model.

    encoders:   what makes conditions of something else that is given by name, such as {"prompt": a text encoder}.
                Frozen; an encoder's nulls are the model's.
    codec:      what the model's states are decoded by, such as `Latents`; None where they are the data themselves. The
                spec is that of the data, and `shape` that of a state.

    The records are frozen; to change one, assign another. A model that wraps another has the records of that one.

    A new model calls `set_records` when it is made, and adds `records()` to what its `to_config` returns.
    """

    _spec: DataSpec
    _sampling: SamplingDefaults
    _provenance: Provenance
    _fixed_nulls: dict[str, Null]
    _encoders: dict[str, Encoder]

    def set_records(
        self,
        shape: Sequence[int] = (),
        classes: int | None = None,
        *,
        spec: DataSpec | None = None,
        nulls: Mapping[str, Null | float | str] | None = None,
        sampling: SamplingDefaults | None = None,
        provenance: Provenance | None = None,
        encoders: Mapping[str, Encoder] | None = None,
        codec: Codec | None = None,
    ) -> None:
        """Set the records. shape, of the data, and classes are those of `spec`, which need not repeat them."""
        if isinstance(shape, int):
            raise InputError(f"shape is {shape}; it is a tuple, that of one sample: ({shape},)")
        spec = DataSpec(tuple(shape), classes=classes) if spec is None else spec
        for name, given in (("shape", tuple(shape) or None), ("classes", classes)):
            if given is not None and getattr(spec, name) != given:
                raise InputError(
                    f"{name} is {given}, and {getattr(spec, name)} in spec: pass one of them"
                )
        self._spec = spec
        self._sampling = SamplingDefaults() if sampling is None else sampling
        self._provenance = Provenance() if provenance is None else provenance
        if nulls is None:
            nulls = {} if spec.classes is None else {"label": -1}
        self._encoders = dict(encoders or {})
        for encoder in self._encoders.values():
            nulls = dict(encoder.nulls) | dict(nulls)
        if codec is not None:
            self.held_codec = codec
        self._fixed_nulls, learned = {}, {}
        for name, null in as_nulls(nulls).items():
            if isinstance(null, nn.Module):
                learned[name] = null
            else:
                self._fixed_nulls[name] = null
        if learned:
            self.learned_nulls = nn.ModuleDict(learned)

    def _described(self) -> ModelBase:
        """The model whose records these are."""
        return self

    @property
    def spec(self) -> DataSpec:
        return self._described()._spec

    @spec.setter
    def spec(self, value: DataSpec) -> None:
        self._described()._spec = value

    @property
    def sampling(self) -> SamplingDefaults:
        return self._described()._sampling

    @sampling.setter
    def sampling(self, value: SamplingDefaults) -> None:
        self._described()._sampling = value

    @property
    def provenance(self) -> Provenance:
        return self._described()._provenance

    @provenance.setter
    def provenance(self, value: Provenance) -> None:
        self._described()._provenance = value

    @property
    def nulls(self) -> Nulls:
        owner = self._described()
        return owner._fixed_nulls | dict(getattr(owner, "learned_nulls", {}).items())

    @property
    def encoders(self) -> dict[str, Encoder]:
        return self._described()._encoders

    @property
    def codec(self) -> Codec | None:
        return getattr(self._described(), "held_codec", None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one state; () if not known. That of a sample, `spec.shape`, but where a codec decodes it."""
        codec, shape = self.codec, self.spec.shape
        return shape if codec is None or not shape else tuple(codec.latent_shape(shape))

    @property
    def classes(self) -> int | None:
        """Number of labels that the network knows, or None."""
        return self.spec.classes

    def networks(self) -> dict[str, nn.Module]:
        """Every network by its dotted place in the model: {"net": ...}, {"model.net": ...}.

        A network is a child that has parameters and is no model itself; those of a model in a model come with the name
        of that one before theirs.
        """
        return dict(_networks(self, ""))

    def records(self) -> dict[str, Any]:
        """The constructor's arguments that `set_records` takes."""
        held = {"encoders": self.encoders or None, "codec": self.codec}
        return {
            **{name: value for name, value in held.items() if value is not None},
            "spec": self.spec,
            "nulls": dict(self.nulls),
            "sampling": self.sampling,
            # The hash of the weights is that of what is saved with them, and not of what they were before.
            "provenance": replace(self.provenance, sha256=None),
        }

    def to_config(self) -> dict[str, Any]:
        """The constructor's arguments: JSON values, or parts that have a configuration of their own."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**config)


class Encoder(Protocol):
    """Makes conditions, by name, of a list of what a user gives, one entry for each sample.

    nulls: what stands for each of them where it is dropped. digest: of all that the conditions depend on.
    """

    @property
    def digest(self) -> str: ...

    @property
    def nulls(self) -> Mapping[str, Null]: ...

    def __call__(self, given: Sequence[Any], /) -> dict[str, Condition]: ...


class Codec(Protocol):
    """States of a model from data, and back. digest: of all that they depend on. latent_shape: of a state, from that
    of a sample."""

    @property
    def digest(self) -> str: ...

    def latent_shape(self, shape: Sequence[int]) -> tuple[int, ...]: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, z: Tensor) -> Tensor: ...


def _networks(holder: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in holder.named_children():
        if name == "held_codec":
            continue  # It is never asked by a field, and never trained.
        if isinstance(child, ModelBase | nn.ModuleDict):
            yield from _networks(child, f"{prefix}{name}.")
        elif any(True for _ in child.parameters()):
            yield prefix + name, child


def declared_outputs(net: nn.Module) -> int | None:
    """How many answers for each channel a network of this library was built to give; None for another network."""
    config = getattr(net, "config", None)
    inner = config.get("net") if isinstance(config, Mapping) else None
    if isinstance(inner, nn.Module):
        return declared_outputs(inner)
    outputs = config.get("outputs", 1) if isinstance(config, Mapping) else None
    return outputs if isinstance(outputs, int) else None


def check_outputs(net: nn.Module, names: Sequence[str], advice: str) -> None:
    """That the network was built for these outputs, as far as it says for how many."""
    count = declared_outputs(net)
    if count is not None and count != len(names):
        raise InputError(
            f"{type(net).__name__} was built with outputs={count}, and the model reads {len(names)} of each channel "
            f"({', '.join(names)}): {advice}"
        )


def split_outputs(
    net: nn.Module, raw: Tensor, x: Tensor, names: Sequence[str]
) -> tuple[Tensor, ...]:
    """The network's answer to x (B, C, ...), cut along the channels into one tensor of x's shape for each name."""
    count = len(names)
    shape = x.shape if count == 1 else (x.shape[0], count * x.shape[1], *x.shape[2:])
    if raw.shape != shape:
        raise InputError(
            f"the network {type(net).__name__} answered {tuple(raw.shape)} to x of shape {tuple(x.shape)}; it must "
            f"answer {tuple(shape)}, one value of each of {', '.join(names)} for every value of x"
        )
    return (raw,) if count == 1 else raw.chunk(count, dim=1)
