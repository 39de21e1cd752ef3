"""The table of names: each stands for something that works, and the command line offers exactly these."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from pydantic import ValidationError

import pushforward as pf
from pushforward import laws
from pushforward.cli.sampling import Drawing
from pushforward.core.paths import CondOT
from pushforward.nets.sizes import DIT, UNET
from pushforward.recipes import choices
from pushforward.recipes.choices import (
    COUPLINGS,
    GAUSSIAN_PATHS,
    GRIDS,
    INTERPOLANTS,
    LAWS,
    NETWORKS,
    PATHS,
    RECIPES,
    SOLVERS,
    TIMES,
    WEIGHTS,
    Entry,
    Times,
)
from pushforward.recipes.families import AnyObjective
from pushforward.recipes.flat import members, names_of
from pushforward.recipes.objectives import Matching
from pushforward.recipes.options import Optimiser
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.toy2d import Toy2D
from pushforward.train.schedules import Decay

TABLES = {
    "recipes": RECIPES, "paths": PATHS, "times": TIMES, "weights": WEIGHTS, "couplings": COUPLINGS,
    "laws": LAWS, "solvers": SOLVERS, "grids": GRIDS, "networks": NETWORKS,
}  # fmt: skip
MIXTURE = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.1, [0.3, 0.7])


@pytest.mark.parametrize("table", TABLES)
def test_every_name_stands_for_something_of_the_library(table):
    for name, entry in TABLES[table].items():
        assert callable(entry.find()), name


def offered(kind, name):
    return set(get_args(kind.model_fields[name].annotation))


def test_the_command_line_offers_the_names_of_the_table():
    assert offered(Drawing, "solver") == {"auto", *SOLVERS}
    assert offered(Drawing, "grid") == {"auto", *GRIDS}
    assert offered(Toy2D, "target") == set(LAWS)
    assert offered(Toy2D, "source") == {"gaussian", *LAWS}
    assert offered(Matching, "weight") == {"none", *WEIGHTS}
    assert offered(Times, "name") == set(TIMES)
    assert offered(Optimiser, "decay") == set(get_args(Decay))
    paths = {
        name
        for member in members(AnyObjective)
        for kind in members(member.model_fields["path"].annotation)
        for name in names_of(kind)
    }
    assert paths == set(PATHS)


def test_names_of_laws_and_sizes_are_those_of_the_library():
    assert {name: type(entry.make()) for name, entry in LAWS.items()} == laws.LAWS
    sizes = {f"unet-{size}" for size in UNET} | {f"dit-{size}" for size in DIT}
    assert set(NETWORKS) == {"mlp", "unet", "uvit", "mmdit"} | sizes


def test_an_entry_takes_of_what_is_given_its_share():
    entry = Entry("core.times:EDMLogNormal", {"low_discrepancy": True}, ("path",))
    law = entry.make(path=pf.EDM(), loss_in="noise")
    assert law.path == pf.EDM()
    assert law.low_discrepancy
    nested = SOLVERS["predictor-corrector"].make(path=pf.VP())
    assert nested.predictor == pf.solvers.DDPM()
    assert nested.corrector == pf.solvers.Langevin(4 * 0.16**2)


def test_gaussian_paths_start_from_noise_and_interpolants_from_any_law():
    assert all(entry.make().gaussian_source for entry in GAUSSIAN_PATHS.values())
    assert not any(entry.make().gaussian_source for entry in INTERPOLANTS.values())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("low_discrepancy", [False, True])
def test_every_law_of_times_is_made_for_every_path(name, path, low_discrepancy):
    choice = Times(name=name, low_discrepancy=low_discrepancy)
    law = choice.build(PATHS[path].make())
    assert law.low_discrepancy == low_discrepancy
    times = law(pf.Noise.batch(64))
    assert bool(((times >= 0) & (times <= 1)).all())
    assert len(times.unique()) > 32


def test_laws_of_times_are_different_laws():
    draws = [TIMES[name].make(path=pf.VP())(pf.Noise.batch(8)).tolist() for name in TIMES]
    assert len({tuple(draw) for draw in draws}) == len(draws)


@pytest.mark.parametrize("path", GAUSSIAN_PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_samples_every_path(solver, path):
    law = pf.GaussianMixture(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1))
    made = GAUSSIAN_PATHS[path].make()
    method = SOLVERS[solver].make(path=made)
    x = pf.generate(law.field(made), 4, solver=method, nfe=20 if method.calls else None)
    assert bool(x.isfinite().all())


def test_solvers_of_different_names_are_different():
    made = {name: SOLVERS[name].make(path=pf.VP()) for name in SOLVERS}
    assert len({repr(solver) for solver in made.values()}) == len(made)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_goes_from_noise_to_data_on_every_path(name, path):
    for n in (1, 7):
        times = choices.grid(name)(n, PATHS[path].make())
        assert times.shape == (n + 1,)
        assert (float(times[0]), float(times[-1])) == (0, 1)
        assert bool((times.diff() > 0).all())


def test_grids_are_different_grids():
    grids = {name: tuple(choices.grid(name)(7, pf.Cosine()).tolist()) for name in GRIDS}
    assert len(set(grids.values())) == len(grids)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_is_stochastic_if_samples_depend_on_more_than_their_start(solver):
    """From one start, with keys of their own."""
    field = MIXTURE.field(pf.VP())
    start = pf.Noise.batch(3).normal((2,), dtype=torch.float64)
    method = SOLVERS[solver].make(path=field.path)
    times = pf.times.straight(20, field.path)
    a, b = (pf.integrate(method, field, start, times, seed=seed) for seed in (0, 1))
    assert torch.equal(a, b) == (not method.stochastic)


def test_every_recipe_knows_its_name():
    for name, entry in RECIPES.items():
        kind = entry.find()
        assert issubclass(kind, Recipe)
        assert kind.name() == name


def test_logit_normal_times_take_a_mean_and_a_spread_and_other_times_take_none():
    law = Times(name="logit-normal", time_mean=-0.8, time_std=0.5).build(CondOT())
    quantiles = law.quantile(torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64))
    assert torch.logit(quantiles).tolist() == pytest.approx([-0.8, -0.3])
    with pytest.raises(ValidationError, match="--time-mean is of --times logit-normal"):
        Times(name="uniform", time_mean=-0.8)
