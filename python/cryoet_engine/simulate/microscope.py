# SPDX-License-Identifier: MIT
"""From a potential to a tilt series: projection, contrast transfer, dose, radiation damage, noise.

The missing wedge and the colour of the noise come from the tilt series itself; nothing is masked in the end.

Conventions. The beam runs along z, the tilt axis is y. At tilt angle t a voxel at (z, x), counted from the volume's
centre, falls on the detector at u = x cos t + z sin t (see `projection`). Fourier transforms are numpy's: forward
exp(-2 pi i k x), unscaled; spatial frequencies k are in 1/Å. By the central slice theorem that view holds the Fourier
components with kz = kx tan t, so a range of +-60 degrees leaves |kz| > |kx| tan 60 unknown: the missing wedge. Contrast
is that of underfocus: a higher potential is darker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

from .._checks import input_error
from .._progress import Progress, silent
from ..cuda import arrays
from ..projection import project
from ..volume import Float32Array
from ._ranges import check_fields, choice, switch, within

Float64Array = npt.NDArray[np.float64]

_MEAN_FREE_PATH_NM = 310.0  # of inelastic scattering in vitreous ice at 300 kV, energy filter in
_QUANTUM_EFFICIENCY = 0.6  # of a counting camera, averaged over the frequencies that survive binning
_VIEWS_AT_A_TIME = 16  # projected between two words of progress; the volume is packed anew each time


@dataclass(frozen=True, kw_only=True)
class Imaging:
    """How a specimen is recorded and reconstructed.

    voltage_kV, cs_mm, amplitude_contrast: of the microscope; Cs is the spherical aberration.
    defocus_um: underfocus, a positive number. defocus_error_um: standard deviation from view to view.
    b_factor_A2: envelope exp(-B k^2 / 4) for everything that blurs every view alike.
    dose_e_per_A2: of the whole series. dose_scheme: "constant" shares it equally among the views, "inverse-cosine"
    gives tilted views more, as 1 / cos t, to make up for the longer path through the ice.
    tilt_range_deg: half range; views run from -range to +range. tilt_step_deg: between neighbouring views.
    thickness_nm: of the ice; what it scatters inelastically is lost to the image, more so at high tilt.
    alignment_error_A: standard deviation of each view's residual shift, along each detector axis.
    readout_noise_e: standard deviation of what the detector adds to every pixel, in electrons.
    phase_flip: the sign of the contrast transfer function is corrected in every view.
    dose_weighting: views are weighted by what radiation damage left of each frequency (Grant and Grigorieff 2015).
    low_pass_per_vox: cycles a voxel at which the reconstruction's low-pass, a raised cosine, has come down to one half
    and beyond twice of which nothing is left. 0.25 ends at Nyquist, as a tomogram does that was binned with care.
    reconstruction: "wbp", weighted back-projection, or "sirt" with sirt_iterations.
    fast: no tilt series: transfer function, wedge and noise are multiplied onto the volume's spectrum. A shortcut
    for tests and large sets: no streaks of single views, no alignment errors, no stronger noise at high tilt.
    gain, offset: standard deviation and mean of the tomogram's grey values.
    dtype: of the stored tomogram: int8 and int16 are rounded and clipped, as microscopes' software does.
    """

    voltage_kV: float = within(300.0, 60, 1000)
    cs_mm: float = within(2.7, 0, 10)
    amplitude_contrast: float = within(0.07, 0, 1)
    defocus_um: float = within(4.0, 0, 50)
    defocus_error_um: float = within(0.05, 0, 5)
    b_factor_A2: float = within(600.0, 0, 1e5)
    dose_e_per_A2: float = within(120.0, 0.1, 1e4)
    dose_scheme: str = choice("constant", "constant", "inverse-cosine")
    tilt_range_deg: float = within(60.0, 1, 90)
    tilt_step_deg: float = within(2.0, 0.1, 45)
    thickness_nm: float = within(150.0, 1, 2000)
    alignment_error_A: float = within(4.0, 0, 100)
    readout_noise_e: float = within(0.0, 0, 1e4)
    phase_flip: bool = switch(False)
    dose_weighting: bool = switch(False)
    low_pass_per_vox: float = within(0.25, 0.05, 1)
    reconstruction: str = choice("wbp", "wbp", "sirt")
    sirt_iterations: int = within(15, 1, 1000, whole=True)
    fast: bool = switch(False)
    gain: float = within(26.0, 1e-12, 1e12)
    offset: float = within(0.0, -1e12, 1e12)
    dtype: str = choice("int8", "int8", "int16", "float32")

    def __post_init__(self) -> None:
        check_fields(self)
        where = type(self).__name__
        if self.tilt_step_deg > self.tilt_range_deg:
            expected = f"at most tilt_range_deg, {self.tilt_range_deg:g}"
            raise input_error(where, "tilt_step_deg", expected=expected, got=self.tilt_step_deg)
        if self.fast and self.reconstruction != "wbp":
            fix = "leave one of them out"
            raise input_error(where, "reconstruction", expected="wbp with fast", got=self.reconstruction, fix=fix)

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

    def ctf(self, k: Any, defocus_shift_um: float = 0.0) -> Float64Array:
        """Contrast transfer at spatial frequency k (1/Å), positive where a higher potential is darker.

        sin(pi lambda dz k^2 - pi/2 Cs lambda^3 k^4 + asin(amplitude contrast)), with no envelope.
        """
        k2 = np.square(np.asarray(k, dtype=np.float64))
        wavelength, defocus_um = self.wavelength_A, self.defocus_um + defocus_shift_um
        aberration = math.pi * wavelength * k2 * (1e4 * defocus_um - 0.5e7 * self.cs_mm * wavelength**2 * k2)
        return np.asarray(np.sin(aberration + math.asin(self.amplitude_contrast)))

    def envelope(self, k: Any, exposure_e_per_A2: float) -> Float64Array:
        """What is left of the amplitude at k (1/Å): the B factor, and radiation damage after an exposure.

        Damage: exp(-N / 2 Nc(k)), Nc(k) = 0.245 k^-1.665 + 2.81 electrons per Å^2 (Grant and Grigorieff 2015).
        """
        k = np.maximum(np.asarray(k, dtype=np.float64), 1e-6)
        critical = 0.245 * k**-1.665 + 2.81
        return np.asarray(np.exp(-self.b_factor_A2 * k**2 / 4 - exposure_e_per_A2 / (2 * critical)))

    @property
    def exposures_e_per_A2(self) -> tuple[Float64Array, Float64Array]:
        """Of each view: what the specimen had before it, on average while it was taken, and the view's own dose."""
        angles = self.tilt_angles_deg
        shares = np.ones(len(angles))
        if self.dose_scheme == "inverse-cosine":
            shares = 1 / np.maximum(np.cos(np.radians(angles)), 0.1)
        own = self.dose_e_per_A2 * shares / shares.sum()
        # Dose-symmetric acquisition: low tilts are taken first and suffer least.
        order = np.argsort(np.abs(angles), kind="stable")
        before = np.empty(len(angles))
        before[order] = np.cumsum(own[order]) - own[order] / 2
        return before, own

    def electrons(self, pixel_area_A2: float) -> Float64Array:
        """Detected electrons that carry the image, per pixel of each view."""
        path_nm = self.thickness_nm / np.maximum(np.cos(np.radians(self.tilt_angles_deg)), 0.02)
        return np.asarray(
            self.exposures_e_per_A2[1] * np.exp(-path_nm / _MEAN_FREE_PATH_NM) * pixel_area_A2 * _QUANTUM_EFFICIENCY
        )


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """`views` (view, y, u), float32: contrast relative to the mean intensity; u crosses the tilt axis."""

    views: Float32Array
    angles_deg: Float64Array
    voxel_size_A: float


