"""One optimiser step shared by several processes: whole copies of the networks (DDP), or parts of each (FSDP2).

Every process takes its rows of the global batch, with the noise of their global ids, and

    grad mean_{i < B} loss_i = (1/W) sum_ranks grad (W/B) sum_{i of this rank} loss_i

so that the gradient is that of one process but for the order of summation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pushforward.core.errors import InputError
from pushforward.models.base import ModelBase
from pushforward.runtime.processes import Processes

Strategy = Literal["ddp", "fsdp"]


def places(model: ModelBase) -> list[tuple[nn.Module, str]]:
    """The networks of a model, each as the module that holds it and its name there."""
    found = []
    for dotted in model.networks():
        holder, _, name = dotted.rpartition(".")
        found.append((model.get_submodule(holder), name))
    return found


def networks(model: ModelBase) -> list[nn.Module]:
    return list(model.networks().values())


def replicate(model: ModelBase, processes: Processes) -> None:
    """Wrap each network of the model by DistributedDataParallel, which averages gradients over the processes."""
    if processes.count == 1:
        return
    # Of a 1 x 1 convolution, where those of sides of length 1 differ, which mean nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    for holder, name in places(model):
        net = getattr(holder, name)
        device = next(net.parameters()).device
        wrapped = DistributedDataParallel(net, [device.index] if device.type == "cuda" else None)
        # The buffers of the library's networks are constants.
        wrapped.require_forward_param_sync = False
        setattr(holder, name, wrapped)


def shard(model: ModelBase) -> None:
    """Split weights, gradients and so the optimiser's moments of each network over the processes (FSDP2).

    Each module in a ModuleList of a network, its blocks, is gathered by itself when it is called. What is not trained
    is split again after every call: no backward pass comes to do so.
    """
    from torch.distributed.fsdp import fully_shard

    for net in networks(model):
        for module in list(net.modules()):
            if isinstance(module, nn.ModuleList):
                for block in module:
                    if any(True for _ in block.parameters()):
                        fully_shard(block)
        trained = any(p.requires_grad for p in net.parameters())
        fully_shard(net, reshard_after_forward=None if trained else True)


@contextmanager
def gathering(model: ModelBase, last: bool) -> Iterator[None]:
    """Gradients go between processes only after the last part of a batch that is taken in several."""
    nets: list[Any] = list(networks(model))
    for net in nets:
        if isinstance(net, DistributedDataParallel):
            net.require_backward_grad_sync = last
        elif hasattr(net, "set_requires_gradient_sync"):
            net.set_requires_gradient_sync(last)
    yield


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded."""
    return x.to_local() if hasattr(x, "to_local") else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor, gathered from all processes if it is sharded."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def require_shardable(objective: Any, model: nn.Module) -> None:
    """FSDP2 gathers weights in the forward pass of a network: what differentiates it otherwise cannot be sharded."""
    from pushforward.models.model import Model
    from pushforward.objectives import Matching

    if type(model) is not Model or not isinstance(objective, Matching):
        raise InputError(
            f"{type(objective).__name__} cannot be trained with --parallel fsdp, which is for regression by one "
            f"network: take --parallel ddp"
        )
    if torch.__version__ < "2.8":
        raise InputError(f"--parallel fsdp needs torch 2.8 or later, this is {torch.__version__}")
