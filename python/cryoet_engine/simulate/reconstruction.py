# SPDX-License-Identifier: MIT
"""From a tilt series back to a volume: weighted back-projection and SIRT; and the shortcut that has no tilt series.

Geometry and Fourier conventions are those of `microscope`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from scipy import fft

from .._progress import Progress, silent
from ..cuda import arrays
from ..projection import back_project, project
from ..volume import Float32Array, Region
from .microscope import Imaging, TiltSeries, transfer, view_frequencies

_SLAB = 32  # planes back-projected between two words of progress; the views are packed anew each time
_WINDOW_VOX = 1.5  # half width of the soft edge of the fast wedge, in Fourier voxels across kz


def reconstruct(
    series: TiltSeries,
    shape: tuple[int, int, int],
    box: Region,
    imaging: Imaging,
    *,
    on_card: bool = False,
    progress: Progress = silent,
) -> Float32Array:
    """The region `box` of a specimen of `shape`, (z, y, x), float32, by the method that `imaging` names.

    Both take the views through the same raised cosine, which by default ends at Nyquist as binning does. Grey values
    are contrast per voxel: in the measured part of Fourier space a projection of the result gives the views back.
    on_card: project and back-project there, which changes last bits.
    """
    views = _conditioned(series, imaging)
    rows = TiltSeries(views[:, box[1]], series.angles_deg, series.voxel_size_A)
    if imaging.reconstruction == "sirt":
        inner = (shape[0], views[:, box[1]].shape[1], shape[2])
        whole = sirt(rows, inner, iterations=imaging.sirt_iterations, on_card=on_card, progress=progress)
        return np.ascontiguousarray(whole[box[0], :, box[2]])
    return weighted_back_projection(rows, shape, box, on_card=on_card, progress=progress)


def _conditioned(series: TiltSeries, imaging: Imaging) -> Float32Array:
    """Views after the low-pass, and weighted by what the dose left where that is asked for."""
    n_views, ny, width = series.views.shape
    k, _, _ = view_frequencies(ny, width, series.voxel_size_A)
    low_pass = low_pass_filter(k * series.voxel_size_A, imaging.low_pass_per_vox)
    out = np.empty_like(series.views)
    before, _ = imaging.exposures_e_per_A2
    for i in range(n_views):
        weight = low_pass * _dose_weight(k, imaging, before, i) if imaging.dose_weighting else low_pass
        out[i] = fft.irfft2(fft.rfft2(series.views[i]) * weight.astype(np.float32), s=(ny, width))
    return out


def low_pass_filter(k: npt.NDArray[np.float64], half: float) -> npt.NDArray[np.float64]:
    """A raised cosine, one half at `half`, zero from twice of that on; k in cycles a voxel."""
    return np.asarray(np.cos(np.pi / 4 * np.minimum(k / half, 2)) ** 2)


def _dose_weight(
    k: npt.NDArray[np.float64], imaging: Imaging, before: npt.NDArray[np.float64], view: int
) -> npt.NDArray[np.float64]:
    """What is left of one view's amplitude, as a share of the series' mean at that frequency."""
    undamaged = imaging.envelope(k, 0.0)
    left = [imaging.envelope(k, float(exposure)) / undamaged for exposure in before]
    return np.asarray(left[view] / np.mean(left, axis=0))


def weighted_back_projection(
    series: TiltSeries,
    shape: tuple[int, int, int],
    box: Region,
    *,
    on_card: bool = False,
    progress: Progress = silent,
) -> Float32Array:
    """Weighted back-projection; the series holds the rows `box[1]` alone.

    The ramp |ku| times the step between views makes up for views lying closer together at low frequency: where there
    are views, a structure comes back with the contrast that it had.
    """
    n_views, ny, width = series.views.shape
    padded = fft.next_fast_len(2 * width, real=True)  # no wrap-around of the ramp's long tails
    ramp = (fft.rfftfreq(padded) * _step_rad(series.angles_deg)).astype(np.float32)
    views = np.empty_like(series.views)
    for i in range(n_views):
        progress("ramp filter", i, n_views)
        views[i] = fft.irfft(fft.rfft(series.views[i], padded, axis=1) * ramp, padded, axis=1)[:, :width]
    progress("ramp filter", n_views, n_views)
    source = arrays.sent(views, "back_project") if on_card else views
    z, _, x = box
    specimen = (shape[0], ny, shape[2])
    depth = z.stop - z.start
    out = np.empty((depth, ny, x.stop - x.start), np.float32)
    for first in range(0, depth, _SLAB):
        progress("back-projection", first, depth)
        part = slice(z.start + first, min(z.start + first + _SLAB, z.stop))
        region = (part, slice(0, ny), x)
        out[first : first + _SLAB] = arrays.fetched(back_project(source, series.angles_deg, specimen, box=region))
    progress("back-projection", depth, depth)
    return out


def _step_rad(angles_deg: npt.NDArray[np.float64]) -> float:
    """Between neighbouring views; a single view stands for half a turn."""
    if len(angles_deg) < 2:
        return math.pi
    return math.radians(float(angles_deg[1] - angles_deg[0]))


def sirt(
    series: TiltSeries,
    shape: tuple[int, int, int],
    *,
    iterations: int,
    on_card: bool = False,
    progress: Progress = silent,
) -> Float32Array:
    """Simultaneous iterative reconstruction (Gilbert 1972): x += C B R (b - A x), from zero.

    A projects, B back-projects; R and C divide by the length of a ray within the specimen and by the number of views
    that see a voxel (Gregor and Benson 2008). B is not A's exact transpose (see `projection`): the iteration goes on
    for the few rounds that are of use, and is not meant to converge to the last digit.
    """

    def there(array: Float32Array) -> Any:
        return arrays.sent(array, "sirt") if on_card else array

    angles = series.angles_deg
    _, ny, width = series.views.shape
    one_row = np.ones((shape[0], 1, shape[2]), np.float32)  # the same in every row
    ray = project(one_row, angles, width=width)
    per_ray = np.where(ray > 0.5, 1 / np.maximum(ray, 0.5), 0).astype(np.float32)
    seen = back_project(np.ones((len(angles), 1, width), np.float32), angles, one_row.shape)
    per_voxel = np.float32(1) / np.maximum(seen, 1)
    x = np.zeros((shape[0], ny, shape[2]), np.float32)
    for i in range(iterations):
        progress("SIRT", i, iterations)
        residual = (series.views - arrays.fetched(project(there(x), angles, width=width))) if i else series.views.copy()
        residual *= per_ray
        x += arrays.fetched(back_project(there(residual), angles, x.shape)) * per_voxel
    progress("SIRT", iterations, iterations)
    return x


def record_directly(
    potential: Float32Array,
    box: Region,
    imaging: Imaging,
    *,
    voxel_size_A: float,
    rng: Generator | None,
    dose_factor: float = 1.0,
    progress: Progress = silent,
) -> Float32Array:
    """The shortcut: what recording and weighted back-projection do on average, multiplied onto the spectrum.

    Signal: mean transfer function of all views, inside the measured double wedge. Noise: white counts of the same
    number of electrons; back-projection of views a step apart with the ramp gives it the power step * |k_zx|. Both
    lose what linear interpolation takes: sinc^2, in back-projection across the views, in projection along x or z.
    """
    progress("fast imaging", 0, 1)
    padded = [fft.next_fast_len(n, real=axis == 2) for axis, n in enumerate(potential.shape)]
    kz, ky = (fft.fftfreq(n, voxel_size_A) for n in padded[:2])
    kx = fft.rfftfreq(padded[2], voxel_size_A)
    k2 = kz[:, None, None] ** 2 + ky[:, None] ** 2 + kx**2
    k = np.sqrt(k2)
    # The transfer function depends on |k| alone: worked out once, then looked up.
    radii = np.linspace(0, float(k.max()), 4096)
    before, _ = imaging.exposures_e_per_A2
    mean = np.mean([transfer(radii, imaging, voxel_size_A, float(exposure)) for exposure in before], axis=0)
    limit = math.tan(math.radians(imaging.tilt_range_deg)) if imaging.tilt_range_deg < 90 else math.inf
    soft = _WINDOW_VOX / (padded[0] * voxel_size_A)
    beyond = (np.abs(kz)[:, None] - kx * limit) / soft if math.isfinite(limit) else np.full((len(kz), len(kx)), -1.0)
    weight = np.clip(0.5 - 0.5 * beyond, 0, 1).astype(np.float32)[:, None, :]
    across = np.hypot(kz[:, None], kx)[:, None, :] * voxel_size_A
    steepest = np.maximum(np.abs(kz[:, None]), kx)[:, None, :] * voxel_size_A
    low_pass = low_pass_filter(k * voxel_size_A, imaging.low_pass_per_vox) * np.sinc(across) ** 2
    weight = weight * low_pass.astype(np.float32)
    spectrum = fft.rfftn(potential, padded, workers=-1)
    spectrum *= (np.interp(k, radii, mean) * np.sinc(steepest) ** 2).astype(np.float32) * weight
    if rng is not None:
        expected = imaging.electrons(voxel_size_A**2) * dose_factor
        variance = np.mean(1 / expected + (imaging.readout_noise_e / expected) ** 2)
        power = np.sqrt(variance * _step_rad(imaging.tilt_angles_deg) * across).astype(np.float32)
        noise = fft.rfftn(rng.standard_normal(padded, dtype=np.float32), workers=-1)
        spectrum += noise * power * weight
    whole = fft.irfftn(spectrum, padded, workers=-1)
    progress("fast imaging", 1, 1)
    return np.ascontiguousarray(whole[box], dtype=np.float32)
