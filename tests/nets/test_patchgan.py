"""The discriminator of patches."""

import pytest
import torch

import pushforward as pf
from pushforward.nets import PatchDiscriminator


def test_three_layers_see_patches_of_70_pixels():
    net = PatchDiscriminator(1, 4, 3).double()
    for module in net.main:  # a norm mixes all places
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    out = net(x)
    assert out.shape == (1, 1, 14, 14)
    (grad,) = torch.autograd.grad(out[0, 0, 7, 7], x)
    rows = (grad[0, 0].abs().sum(1) > 0).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_least_side_is_the_least_that_has_an_answer(layers):
    net = PatchDiscriminator(1, 4, layers)
    assert net(torch.zeros(1, 1, net.least, net.least)).numel() >= 1
    with pytest.raises(pf.InputError, match=f"{net.least} pixels"):
        net(torch.zeros(1, 1, net.least, net.least - 1))


def test_its_answer_to_a_picture_depends_on_that_picture_alone():
    torch.manual_seed(0)
    net = PatchDiscriminator(3, 8, 2).train()
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)
