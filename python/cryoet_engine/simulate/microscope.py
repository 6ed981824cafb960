# SPDX-License-Identifier: MIT
"""From a potential to a tomogram: tilt series, contrast transfer, dose, noise, weighted back-projection.

The missing wedge and the colour of the noise come from the tilt series itself; nothing is masked in the end.

Conventions. The beam runs along z, the tilt axis is y. At tilt angle t a voxel at (z, x), counted from the volume's
centre, falls on the detector at u = x cos t + z sin t. By the central slice theorem that view holds the Fourier
components with kz = kx tan t, so a range of +-60 degrees leaves |kz| > |kx| tan 60 unknown: the missing wedge.
Spatial frequencies are in 1/Å. Contrast is that of underfocus: a higher potential is darker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, sparse

from .._checks import input_error
from .._progress import Progress, silent
from ..volume import Float32Array, Region
from ._ranges import number

Float64Array = npt.NDArray[np.float64]

_MEAN_FREE_PATH_NM = 310.0  # of inelastic scattering in vitreous ice at 300 kV, energy filter in
_QUANTUM_EFFICIENCY = 0.6  # of a counting camera, averaged over the frequencies that survive binning


@dataclass(frozen=True, kw_only=True)
class Imaging:
    """How a specimen is recorded and reconstructed.

    voltage_kV, cs_mm, amplitude_contrast: of the microscope; Cs is the spherical aberration.
    defocus_um: underfocus, a positive number.
    b_factor_A2: envelope exp(-B k^2 / 4) for everything that blurs every view alike.
    dose_e_per_A2: of the whole series, shared equally by its views.
    tilt_range_deg: half range; views run from -range to +range.
    tilt_step_deg: between neighbouring views.
    thickness_nm: of the ice; what it scatters inelastically is lost to the image, more so at high tilt.
    alignment_error_A: standard deviation of each view's residual shift, along each detector axis.
    gain, offset: standard deviation and mean of the tomogram's grey values.
    dtype: of the stored tomogram: int8 and int16 are rounded and clipped, as microscopes' software does.
    """

    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    defocus_um: float = 4.0
    b_factor_A2: float = 600.0
    dose_e_per_A2: float = 120.0
    tilt_range_deg: float = 60.0
    tilt_step_deg: float = 3.0
    thickness_nm: float = 150.0
    alignment_error_A: float = 4.0
    gain: float = 26.0
    offset: float = 0.0
    dtype: str = "int8"

    def __post_init__(self) -> None:
        where = type(self).__name__
        limits = {
            "voltage_kV": (60.0, 1000.0),
            "cs_mm": (0.0, 10.0),
            "amplitude_contrast": (0.0, 1.0),
            "defocus_um": (0.0, 50.0),
            "b_factor_A2": (0.0, 1e5),
            "dose_e_per_A2": (0.1, 1e4),
            "tilt_range_deg": (1.0, 90.0),
            "tilt_step_deg": (0.1, 45.0),
            "thickness_nm": (1.0, 2000.0),
            "alignment_error_A": (0.0, 100.0),
            "gain": (1e-12, 1e12),
            "offset": (-1e12, 1e12),
        }
        for name, (low, high) in limits.items():
            object.__setattr__(self, name, number(where, name, getattr(self, name), low, high))
        if self.tilt_step_deg > self.tilt_range_deg:
            expected = f"at most tilt_range_deg, {self.tilt_range_deg:g}"
            raise input_error(where, "tilt_step_deg", expected=expected, got=self.tilt_step_deg)
        if self.dtype not in ("int8", "int16", "float32"):
            raise input_error(where, "dtype", expected="int8, int16 or float32", got=repr(self.dtype))

    @property
    def tilt_angles_deg(self) -> Float64Array:
        """From -range upwards in equal steps, symmetric about zero, never beyond the range."""
        n = math.floor(self.tilt_range_deg / self.tilt_step_deg + 1e-9)
        # A range of 90 degrees would otherwise hold the same view twice, from both sides.
        last = n - 1 if n * self.tilt_step_deg > 90 - 1e-9 else n
        return np.arange(-n, last + 1, dtype=np.float64) * self.tilt_step_deg

    @property
    def wavelength_A(self) -> float:
        """Relativistic wavelength of the electron."""
        volts = 1e3 * self.voltage_kV
        return 12.2643 / math.sqrt(volts * (1 + 0.978466e-6 * volts))

    @property
    def interaction_per_V_A(self) -> float:
        """Phase shift in radians that one volt of potential makes over one Å (relativistic)."""
        rest_V, volts = 510998.95, 1e3 * self.voltage_kV
        return 2 * math.pi / (self.wavelength_A * volts) * (rest_V + volts) / (2 * rest_V + volts)

    def ctf(self, k: Any) -> Float64Array:
        """Contrast transfer at spatial frequency k (1/Å), positive where a higher potential is darker.

        sin(pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 + asin(amplitude contrast)), with no envelope.
        """
        k2 = np.square(np.asarray(k, dtype=np.float64))
        wavelength = self.wavelength_A
        aberration = math.pi * wavelength * k2 * (1e4 * self.defocus_um - 0.5e7 * self.cs_mm * wavelength**2 * k2)
        return np.asarray(np.sin(aberration + math.asin(self.amplitude_contrast)))

    def envelope(self, k: Any, exposure_e_per_A2: float) -> Float64Array:
        """What is left of the amplitude at k (1/Å): the B factor, and radiation damage after an exposure.

        Damage: exp(-N / 2 Nc(k)), Nc(k) = 0.245 k^-1.665 + 2.81 electrons per Å^2 (Grant and Grigorieff 2015).
        """
        k = np.maximum(np.asarray(k, dtype=np.float64), 1e-6)
        critical = 0.245 * k**-1.665 + 2.81
        return np.asarray(np.exp(-self.b_factor_A2 * k**2 / 4 - exposure_e_per_A2 / (2 * critical)))

    def electrons(self, angle_deg: float, pixel_area_A2: float) -> float:
        """Detected electrons that carry the image of one view, per pixel."""
        path_nm = self.thickness_nm / max(math.cos(math.radians(angle_deg)), 0.02)
        per_A2 = self.dose_e_per_A2 / len(self.tilt_angles_deg) * math.exp(-path_nm / _MEAN_FREE_PATH_NM)
        return per_A2 * pixel_area_A2 * _QUANTUM_EFFICIENCY


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """`views` (view, u, y), float32: contrast relative to the mean intensity; u crosses the tilt axis."""

    views: Float32Array
    angles_deg: Float64Array
    voxel_size_A: float


def record_tilt_series(
    potential: Float32Array,
    imaging: Imaging,
    *,
    voxel_size_A: float,
    rng: np.random.Generator | None,
    progress: Progress = silent,
) -> TiltSeries:
    """Photograph a specimen from all tilt angles as a weak phase object.

    potential: (z, y, x), in volts above ice. rng: draws shot noise and alignment errors; None records without
    either (and without the loss of electrons, which shows in the noise alone).
    """
    nz, ny, nx = potential.shape
    angles = imaging.tilt_angles_deg
    width = _detector_width(nz, nx)
    ku, ky = np.meshgrid(fft.fftfreq(width, voxel_size_A), fft.rfftfreq(ny, voxel_size_A), indexing="ij")
    k = np.hypot(ku, ky)
    ctf = imaging.ctf(k)
    to_contrast = -2 * imaging.interaction_per_V_A * voxel_size_A
    # Dose-symmetric acquisition: low tilts are taken first and suffer least.
    exposure = np.empty(len(angles))
    exposure[np.argsort(np.abs(angles), kind="stable")] = np.arange(len(angles)) + 0.5
    exposure *= imaging.dose_e_per_A2 / len(angles)

    columns = np.ascontiguousarray(potential.transpose(0, 2, 1)).reshape(nz * nx, ny)
    views = np.empty((len(angles), width, ny), np.float32)
    for i, angle in enumerate(angles):
        progress("tilt series", i, len(angles))
        projected = _projection((nz, nx), width, angle, slice(0, nx)) @ columns
        spectrum = fft.rfft2(projected) * (to_contrast * ctf * imaging.envelope(k, exposure[i]))
        if rng is not None:
            shift_u, shift_y = rng.normal(0, imaging.alignment_error_A, 2)
            spectrum *= np.exp(-2j * np.pi * (ku * shift_u + ky * shift_y))
        contrast = fft.irfft2(spectrum, s=(width, ny))
        if rng is not None:
            # Electrons are counted; a weak phase object beyond its range (gold) cannot give less than none.
            expected = imaging.electrons(angle, voxel_size_A**2)
            contrast = rng.poisson(expected * np.maximum(1 + contrast, 0)) / expected - 1
        views[i] = contrast
    progress("tilt series", len(angles), len(angles))
    return TiltSeries(views, angles, voxel_size_A)


def reconstruct(
    series: TiltSeries, shape: tuple[int, int, int], box: Region, *, progress: Progress = silent
) -> Float32Array:
    """Weighted back-projection of the region `box` of a specimen of `shape`, (z, y, x), float32.

    The ramp |ku| makes up for views lying closer together at low frequency; a raised cosine takes both detector
    axes to zero at Nyquist, as binning does, so that the noise looks alike along x and y.
    """
    nz, ny, nx = shape
    n_views, width, _ = series.views.shape
    padded = fft.next_fast_len(2 * width, real=True)  # no wrap-around of the ramp's long tails
    ku = fft.rfftfreq(padded)[:, None]
    ky = fft.fftfreq(ny)[None, :]
    weight = ku * np.cos(np.pi * np.minimum(np.hypot(ku, ky), 0.5)) ** 2
    weight *= math.pi / n_views / series.voxel_size_A
    z, y, x = box
    grid = (z.stop - z.start, x.stop - x.start, y.stop - y.start)
    out = np.zeros((grid[0] * grid[1], grid[2]), np.float32)
    for i, angle in enumerate(series.angles_deg):
        progress("back-projection", i, n_views)
        spectrum = fft.fft(fft.rfft(series.views[i], padded, axis=0), axis=1) * weight
        filtered = fft.irfft(fft.ifft(spectrum, axis=1), padded, axis=0)[:width, y]
        out += _projection((nz, nx), width, angle, x, z).T @ np.ascontiguousarray(filtered, dtype=np.float32)
    progress("back-projection", n_views, n_views)
    return np.ascontiguousarray(out.reshape(grid).transpose(0, 2, 1))


def _detector_width(nz: int, nx: int) -> int:
    """Pixels across the tilt axis that hold every voxel at every angle."""
    return fft.next_fast_len(math.ceil(math.hypot(nz, nx)) + 2, real=True)


def _projection(shape_zx: tuple[int, int], width: int, angle_deg: float, x: slice, z: slice | None = None) -> Any:
    """Sparse matrix (u, z * x) that projects the voxels of a region of one (z, x) plane at one angle.

    Every voxel gives its value to the two nearest detector pixels; the transpose interpolates linearly.
    """
    nz, nx = shape_zx
    zs = np.arange(nz)[z or slice(0, nz)] - (nz - 1) / 2
    xs = np.arange(nx)[x] - (nx - 1) / 2
    tilt = math.radians(angle_deg)
    u = np.add.outer(zs * math.sin(tilt), xs * math.cos(tilt)).ravel() + (width - 1) / 2
    first = np.floor(u).astype(np.int32)
    share = (u - first).astype(np.float32)
    pixels = np.stack([first, first + 1], axis=1).ravel()
    shares = np.stack([1 - share, share], axis=1).ravel()
    return sparse.csc_matrix((shares, pixels, 2 * np.arange(u.size + 1)), shape=(width, u.size))
