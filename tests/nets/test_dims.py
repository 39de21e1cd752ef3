"""Networks for signals, images and volumes agree where they can be compared."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import pushforward as pf
from contracts.members import randn, relative
from pushforward.nets import DiT, ImageClassifier, UNet, flops, sizes
from pushforward.nets.grids import resized
from pushforward.nets.positions import rotary_angles, rotate, sincos_positions

B = 2
LIKE = torch.zeros(1, dtype=torch.float64)


def shaken(net, by=0.1):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn(p.shape, generator=generator))
    return net.double().eval()


def spread(state, other):
    """Weights of a network of one more dimension that looks along the old ones only: middle slices of kernels."""
    out = {}
    for name, value in state.items():
        target = torch.zeros_like(other[name])
        if target.ndim > value.ndim:
            target[:, :, target.shape[2] // 2] = value
        else:
            target = value
        out[name] = target
    return out


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("resample", ["plain", "residual"])
@torch.no_grad()
def test_a_unet_is_that_of_one_more_dimension_along_which_nothing_changes(dims, resample):
    options = {"attention": (1,), "classes": 3, "resample": resample, "context": 4}
    few = shaken(UNet(2, 8, (1, 2), dims=dims, **options))
    more = UNet(2, 8, (1, 2), dims=dims + 1, **options).double().eval()
    more.load_state_dict(spread(few.state_dict(), more.state_dict()))
    x, t = randn(B, 2, *(7, 6)[:dims]), torch.tensor([0.2, 0.7], dtype=torch.float64)
    cond = {"label": torch.tensor([1, -1]), "context": randn(B, 3, 4, seed=2)}
    # An even number of equal slices: each level halves it.
    deep = x.unsqueeze(2).expand(-1, -1, 4, *x.shape[2:])
    truth = few(x, t, **cond)
    assert truth.abs().max() > 0.1
    out = more(deep, t, **cond)
    for k in range(4):
        assert relative(out[:, :, k], truth) < 1e-12


@torch.no_grad()
def test_a_classifier_is_that_of_one_more_dimension_along_which_nothing_changes():
    few = shaken(ImageClassifier(2, 3, 8, dims=1))
    more = ImageClassifier(2, 3, 8).double().eval()
    more.load_state_dict(spread(few.state_dict(), more.state_dict()))
    x, t = randn(B, 2, 9), torch.tensor([0.2, 0.7], dtype=torch.float64)
    deep = x.unsqueeze(2).expand(-1, -1, 4, -1)
    assert relative(more(deep, t), few(x, t)) < 1e-12
    with pytest.raises(pf.InputError, match=r"takes signals \(B, 2, L\)"):
        few(deep, t)


@pytest.mark.parametrize("patch", [(3,), (2, 3)])
@torch.no_grad()
def test_a_transformer_of_learned_positions_is_that_of_one_more_dimension_of_size_one(patch):
    options = {"width": 16, "depth": 2, "heads": 2, "positions": "learned", "outputs": 2}
    dims, sides = len(patch), (7, 8)[: len(patch)]
    few = shaken(DiT(2, patch, dims=dims, size=sides, **options), 0.2)
    more = DiT(2, (1, *patch), dims=dims + 1, size=(1, *sides), **options).double().eval()
    state = few.state_dict()
    for name in ("conv_in.weight", "table"):
        state[name] = state[name].unsqueeze(2)
    more.load_state_dict(state)
    x, t = randn(B, 2, *sides), torch.tensor([0.2, 0.7], dtype=torch.float64)
    truth = few(x, t)
    assert truth.abs().max() > 0.1
    assert relative(more(x.unsqueeze(2), t).squeeze(2), truth) < 1e-12


@torch.no_grad()
def test_a_transformer_of_channels_last_is_that_of_channels_first():
    options = {"width": 16, "depth": 2, "heads": 2, "dims": 1, "outputs": 2, "in_channels": 3}
    first = shaken(DiT(2, 1, **options), 0.2)
    last = DiT(2, 1, channels_last=True, **options).double().eval()
    last.load_state_dict(first.state_dict())
    x, control = randn(B, 2, 5), randn(B, 1, 5, seed=2)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    mask = torch.tensor([[[1, 1, 1, 0, 0]], [[1, 1, 1, 1, 1]]]).bool()
    for cond in ({}, {"mask": mask}):
        truth = first(x, t, control=control, **cond)
        turned = {name: value.mT for name, value in cond.items()}
        out = last(x.mT, t, control=control.mT, **turned)
        # The second output follows the first along the first dimension of a sample, as for channels.
        assert out.shape == (B, 10, 2)
        assert torch.equal(out[:, :5].mT, truth[:, :2])
        assert torch.equal(out[:, 5:].mT, truth[:, 2:])


@pytest.mark.parametrize(("sides", "width"), [((5,), 8), ((3, 2, 4), 12), ((2, 3, 2), 16)])
def test_fixed_positions_are_sines_and_cosines_of_each_axis_the_last_one_first(sides, width):
    got = sincos_positions(sides, width, LIKE)
    n = width // (2 * len(sides))
    w = [10000 ** (-k / n) for k in range(n)]
    places = [()]
    for side in sides:
        places = [(*place, i) for place in places for i in range(side)]
    for row, place in zip(got.tolist(), places, strict=True):
        truth = []
        for i in reversed(place):
            truth += [math.sin(i * f) for f in w] + [math.cos(i * f) for f in w]
        assert row == pytest.approx(truth + [0.0] * (width - len(truth)), abs=1e-13)
    # No two places are the same.
    assert len({tuple(row) for row in got.tolist()}) == math.prod(sides)


@pytest.mark.parametrize(("sides", "dim"), [((9,), 8), ((3, 4, 5), 12), ((3, 4, 5), 16)])
def test_scores_of_rotated_tokens_depend_on_differences_of_place_on_every_axis(sides, dim):
    angle = rotary_angles(sides, dim, LIKE).unflatten(0, sides)
    q, k = randn(dim), randn(dim, seed=1)

    def score(a, b):
        return float(rotate(q, angle[a]) @ rotate(k, angle[b]))

    zero = (0,) * len(sides)
    one = (1,) * len(sides)
    for axis in range(len(sides)):
        step = tuple(int(a == axis) for a in range(len(sides)))
        there = tuple(a + b for a, b in zip(one, step, strict=True))
        assert score(one, there) == pytest.approx(score(zero, step), abs=1e-12)
        assert abs(score(zero, step) - score(zero, zero)) > 1e-3
        assert abs(score(step, zero) - score(zero, step)) > 1e-3


def test_the_slowest_pair_of_a_sequence_tells_places_thousands_of_tokens_apart():
    # Su et al. 2021: period 10000; a grid's is 100.
    dim = 64
    for sides, period in (((7000,), 10000.0), ((20, 20), 100.0)):
        angle = rotary_angles(sides, dim, LIKE)
        n = dim // (2 * len(sides))
        assert float(angle[1, -1]) == pytest.approx(period ** -((n - 1) / n), rel=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_grids_are_halved_by_means_of_neighbours(dims):
    x = randn(B, 3, *(5, 4, 7)[:dims])
    half = tuple(-(-side // 2) for side in x.shape[2:])
    got = resized(x, half)
    assert got.shape[2:] == half
    for place in torch.cartesian_prod(*(torch.arange(n) for n in half)).reshape(-1, dims):
        part = x
        for axis, i in enumerate(place.tolist()):
            part = part.narrow(2 + axis, 2 * i, min(2, x.shape[2 + axis] - 2 * i))
        there = got[(slice(None), slice(None), *place.tolist())]
        assert torch.allclose(there, part.flatten(2).mean(2), atol=1e-13)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("family", ["UNet", "DiT"])
def test_controls_of_any_grid_are_joined_behind_the_state_in_the_order_of_their_names(dims, family):
    sides = (6, 8, 4)[:dims]
    kind = UNet if family == "UNet" else DiT
    options = {"width": 16} | ({} if kind is UNet else {"depth": 1, "heads": 2})
    net = shaken(kind(2, dims=dims, in_channels=5, **options))
    joined = shaken(kind(5, dims=dims, out_channels=2, **options))
    joined.load_state_dict(net.state_dict())
    x, t = randn(B, 2, *sides), torch.tensor([0.2, 0.7], dtype=torch.float64)
    edges, low = randn(B, 1, *sides, seed=2), randn(B, 2, *(side // 2 for side in sides), seed=3)
    mode = ("linear", "bilinear", "trilinear")[dims - 1]
    fine = interpolate(low, sides, mode=mode, align_corners=False)
    truth = joined(torch.cat((x, edges, fine), 1), t)
    assert truth.shape == x.shape
    assert truth.abs().max() > 0.01
    assert torch.equal(net(x, t, control={"low": low, "edges": edges}), truth)
    assert torch.equal(net(x, t, control=torch.cat((edges, fine), 1)), truth)
    with pytest.raises(pf.InputError, match="takes 3 channels more than the state has"):
        net(x, t)
    with pytest.raises(pf.InputError, match="takes a control of 3 channels, got 1"):
        net(x, t, control=edges)
    with pytest.raises(pf.InputError, match="as many samples and dimensions"):
        net(x, t, control=torch.cat((edges, fine), 1)[:1])
    with pytest.raises(pf.InputError, match="built without one: build it with in_channels="):
        joined(torch.cat((x, edges, fine), 1), t, control=edges)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "dims is 1 for signals"),
        ({"dims": 0}, "dims is 1 for signals"),
        ({"in_channels": 1}, "in_channels counts the 2 channels"),
        ({"out_channels": 0}, "out_channels is positive"),
        ({"out_channels": 3, "outputs": 2}, "either outputs"),
        ({"features": ["label"]}, "cannot be called 'label'"),
        ({"features": "dose"}, "not a string"),
        ({"features": {"dose": 0}}, "width of the condition dose is 0"),
    ],
)
@pytest.mark.parametrize("kind", [UNet, DiT])
def test_arguments_that_make_no_network_are_errors(kind, options, message):
    with pytest.raises(pf.InputError, match=message):
        kind(2, width=8, **options, **({"heads": 2, "depth": 1} if kind is DiT else {}))


def test_a_patch_has_a_side_for_each_dimension():
    with pytest.raises(pf.InputError, match="one for each of 3 dimensions"):
        DiT(2, (1, 2), 16, 1, 2, dims=3)
    with pytest.raises(pf.InputError, match=r"takes volumes \(B, 2, D, H, W\).*\(1, 2, 2\)"):
        DiT(2, (1, 2, 2), 16, 1, 2, dims=3)(torch.zeros(1, 2, 1, 1, 2), torch.zeros(1))


@pytest.mark.parametrize("shape", [(2, 64), (1, 4, 8, 8)])
def test_the_table_of_sizes_takes_signals_and_volumes(shape, monkeypatch):
    monkeypatch.setattr(sizes, "DIT", {"nano": sizes.DIT["nano"]})
    monkeypatch.setattr(sizes, "UNET", {"XS": sizes.UNET["XS"]})
    rows = sizes.table(shape, 3, patches=(2, 4))
    assert [(row.family, row.patch) for row in rows] == [("DiT", 2), ("DiT", 4), ("UNet", None)]
    dims = len(shape) - 1
    assert rows[0][3:] == flops.count(sizes.dit("nano", 2, shape[0], 3, dims=dims), shape)
    assert rows[2][3:] == flops.count(sizes.unet("XS", shape[0], 3, dims=dims), shape)
    # Convolutions of 3^dims taps: the U-Net grows with the number of dimensions.
    with torch.device("meta"):
        layers = sizes.unet("XS", dims=dims).modules()
    kernels = {m.kernel_size for m in layers if isinstance(m, nn.Conv1d | nn.Conv3d)}
    assert kernels == {(3,) * dims, (1,) * dims}
