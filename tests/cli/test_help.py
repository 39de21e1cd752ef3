"""Help: short, by group, of the options that there are with what was chosen."""

from __future__ import annotations

import re

import pytest

from pushforward.cli import COMMANDS, main
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.flat import leaves

LIMIT = 60


@pytest.fixture
def shown(monkeypatch, capsys):
    """What a command line prints before it leaves with exit code 0."""
    monkeypatch.setenv("COLUMNS", "80")

    def shown(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        return capsys.readouterr().out

    return shown


def flags(text: str) -> set[str]:
    """The options that a help lists, --no-x as no_x."""
    found = (re.match(r"[│ ]*--([\w-]+)( |,|$)", line) for line in text.splitlines())
    return {each[1].replace("-", "_") for each in found if each} - {"help_all"}


@pytest.mark.parametrize("name", RECIPES)
def test_the_help_of_a_recipe_is_short_and_the_rest_is_a_flag_away(name, shown):
    short, whole = shown("train", name, "--help"), shown("train", name, "--help-all")
    assert len(short.splitlines()) <= LIMIT
    assert "--help-all shows" in short
    # What has no flag is in the first line.
    there = {leaf.flag for leaf in leaves(RECIPES[name].find()) if not leaf.positional}
    single = {leaf.flag for leaf in leaves(RECIPES[name].find()) if leaf.chooses and leaf.rare}
    assert flags(short) < flags(whole)
    found = flags(whole) | {flag.removeprefix("no_") for flag in flags(whole)}
    assert there - single <= found


@pytest.mark.parametrize("objective", ["sf2m", "dsbm", "hybrid", "meanflow"])
def test_the_help_of_an_objective_is_as_short(objective, shown):
    text = shown("train", "digits", "--objective", objective, "--help")
    assert len(text.splitlines()) <= LIMIT


def test_help_shows_the_options_of_what_is_chosen_and_what_it_is(shown):
    matching, dsbm = (
        shown("train", "toy2d", "--help"),
        shown("train", "toy2d", "--objective", "dsbm", "--help"),
    )
    assert {"phase", "simulation_steps", "std"} <= flags(dsbm)
    assert not {"phase", "simulation_steps", "std"} & flags(matching)
    assert "Diffusion Schroedinger bridge matching." in dsbm
    assert "(default: dsbm)" in dsbm
    dit = shown("train", "images", "--network", "dit-mini", "--help")
    assert "patch" in flags(dit)
    assert "patch" not in flags(shown("train", "images", "--help"))


def test_the_help_of_a_classifier_shows_nothing_of_bridges_and_objectives(shown):
    text = shown("train", "classifier", "--help-all")
    for word in (
        "objective",
        "phase",
        "coupling",
        "path",
        "std",
        "guidance",
        "prediction",
        "times",
    ):
        assert word not in flags(text)


def test_options_are_grouped(shown):
    text = shown("train", "digits", "--help")
    titles = re.findall(r"^(?:╭─)? ([\w ]*options) ", text, re.MULTILINE)
    assert titles == [
        "options", "objective options", "network options", "optimiser options", "place options",
    ]  # fmt: skip


def test_help_shows_every_command_and_every_recipe_with_what_it_is(shown):
    text = shown("--help")
    for name in COMMANDS:
        assert name in text
    assert "Draw samples from a trained model" in text
    text = shown("train", "--help")
    for name in RECIPES:
        assert name in text


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_every_command_has_help(name, shown):
    text = shown(name, "--help")
    assert text.startswith(f"usage: pushforward {name} ")
    kind = COMMANDS[name].find()
    assert (kind.__doc__ or "").split()[0] in text


def test_evaluate_has_help_for_each_of_its_uses(shown):
    assert "solvers" in flags(shown("evaluate", "--compare", "--help"))
    assert "nfes" in flags(shown("evaluate", "--students", "x", "--help"))
    assert not {"solvers", "nfes"} & flags(shown("evaluate", "--help"))


def test_the_version_is_printed(shown):
    import pushforward as pf

    assert shown("--version") == f"pushforward {pf.__version__}\n"
