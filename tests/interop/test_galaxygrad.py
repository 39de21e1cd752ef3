"""Score networks in files .eqx, against what the package's own code in JAX answered."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

import pushforward as pf
from interop import tiny
from pushforward.cli import main
from pushforward.interop.galaxygrad import FILES, read_leaves, read_score
from pushforward.models.stretch import LogStretch
from pushforward.nets.mixer import Mixer

installed = pytest.mark.skipif(
    importlib.util.find_spec("galaxygrad") is None, reason="galaxygrad is not installed"
)
# Computed by galaxygrad 0.2.1 under jax 0.8 and equinox 0.13.8: y = 3 sin(0.37 i) for pixel i, at its time 2.5; some
# pixels of the score, its mean and its standard deviation.
ANSWERS = {
    "hsc32": ([-0.16324827, -1.2969484, 2.913092, -2.5438805], 0.29272407, 2.0809438),
    "quasar72": ([0.14283001, -1.4007069, 2.7522633, -2.5826457], 0.07067078, 2.5560174),
}


@installed
@pytest.mark.parametrize("name", ANSWERS)
def test_scores_are_those_that_the_package_computes_by_jax(name):
    model = pf.from_galaxygrad(name)
    n = model.shape[1]
    y = torch.sin(torch.arange(n * n, dtype=torch.float64).reshape(1, 1, n, n) * 0.37).float() * 3
    pixels, mean, std = ANSWERS[name]
    score = model(y, 0.75, "score")[0, 0]
    at = score[[0, 1, 5, n - 1], [0, 3, 7, n - 2]]
    assert torch.allclose(at, torch.tensor(pixels), atol=3e-6)
    assert float(score.mean()) == pytest.approx(mean, abs=1e-6)
    assert float(score.std(unbiased=False)) == pytest.approx(std, abs=1e-5)
    # s = 10 (1 - t): e^{-2.5} of the variance is left of the data.
    assert float(model.path.alpha(torch.tensor(0.75))) ** 2 == pytest.approx(np.exp(-2.5), rel=1e-5)


@installed
def test_all_of_the_package_are_read_and_galaxies_are_drawn(tmp_path):
    for name in FILES:
        assert pf.from_galaxygrad(name).shape == (1, *[int("".join(filter(str.isdigit, name)))] * 2)
    run = tmp_path / "run"
    assert main(["import", "galaxygrad:hsc32", "--out", str(run)]) == 0
    model = pf.load(run)
    x = pf.generate(model, 8, nfe=20)
    assert float(x.min()) > -1
    # A galaxy is in the middle of its cut-out, and brighter there than at the edge.
    assert float(x[..., 12:20, 12:20].mean()) > 5 * float(x[..., :4].abs().mean())
    assert tiny.close(model.codec.encode(x), pf.generate(model, 8, nfe=20, decode=False), 1e-4)


def write(path, net: Mixer, end: float = 10.0) -> None:
    """A network as equinox writes it: leaves in the order of fields, JAX's layout of convolutions."""
    state = {name: x.detach().numpy() for name, x in net.state_dict().items()}
    leaves = [
        state.pop("conv_in.weight"), state.pop("conv_in.bias")[:, None, None],
        state.pop("conv_out.weight").transpose(1, 0, 2, 3)[:, :, ::-1, ::-1], state.pop("conv_out.bias")[:, None, None],
    ]  # fmt: skip
    for k in range(len(net.blocks)):
        order = ["patches.linear1", "patches.linear2", "features.linear1", "features.linear2"]
        names = [f"{layer}.{kind}" for layer in order for kind in ("weight", "bias")]
        names += ["norm1.gain", "norm1.bias", "norm2.gain", "norm2.bias"]
        leaves += [state.pop(f"blocks.{k}.{name}") for name in names]
    leaves += [state.pop("norm.gain"), state.pop("norm.bias")]
    assert not state
    with path.open("wb") as file:
        for leaf in [*leaves, np.float64(end)]:
            np.save(file, leaf)


def test_a_file_is_read_by_position_whatever_its_sizes(tmp_path):
    torch.manual_seed(0)
    net = tiny.randomised(
        Mixer(2, 6, patch=3, width=5, mix_patches=7, mix_features=8, depth=3), std=0.3
    )
    write(tmp_path / "net.eqx", net, end=4.0)
    model = read_score(tmp_path / "net.eqx", 6)
    x, t = torch.randn(3, 2, 6, 6), torch.tensor([0.1, 0.5, 0.9])
    assert torch.equal(model.net(x, t), net(x, t))
    assert model.path == pf.VP(4.0, 4.0)
    # A patch of the answer depends on every patch, and on the time.
    assert not torch.equal(net(x, t), net(x, t + 0.05))


def test_files_that_are_something_else_are_refused(tmp_path):
    net = Mixer(1, 8, width=4, mix_patches=4, mix_features=4, depth=1)
    file = tmp_path / "net.eqx"
    write(file, net)
    with pytest.raises(pf.CheckpointError, match="images of 12 x 12"):
        read_score(file, 12)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(pf.CheckpointError, match="cannot read"):
        read_score(file, 8)
    with file.open("wb") as out:
        np.save(out, np.array([object()]), allow_pickle=True)
    with pytest.raises(pf.CheckpointError, match="cannot read"):
        list(read_leaves(file))
    with file.open("wb") as out:
        np.save(out, np.zeros(3))
    with pytest.raises(pf.CheckpointError, match="does not hold a score network"):
        read_score(file, 8)
    with pytest.raises(pf.InputError, match="did you mean 'hsc64'"):
        pf.from_galaxygrad("hcs64")


def test_a_stretch_is_undone_and_has_the_density_that_it_says():
    stretch = LogStretch(0.3)
    x = torch.tensor([[-0.5, 0.0, 3.0, 1e4]], dtype=torch.float64)
    assert torch.allclose(stretch.decode(stretch.encode(x)), x)
    slope = torch.func.jacrev(stretch.encode)(x[0]).diagonal()
    assert torch.allclose(slope.log(), -(0.3 * (x[0] + 1)).log())
    with pytest.raises(pf.InputError, match="-1 or less"):
        stretch.encode(torch.tensor([-1.0]))
