"""Backpropagation along a trajectory, one step at a time.

    state_{k+1} = step(k, state_k; theta),   k = 0 ... n - 1,      L = L(state_n)

The way there keeps the states and no graph. The way back, k = n - 1 ... 0, rebuilds the graph of one step from its
state:

    dL/dstate_k = (d state_{k+1}/d state_k)^T dL/dstate_{k+1},    dL/dtheta += (d state_{k+1}/d theta)^T
    dL/dstate_{k+1}

These are the gradients of the discretised objective itself, no approximation of a continuous adjoint; the activations
of a single step are held, however many there are, for one more evaluation of each step. A sum along the way is a part
of the state.

Zhang & Chen 2021 (arXiv 2110.07579), alg. 2, the stochastic adjoint; for ODEs, discretise-then-optimise with a
checkpoint at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pushforward.core.errors import InputError, UndefinedError

State = tuple[Tensor, ...]
Step = Callable[..., State]


def trajectory(
    step: Step,
    state: State,
    steps: int,
    parameters: Iterable[Tensor],
    *,
    adjoint: bool = True,
) -> State:
    """The state after `steps` steps, with gradients for the first state and the parameters.

    step:       (k, *state) -> state, a function of these and of the parameters alone. It is called twice for each k:
                noise is drawn from `Noise`, which knows k, and is the same again. What networks draw from torch's own
                generator, as for dropout, is repeated too.
    state:      tensors (B, ...), as many and of such shapes before a step as after it.
    parameters: all that step uses and that is to have a gradient, of any number of modules. A tensor that is missing
                here and requires a gradient is an error of the backward pass.
    adjoint:    False for plain backpropagation: equal gradients, the graphs of all steps in memory. Gradients of
                gradients take it.
    """
    if steps < 1:
        raise InputError(f"a trajectory of {steps} steps was asked for; it takes at least 1")
    known = list({id(p): p for p in parameters}.values())
    differentiable = any(tensor.requires_grad for tensor in (*state, *known))
    if adjoint and differentiable and torch.is_grad_enabled():
        return _Trajectory.apply(step, steps, len(state), *state, *known)
    for k in range(steps):
        state = step(k, *state)
    return state


class _Trajectory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, steps: int, width: int, *tensors: Tensor) -> State:
        state, states = tensors[:width], list[Tensor]()
        draws = list[list[Tensor]]()
        for k in range(steps):
            states.extend(state)
            draws.append(generators(state[0].device))
            state = tuple(part.detach() for part in step(k, *state))
        ctx.step, ctx.width, ctx.draws, ctx.parameters = step, width, draws, tensors[width:]
        # A parameter that was saved and is changed before the backward pass is an error there.
        ctx.save_for_backward(*ctx.parameters, *states)
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UndefinedError(
                "gradients of gradients do not go through the adjoint, which keeps no graph: pass adjoint=False"
            )
        step, width, states = ctx.step, ctx.width, ctx.saved_tensors[len(ctx.parameters) :]
        wanted = [p for p in ctx.parameters if p.requires_grad]
        totals: dict[int, Tensor] = {}
        with torch.enable_grad(), repeatable(states[0].device) as repeat:
            for k, drawn in reversed(list(enumerate(ctx.draws))):
                here = states[k * width : (k + 1) * width]
                state = [part.detach().requires_grad_() for part in here]
                repeat(drawn)
                after = step(k, *state)
                if k == len(ctx.draws) - 1:
                    _check_leaves(after, [*state, *wanted])
                ends = [i for i, part in enumerate(after) if part.requires_grad]
                found = torch.autograd.grad(
                    [after[i] for i in ends],
                    [*state, *wanted],
                    [gradients[i] for i in ends],
                    allow_unused=True,
                )
                gradients = tuple(
                    torch.zeros_like(part) if gradient is None else gradient
                    for part, gradient in zip(state, found, strict=False)
                )
                for p, gradient in zip(wanted, found[width:], strict=True):
                    if gradient is not None:
                        total = totals.get(id(p))
                        totals[id(p)] = gradient if total is None else total + gradient
        return None, None, None, *gradients, *(totals.get(id(p)) for p in ctx.parameters)


def _check_leaves(after: Sequence[Tensor], known: Sequence[Tensor]) -> None:
    """Raise if the graph of a step ends in anything that will get no gradient and asked for one."""
    names = {id(tensor) for tensor in known}
    for leaf in _leaves(after):
        if id(leaf) not in names:
            raise InputError(
                f"the step uses a tensor of shape {tuple(leaf.shape)} that requires a gradient and is not among the "
                f"parameters of the trajectory: name it there, or detach it"
            )


def _leaves(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    queue: list[Any] = [tensor.grad_fn for tensor in tensors]
    seen = set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        queue.extend(before for before, _ in node.next_functions)


def generators(device: torch.device) -> list[Tensor]:
    """The states of torch's own generators."""
    cuda = device.type == "cuda"
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if cuda else [])]


@contextmanager
def repeatable(device: torch.device) -> Iterator[Callable[[list[Tensor]], None]]:
    """Sets torch's generators to such states; at the end they are what they were."""

    def repeat(states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)

    before = generators(device)
    try:
        yield repeat
    finally:
        repeat(before)
