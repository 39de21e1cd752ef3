"""Figures of reconstructions."""

import pytest
import torch
from torch import nn

from pushforward.data.scenes import load_scenes
from pushforward.evaluate.reconstruction import judge_reconstruction, psnr, ssim

skimage = pytest.importorskip("skimage.metrics")


class Blurred(nn.Module):
    """Gives pictures back, mixed with noise."""

    def __init__(self, size):
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))

    def forward(self, x):
        return x + self.size * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(32, 24), (11, 40)])
def test_similarity_and_signal_are_those_of_scikit_image(shape):
    torch.manual_seed(0)
    x = torch.rand(2, 3, *shape).double() * 2 - 1
    y = (x + 0.3 * torch.randn_like(x)).clamp(-1, 1)
    ours = ssim(x, y, 2.0), psnr(x, y, 2.0)
    for k in range(2):
        a, b = x[k].numpy(), y[k].numpy()
        # Its windows of 11 pixels, of those that lie within the picture: the others are cut off.
        _, full = skimage.structural_similarity(
            a, b, data_range=2.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        inside = full[:, 5 : shape[0] - 5, 5 : shape[1] - 5].mean()
        assert float(ours[0][k]) == pytest.approx(inside, rel=1e-6)
        assert float(ours[1][k]) == pytest.approx(
            skimage.peak_signal_noise_ratio(a, b, data_range=2.0)
        )


def test_scenes_that_are_given_back_are_read_back_and_others_not():
    data = load_scenes(12)
    exact = judge_reconstruction(Blurred(1e-3), data, 12, scenes=True)
    assert exact["read"] == 1
    assert exact["psnr"] > 50
    assert exact["ssim"] > 0.99
    lost = judge_reconstruction(Blurred(2.0), data, 12, scenes=True)
    assert lost["read"] == 0
    assert lost["psnr"] < 10
    assert lost["l1"] > exact["l1"]
