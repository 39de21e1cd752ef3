"""One optimiser step shared by several processes: whole copies of the networks (DDP), or a part of each (FSDP2).

Every process takes its rows of the global batch, with the noise of their global ids, and

    grad mean_{i < B} loss_i = (1/W) sum_ranks grad (W/B) sum_{i of this rank} loss_i

so that the gradient is that of one process but for the order of summation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pushforward.core.errors import InputError
from pushforward.models.base import ModelBase
from pushforward.runtime.processes import Processes

Strategy = Literal["ddp", "fsdp"]


def is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def replicate(model: ModelBase, processes: Processes) -> None:
    """Wrap each trained network of the model by DistributedDataParallel, which averages gradients over processes."""
    if processes.count == 1:
        return
    # Of a 1 x 1 convolution, where those of sides of length 1 differ, which mean nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    for place, net in model.networks().items():
        if not is_trained(net):
            continue
        device = next(net.parameters()).device
        wrapped = DistributedDataParallel(net, [device.index] if device.type == "cuda" else None)
        # The buffers of the library's networks are constants.
        wrapped.require_forward_param_sync = False
        holder, _, name = place.rpartition(".")
        setattr(model.get_submodule(holder), name, wrapped)


def shard(model: ModelBase) -> None:
    """Split weights, gradients and so the optimiser's moments of each network over the processes (FSDP2).

    Each module in a ModuleList of a network, its blocks, is gathered by itself when it is called, those of lists in
    lists and of blocks in blocks too. What is not trained is split again after every call: no backward pass comes to do
    so. What is split already stays as it is.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for net in model.networks().values():
        if isinstance(net, FSDPModule):
            continue
        blocks = [
            block
            for module in net.modules()
            if isinstance(module, nn.ModuleList)
            for block in module
            if not isinstance(block, nn.ModuleList) and any(True for _ in block.parameters())
        ]
        # What is inside comes first: the outer one then splits what is left.
        for block in reversed(blocks):
            fully_shard(block)
        fully_shard(net, reshard_after_forward=None if is_trained(net) else True)


@contextmanager
def gathering(networks: Iterable[Any], last: bool) -> Iterator[None]:
    """Gradients go between processes only after the last part of a batch that is taken in several."""
    for net in networks:
        if isinstance(net, DistributedDataParallel):
            net.require_backward_grad_sync = last
        elif hasattr(net, "set_requires_gradient_sync"):
            net.set_requires_gradient_sync(last)
    yield


def average(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """Average the gradients of parameters that each process holds whole. One without a gradient counts as 0 where
    another process has one."""
    have = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float64)
    counts = processes.sum(have.to(parameters[0].device)).tolist()
    for parameter, count in zip(parameters, counts, strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            processes.sum(parameter.grad)
            parameter.grad /= processes.count


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is sharded."""
    return x.to_local() if hasattr(x, "to_local") else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor, gathered from all processes if it is sharded."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def is_sharded(x: Tensor) -> bool:
    return hasattr(x, "to_local")


def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale the gradients so that their norm is `most` at most; returns what it was."""
    some = list(parameters)
    sharded = [p for p in some if is_sharded(p)]
    if len(sharded) in (0, len(some)):
        return whole(nn.utils.clip_grad_norm_(some, most))
    plain = [p for p in some if not is_sharded(p)]
    norms = [
        whole(nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]))
        for part in (sharded, plain)
    ]
    total = torch.stack(norms).norm()
    for part in (sharded, plain):
        nn.utils.clip_grads_with_norm_(part, most, total)
    return total


def to_lead(tensors: Iterable[tuple[str, Tensor]], processes: Processes) -> dict[str, Tensor]:
    """All of each tensor, on the CPU of the first process; nothing in the others. One is gathered after the other."""
    found = {}
    for name, value in tensors:
        gathered = whole(value)
        if processes.lead:
            found[name] = gathered.cpu()
    return found


def require_shardable(objective: Any, keys: int) -> None:
    """FSDP2 gathers weights in the forward pass of a network: what differentiates it otherwise cannot be sharded."""
    if not getattr(objective, "shardable", False):
        raise InputError(
            f"{type(objective).__name__} cannot be trained with --parallel fsdp, which is for objectives that only "
            f"call their networks, and say so by `shardable = True`: take --parallel ddp"
        )
    if keys > 1:
        raise InputError(
            "--parallel fsdp is for one optimiser, and this run has several: take --parallel ddp"
        )
    if torch.__version__ < "2.8":
        raise InputError(f"--parallel fsdp needs torch 2.8 or later, this is {torch.__version__}")
