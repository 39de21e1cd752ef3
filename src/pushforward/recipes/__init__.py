"""Recipes: complete configurations of a training run, whose options are the command line.

    from pushforward.recipes import Toy2D
    from pushforward.recipes.run import train

    folder, signal = train(Toy2D.of(objective="sf2m", coupling="ot", std=0.5, steps=500, out="runs/bridge"))

This package imports without torch; what a recipe builds is imported when it builds it.
"""

from pushforward.recipes.array import Array
from pushforward.recipes.autoencoder import Autoencoder
from pushforward.recipes.bridge import Bridge
from pushforward.recipes.cells import Cells
from pushforward.recipes.choices import RECIPES
from pushforward.recipes.classifier import Classifier, DigitsClassifier
from pushforward.recipes.control import Control
from pushforward.recipes.digits import Digits
from pushforward.recipes.distill import Distill
from pushforward.recipes.fashion import Fashion
from pushforward.recipes.images import Images
from pushforward.recipes.recipe import Recipe
from pushforward.recipes.reflow import Rectify
from pushforward.recipes.superresolution import SuperResolution
from pushforward.recipes.text_to_image import TextToImage
from pushforward.recipes.toy2d import Toy2D

__all__ = [
    "RECIPES",
    "Array",
    "Autoencoder",
    "Bridge",
    "Cells",
    "Classifier",
    "Control",
    "Digits",
    "DigitsClassifier",
    "Distill",
    "Fashion",
    "Images",
    "Recipe",
    "Rectify",
    "SuperResolution",
    "TextToImage",
    "Toy2D",
]
