"""Figures, all drawn with matplotlib: each function returns a `Figure`, and `png` makes a file of it."""

from pushforward.evaluate.figures.page import png

__all__ = ["png"]
