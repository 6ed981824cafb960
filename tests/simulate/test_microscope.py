# SPDX-License-Identifier: MIT
"""The forward model against geometry, optics and counting statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine.simulate.microscope import Imaging, record_tilt_series, transfer

# Optics that hand the potential on as it is: no phase contrast oscillation, no blur, hardly any damage.
PLAIN = {
    "defocus_um": 0.0,
    "defocus_error_um": 0.0,
    "cs_mm": 0.0,
    "amplitude_contrast": 1.0,
    "b_factor_A2": 0.0,
    "dose_e_per_A2": 0.1,
}


def test_wavelength_and_interaction_at_300_kV() -> None:
    imaging = Imaging(voltage_kV=300)
    assert imaging.wavelength_A == pytest.approx(0.019687, rel=1e-4)
    assert imaging.interaction_per_V_A == pytest.approx(6.526e-4, rel=1e-3)


def test_tilt_angles() -> None:
    assert len(Imaging(tilt_range_deg=60, tilt_step_deg=2).tilt_angles_deg) == 61
    assert Imaging(tilt_range_deg=50, tilt_step_deg=3).tilt_angles_deg.max() == 48
    full = Imaging(tilt_range_deg=90, tilt_step_deg=45).tilt_angles_deg
    np.testing.assert_array_equal(full, [-90, -45, 0, 45])


def test_ctf_zeros_are_where_theory_puts_them() -> None:
    imaging = Imaging(defocus_um=3.0, amplitude_contrast=0.07, b_factor_A2=0, tilt_range_deg=1, tilt_step_deg=1)
    voxel = 4.0
    rng = np.random.default_rng(0)
    potential = rng.normal(0, 1e-3, (1, 256, 256)).astype(np.float32)
    series = record_tilt_series(potential, imaging, voxel_size_A=voxel, rng=None)
    view = series.views[1]  # untilted
    power = np.abs(np.fft.fft2(view)) ** 2
    k = np.hypot(np.fft.fftfreq(256, voxel)[:, None], np.fft.fftfreq(view.shape[1], voxel)[None])
    # First zeros of sin(pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 + asin A), from the quadratic in k^2, in 1/Å.
    wavelength, a = 0.019687, math.asin(0.07)
    for n in (1, 2, 3):
        p, q, r = 0.5 * 2.7e7 * wavelength**3, -wavelength * 3e4, n - a / math.pi
        zero = math.sqrt((-q - math.sqrt(q * q - 4 * p * r)) / (2 * p))
        ring = power[np.abs(k - zero) < 0.4 / (256 * voxel)].mean()
        p, q, r = p, q, n - 0.5 - a / math.pi
        peak = math.sqrt((-q - math.sqrt(q * q - 4 * p * r)) / (2 * p))
        around = power[np.abs(k - peak) < 0.4 / (256 * voxel)].mean()
        assert ring < 0.02 * around  # measured 0.002 to 0.004


@pytest.mark.parametrize("angle", [-60, -21, 0, 45])
def test_a_point_falls_where_geometry_says(angle: float) -> None:
    potential = np.zeros((17, 12, 33), np.float32)
    z, y, x = 11, 5, 9
    potential[z, y, x] = 1
    potential = ndimage.gaussian_filter(potential, 1)
    imaging = Imaging(**PLAIN, tilt_range_deg=60, tilt_step_deg=3)  # type: ignore[arg-type]
    series = record_tilt_series(potential, imaging, voxel_size_A=10, rng=None)
    view = series.views[list(series.angles_deg).index(angle)]
    v, u = ndimage.center_of_mass(np.where(np.abs(view) > 1e-3 * np.abs(view).max(), view, 0))
    t = math.radians(angle)
    expected = (x - 16) * math.cos(t) + (z - 8) * math.sin(t) + (view.shape[1] - 1) / 2
    # Radiation damage still blurs symmetrically; measured 0.0002
    assert u == pytest.approx(expected, abs=0.02)
    assert v == pytest.approx(y, abs=0.02)


@pytest.mark.parametrize("scheme", ["constant", "inverse-cosine"])
def test_shot_noise_is_that_of_the_electrons(scheme: str) -> None:
    imaging = Imaging(tilt_range_deg=60, tilt_step_deg=20, dose_scheme=scheme)
    series = record_tilt_series(
        np.zeros((8, 192, 192), np.float32), imaging, voxel_size_A=12, rng=np.random.default_rng(1)
    )
    n = imaging.electrons(144.0)
    for expected, view in zip(n, series.views, strict=True):
        # Standard error of a variance from 37 000 pixels: 0.7 %; measured 0.9 % at most.
        assert view.var(dtype=np.float64) * expected == pytest.approx(1, abs=0.03)
    flat = imaging.thickness_nm / 310
    ratio = math.exp(-flat) * (2 if scheme == "inverse-cosine" else 1)  # more ice to cross at 60 degrees
    assert n[0] / n[3] == pytest.approx(ratio, rel=1e-6)


def test_readout_noise_adds_its_variance() -> None:
    imaging = Imaging(tilt_range_deg=40, tilt_step_deg=20, readout_noise_e=20.0)
    series = record_tilt_series(
        np.zeros((8, 192, 192), np.float32), imaging, voxel_size_A=12, rng=np.random.default_rng(2)
    )
    for n, view in zip(imaging.electrons(144.0), series.views, strict=True):
        assert view.var(dtype=np.float64) == pytest.approx(1 / n + (20 / n) ** 2, rel=0.03)  # measured 0.006


def test_the_dose_is_spent_whole_and_low_tilts_come_first() -> None:
    for scheme in ("constant", "inverse-cosine"):
        imaging = Imaging(dose_e_per_A2=100, tilt_step_deg=10, dose_scheme=scheme)
        before, own = imaging.exposures_e_per_A2
        assert own.sum() == pytest.approx(100)
        order = np.argsort(before)
        assert np.all(np.diff(np.abs(imaging.tilt_angles_deg[order])) >= 0)
        assert before[order][0] == pytest.approx(own[order][0] / 2)
        assert before.max() + own[np.argmax(before)] / 2 == pytest.approx(100)


def test_defocus_errors_move_the_zeros_of_each_view() -> None:
    rng = np.random.default_rng(0)
    potential = rng.normal(0, 1e-3, (1, 128, 128)).astype(np.float32)
    ideal = {"tilt_range_deg": 10, "tilt_step_deg": 10, "alignment_error_A": 0, "dose_e_per_A2": 1e4}
    series = [
        record_tilt_series(
            potential, Imaging(defocus_error_um=error, **ideal), voxel_size_A=4, rng=np.random.default_rng(3),
            dose_factor=1e9,
        ).views[1]
        for error in (0.0, 0.5)
    ]  # fmt: skip
    assert np.corrcoef(series[0].ravel(), series[1].ravel())[0, 1] < 0.9  # measured 0.2


def test_phase_flip_turns_every_band_the_same_way() -> None:
    imaging = Imaging(defocus_um=3, phase_flip=True, amplitude_contrast=0.07)
    plain = Imaging(defocus_um=3, amplitude_contrast=0.07)
    k = np.linspace(0.001, 1 / 12, 500)
    flipped, kept = (transfer(k, one, 6.0, 0.0) for one in (imaging, plain))
    assert np.all(flipped <= 0)  # protein dark
    assert np.any(kept > 0)
    np.testing.assert_allclose(np.abs(kept), np.abs(flipped))


def test_dose_factor_changes_the_counts_alone() -> None:
    potential = np.zeros((4, 128, 128), np.float32)
    imaging = Imaging(tilt_range_deg=20, tilt_step_deg=20)
    one, four = (
        record_tilt_series(potential, imaging, voxel_size_A=12, rng=np.random.default_rng(5), dose_factor=factor)
        for factor in (1, 4)
    )
    assert one.views.var() / four.views.var() == pytest.approx(4, rel=0.03)


def test_views_do_not_hang_on_each_other() -> None:
    """Every view has random numbers of its own: with more views, those in common stay as they were."""
    potential = np.random.default_rng(0).normal(0, 1, (8, 32, 32)).astype(np.float32)
    series = record_tilt_series(potential, Imaging(tilt_step_deg=20), voxel_size_A=12, rng=np.random.default_rng(1))
    again = record_tilt_series(potential, Imaging(tilt_step_deg=20), voxel_size_A=12, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(series.views, again.views)
    assert not np.array_equal(series.views[0], series.views[1])
