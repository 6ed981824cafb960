# SPDX-License-Identifier: MIT
"""Recipes: stored and read back, refused where they make no sense."""

from __future__ import annotations

import dataclasses
import tomllib

import numpy as np
import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.simulate import VirionRecipe, demo_recipes, read_recipe


def test_toml_round_trip() -> None:
    for recipe in (VirionRecipe(), *demo_recipes()):
        assert VirionRecipe.from_toml(recipe.to_toml()) == recipe


def test_missing_entries_take_their_defaults() -> None:
    assert VirionRecipe.from_toml("seed = 3") == VirionRecipe(seed=3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "TOML"),
        ('kind = "liposomes"', "virions"),
        ("n_virion = 3", "n_virion"),
        ('seed = "3"', "seed"),
        ("shape = [64, 64]", "shape"),
        ("defocus_um = nan", "defocus_um"),
        ('classes = ["background", "gold"]', "classes"),
        ("fast = 1", "fast"),
        ("[imaging]\ndefocus_um = 3", "imaging"),
    ],
)
def test_bad_toml_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        VirionRecipe.from_toml(text)


@pytest.mark.parametrize(
    "field",
    [
        {"shape": (64, 64)},
        {"shape": (64, 64, 4)},
        {"shape": (64.0, 64, 64)},
        {"shape": "abc"},
        {"voxel_size_A": 0},
        {"voxel_size_A": True},
        {"seed": -1},
        {"seed": 1.5},
        {"n_virions": 0},
        {"diameter_nm": (100, 80)},
        {"diameter_nm": 90},
        {"n_spikes": (5, 2)},
        {"deformation": 0.5},
        {"thickness_nm": 60},
        {"dose_e_per_A2": 0},
        {"tilt_range_deg": 120},
        {"tilt_step_deg": 0},
        {"tilt_range_deg": 10, "tilt_step_deg": 20},
        {"defocus_um": float("inf")},
        {"gain": 0},
        {"dtype": "uint8"},
        {"reconstruction": "fbp"},
        {"reconstruction": "sirt", "fast": True},
        {"phase_flip": 1},
        {"spike_structure": 3},
        {"dose_scheme": None},
        {"voltage_kV": None},
    ],
)
def test_bad_fields_are_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(InputError) as error:
        VirionRecipe(**field)  # type: ignore[arg-type]
    assert any(name in str(error.value) for name in field)
    assert "expected" in str(error.value)


def test_numpy_numbers_become_plain_ones() -> None:
    recipe = VirionRecipe(seed=np.int64(4), defocus_um=np.float32(3.5), shape=(np.int32(32), 64, 64))
    assert tomllib.loads(recipe.to_toml())["shape"] == [32, 64, 64]
    assert type(recipe.seed) is int
    assert recipe.defocus_um == 3.5


def test_the_demo_differs_as_two_real_tomograms_do() -> None:
    first, second = demo_recipes()
    for field in ("seed", "defocus_um", "dose_e_per_A2", "thickness_nm", "gain", "offset"):
        assert getattr(first, field) != getattr(second, field)
    assert first.voxel_size_A == second.voxel_size_A
    assert dataclasses.asdict(first).keys() == dataclasses.asdict(second).keys()


def test_what_is_written_says_what_the_labels_mean() -> None:
    told = tomllib.loads(VirionRecipe().to_toml())
    assert told["kind"] == "virions"
    assert told["classes"] == ["background", "membrane", "spikes", "lumen"]
    assert told["parts"][0] == "ice"
    assert {field.name for field in dataclasses.fields(VirionRecipe)} <= told.keys()


def test_any_kind_is_read() -> None:
    recipe = VirionRecipe(seed=9)
    assert read_recipe(recipe.to_toml()) == recipe
    for text, words in (("seed = 1", "kind"), ('kind = "cells"', "virions"), ("=", "TOML")):
        with pytest.raises(InputError, match=words):
            read_recipe(text)
