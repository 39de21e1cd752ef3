"""Networks split over processes: of any layout of their blocks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.core.conditions import Tokens
from pushforward.nets import Prompted, UViT, WordTransformer
from pushforward.train.parallel import shard


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


class Twice(nn.Module):
    """A block that has a block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.parts = nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](self.first(x))


class Nested(nn.Module):
    """Blocks in lists of lists, and blocks that have blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2), nn.Identity()]), Twice()])

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.blocks[1](self.blocks[0][0](x))


def of_prompts() -> tuple[nn.Module, dict]:
    canvas = UViT(
        1, (4, 8), width=32, depth=1, heads=1, core=16, context=8, features={"sentence": 8}
    )
    net = Prompted(canvas, {"words": WordTransformer(5, 8, 1, 1, 4)})
    return net, {
        "words": Tokens(torch.tensor([[2, 3], [4, 0]]), torch.tensor([[1, 1], [1, 0]]) > 0)
    }


@pytest.mark.parametrize("kind", ["prompts", "nested"])
def test_networks_with_blocks_in_lists_of_lists_are_split_and_answer_as_before(kind, alone) -> None:
    torch.manual_seed(0)
    net, cond = of_prompts() if kind == "prompts" else (Nested(), {})
    for p in net.parameters():
        p.data.normal_(std=0.1)
    x = torch.randn(2, 1, 8, 8) if kind == "prompts" else torch.randn(2, 2)
    t = torch.rand(2)
    want = net(x, t, **cond)
    model = pf.Model(net, pf.CondOT(), shape=tuple(x.shape[1:]))
    shard(model)
    assert all(isinstance(p, torch.distributed.tensor.DTensor) for p in model.parameters())
    assert torch.equal(model.net(x, t, **cond), want)
