"""The Inception network of the FID: its size, its weights, and its numbers beside those of another implementation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate

import pushforward as pf
from pushforward.evaluate.features import Features, Inception, read_weights
from pushforward.evaluate.features.inception import InceptionV3, inception, pool, resize


def spread(count: int, seed: int) -> torch.Tensor:
    """Numbers in [-1, 1) that look random and are a function of their place and of the seed alone."""
    return 2 * pf.Noise.batch(-(-count // 4), seed).uniform((4,)).flatten()[:count].float() - 1


def weights() -> dict[str, torch.Tensor]:
    """Weights that keep the size of signals from layer to layer."""
    made = {}
    for seed, (name, value) in enumerate(sorted(InceptionV3().state_dict().items())):
        numbers = spread(max(1, value.numel()), seed)[: value.numel()].reshape(value.shape)
        match name.rsplit(".", 1)[1]:
            case "num_batches_tracked":
                made[name] = value
            case "running_var":
                made[name] = 1 + numbers / 2
            case "running_mean" | "bias":
                made[name] = numbers / 10
            case _ if value.ndim == 1:
                made[name] = 1 + numbers / 2
            case _:
                made[name] = numbers * (6 / value[0].numel()) ** 0.5
    return made


def picture() -> torch.Tensor:
    """(2, 3, 40, 28) bytes, smooth, so that all layers have something to see."""
    coarse = torch.stack([spread(3 * 5 * 4, seed).reshape(3, 5, 4) for seed in (900, 901)])
    return (127.5 + 127 * interpolate(coarse, (40, 28), mode="bicubic")).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def given() -> dict[str, torch.Tensor]:
    return weights()


@pytest.fixture(scope="module")
def features(given, tmp_path_factory: pytest.TempPathFactory) -> Inception:
    file = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(given, file)
    return Inception(file)


def test_it_has_as_many_parameters_as_the_network_of_torchvision_with_1008_classes() -> None:
    """torchvision's inception_v3 has 27 161 264 for 1000 classes, 3 326 696 of them the auxiliary classifier's."""
    net = InceptionV3()
    count = sum(p.numel() for p in net.parameters())
    assert count == 27_161_264 - 3_326_696 + 8 * (2048 + 1)
    # 94 convolutions, each with five tensors of its norm, and the last layer.
    assert len(net.state_dict()) == 94 * 6 + 2
    assert net.state_dict()["Mixed_6e.branch7x7dbl_5.conv.weight"].shape == (192, 192, 1, 7)
    assert net.state_dict()["Mixed_7c.branch3x3dbl_3b.bn.running_var"].shape == (384,)


def test_its_numbers_are_those_of_torch_fidelity_with_the_same_weights(features: Inception) -> None:
    """torch-fidelity 0.4.0 copies the TensorFlow graph of 2015, resizing included; some of its numbers of each branch.

    They are off by 0.1 if bytes become [-1, 1] by another rule, by 0.3 with usual resizing, by 1 if pools count their
    padding, by 2 if the last block but one takes the largest number, and by 7 if the last does not.
    """
    want = torch.tensor([
        [2.29358816, 0.86543834, 1.90660608, 0.0342621, 1.12560391, 2.43934536, 0.07291259, 9.35868835],
        [2.52782536, 1.42468894, 2.09270287, 0.02258688, 1.65370345, 2.52369261, 0.07925544, 10.81637096],
    ])  # fmt: skip
    x = picture()
    got = features(x.float(), (0.0, 255.0))
    assert got.shape == (2, 2048)
    torch.testing.assert_close(got[:, 5::291], want, rtol=1e-4, atol=1e-5)
    # Rounded to bytes first, and so the same from any range.
    again = features((x.double() + 0.3).float() / 127.5 - 1, (-1.0, 1.0))
    torch.testing.assert_close(again, got, rtol=1e-4, atol=1e-5)


def test_a_grey_image_is_one_of_three_equal_channels(features: Inception) -> None:
    grey = picture()[:1, :1].float()
    got, want = (features(x, (0.0, 255.0)) for x in (grey, grey.expand(-1, 3, -1, -1)))
    assert torch.equal(got, want)
    assert isinstance(features, Features)
    assert (features.name, features.dim) == ("inception", 2048)


def test_pools_do_not_count_what_lies_outside_the_image() -> None:
    assert torch.equal(pool(torch.full((1, 1, 4, 5), 3.0)), torch.full((1, 1, 4, 5), 3.0))
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert pool(ramp)[0, 0, 0].tolist() == [0.5, 1, 2, 2.5]


def test_resizing_keeps_the_first_pixel_in_place_and_interpolates_from_it() -> None:
    x = torch.tensor([0.0, 10.0, 40.0]).expand(1, 1, 3, 3)
    assert resize(x, 6)[0, 0, 5].tolist() == [0, 5, 10, 25, 40, 40]
    assert resize(x.mT, 6)[0, 0, :, 2].tolist() == [0, 5, 10, 25, 40, 40]
    assert torch.equal(resize(x, 3), x)
    # Nothing is smoothed where an image is made smaller: every second pixel is left.
    board = (torch.arange(8) % 2).float().expand(1, 1, 8, 8)
    assert (resize(board, 4) == 0).all()


def test_weights_are_read_from_either_kind_of_file_with_or_without_what_takes_no_part(
    given, features: Inception, tmp_path: Path
) -> None:
    old = {k: v for k, v in given.items() if not k.endswith("num_batches_tracked")}
    torch.save(old | {"AuxLogits.fc.weight": torch.zeros(3)}, tmp_path / "w.pth")
    other = Inception(tmp_path / "w.pth")
    assert other.key == features.key
    assert not any(p.requires_grad for p in other.net.parameters())
    assert not other.net.training
    changed = dict(old)
    changed["Mixed_7a.branch3x3_1.bn.bias"] = old["Mixed_7a.branch3x3_1.bn.bias"] + 1e-3
    torch.save(changed, tmp_path / "v.pth")
    assert Inception(tmp_path / "v.pth").key != features.key


def test_weights_of_another_network_are_refused(given) -> None:
    missing = {k: v for k, v in given.items() if k != "fc.bias"}
    with pytest.raises(pf.InputError, match=r"1 tensors are missing.*as fc\.bias"):
        inception(missing)
    shape = given | {"fc.bias": torch.zeros(1000)}
    with pytest.raises(pf.InputError, match=r"as fc\.bias"):
        inception(shape)
    with pytest.raises(pf.InputError, match="as surplus"):
        inception(given | {"surplus": torch.zeros(1)})


class Trap:
    def __reduce__(self):
        return os.mkdir, (self.where,)


def test_a_file_is_read_without_running_anything_in_it(tmp_path: Path) -> None:
    trap = Trap()
    trap.where = str(tmp_path / "sprung")
    torch.save({"w": trap}, tmp_path / "w.pth")
    with pytest.raises(pf.InputError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(pf.InputError, match="there is no file"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(pf.InputError, match="there is no file"):
        read_weights(tmp_path / "none.safetensors")
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"not weights")
        with pytest.raises(pf.InputError, match="cannot be read as weights"):
            read_weights(tmp_path / name)
    torch.save({"state": {"w": torch.zeros(2)}}, tmp_path / "nested.pth")
    with pytest.raises(pf.InputError, match="holds more than tensors"):
        read_weights(tmp_path / "nested.pth")
