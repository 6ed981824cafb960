# SPDX-License-Identifier: MIT
"""The forward model against geometry, optics and counting statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine.simulate.microscope import Imaging, TiltSeries, reconstruct, record_tilt_series

# Optics that hand the potential on as it is: no phase contrast oscillation, no blur, hardly any damage.
PLAIN = {"defocus_um": 0.0, "cs_mm": 0.0, "amplitude_contrast": 1.0, "b_factor_A2": 0.0, "dose_e_per_A2": 0.1}


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
    k = np.hypot(np.fft.fftfreq(view.shape[0], voxel)[:, None], np.fft.fftfreq(256, voxel)[None])
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


def test_protein_is_dark() -> None:
    potential = np.zeros((16, 32, 32), np.float32)
    potential[6:10, 12:20, 12:20] = 2
    imaging = Imaging(defocus_um=4.0)
    series = record_tilt_series(potential, imaging, voxel_size_A=12, rng=None)
    tomogram = reconstruct(series, potential.shape, (slice(0, 16), slice(0, 32), slice(0, 32)))
    assert tomogram[6:10, 13:19, 13:19].mean() < tomogram.mean() - tomogram.std()


@pytest.mark.parametrize("angle", [-60, -21, 0, 45])
def test_a_point_falls_where_geometry_says(angle: float) -> None:
    potential = np.zeros((17, 8, 33), np.float32)
    z, y, x = 13, 5, 8
    potential[z, y, x] = 1
    imaging = Imaging(**PLAIN, tilt_range_deg=60, tilt_step_deg=3)  # type: ignore[arg-type]
    series = record_tilt_series(potential, imaging, voxel_size_A=10, rng=None)
    view = series.views[list(series.angles_deg).index(angle)]
    u, v = ndimage.center_of_mass(np.where(np.abs(view) > 1e-3 * np.abs(view).max(), view, 0))
    t = math.radians(angle)
    expected = (x - 16) * math.cos(t) + (z - 8) * math.sin(t) + (view.shape[0] - 1) / 2
    # Radiation damage still blurs symmetrically; measured 0.0002
    assert u == pytest.approx(expected, abs=0.02)
    assert v == pytest.approx(y, abs=0.02)


def test_back_projection_puts_a_point_back() -> None:
    potential = np.zeros((24, 16, 40), np.float32)
    potential[15, 6, 29] = 1
    imaging = Imaging(**PLAIN, tilt_range_deg=60, tilt_step_deg=3)  # type: ignore[arg-type]
    series = record_tilt_series(potential, imaging, voxel_size_A=10, rng=None)
    whole = reconstruct(series, potential.shape, (slice(0, 24), slice(0, 16), slice(0, 40)))
    assert np.unravel_index(np.argmin(whole), whole.shape) == (15, 6, 29)
    part = reconstruct(series, potential.shape, (slice(8, 20), slice(2, 12), slice(20, 40)))
    np.testing.assert_array_equal(part, whole[8:20, 2:12, 20:40])


def test_shot_noise_is_that_of_the_electrons() -> None:
    imaging = Imaging(tilt_range_deg=60, tilt_step_deg=20)
    series = record_tilt_series(
        np.zeros((8, 192, 192), np.float32), imaging, voxel_size_A=12, rng=np.random.default_rng(1)
    )
    for angle, view in zip(series.angles_deg, series.views, strict=True):
        n = imaging.electrons(angle, 144.0)
        # Standard error of a variance from 37 000 pixels: 0.7 %; measured 0.9 % at most.
        assert view.var(dtype=np.float64) * n == pytest.approx(1, abs=0.03)
    assert imaging.electrons(60, 144) < 0.7 * imaging.electrons(0, 144)  # more ice to cross


def test_noise_fills_the_measured_region_and_leaves_the_wedge_empty() -> None:
    rng = np.random.default_rng(2)
    angles = np.arange(-60.0, 61.0, 2.0)
    n = 64
    width = record_tilt_series(np.zeros((n, 8, n), np.float32), Imaging(), voxel_size_A=12, rng=None).views.shape[1]
    series = TiltSeries(rng.normal(size=(len(angles), width, n)).astype(np.float32), angles, 12.0)
    tomogram = reconstruct(series, (n, n, n), (slice(0, n), slice(0, n), slice(0, n)))
    power = _windowed_power(tomogram)
    kz, _, kx, radius = _frequencies(tomogram.shape)
    ring = (radius > 0.1) & (radius < 0.35)
    tilt = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))
    steady = np.hypot(kz, kx) > 0.1  # near ky the wedge narrows to less than the window's width
    measured = power[ring & steady & (tilt < 55)].mean()
    assert power[ring & steady & (tilt > 68)].mean() < 0.01 * measured  # measured 0.001
    for low in range(0, 55, 11):
        assert power[ring & steady & (tilt >= low) & (tilt < low + 11)].mean() > 0.8 * measured  # measured 0.95


def _windowed_power(volume: np.ndarray) -> np.ndarray:
    window = volume - volume.mean()
    for axis, length in enumerate(volume.shape):
        shape = [1, 1, 1]
        shape[axis] = length
        window = window * np.hanning(length).reshape(shape)
    return np.asarray(np.abs(np.fft.fftn(window)) ** 2)


def _frequencies(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    kz, ky, kx = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    return kz, ky, kx, np.sqrt(kz**2 + ky**2 + kx**2)
