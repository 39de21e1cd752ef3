"""Recipes: complete configurations of a training run, whose typed fields are the command line.

This package imports without torch; what a recipe builds is imported when it builds it.
"""

from pushforward.recipes.bridge import Bridge
from pushforward.recipes.cells import Cells
from pushforward.recipes.classifier import Classifier
from pushforward.recipes.digits import Digits
from pushforward.recipes.digits_classifier import DigitsClassifier
from pushforward.recipes.distill import Distill
from pushforward.recipes.fashion import Fashion
from pushforward.recipes.images import Images
from pushforward.recipes.options import Recipe
from pushforward.recipes.reflow import Rectify
from pushforward.recipes.superresolution import SuperResolution
from pushforward.recipes.toy2d import Toy2D

# Every recipe by its name on the command line and in config.toml.
RECIPES: dict[str, type[Recipe]] = {
    "toy2d": Toy2D,
    "digits": Digits,
    "fashion": Fashion,
    "images": Images,
    "bridge": Bridge,
    "cells": Cells,
    "superresolution": SuperResolution,
    "digits-classifier": DigitsClassifier,
    "classifier": Classifier,
    "reflow": Rectify,
    "distill": Distill,
}

__all__ = [
    "RECIPES",
    "Bridge",
    "Cells",
    "Classifier",
    "Digits",
    "DigitsClassifier",
    "Distill",
    "Fashion",
    "Images",
    "Recipe",
    "Rectify",
    "SuperResolution",
    "Toy2D",
]
