"""The sampler of a model is decided in one place."""

from __future__ import annotations

import pytest
import torch

import pushforward as pf
from pushforward.recipes.choices import SOLVERS, grid
from pushforward.sampling.sampler import DEFAULT_NFE, find_sampler
from pushforward.solvers import SolverFlowMap

FIELD = pf.GaussianMixture([[-2.0, 0.0], [2.0, 1.0]], 0.1, [0.3, 0.7]).field(pf.VP())


class Student:
    """A flow map that knows four steps of its own."""

    jumps = (0.0, 0.3, 0.5, 0.8, 1.0)
    path = pf.CondOT()

    def __call__(self, x, t, s, **cond):
        return x


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "dopri5"])
def test_a_solver_takes_as_many_steps_as_its_calls_allow_and_its_own_times(solver):
    method = SOLVERS[solver].make(path=FIELD.path)
    found = find_sampler(FIELD, method, nfe=13)
    assert found.solver is method
    assert len(found.grid) == 13 // method.calls + 1
    rule = "learned" if solver == "learned" else "angle" if solver == "abm3" else "straight"
    assert torch.equal(found.grid, grid(rule)(13 // method.calls, FIELD.path))
    assert found.names[1] == rule


def test_generate_takes_what_find_sampler_finds():
    for options in ({"nfe": 9}, {"grid": pf.times.karras, "nfe": 7}, {"solver": pf.solvers.Heun()}):
        found = find_sampler(FIELD, **options)
        a = pf.generate(FIELD, 3, **options)
        assert torch.equal(a, pf.generate(FIELD, 3, solver=found.solver, grid=found.grid))


def test_defaults_are_the_learned_solver_and_where_it_does_not_fit_adams_bashforth():
    assert find_sampler(FIELD).nfe == DEFAULT_NFE
    assert find_sampler(FIELD, nfe=3).names == ("learned", "learned")
    assert find_sampler(FIELD, nfe=2).names == ("ab2", "straight")
    assert find_sampler(FIELD, grid=pf.times.karras, nfe=5).names == ("abm3", "given")


def test_a_flow_map_is_sampled_by_jumps_and_a_student_along_its_own_times():
    flow = SolverFlowMap(FIELD, pf.solvers.Heun())
    assert find_sampler(flow).names == ("jump", "straight")
    assert find_sampler(flow).nfe == 1
    assert find_sampler(flow, nfe=2, renoise=0.5).solver == pf.solvers.FlowMapSampler(0.5)
    student = find_sampler(Student())
    assert student.grid.tolist() == list(Student.jumps)
    for options in ({"nfe": 3}, {"grid": pf.times.karras}):
        with pytest.raises(pf.InputError, match="takes the 4 steps that it was distilled to"):
            find_sampler(Student(), **options)


WRONG = {
    "too few": ({"solver": pf.solvers.RK4(), "nfe": 3}, "RK4 calls the network 4 times in a step"),
    "calls of an adaptive solver": (
        {"solver": pf.solvers.DormandPrince(), "nfe": 9}, "it has no nfe to choose",
    ),
    "times of an adaptive solver": (
        {"solver": pf.solvers.DormandPrince(), "grid": pf.times.karras}, "it takes no grid",
    ),
    "both": ({"nfe": 9, "grid": pf.times.uniform(9)}, "either nfe or a grid"),
    "a name": ({"solver": "heun"}, "solver='heun' is a name"),
    "a class": ({"solver": pf.solvers.Heun}, r"solver=Heun is a class: pass Heun\(\)"),
    "no solver": ({"solver": 3}, "int is no solver"),
    "renoise of a velocity": ({"renoise": 0.5}, "renoise is for flow maps"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sampler_is_said(case):
    options, message = WRONG[case]
    with pytest.raises(pf.InputError, match=message):
        find_sampler(FIELD, **options)
