# SPDX-License-Identifier: MIT
"""Back-projection and SIRT against the specimen, missing wedge against theory, shortcut against the long way."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cryoet_engine.projection import project
from cryoet_engine.simulate.microscope import Imaging, TiltSeries, record_tilt_series
from cryoet_engine.simulate.reconstruction import (
    _conditioned,
    low_pass_filter,
    reconstruct,
    record_directly,
    sirt,
    weighted_back_projection,
)
from cryoet_engine.volume import Region

# Optics that hand the potential on as it is: no phase contrast oscillation, no blur, hardly any damage.
PLAIN = Imaging(
    defocus_um=0, defocus_error_um=0, cs_mm=0, amplitude_contrast=1, b_factor_A2=0, dose_e_per_A2=0.1,
    alignment_error_A=0, tilt_step_deg=3,
)  # fmt: skip
ANGLES = np.arange(-60.0, 61.0, 2.0)


def whole(shape: tuple[int, int, int]) -> Region:
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], sigma: float) -> npt.NDArray[np.float32]:
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return np.exp(-0.5 * np.sum(grid**2, axis=0) / sigma**2).astype(np.float32)


@pytest.mark.parametrize("method", ["wbp", "sirt"])
def test_a_point_comes_back_where_it_was(method: str) -> None:
    imaging = dataclasses.replace(PLAIN, reconstruction=method)
    potential = np.zeros((24, 16, 40), np.float32)
    potential[15, 6, 29] = 1
    series = record_tilt_series(potential, imaging, voxel_size_A=10, rng=None)
    full = reconstruct(series, potential.shape, whole(potential.shape), imaging)
    assert np.unravel_index(np.argmin(full), full.shape) == (15, 6, 29)  # potential is dark
    part = reconstruct(series, potential.shape, (slice(8, 20), slice(2, 12), slice(20, 40)), imaging)
    np.testing.assert_array_equal(part, full[8:20, 2:12, 20:40])


def test_all_round_a_structure_comes_back_with_its_contrast() -> None:
    """With views from every side back-projection is exact: the scale is that of the specimen."""
    shape = (48, 12, 48)
    specimen = blob(shape, (23, 6, 25), 4)
    angles = np.arange(-90.0, 90.0, 2.0)
    views = project(specimen, angles)
    found = weighted_back_projection(TiltSeries(views, angles, 10.0), shape, whole(shape))
    inner = blob(shape, (23, 6, 25), 4) > 0.05
    assert np.abs(found - specimen)[inner].max() < 0.03  # measured 0.02: linear interpolation


def test_sirt_brings_the_views_back() -> None:
    shape = (32, 8, 48)
    specimen = blob(shape, (15, 4, 20), 3) + blob(shape, (18, 3, 33), 2)
    views = project(specimen, ANGLES)
    series = TiltSeries(views, ANGLES, 10.0)
    errors = [
        float(np.linalg.norm(project(sirt(series, shape, iterations=n), ANGLES, width=views.shape[2]) - views))
        / float(np.linalg.norm(views))
        for n in (1, 5, 20)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1  # measured 0.08: SIRT goes slowly


def test_noise_fills_the_measured_region_and_leaves_the_wedge_empty() -> None:
    rng = np.random.default_rng(2)
    n = 64
    width = 96
    series = TiltSeries(rng.normal(size=(len(ANGLES), n, width)).astype(np.float32), ANGLES, 12.0)
    tomogram = reconstruct(series, (n, n, n), whole((n, n, n)), Imaging())
    power = windowed_power(tomogram)
    kz, _, kx, radius = frequencies(tomogram.shape)
    ring = (radius > 0.1) & (radius < 0.35)
    tilt = np.degrees(np.arctan2(np.abs(kz), np.abs(kx)))
    steady = np.hypot(kz, kx) > 0.1  # near ky the wedge narrows to less than the window's width
    measured = power[ring & steady & (tilt < 55)].mean()
    assert power[ring & steady & (tilt > 68)].mean() < 0.01 * measured  # measured 0.001
    for low in range(0, 55, 11):
        assert power[ring & steady & (tilt >= low) & (tilt < low + 11)].mean() > 0.8 * measured  # measured 0.95


@pytest.mark.parametrize("phase_flip", [False, True])
def test_the_shortcut_equals_the_long_way_on_average(phase_flip: bool) -> None:
    """Signal voxel by voxel, noise by its spectrum, where there are views."""
    imaging = Imaging(tilt_step_deg=2, alignment_error_A=0, defocus_error_um=0, phase_flip=phase_flip, defocus_um=3)
    shape = (48, 48, 48)
    specimen = blob(shape, (22, 25, 24), 2.5) + blob(shape, (27, 20, 30), 1.5)
    series = record_tilt_series(specimen, imaging, voxel_size_A=12, rng=None)
    long_way = reconstruct(series, shape, whole(shape), imaging)
    shortcut = record_directly(specimen, whole(shape), imaging, voxel_size_A=12, rng=None)
    assert np.corrcoef(long_way.ravel(), shortcut.ravel())[0, 1] > 0.99  # measured 0.996
    assert shortcut.std() / long_way.std() == pytest.approx(1, abs=0.05)  # measured 0.961
    ice = np.zeros((64, 64, 64), np.float32)
    rng = np.random.default_rng(4)
    series = record_tilt_series(ice, imaging, voxel_size_A=12, rng=rng)
    noise = reconstruct(series, ice.shape, whole(ice.shape), imaging)
    quick = record_directly(ice, whole(ice.shape), imaging, voxel_size_A=12, rng=rng)
    assert quick.std() / noise.std() == pytest.approx(1, abs=0.05)  # measured 0.969
    kz, _, kx, radius = frequencies(ice.shape)
    powers = [windowed_power(one) for one in (noise, quick)]
    tilt, across = np.degrees(np.arctan2(np.abs(kz), np.abs(kx))), np.hypot(kz, kx)
    for low in (0.08, 0.16, 0.24):
        band = (across >= low) & (across < low + 0.08) & (tilt < 52) & (radius < 0.4)
        assert powers[1][band].mean() / powers[0][band].mean() == pytest.approx(1, abs=0.1)  # measured 0.995 to 1.06
    wedge = (across > 0.1) & (tilt > 70)
    assert powers[1][wedge].mean() < 1e-3 * powers[1][(across > 0.1) & (tilt < 50)].mean()  # 8e-5


def test_dose_weighting_favours_the_early_views_at_high_frequency() -> None:
    imaging = Imaging(dose_weighting=True, tilt_step_deg=20, dose_e_per_A2=200)
    rng = np.random.default_rng(0)
    angles = imaging.tilt_angles_deg
    series = TiltSeries(rng.normal(size=(len(angles), 64, 64)).astype(np.float32), angles, 6.0)
    weighted = _conditioned(series, imaging)
    plain = _conditioned(series, dataclasses.replace(imaging, dose_weighting=False))
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    ratios = [
        np.abs(np.fft.fft2(a))[(k > 0.3) & (k < 0.4)].mean() / np.abs(np.fft.fft2(b))[(k > 0.3) & (k < 0.4)].mean()
        for a, b in zip(weighted, plain, strict=True)
    ]
    assert ratios[3] == max(ratios)  # the untilted view came first
    assert ratios[0] < 0.6 * ratios[3]
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)


def test_low_pass() -> None:
    assert low_pass_filter(np.array([0.0, 0.25, 0.5, 0.7]), 0.25) == pytest.approx([1, 0.5, 0, 0])
    assert low_pass_filter(np.array([0.1, 0.2]), 0.1) == pytest.approx([0.5, 0])


def test_a_tomogram_keeps_its_scale_whatever_the_number_of_views() -> None:
    potential = blob((40, 24, 40), (20, 12, 20), 2)
    stds = []
    for step in (2.0, 4.0):
        imaging = dataclasses.replace(PLAIN, tilt_step_deg=step)
        series = record_tilt_series(potential, imaging, voxel_size_A=10, rng=None)
        stds.append(reconstruct(series, potential.shape, whole(potential.shape), imaging)[12:28, :, 12:28].std())
    assert stds[0] / stds[1] == pytest.approx(1, abs=0.05)


def test_protein_is_dark() -> None:
    potential = ndimage.gaussian_filter(np.pad(np.full((4, 8, 8), 2, np.float32), ((6, 6), (12, 12), (12, 12))), 1)
    imaging = Imaging(defocus_um=4.0)
    series = record_tilt_series(potential, imaging, voxel_size_A=12, rng=None)
    tomogram = reconstruct(series, potential.shape, whole(potential.shape), imaging)
    assert tomogram[6:10, 13:19, 13:19].mean() < tomogram.mean() - tomogram.std()


def windowed_power(volume: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    window = volume - volume.mean()
    for axis, length in enumerate(volume.shape):
        shape = [1, 1, 1]
        shape[axis] = length
        window = window * np.hanning(length).reshape(shape)
    return np.asarray(np.abs(np.fft.fftn(window)) ** 2)


def frequencies(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    kz, ky, kx = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    return kz, ky, kx, np.sqrt(kz**2 + ky**2 + kx**2)