def record_tilt_series(
    potential: Float32Array,
    imaging: Imaging,
    *,
    voxel_size_A: float,
    rng: np.random.Generator | None,
    dose_factor: float = 1.0,
    on_card: bool = False,
    progress: Progress = silent,
) -> TiltSeries:
    """Photograph a specimen from all tilt angles as a weak phase object.

    potential: (z, y, x), in volts above ice. rng: draws all that is random (noise, shifts, defocus); None records
    without. dose_factor: multiplies the electrons that are counted, and nothing else: how an asked signal-to-noise
    ratio is met at the damage of the recipe's dose. on_card: project there, which changes last bits.
    """
    nz, ny, nx = potential.shape
    angles = imaging.tilt_angles_deg
    width = fft.next_fast_len(math.ceil(math.hypot(nz, nx)) + 2, real=True)
    k, ky, ku = view_frequencies(ny, width, voxel_size_A)
    before, _ = imaging.exposures_e_per_A2
    expected = imaging.electrons(voxel_size_A**2) * dose_factor
    # Every view has a stream of its own: the order of work cannot change what is drawn.
    streams = [None] * len(angles) if rng is None else rng.spawn(len(angles))
    views = np.empty((len(angles), ny, width), np.float32)
    source = arrays.sent(potential, "record_tilt_series") if on_card else potential
    for first in range(0, len(angles), _VIEWS_AT_A_TIME):
        progress("tilt series", first, len(angles))
        group = slice(first, first + _VIEWS_AT_A_TIME)
        views[group] = arrays.fetched(project(source, angles[group], width=width))
        for i in range(len(angles))[group]:
            progress("tilt series", i, len(angles))
            stream = streams[i]
            blur = 0.0 if stream is None else imaging.defocus_error_um * stream.normal()
            spectrum = fft.rfft2(views[i]) * transfer(k, imaging, voxel_size_A, before[i], blur)
            if stream is not None:
                shift_y, shift_u = stream.normal(0, imaging.alignment_error_A, 2)
                spectrum *= np.exp(-2j * np.pi * (ku * shift_u + ky * shift_y)).astype(np.complex64)
            contrast = fft.irfft2(spectrum, s=(ny, width))
            if stream is not None:
                # Electrons are counted; a weak phase object beyond its range (gold) cannot give less than none.
                counts = stream.poisson(expected[i] * np.maximum(1 + contrast, 0)).astype(np.float32)
                if imaging.readout_noise_e:
                    noise = stream.standard_normal(contrast.shape, dtype=np.float32)
                    counts += np.float32(imaging.readout_noise_e) * noise
                contrast = counts / np.float32(expected[i]) - 1
            views[i] = contrast
    progress("tilt series", len(angles), len(angles))
    return TiltSeries(views, angles, voxel_size_A)


def view_frequencies(ny: int, width: int, voxel_size_A: float) -> tuple[Float64Array, Float64Array, Float64Array]:
    """|k|, ky (as a column) and ku (as a row) of a view's rfft2, in 1/Å."""
    ky, ku = fft.fftfreq(ny, voxel_size_A)[:, None], fft.rfftfreq(width, voxel_size_A)[None, :]
    return np.hypot(ky, ku), ky, ku


def transfer(
    k: Float64Array, imaging: Imaging, voxel_size_A: float, exposure_e_per_A2: float, defocus_shift_um: float = 0.0
) -> Float32Array:
    """From a projection (volts times voxels) to contrast, at spatial frequencies k (1/Å)."""
    ctf = imaging.ctf(k, defocus_shift_um)
    if imaging.phase_flip:
        # What the correction knows is the series' defocus, not the view's own.
        ctf *= np.sign(imaging.ctf(k))
    to_contrast = -2 * imaging.interaction_per_V_A * voxel_size_A
    return np.asarray(to_contrast * ctf * imaging.envelope(k, exposure_e_per_A2), dtype=np.float32)
