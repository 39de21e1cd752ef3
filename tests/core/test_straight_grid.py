"""The grid along which trajectories are straight: noise and data in uniform shares."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from contracts.members import PATHS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.1, 0.9), (0.0, 0.6), (0.35, 1.0)])
def test_the_share_of_the_data_rises_by_the_same_amount_in_every_step(start, end, path):
    times = pf.times.straight(9, path, start, end)
    share = path.alpha(times) / (path.alpha(times) + path.sigma(times))
    steps = share.diff()
    assert torch.allclose(steps, steps.mean().expand(9), rtol=1e-7, atol=1e-9)
    assert times.shape == (10,)
    assert times.dtype == torch.float64
    assert (times[0], times[-1]) == (start, end)
    assert (times.diff() > 0).all()


def test_on_the_straight_path_it_is_uniform():
    for n, start, end in ((1, 0.0, 1.0), (7, 0.0, 1.0), (5, 0.2, 0.7)):
        got = pf.times.straight(n, pf.CondOT(), start, end)
        assert torch.allclose(got, pf.times.uniform(n, start, end), atol=1e-14)
    # A path and its ratio alpha/sigma on CondOT: the same log-SNR at every point.
    times = pf.times.straight(6, pf.Cosine())[1:-1]
    assert torch.allclose(
        pf.Cosine().log_snr(times), pf.CondOT().log_snr(pf.times.uniform(6)[1:-1]), atol=1e-12
    )


def test_grids_that_are_none_are_errors():
    for n, start, end in ((0, 0.0, 1.0), (3, 0.5, 0.5), (3, -0.1, 1.0), (3, 0.0, 1.1)):
        with pytest.raises(pf.InputError):
            pf.times.straight(n, pf.VP(), start, end)
