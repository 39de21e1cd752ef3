"""Latents as the states of a model."""

import numpy as np
import pytest
import torch
from torch import nn

import pushforward as pf
from pushforward.core.spec import DataSpec
from pushforward.data.latents import statistics
from pushforward.models.latent import Latents
from pushforward.nets import AutoencoderKL, AutoencoderTiny, UNet
from pushforward.train.frozen import digests
from pushforward.train.start import start_from


def autoencoder(seed=0, widths=(8, 8)):
    torch.manual_seed(seed)
    return AutoencoderKL(1, 2, widths, 1, 4, False)


def latents(seed=0):
    return Latents(autoencoder(seed), [0.5, -1.0], [2.0, 0.25])


def model(codec=None, seed=1):
    torch.manual_seed(seed)
    net = UNet(2, 8, (1,))
    nn.init.normal_(net.conv_out.weight, std=0.1)
    return pf.Model(net, pf.CondOT(), spec=DataSpec((1, 8, 8)), codec=codec or latents())


@pytest.mark.parametrize("net", [AutoencoderKL, AutoencoderTiny])
def test_latents_have_mean_0_and_variance_1_over_the_data_they_were_measured_on(net):
    torch.manual_seed(0)
    ae = net(1, 3, (8, 8), 1, 4, False) if net is AutoencoderKL else net(1, 3, 8, (1, 1), (1, 1))
    x = torch.rand(32, 1, 12, 8) * 2 - 1
    raw = Latents(ae).encode(x)
    z = Latents(ae, *statistics(raw.numpy())).encode(x).double()
    assert z.mean((0, 2, 3)).abs().max() < 1e-5
    assert (z.var((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert raw.double().mean((0, 2, 3)).abs().max() > 1e-2


def test_decoding_undoes_the_scale_and_shift_of_encoding():
    codec, x = latents(), torch.rand(3, 1, 8, 12) * 2 - 1
    mean, _ = codec.net.encode(x)
    assert torch.allclose(codec.decode(codec.encode(x)), codec.net.decode(mean), atol=1e-5)
    assert codec.latent_shape((1, 8, 12)) == tuple(codec.encode(x).shape[1:]) == (2, 4, 6)


def test_large_pictures_are_decoded_in_strips_that_give_the_same(monkeypatch):
    codec, z = latents(), torch.randn(3, 2, 16, 4)
    whole = codec.decode(z)
    asked = []
    tiled = codec.net.decode_tiled
    monkeypatch.setattr(codec.net, "decode_tiled", lambda z: asked.append(len(z)) or tiled(z))
    monkeypatch.setattr("pushforward.models.latent.STRIPED", 64)
    monkeypatch.setattr("pushforward.models.latent.PIXELS", 512)
    assert torch.allclose(codec.decode(z), whole, atol=1e-5)
    assert asked == [2, 1]  # 256 pixels each, of which two fit


def test_it_is_never_trained():
    codec = latents().train()
    assert not codec.training
    assert not codec.net.training
    assert not any(p.requires_grad for p in codec.parameters())
    held = model()
    assert list(held.networks()) == ["net"]
    assert list(digests(held)) == ["held_codec"]


def test_the_digest_is_that_of_weights_statistics_and_layout():
    same = latents()
    assert latents().digest == same.digest
    others = [
        latents(seed=2),
        Latents(autoencoder(), [0.5, -1.0], [2.0, 0.5]),
        Latents(autoencoder()),
    ]
    assert len({same.digest, *(other.digest for other in others)}) == 4


def test_a_model_of_latents_is_saved_and_loaded_with_its_autoencoder(tmp_path):
    one = model()
    assert one.shape == (2, 4, 4)
    assert one.spec.shape == (1, 8, 8)
    sha256 = pf.save(one, tmp_path / "a")
    again = pf.load(tmp_path / "a")
    assert again.codec.digest == one.codec.digest
    assert again.provenance.sha256 == sha256
    x = pf.generate(one, 3, nfe=4, seed=5)
    assert x.shape == (3, 1, 8, 8)
    assert torch.equal(pf.generate(again, 3, nfe=4, seed=5), x)
    assert torch.equal(pf.edit(again, x, nfe=4), pf.edit(one, x, nfe=4))
    # The weights of another autoencoder are another model.
    assert pf.save(model(latents(seed=2)), tmp_path / "b") != sha256


def test_held_by_reference_another_autoencoder_is_refused(tmp_path):
    one = model()
    pf.save(one, tmp_path / "m", references={"codec": "ae"})
    assert not list((tmp_path / "m").glob("*codec*"))
    again = pf.load(tmp_path / "m", references={"ae": one.codec})
    assert torch.equal(pf.generate(again, 2, nfe=2), pf.generate(one, 2, nfe=2))
    for other in (latents(seed=2), Latents(autoencoder())):
        with pytest.raises(pf.CheckpointError, match="SHA-256 differs"):
            pf.load(tmp_path / "m", references={"ae": other})


def test_weights_begin_from_a_model_of_the_same_latents_alone():
    fresh, source = model(seed=3), model(seed=4)
    before = fresh.codec.digest
    start_from(fresh, source)
    assert torch.equal(fresh.net.conv_in.weight, source.net.conv_in.weight)
    assert fresh.codec.digest == before
    with pytest.raises(pf.InputError, match="another autoencoder"):
        start_from(fresh, model(latents(seed=2)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [((3, 8, 8), "1 channels"), ((1, 8, 7), "multiples of 2"), ((1, 8), "1 channels")],
)
def test_pictures_of_another_shape_are_refused_in_a_sentence(shape, words):
    with pytest.raises(pf.InputError, match=words):
        latents().latent_shape(shape)
    if len(shape) == 3:
        with pytest.raises(pf.InputError, match=words):
            latents().encode(torch.zeros(2, *shape))


def test_statistics_that_cannot_be_are_refused():
    for mean, std, words in (
        ([0.0], [1.0, 1.0], "2 channels"),
        ([0.0, np.nan], [1.0, 1.0], "finite"),
        ([0.0, 0.0], [1.0, 0.0], "never changes"),
    ):
        with pytest.raises(pf.InputError, match=words):
            Latents(autoencoder(), mean, std)
