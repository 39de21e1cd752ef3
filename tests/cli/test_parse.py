"""From words to options: what is chosen decides which options there are, in any order of the words."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import tyro

from pushforward.cli import COMMANDS, main, read
from pushforward.cli.parse import named, pairs, parse
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.flat import OptionError, leaves, make


def options(words: str, recipe: str = "toy2d", **more: Any) -> dict[str, Any]:
    return parse(RECIPES[recipe].find(), words.split(), f"pushforward train {recipe}", **more)


def test_options_are_those_that_are_given():
    assert options("") == {}
    assert options("--steps 2000 --out there") == {"steps": 2000, "out": Path("there")}


def test_the_order_of_words_does_not_matter():
    parts = ["--std 0.5", "--path brownian", "--objective sf2m", "--coupling ot", "--steps 3"]
    found = [options(" ".join(order)) for order in itertools.permutations(parts)]
    expected = {"std": 0.5, "path": "brownian", "objective": "sf2m", "coupling": "ot", "steps": 3}
    assert all(one == expected for one in found)
    recipe = make(RECIPES["toy2d"].find(), expected)
    assert recipe.objective.path.std == 0.5
    assert recipe.objective.coupling.name == "ot"


@pytest.mark.parametrize("words", ["--objective sf2m --std 2", "--objective=sf2m --std=2"])
def test_values_follow_a_flag_or_an_equals_sign(words):
    assert options(words) == {"objective": "sf2m", "std": 2.0}


def test_switches_are_turned_on_and_off():
    assert options("--checkpointing --no-tensorboard") == {
        "checkpointing": True,
        "tensorboard": False,
    }
    assert options("--lazy no --crop", "images") == {"lazy": "no", "crop": True}


def test_several_values_follow_one_flag():
    assert options("--multipliers 1 2 --more-emas 0.9 0.99 --network unet-XS", "digits") == {
        "network": "unet-XS", "multipliers": (1, 2), "more_emas": (0.9, 0.99),
    }  # fmt: skip
    assert options("--more-emas") == {"more_emas": ()}


def test_a_choice_within_a_choice():
    assert options("--coupling sinkhorn --regularisation 0.1 --objective sf2m")[
        "regularisation"
    ] == pytest.approx(0.1)
    with pytest.raises(OptionError, match="--regularisation is an option of --coupling sinkhorn"):
        options("--objective sf2m --regularisation 0.1")


def test_choices_that_were_made_before_hold_unless_others_are_made():
    chosen = {"objective": "sf2m"}
    assert options("--std 2", chosen=chosen) == {"std": 2.0}
    with pytest.raises(OptionError, match="--std"):
        options("--std 2 --objective matching", chosen=chosen)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_every_recipe_is_read_as_it_is_written(recipe):
    kind = RECIPES[recipe].find()
    given = {}
    words = []
    for leaf in leaves(kind, {}):
        if leaf.required or leaf.default is None:
            continue
        value = leaf.default
        given[leaf.flag] = value
        flag = f"--{leaf.flag.replace('_', '-')}"
        if isinstance(value, bool):
            words.append([flag if value else flag.replace("--", "--no-", 1)])
        else:
            words.append([flag, *map(str, value if isinstance(value, tuple) else [value])])
    assert len(given) > 12
    random.Random(0).shuffle(words)
    found = parse(kind, [word for part in words for word in part], "pushforward train x")
    assert found == given


def test_flags_and_what_follows_them():
    words = ["run", "--num", "3", "--no-lazy", "--seed=4", "--out"]
    assert named(words) == {"num", "no_lazy", "lazy", "seed", "out"}
    assert pairs(words) == {"num": "3", "seed": "4"}


def test_what_tyro_lets_nobody_know_of_is_printed_by_itself(monkeypatch, capsys):
    """The way to hear of tyro's errors is not public: without it they are tyro's own, with the same exit code."""
    monkeypatch.delattr(tyro._errors, "on_parse_error")
    with pytest.raises(SystemExit) as stop:
        main(["train", "toy2d", "--lrr", "3"])
    assert stop.value.code == 2
    assert "--lrr" in capsys.readouterr().err
    assert options("--lr 3") == {"lr": 3.0}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_of_any_command_is_no_success(name, capsys):
    words = [name, *(["toy2d"] if name == "train" else []), "--bananas", "3"]
    assert main(words) == 2
    assert "--bananas" in capsys.readouterr().err


def test_evaluate_is_read_by_what_it_is_asked_for(tmp_path):
    kinds = {
        "evaluate run": "Evaluate",
        "evaluate run --compare": "Compare",
        "evaluate --compare run --nfes 4 5": "Compare",
        "evaluate run --students a b": "Students",
    }
    assert {words: type(read(words.split())).__name__ for words in kinds} == kinds
    (tmp_path / "config.toml").write_text('recipe = "digits-classifier"\n')
    assert type(read(["evaluate", str(tmp_path)])).__name__ == "Accuracy"
    (tmp_path / "config.toml").write_text('recipe = "digits"\n')
    assert type(read(["evaluate", str(tmp_path)])).__name__ == "Evaluate"


def test_numbers_of_calls_are_given_at_once_or_one_by_one():
    assert read(["tune", "run", "--nfe", "4", "5", "--nfe", "6"]).nfe == ((4, 5), (6,))
