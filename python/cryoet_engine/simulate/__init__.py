# SPDX-License-Identifier: MIT
"""Tomograms with known truth: a recipe, a specimen, a microscope, and a scripted annotator."""

from __future__ import annotations

from .complexes import ComplexRecipe
from .dataset import DatasetRecipe, make_dataset, read_dataset_recipe
from .liposomes import LiposomeRecipe
from .membranes2d import Membranes2DRecipe, fit_intensities
from .memory import memory_bytes
from .microscope import Imaging
from .recipe import CLASSES, Recipe, StoredRecipe, VirionRecipe, demo_recipes
from .snr import MeasuredSnr, dose_factor, frank_al_ali_snr, measured_snr
from .specimen import Particle
from .storage import Plan, StrokeSettings, read_plan, write_simulation
from .strokes import draw_strokes
from .subtomograms import Subtomograms, cut_subtomograms, read_subtomograms, subtomogram_set, write_subtomograms
from .tomogram import KINDS, Simulation, read_recipe, simulate, simulate_membranes_2d, simulate_virions

__all__ = [
    "CLASSES",
    "KINDS",
    "ComplexRecipe",
    "DatasetRecipe",
    "Imaging",
    "LiposomeRecipe",
    "MeasuredSnr",
    "Membranes2DRecipe",
    "Particle",
    "Plan",
    "Recipe",
    "Simulation",
    "StoredRecipe",
    "StrokeSettings",
    "Subtomograms",
    "VirionRecipe",
    "cut_subtomograms",
    "demo_recipes",
    "dose_factor",
    "draw_strokes",
    "fit_intensities",
    "frank_al_ali_snr",
    "make_dataset",
    "measured_snr",
    "memory_bytes",
    "read_dataset_recipe",
    "read_plan",
    "read_recipe",
    "read_subtomograms",
    "simulate",
    "simulate_membranes_2d",
    "simulate_virions",
    "subtomogram_set",
    "write_simulation",
    "write_subtomograms",
]
