"""Names on the command line are the keys of the tables, each exactly once."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

import pushforward as pf
from pushforward.cli.sampling import GridName, SolverName
from pushforward.laws import LAWS
from pushforward.recipes import RECIPES
from pushforward.recipes.objectives import WEIGHTS
from pushforward.recipes.options import PathName, PredictionName, Recipe, TimesName, WeightName
from pushforward.recipes.tables import GRIDS, PATHS, SOLVERS, STOCHASTIC, training_times
from pushforward.recipes.toy2d import LawName, SourceName
from pushforward.train.schedules import Decay
from pushforward.train.settings import Settings


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (PathName, PATHS),
        (SolverName, SOLVERS),
        (GridName, GRIDS),
        (LawName, LAWS),
        (SourceName, ["gaussian", *LAWS]),
        (WeightName, ["none", *WEIGHTS]),
        (PredictionName, pf.PREDICTIONS),
    ],
    ids=["paths", "solvers", "grids", "laws", "sources", "weights", "predictions"],
)
def test_names_are_the_keys_of_their_table(names, table) -> None:
    assert sorted(get_args(names)) == sorted(table)


def test_a_falling_rate_has_one_set_of_names() -> None:
    assert get_args(Recipe.model_fields["decay"].annotation) == get_args(Decay)


# Paths whose source is Gaussian noise.
GAUSSIAN = [name for name, path in PATHS.items() if path().gaussian_source]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", get_args(TimesName))
@pytest.mark.parametrize("low_discrepancy", [False, True])
def test_every_law_of_times_is_made_for_every_path(name: str, path: str, low_discrepancy: bool) -> None:  # fmt: skip
    law = training_times(name, PATHS[path](), low_discrepancy)
    assert law.low_discrepancy == low_discrepancy
    times = law(pf.Noise.batch(64))
    assert bool(((times >= 0) & (times <= 1)).all())
    assert len(times.unique()) > 32


def test_a_law_of_times_that_is_not_there_is_refused() -> None:
    with pytest.raises(pf.InputError, match="no law of times 'nothing'"):
        training_times("nothing", pf.CondOT(), True)


def test_laws_of_times_are_different_laws() -> None:
    draws = [
        training_times(name, pf.VP(), True)(pf.Noise.batch(8)).tolist()
        for name in get_args(TimesName)
    ]
    assert len({tuple(draw) for draw in draws}) == len(draws)


@pytest.mark.parametrize("path", GAUSSIAN)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_samples_every_path(solver: str, path: str) -> None:
    law = pf.GaussianMixture(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1))
    made = PATHS[path]()
    method = SOLVERS[solver](made)
    x = pf.generate(law.field(made), 4, solver=method, nfe=20 if method.calls else None)
    assert bool(x.isfinite().all())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_goes_from_noise_to_data_on_every_path(grid: str, path: str) -> None:
    for n in (1, 7):
        times = GRIDS[grid](n, PATHS[path]())
        assert times.shape == (n + 1,)
        assert (float(times[0]), float(times[-1])) == (0, 1)
        assert bool((times.diff() > 0).all())


def test_grids_are_different_grids() -> None:
    grids = {name: tuple(grid(7, pf.Cosine()).tolist()) for name, grid in GRIDS.items()}
    assert len(set(grids.values())) == len(grids)


MIXTURE = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.1, [0.3, 0.7])


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_are_stochastic_if_they_are_said_to_be(solver: str) -> None:
    """From one start, with keys of their own."""
    field = MIXTURE.field(pf.VP())
    start = pf.Noise.batch(3).normal((2,), dtype=torch.float64)
    method = SOLVERS[solver](field.path)
    times = pf.times.straight(20, field.path)
    a, b = (pf.integrate(method, field, start, times, seed=seed) for seed in (0, 1))
    assert torch.equal(a, b) == (solver not in STOCHASTIC)


def test_a_recipe_has_every_setting_of_a_run() -> None:
    for recipe in RECIPES.values():
        assert set(Settings.__dataclass_fields__) <= set(recipe.model_fields)
        for name, field in recipe.model_fields.items():
            assert field.description, name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_recipe_is_the_recipe(name: str) -> None:
    import tomllib

    import tomli_w

    changed = {"seed": 2**64 - 1, "lr": 1e-4, "loss_in": "noise", "edm": True, "steps": 7}
    recipe = RECIPES[name](**changed)
    recorded = tomllib.loads(tomli_w.dumps(recipe.recorded()))
    assert RECIPES[name](**recorded) == recipe
    assert not {"out", "resume", "device"} & recorded.keys()
