"""Scores of galaxies that others trained: the networks in the package galaxygrad, read without JAX.

    model = pf.from_galaxygrad("hsc64")

Variance-preserving diffusion with a constant beta,

    alpha = e^{-s/2},   sigma^2 = 1 - e^{-s},   s = 10 (1 - t),   y = ln(x + 1)/0.1

of cut-outs x of galaxies in the surveys HSC, ZTF, LSST and Roman, and of lensed quasars. The network gives the score of
y. Sampson et al. 2024 (arXiv 2401.07313).

A file .eqx is a row of NumPy arrays, by position: the leaves of an equinox module in the order of its fields.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.paths import VP
from pushforward.core.spec import DataSpec, Provenance
from pushforward.interop.diffusers.files import without_weights
from pushforward.models.model import Model
from pushforward.models.stretch import LogStretch
from pushforward.nets.mixer import Mixer
from pushforward.nets.network import did_you_mean

PACKAGE = "galaxygrad"
FILES = {
    "hsc32": "eqx_hsc_ScoreNet32.eqx",
    "hsc64": "eqx_hsc_ScoreNet64.eqx",
    "ztf32": "eqx_ZTF_ScoreNet32.eqx",
    "ztf64": "eqx_ZTF_ScoreNet64.eqx",
    "lsst60": "eqx_lsst_ScoreNet60.eqx",
    "quasar72": "eqx_quasar_lens72.eqx",
    # The package's own code asks for ScoreNet120, which is there on no system that tells capitals from small letters.
    "roman120": "eqx_roman_Scorenet120.eqx",
}


def from_galaxygrad(name: str = "hsc64") -> Model:
    """A network of the installed package galaxygrad 0.2.1 as a Model, frozen. It is not imported, nor is JAX.

    name: hsc32, hsc64, ztf32, ztf64, lsst60, quasar72, roman120: the survey, and the side of its images.

    Its states are y, and what is drawn are x: values of at least -1, of no fixed range.
    """
    if name not in FILES:
        raise InputError(f"galaxygrad has no {name!r}{did_you_mean(name, list(FILES))}")
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(
            f"{name} comes with the package {PACKAGE}, which is not installed: pip install --no-deps {PACKAGE}==0.2.1"
        )
    return read_score(
        Path(found.origin).parent / FILES[name], int(name[-3:].lstrip("abcdefghijklmnopqrstuvwxyz"))
    )


def read_score(path: Path, size: int) -> Model:
    """The score network in a file of galaxygrad, of images of this side."""
    leaves = list(read_leaves(path))
    try:
        net, end = _network(leaves, size)
    except (IndexError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a score network of images of {size} x {size} pixels: {error}"
        ) from error
    return Model(
        net.requires_grad_(False).eval(),
        VP(end, end),
        "score",
        spec=DataSpec((net.channels, size, size), kind="image"),
        provenance=Provenance(method="imported from galaxygrad"),
        codec=LogStretch(0.1),
    )


def read_leaves(path: Path) -> Iterator[np.ndarray]:
    """The arrays in a file .eqx, in order. Nothing in it is executed."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            while file.tell() < size:
                yield np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _network(leaves: list[np.ndarray], size: int) -> tuple[Mixer, float]:
    """The network, and the time at which its noise ends."""
    tensors = [torch.from_numpy(np.array(leaf)) for leaf in leaves]
    conv_in, conv_out = tensors[0], tensors[2]
    width, channels, patch = conv_in.shape[0], conv_out.shape[0], conv_in.shape[2]
    depth, rest = divmod(len(tensors) - 4 - 2 - 1, 12)
    if rest or depth < 1:
        raise ValueError(f"it has {len(tensors)} arrays, and 7 and 12 for each block were expected")
    with without_weights():
        net = Mixer(channels, size, patch, width, tensors[4].shape[0], tensors[8].shape[0], depth)
    state: dict[str, Tensor] = {
        "conv_in.weight": conv_in,
        "conv_in.bias": tensors[1].flatten(),
        # JAX slides the kernel over a spread image, without turning it; inputs come second.
        "conv_out.weight": conv_out.flip(2, 3).transpose(0, 1).contiguous(),
        "conv_out.bias": tensors[3].flatten(),
    }
    names = [
        *(f"{part}.{layer}.{kind}" for part in ("patches", "features") for layer in ("linear1", "linear2")
          for kind in ("weight", "bias")),
        "norm1.gain", "norm1.bias", "norm2.gain", "norm2.bias",
    ]  # fmt: skip
    for k in range(depth):
        start = 4 + 12 * k
        state |= {
            f"blocks.{k}.{n}": x for n, x in zip(names, tensors[start : start + 12], strict=True)
        }
    state["norm.gain"], state["norm.bias"] = tensors[-3:-1]
    net.load_state_dict(state, assign=True)
    end = float(tensors[-1])
    if not end > 0:
        raise ValueError(f"its noise ends at time {end}")
    return net, end
