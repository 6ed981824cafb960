# SPDX-License-Identifier: MIT
"""Tomograms with known truth: a recipe, a specimen, a microscope, and a scripted annotator."""

from __future__ import annotations

from .microscope import Imaging
from .recipe import CLASSES, VirionRecipe, demo_recipes
from .strokes import draw_strokes
from .tomogram import Simulation, simulate_virions

__all__ = [
    "CLASSES",
    "Imaging",
    "Simulation",
    "VirionRecipe",
    "demo_recipes",
    "draw_strokes",
    "simulate_virions",
]
