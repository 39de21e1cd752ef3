"""A seed gives the weights that it always gave: the order of parameters and of random draws does not change."""

from __future__ import annotations

import pytest
import torch

from pushforward.nets import MLP, DiT, ImageClassifier, MLPClassifier, UNet

# Network, arguments, number of parameters; a projection of the parameters as they start; the next random number; a
# projection of the output, some random numbers having been added to the parameters. Recorded at commit 8beac52.
RECORDED = [
    (MLP, {"dim": 3, "width": 16, "depth": 2}, 2291, 17.607649, 0.57012969, 0.18421334),
    (MLP, {"dim": 2, "width": 12, "depth": 1, "classes": 3, "time": "fourier", "outputs": 2, "two_times": True},
        1228, -1207.4453, 0.56837893, 0.28511502),
    (MLPClassifier, {"dim": 3, "classes": 4, "width": 16, "depth": 2}, 2308, -24.322331, 0.13238078, 0.076132798),
    (ImageClassifier, {"channels": 1, "classes": 5, "width": 8, "multipliers": (1, 2), "blocks": 2, "dropout": 0.1,
        "time": "fourier"}, 16845, -87.951681, 0.29078561, 0.089156747),
    (UNet, {"channels": 1, "width": 8}, 45809, -1645.4884, 0.27585363, -0.38472742),
    (UNet, {"channels": 3, "width": 32, "multipliers": (1, 2, 2), "attention": (2,), "classes": 10}, 1206083,
        2131.2804, 0.70207042, -4.9994883),
    (UNet, {"channels": 2, "width": 16, "multipliers": (1, 2), "blocks": 2, "attention": (1,), "classes": 4,
        "dropout": 0.1, "time": "fourier", "outputs": 2, "two_times": True}, 284596, -776.28122, 0.5208295,
        9.0276028),
    (UNet, {"channels": 2, "width": 16, "attention": (0, 1), "context": 5, "qk_norm": True, "residual_scale": 0.7,
        "head_width": 8, "resample": "residual"}, 227858, 3004.0897, 0.99962384, 13.408646),
    (DiT, {"channels": 1, "patch": 2, "width": 16, "depth": 2, "heads": 2}, 14772, -48.473327, 0.31637728, 6.6337543),
    (DiT, {"channels": 3, "patch": 4, "width": 64, "depth": 2, "heads": 2, "classes": 10, "positions": "learned",
        "size": (12, 6), "outputs": 2}, 188768, -543.10806, 0.15204591, -1.260047),
    (DiT, {"channels": 2, "patch": 2, "width": 32, "depth": 2, "heads": 2, "classes": 4, "positions": "rope",
        "qk_norm": True, "time": "fourier", "two_times": True}, 59272, -1427.5055, 0.80419362, -0.29560049),
    (DiT, {"channels": 2, "patch": 2, "width": 16, "depth": 2, "heads": 2, "context": 5, "conditioning": "cross",
        "dropout": 0.1}, 17448, 75.009415, 0.065121472, 1.1404538),
    (DiT, {"channels": 2, "patch": 3, "width": 16, "depth": 1, "heads": 2, "context": 5, "conditioning":
        "in-context", "positions": "rope", "qk_norm": True}, 10770, -159.59636, 0.68460274, 5.7259103),
]  # fmt: skip


def projected(tensors):
    """A sum over all entries with weights that no two places share."""
    return sum(
        (k + 1) * float(v.double().flatten() @ torch.arange(1, v.numel() + 1).double().cos())
        for k, v in enumerate(tensors)
    )


@pytest.mark.parametrize("seed", range(len(RECORDED)))
@torch.no_grad()
def test_a_seed_gives_the_weights_and_outputs_that_it_always_gave(seed):
    kind, arguments, count, start, following, output = RECORDED[seed]
    torch.manual_seed(seed)
    net = kind(**arguments).eval()
    assert sum(p.numel() for p in net.parameters()) == count
    assert projected(net.state_dict().values()) == pytest.approx(start, rel=1e-6)
    assert float(torch.rand(1)) == pytest.approx(following, rel=1e-7)
    generator = torch.Generator().manual_seed(5)
    for p in net.parameters():
        p.add_(0.1 * torch.randn(p.shape, generator=generator))
    shape = (arguments["dim"],) if "dim" in arguments else (arguments["channels"], 12, 9)
    x = torch.randn(3, *shape, generator=generator)
    t, cond = torch.rand(3, generator=generator, dtype=torch.float64), {}
    if "classes" in arguments and kind not in (MLPClassifier, ImageClassifier):
        cond["label"] = torch.tensor([0, -1, 2])
    if "two_times" in arguments:
        cond["s"] = torch.rand(3, generator=generator, dtype=torch.float64)
    if "context" in arguments:
        cond["context"] = torch.randn(3, 4, 5, generator=generator)
    assert projected([net(x, t, **cond)]) == pytest.approx(output, rel=1e-3, abs=1e-4)
