"""Options by flat names: every option has one, and it is there only where it makes sense."""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path

import pytest
import tomli_w

import pushforward as pf
from pushforward.recipes import Classifier, Digits, DigitsClassifier, Images, Rectify, Toy2D
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.flat import OptionError, choices, leaves, members, names_of
from pushforward.train.settings import Settings

# What recipes must be given.
REQUIRED = {
    "images": {"data": "photographs"},
    "array": {"data": "x.npy"},
    "bridge": {"source_data": "a.npy", "data": "b.npy"},
    "classifier": {"data": "fashion"},
    "reflow": {"teacher": "runs/flow"},
    "distill": {"teacher": "runs/flow"},
    "control": {"base": "runs/flow"},
    "prior": {"clip_run": "runs/clip"},
    "decoder": {"clip_run": "runs/clip"},
}


def kinds():
    return {name: entry.find() for name, entry in RECIPES.items()}


def selections(kind):
    """Every pair of choices of a recipe."""
    found: list[dict[str, str]] = [{}]
    seen: set[tuple[tuple[str, str], ...]] = set()
    while found:
        chosen = found.pop()
        there = [leaf for leaf in leaves(kind, chosen) if leaf.chooses]
        yield chosen
        for leaf in there:
            for name in leaf.annotation.__args__:
                further = {**chosen, leaf.flag: name}
                key = tuple(sorted(further.items()))
                if leaf.flag not in chosen and len(further) < 3 and key not in seen:
                    seen.add(key)
                    try:
                        list(leaves(kind, further))
                    except OptionError:
                        continue
                    found.append(further)


