"""The Inception network by which the Frechet Inception Distance is measured.

torch-fidelity has the same network, with which this one is compared in the tests, but it requires torchvision, which
this library does without.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from pushforward.core.errors import InputError

SIDE = 299


class Convolution(nn.Module):
    """`relu(norm(conv x))`, the convolution without a bias."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


def pool(x: Tensor) -> Tensor:
    """The mean over 3 x 3 pixels, those outside the image not counted."""
    return avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35 x 35 pixels: 1 x 1, 5 x 5, two 3 x 3, and a pool, side by side."""

    def __init__(self, channels: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(channels, 64, 1)
        self.branch5x5_1 = Convolution(channels, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), five, three, self.branch_pool(pool(x))), 1)


class BlockB(nn.Module):
    """From 35 x 35 to 17 x 17 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(channels, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), three, max_pool2d(x, 3, 2)), 1)


class BlockC(nn.Module):
    """17 x 17 pixels: 7 x 7 as 1 x 7 and 7 x 1."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        wide, high = (1, 7), (7, 1)
        along, down = (0, 3), (3, 0)
        self.branch1x1 = Convolution(channels, 192, 1)
        self.branch7x7_1 = Convolution(channels, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, wide, padding=along)
        self.branch7x7_3 = Convolution(inner, 192, high, padding=down)
        self.branch7x7dbl_1 = Convolution(channels, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, high, padding=down)
        self.branch7x7dbl_3 = Convolution(inner, inner, wide, padding=along)
        self.branch7x7dbl_4 = Convolution(inner, inner, high, padding=down)
        self.branch7x7dbl_5 = Convolution(inner, 192, wide, padding=along)
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat((self.branch1x1(x), seven, double, self.branch_pool(pool(x))), 1)


class BlockD(nn.Module):
    """From 17 x 17 to 8 x 8 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(channels, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(channels, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat((three, self.branch7x7x3_4(seven), max_pool2d(x, 3, 2)), 1)


class BlockE(nn.Module):
    """8 x 8 pixels: 3 x 3 as 1 x 3 beside 3 x 1. largest: the pool takes the maximum instead of the mean."""

    def __init__(self, channels: int, largest: bool) -> None:
        super().__init__()
        self.largest = largest
        self.branch1x1 = Convolution(channels, 320, 1)
        self.branch3x3_1 = Convolution(channels, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(channels, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = max_pool2d(x, 3, 1, 1) if self.largest else pool(x)
        return torch.cat(
            (
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(pooled),
            ),
            1,
        )


class InceptionV3(nn.Module):
    """Inception-v3 as the Frechet Inception Distance has it: (B, 3, 299, 299) in [-1, 1] -> (B, 2048), the last pool.

    It is the network of December 2015 with 1008 classes. Against the one of the paper, average pools do not count the
    padding, and the pool of the last block takes the largest number. Its weights are not here: they are known as
    pt_inception-2015-12-05-6726825d.pth, and parameters have the names that they have there.

    Szegedy et al. 2016 (arXiv 1512.00567), table 1; Heusel et al. 2017 (arXiv 1706.08500).
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b = BlockA(192, 32)
        self.Mixed_5c = BlockA(256, 64)
        self.Mixed_5d = BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, 128)
        self.Mixed_6c = BlockC(768, 160)
        self.Mixed_6d = BlockC(768, 160)
        self.Mixed_6e = BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, largest=False)
        self.Mixed_7c = BlockE(2048, largest=True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (3, SIDE, SIDE):
            raise InputError(f"Inception takes images (B, 3, {SIDE}, {SIDE}), got {tuple(x.shape)}")
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


def inception(weights: Mapping[str, Tensor], where: str = "the file") -> InceptionV3:
    """The network with the weights of a file, ready to use.

    Raises InputError for a file that is not of this network. Counts of batches, which old files lack, and an auxiliary
    classifier, which takes no part, are not looked at.
    """
    with torch.device("meta"):
        net = InceptionV3()
    wanted = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {
        k: v
        for k, v in weights.items()
        if not k.endswith("num_batches_tracked") and not k.startswith("AuxLogits.")
    }
    wrong = [k for k in wanted if k not in given or given[k].shape != wanted[k].shape]
    wrong += [k for k in given if k not in wanted]
    if wrong:
        raise InputError(
            f"{where} does not hold the Inception network of the FID: {len(wrong)} tensors are missing, of another "
            f"shape or unknown, as {wrong[0]}. It is known as pt_inception-2015-12-05-6726825d.pth"
        )
    # Counts of batches are 0, whatever they were: they say nothing about the features.
    zeros = {k: torch.zeros_like(v, device="cpu") for k, v in net.state_dict().items()}
    net.load_state_dict(zeros | {k: v.float() for k, v in given.items()}, assign=True)
    return net.eval().requires_grad_(False)


def resize(x: Tensor, side: int = SIDE) -> Tensor:
    """Images (B, C, H, W) at side x side pixels as TensorFlow 1 scaled them, which smooths nothing.

        y[r] = (1 - f) x[i] + f x[min(i + 1, H - 1)],   i + f = r H / side,   along rows and then along columns

    The network was trained and the FID defined with it; usual scaling, with pixels at (i + 1/2) H / side - 1/2, gives
    other figures.
    """
    for axis in (2, 3):
        size = x.shape[axis]
        # In single precision, as there.
        scale = torch.tensor(size / side, dtype=torch.float32, device=x.device)
        place = torch.arange(side, dtype=torch.float32, device=x.device) * scale
        low = place.floor().long().clamp(max=size - 1)
        share = (place - low).to(x.dtype).reshape([-1 if d == axis else 1 for d in range(4)])
        high = (low + 1).clamp(max=size - 1)
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
    return x
