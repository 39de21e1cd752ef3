"""The scale of measurements that span decades."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pushforward.core.errors import DataError, InputError
from pushforward.data.asinh import Asinh

RNG = np.random.default_rng(0)


def test_the_scale_is_undone_and_gives_all_channels_mean_0_and_variance_1() -> None:
    a, b = RNG.normal(100, 900, (400, 3)), RNG.normal(-50, 5, (100, 3))
    scale = Asinh.fit((a, b), cofactor=120.0)
    x = torch.from_numpy(np.concatenate((a, b)))
    z = scale(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(scale.inverse(z), x, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(scale.inverse(scale(x.float())), x.float(), rtol=1e-5, atol=1e-3)
    # By its definition: arsinh u = ln(u + sqrt(u^2 + 1)), up to the affine part, which cancels in differences.
    u = np.log(np.asarray(x)[:, 0] / 120 + np.sqrt((np.asarray(x)[:, 0] / 120) ** 2 + 1))
    steps = (z[1:, 0] - z[:-1, 0]).numpy() * scale.std[0]
    np.testing.assert_allclose(steps, np.diff(u), rtol=1e-9, atol=1e-12)
    assert Asinh.from_json(scale.to_json()) == scale


def test_the_scale_of_two_halves_is_that_of_the_whole() -> None:
    values = RNG.normal(0, 500, (60, 2))
    whole, parts = Asinh.fit([values]), Asinh.fit([values[:20], values[20:]])
    np.testing.assert_allclose(whole.mean, parts.mean, rtol=1e-12)
    np.testing.assert_allclose(whole.std, parts.std, rtol=1e-12)


def test_a_scale_that_cannot_be_is_refused() -> None:
    values = RNG.normal(size=(9, 2))
    values[:, 1] = 7
    with pytest.raises(DataError, match=r"channels \[1\] have one value"):
        Asinh.fit([values])
    with pytest.raises(InputError, match="cofactor is 0"):
        Asinh.fit([values[:, :1]], cofactor=0)
    scale = Asinh.fit([values[:, :1]])
    with pytest.raises(InputError, match="2 channels, and 1"):
        scale(torch.zeros(3, 2))


def test_a_data_set_of_cells_holds_them_as_scaled() -> None:
    values = RNG.normal(0, 300, (20, 3)).astype(np.float32)
    scale = Asinh.fit([values])
    data = scale.dataset(values)
    assert data.shape == (3,)
    torch.testing.assert_close(data[torch.arange(20)].x1, scale(torch.from_numpy(values)))
    assert data.fingerprint() == scale.dataset(values.copy()).fingerprint()
    assert data.fingerprint() != scale.dataset(values[::-1].copy()).fingerprint()
