"""Flow maps for tests: one that answers exactly, and one that knows nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import pushforward as pf
from pushforward.core.predictions import secant


class ExactNet(nn.Module):
    """A network that answers with an exact flow map, and has one parameter, 0, with which it would not.

    ends: where it is to go if it is not told, from the time at which it is asked; to the data if left out.
    """

    def __init__(self, law, path, prediction, ends=None, factor=1.0) -> None:
        super().__init__()
        self.flow, self.field = law.flow_map(path), law.field(path)
        self.prediction, self.ends, self.factor = prediction, ends, factor
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        if s is None:
            s = torch.ones_like(t) if self.ends is None else self.ends(t)
        still = s == t
        # Numbers and no functions of t: at s = 1 on VP, sigma has no derivative for them to have.
        away = torch.where(still, torch.where(t < 0.5, 0.75, 0.25), s)
        way = secant(x, self.flow(x, t, away), t, away, self.flow.path, self.prediction)
        here = self.field(x, t, self.prediction)
        exact = torch.where(still.reshape(-1, *[1] * (x.ndim - 1)), here, way)
        shift = torch.sin(x) + 0.7 + (t * (1 + s)).reshape(-1, *[1] * (x.ndim - 1))
        return self.factor * exact + self.theta * shift


class Free(nn.Module):
    """A smooth network of x, t, s and a label that knows nothing; without s it goes nowhere, s = t."""

    def __init__(self, dim: int = 2, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.asked = list[tuple[Tensor, Tensor, Tensor | None, dict[str, Tensor]]]()
        layers = nn.Sequential(nn.Linear(dim + 3, 12), nn.Tanh(), nn.Linear(12, dim))
        self.layers = layers.double()

    def forward(self, x: Tensor, t: Tensor, s: Tensor | None = None, **cond: Tensor) -> Tensor:
        self.asked.append((x, t, s, cond))
        label = cond["label"] if "label" in cond else torch.full_like(t, -1.0)
        told = torch.stack((t, t if s is None else s, label.to(t.dtype)), 1)
        return self.layers(torch.cat((x, told), 1))


def flow_model(net: nn.Module, path: pf.Path, prediction="velocity", jumps="any"):
    return pf.FlowMapModel(pf.Model(net, path, prediction, nulls={"label": -1}), jumps)


def gradient(loss: Tensor, net: nn.Module) -> Tensor:
    parts = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])