@pytest.mark.parametrize("name", RECIPES)
def test_no_two_options_have_one_name_whatever_is_chosen_and_each_is_described(name):
    kind = kinds()[name]
    for chosen in selections(kind):
        there = list(leaves(kind, chosen))
        flags = [leaf.flag for leaf in there]
        assert len(set(flags)) == len(flags), chosen
        assert all(leaf.description for leaf in there), chosen


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_every_setting_of_a_run(name):
    flags = {leaf.flag for leaf in leaves(kinds()[name])}
    assert set(Settings.__dataclass_fields__) <= flags | {"optimizers"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recorded_recipe_is_the_recipe(name):
    kind, required = kinds()[name], REQUIRED.get(name, {})
    made = kind.of(**required, seed=2**63 - 1, lr=1e-4, steps=7, out="somewhere")
    recorded = tomllib.loads(tomli_w.dumps(made.recorded()))
    assert kind.model_validate({**recorded, "place": made.place}) == made
    assert "place" not in recorded
    assert kind.of(**made.flat()) == made


def test_choices_are_tables_of_their_own_in_the_recorded_recipe():
    made = Toy2D.of(objective="sf2m", coupling="sinkhorn", std=0.5, regularisation=2)
    recorded = made.recorded()
    assert recorded["objective"]["name"] == "sf2m"
    assert recorded["objective"]["path"] == {"name": "brownian", "std": 0.5}
    assert recorded["objective"]["coupling"] == {"name": "sinkhorn", "regularisation": 2.0}
    assert choices(made) == {
        "objective": "sf2m", "path": "brownian", "coupling": "sinkhorn", "times": "uniform", "network": "mlp",
        "optimiser": "adamw",
    }  # fmt: skip


def flags(kind, **chosen):
    return {leaf.flag for leaf in leaves(kind, chosen)}


def test_a_classifier_has_no_option_of_objectives_and_bridges():
    objective = {
        "objective", "path", "std", "coupling", "prediction", "loss_in", "weight", "times", "low_discrepancy", "phase",
        "simulation_steps", "guidance", "condition_dropout", "regularisation",
    }  # fmt: skip
    assert not flags(Classifier) & objective
    assert flags(DigitsClassifier) & objective == {"path", "times", "low_discrepancy"}
    assert flags(Rectify) & objective == {"objective", "times", "low_discrepancy", "guidance"}
    assert "times" not in flags(Rectify, objective="one-step")


# What an option belongs to, and what it does not.
ABSENT = [
    (Toy2D, {"objective": "matching"}, "phase"),
    (Toy2D, {"objective": "matching"}, "std"),
    (Toy2D, {"objective": "dsb"}, "coupling"),
    (Toy2D, {"objective": "sliced"}, "coupling"),
    (Toy2D, {"objective": "sf2m"}, "loss_in"),
    (Toy2D, {"objective": "hybrid"}, "weight"),
    (Toy2D, {"objective": "meanflow"}, "times"),
    (Toy2D, {"objective": "meanflow"}, "guidance"),
    (Toy2D, {"coupling": "ot"}, "regularisation"),
    (Toy2D, {}, "condition_dropout"),
    (Digits, {"objective": "dsbm"}, "condition_dropout"),
    (Digits, {"objective": "consistency"}, "guidance"),
    (Images, {"network": "dit-mini"}, "width"),
    (Images, {"network": "unet-S"}, "patch"),
]
PRESENT = [
    (Toy2D, {"objective": "dsbm"}, "phase"),
    (Toy2D, {"path": "tube"}, "std"),
    (Toy2D, {"objective": "sf2m"}, "std"),
    (Toy2D, {"coupling": "sinkhorn"}, "regularisation"),
    (Digits, {"objective": "meanflow"}, "guidance"),
    (Digits, {}, "condition_dropout"),
    (Images, {"network": "dit-mini"}, "patch"),
    (Images, {"network": "unet-S"}, "attention"),
]


@pytest.mark.parametrize(("kind", "chosen", "name"), ABSENT)
def test_what_makes_no_sense_is_no_option(kind, chosen, name):
    assert name not in flags(kind, **chosen)
    with pytest.raises(OptionError, match=f"--{name.replace('_', '-')}"):
        kind.of(**REQUIRED.get(kind.name(), {}), **chosen, **{name: 1})


@pytest.mark.parametrize(("kind", "chosen", "name"), PRESENT)
def test_an_option_is_there_with_the_choice_that_it_belongs_to(kind, chosen, name):
    assert name in flags(kind, **chosen)


def test_only_paths_that_an_objective_can_take_may_be_chosen():
    for objective, path in product(("sf2m", "dsbm", "dsb"), ("condot", "vp", "tube")):
        with pytest.raises(OptionError, match=f"--path: there is no '{path}'"):
            Toy2D.of(objective=objective, path=path)
    with pytest.raises(OptionError, match="there is no 'brownian'"):
        Toy2D.of(path="brownian")
    for objective in ("denoising", "variational", "diffflow", "maximum-likelihood", "meanflow"):
        with pytest.raises(OptionError, match="there is no 'smooth-bridge'"):
            Toy2D.of(objective=objective, path="smooth-bridge")


SAID = {
    "the nearest": ({"lrr": 1}, "there is no option --lrr; did you mean --lr?"),
    "where it is": ({"std": 1.0}, "--std is an option of --path tube or of --path smooth-bridge"),
    "of another objective": ({"phase": 3}, "--phase is an option of --objective dsbm or of --objective dsb"),
    "a name": ({"objective": "sf2n"}, "--objective: there is no 'sf2n'; did you mean sf2m? It is one of matching, "),
    "missing": ({"coupling": "sinkhorn"}, "--regularisation is missing: Epsilon of the entropic plan"),
    "a value": ({"lr": -1}, "--lr -1: must be greater than 0"),
    "a nested value": ({"objective": "sf2m", "std": -1}, "--std -1: must be greater than 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_an_error_says_what_is_wrong_and_where(case):
    options, message = SAID[case]
    with pytest.raises(pf.InputError) as error:
        Toy2D.of(**options)
    assert str(error.value).startswith(message)


def test_changing_some_options_leaves_the_others():
    made = Digits.of(objective="meanflow", guidance=2.0, width=16)
    changed = made.changed(seed=3)
    assert changed.flat() == made.flat() | {"seed": 3}
    assert made.flat()["width"] == 16
    assert Toy2D().optimiser == Toy2D.of().optimiser


def test_defaults_of_a_recipe_hold_where_others_are_given():
    assert Toy2D.of(lr=0.1).optimiser.batch_size == 512
    bridge = RECIPES["bridge"].find()
    for objective in ("sf2m", "dsbm", "matching", "meanflow"):
        made = bridge.of(source_data=Path("a"), data=Path("b"), objective=objective)
        assert made.flat()["coupling"] == "ot"


def test_every_alternative_of_a_choice_has_names_of_its_own():
    for kind in kinds().values():
        for info in kind.model_fields.values():
            names = [name for member in members(info.annotation) for name in names_of(member)]
            assert len(set(names)) == len(names)
