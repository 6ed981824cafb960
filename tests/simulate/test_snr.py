# SPDX-License-Identifier: MIT
"""The signal-to-noise ratio of Frank and Al-Ali: the formula, and that tomograms have what was asked for."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.simulate import (
    ComplexRecipe,
    cut_subtomograms,
    dose_factor,
    frank_al_ali_snr,
    measured_snr,
    simulate,
)
from cryoet_engine.simulate.complexes import builtin_shapes
from cryoet_engine.simulate.reconstruction import record_directly
from cryoet_engine.simulate.snr import _poses, dose_factor_for
from cryoet_engine.simulate.structures import random_rotation

# Few views, so that there is time for many copies.
QUICK = ComplexRecipe(shape=(64, 64, 64), tilt_step_deg=10.0, snr=0.5, seed=7)


def noisy_copies(snr: float, n: int, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=shape)
    return np.asarray(np.sqrt(snr) * signal + rng.normal(size=(n, *shape)))


def test_it_is_the_mean_over_all_pairs() -> None:
    copies = noisy_copies(0.4, 7, (6, 5, 4)).astype(np.float32) * 3 + 100
    pairs = [np.corrcoef(copies[i].ravel(), copies[j].ravel())[0, 1] for i, j in itertools.combinations(range(7), 2)]
    r = float(np.mean(pairs))
    assert frank_al_ali_snr(copies) == pytest.approx(r / (1 - r), rel=1e-5)  # corrcoef is in float32


@pytest.mark.parametrize(("snr", "bound"), [(0.01, 0.06), (0.05, 0.03), (0.5, 0.03), (4.0, 0.03)])
def test_it_finds_the_ratio_of_white_noise(snr: float, bound: float) -> None:
    # Standard errors 2 % to 0.3 %, beside 1.2 % of the signal's own variance. Measured -3.8, -1.4, -0.5, -0.4 %.
    assert frank_al_ali_snr(noisy_copies(snr, 100, (24, 24, 24))) == pytest.approx(snr, rel=bound)


def test_grey_scales_do_not_matter() -> None:
    copies = noisy_copies(0.3, 5, (8, 8, 8))
    changed = copies * np.array([1, 2, 0.1, 5, 30]).reshape(-1, 1, 1, 1) + np.arange(5).reshape(-1, 1, 1, 1)
    assert frank_al_ali_snr(changed) == pytest.approx(frank_al_ali_snr(copies), rel=1e-12)
    assert frank_al_ali_snr(np.stack([copies[0], copies[0]])) > 1e12


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        (np.zeros((1, 4, 4, 4)), "two copies or more"),
        (np.zeros(4), "two copies or more"),
        (np.zeros((3, 4, 4, 4)), "copy 0"),
        (np.where(np.arange(128).reshape(2, 4, 4, 4) == 100, np.nan, np.arange(128).reshape(2, 4, 4, 4)), "copy 1"),
    ],
)
def test_what_has_no_ratio_is_refused(copies: npt.NDArray[np.float64], words: str) -> None:
    with pytest.raises(InputError, match=words):
        frank_al_ali_snr(copies)


@pytest.mark.parametrize(
    ("snr", "copies", "bound"),
    [(0.5, 96, 0.03), (0.05, 300, 0.03), (0.01, 240, 0.1)],
)
def test_what_was_asked_is_measured(snr: float, copies: int, bound: float) -> None:
    found = measured_snr(dataclasses.replace(QUICK, snr=snr, aligned=True), copies=copies)
    # Standard errors 0.5 %, 0.8 %, 2.5 %: well below the bounds.
    assert found.standard_error < 0.3 * bound * snr
    assert found.snr == pytest.approx(snr, rel=bound)  # measured -0.3, -0.7, -0.8 %


@pytest.mark.parametrize("fast", [False, True])
def test_the_mean_over_orientations_is_as_asked(fast: bool) -> None:
    found = measured_snr(dataclasses.replace(QUICK, fast=fast), copies=60)
    assert found.standard_error < 0.01 * 0.5
    assert found.snr == pytest.approx(0.5, rel=0.03)  # measured -0.1 and -1.0 %


def test_six_orientations_stand_for_all() -> None:
    recipe = dataclasses.replace(QUICK, fast=True)
    rng = np.random.default_rng(0)
    box = (slice(8, 48), slice(8, 48), slice(8, 48))

    def variance(structure_index: int, rotation: npt.NDArray[np.float64]) -> float:
        turned = builtin_shapes(10.0)[structure_index].rotated(rotation)
        potential = np.zeros((56, 56, 56), np.float32)
        at = tuple(slice(28 - c, 28 - c + n) for c, n in zip(turned.centre, turned.potential.shape, strict=True))
        potential[at] = turned.potential
        return float(record_directly(potential, box, recipe, voxel_size_A=10.0, rng=None).var(dtype=np.float64))

    for index in (0, 3):  # barrel, dumbbell
        six = np.array([variance(index, pose) for pose in _poses(False)])
        many = np.array([variance(index, random_rotation(rng)) for _ in range(120)])
        assert many.std() > 0.02 * many.mean()  # it does matter how they lie
        error = many.std() / np.sqrt(len(many))
        assert abs(six.mean() - many.mean()) < 3 * error + 0.01 * many.mean()


def test_electrons_are_in_proportion_and_the_same_each_time() -> None:
    factor = dose_factor(QUICK)
    assert dose_factor(QUICK) == factor
    assert dose_factor(dataclasses.replace(QUICK, snr=0.05)) == pytest.approx(factor / 10, rel=1e-9)
    assert dose_factor(dataclasses.replace(QUICK, snr=0)) == 1
    # Twice as many electrons that do no more damage: half the factor.
    thin = dataclasses.replace(QUICK, fast=False, thickness_nm=10)
    assert dose_factor(thin) < factor


def test_the_ratio_depends_on_reference_and_box() -> None:
    ring = dataclasses.replace(QUICK, snr_reference="ring")
    assert dose_factor(ring) > 1.5 * dose_factor(QUICK)  # smaller than a barrel; measured 1.75
    assert dose_factor(dataclasses.replace(ring, snr_box=24)) < 0.5 * dose_factor(ring)  # measured 0.24


def test_errors_of_the_microscope_count_as_the_complex() -> None:
    """Every tomogram has the ratio asked for, whatever its errors: they cost electrons instead."""
    shaky = dataclasses.replace(QUICK, alignment_error_A=20.0, defocus_error_um=0.5, aligned=True)
    steady = dataclasses.replace(shaky, alignment_error_A=0.0, defocus_error_um=0.0)
    assert dose_factor(shaky) > 1.1 * dose_factor(steady)  # measured 1.42
    for seed in (7, 8):
        found = measured_snr(dataclasses.replace(shaky, seed=seed), copies=96)
        assert found.snr == pytest.approx(0.5, rel=0.03)  # measured +0.8 and +0.3 %


@pytest.mark.parametrize("fast", [False, True])
def test_copies_cut_from_a_tomogram_have_the_ratio(fast: bool) -> None:
    recipe = ComplexRecipe(
        shape=(48, 256, 256),
        aligned=True,
        fast=fast,
        thickness_nm=80,
        film_nm=0,
        border_roughness_nm=0,
        crowding=0,
        n_particles=40,
        gap_A=160,
        abundances=(0, 0, 1, 0),
        snr=0.5,
        snr_reference="ring",
        snr_box=24,
        tilt_step_deg=4.0,
        seed=2,
    )
    made = simulate(recipe)
    copies = cut_subtomograms(made, box=24)
    assert len(copies) >= 15
    assert np.array_equal(copies.centre_vox, np.rint(copies.centre_vox))
    # Standard error 1.5 %; what neighbours cast upon a box counts as noise. Measured 0.500, fast 0.496; with the dose
    # alone 0.561 and 0.625.
    assert frank_al_ali_snr(np.asarray(copies.data)) == pytest.approx(0.5, rel=0.08)


def test_what_shows_nothing_is_refused() -> None:
    structure = builtin_shapes(10.0)[0]
    blank = dataclasses.replace(structure, fine=structure.fine * np.float32(1e-6), threshold_V=1e-6)
    with pytest.raises(InputError, match="barrel"):
        dose_factor_for(0.5, blank, QUICK, voxel_size_A=10.0, box=16, rng=np.random.default_rng(0))
    sirt = dataclasses.replace(QUICK, snr=0, reconstruction="sirt")
    with pytest.raises(InputError, match="wbp"):
        dose_factor_for(0.5, structure, sirt, voxel_size_A=10.0, box=16, rng=np.random.default_rng(0))


def test_progress_can_cancel_the_calibration() -> None:
    def listen(stage: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dose_factor(QUICK, progress=listen)
