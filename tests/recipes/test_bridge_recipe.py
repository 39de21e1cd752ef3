"""The recipe that joins two data sets of a user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import pushforward as pf
from pushforward.recipes import Bridge
from pushforward.recipes.config import experiment_of, find_source
from pushforward.recipes.run import train

TINY = {
    "width": 8, "steps": 5, "batch_size": 32, "warmup": 0, "sample_every": 0, "device": "cpu",
}  # fmt: skip


def save(place: Path, values: np.ndarray) -> Path:
    np.save(place, values.astype(np.float32))
    return place


@pytest.mark.parametrize("objective", ["sf2m", "matching", "dsbm"])
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=["vectors", "images"])
def test_a_bridge_between_two_arrays_is_trained_judged_and_sampled(
    objective: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    source = save(tmp_path / "a.npy", rng.normal(size=(200, *shape)) - 1)
    data = save(tmp_path / "b.npy", rng.normal(size=(300, *shape)) + 1)
    network = {"network": "mlp", "depth": 1} if len(shape) == 1 else {"network": "unet"}
    recipe = Bridge.of(
        **TINY, **network, source_data=source, data=data, objective=objective, out=tmp_path / "run"
    )
    folder, _ = train(recipe, quiet=True)
    model = pf.load(folder)
    law = find_source(model, folder)
    start = law.sample(6)
    # What samples start from are source data that no step has seen.
    held = experiment_of(folder, device="cpu").source.data
    rows = {tuple(row.flatten().tolist()) for row in held[torch.arange(len(held))].x1}
    assert len(held) == 40
    assert all(tuple(row.flatten().tolist()) in rows for row in start)
    assert pf.generate(model, 6, nfe=4, source=law).shape == (6, *shape)
    figures = experiment_of(folder, device="cpu").judge(40, nfe=4)[0]
    assert {"ratio", "energy", "energy_before"} <= figures.keys()


def test_sets_of_different_shapes_are_refused_by_name(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.npy", np.ones((50, 3))), save(tmp_path / "b.npy", np.ones((50, 4)))
    with pytest.raises(pf.InputError, match=r"a.npy holds samples \(3,\), .*b.npy \(4,\)"):
        Bridge.of(source_data=a, data=b).build()


def test_a_row_that_is_not_finite_is_named(tmp_path: Path) -> None:
    bad = np.ones((50, 3))
    bad[17, 1] = np.nan
    a, b = save(tmp_path / "a.npy", bad), save(tmp_path / "b.npy", np.ones((50, 3)))
    with pytest.raises(pf.DataError, match="first rows 17"):
        Bridge.of(source_data=a, data=b).build()
