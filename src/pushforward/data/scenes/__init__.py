"""Scenes: small pictures by rule, with captions, that can be read back exactly."""

from pushforward.data.scenes.graph import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Object,
    Request,
    Scene,
    draw,
    scenes,
)
from pushforward.data.scenes.load import load_scenes
from pushforward.data.scenes.prompts import TASKS, Prompt, Score, prompts, scores
from pushforward.data.scenes.read import read, read_all
from pushforward.data.scenes.render import render

__all__ = [
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TASKS",
    "Group",
    "Object",
    "Prompt",
    "Request",
    "Scene",
    "Score",
    "draw",
    "load_scenes",
    "prompts",
    "read",
    "read_all",
    "render",
    "scenes",
    "scores",
]
