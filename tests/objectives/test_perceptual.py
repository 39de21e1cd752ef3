"""Distances of pictures by features."""

import torch
from torch import nn

from pushforward.objectives.perceptual import FeatureDistance, Watched


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))


def test_it_is_0_for_equal_pictures_and_unchanged_by_the_size_of_features():
    net, x, y = network(), torch.rand(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    plain = FeatureDistance(lambda x: [net(x)])
    scaled = FeatureDistance(lambda x: [100 * net(x)])
    assert torch.equal(plain(x, x), torch.zeros(3))
    assert bool((plain(x, y) > 0).all())
    assert torch.allclose(plain(x, y), scaled(x, y), rtol=1e-4)


def test_opposite_features_are_4_apart_and_orthogonal_ones_2():
    one = torch.tensor([[1.0, 0.0]])[..., None, None].expand(1, 2, 3, 3)
    other = torch.tensor([[0.0, 5.0]])[..., None, None].expand(1, 2, 3, 3)
    distance = FeatureDistance(lambda x: [x, x])
    assert torch.allclose(distance(one, other), torch.tensor([2.0]))
    assert torch.allclose(distance(one, -one), torch.tensor([4.0]))
    assert torch.allclose(FeatureDistance(lambda x: [x, 0 * x + 1])(one, -one), torch.tensor([2.0]))


def test_layers_are_watched_in_the_order_that_is_asked_for_and_let_go():
    net, x = network(), torch.rand(2, 1, 8, 8)
    last, first = Watched(net, [net[2], net[0]])(x)
    assert torch.equal(first, net[0](x))
    assert torch.equal(last, net(x))
    assert not net[0]._forward_hooks
    assert not net[2]._forward_hooks


def test_the_gradient_is_that_of_the_second_picture():
    net, x = network().requires_grad_(False), torch.rand(2, 1, 8, 8)
    y = torch.rand(2, 1, 8, 8, requires_grad=True)
    distance = FeatureDistance(Watched(net, [net[0], net[2]]))
    for _ in range(200):
        (grad,) = torch.autograd.grad(distance(x, y).sum(), y)
        y = (y - 0.5 * grad).detach().requires_grad_(True)
    assert float(distance(x, y.detach()).sum()) < 0.05 * float(
        distance(x, torch.rand(2, 1, 8, 8)).sum()
    )
