# SPDX-License-Identifier: MIT
"""Remake the figures of docs/simulation.md: slices beside real ones, the missing wedge, the zeros of the CTF.

    python docs/make_simulation_pictures.py [FIGURE ...]        # real, physics; needs matplotlib

Real data: the folder `CRYOET_TEST_DATA`, by default ../shared/data beside the checkout; `real` is left out without it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

import cryoet_engine as ce
from cryoet_engine.simulate import Imaging, simulate
from cryoet_engine.simulate.microscope import record_tilt_series
from cryoet_engine.simulate.reconstruction import reconstruct
from cryoet_engine.simulate.storage import read_plan

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PICTURES, RECIPES = ROOT / "docs" / "pictures", ROOT / "docs" / "recipes"
DATA = Path(os.environ.get("CRYOET_TEST_DATA", ROOT.parent / "shared" / "data"))
Slice = npt.NDArray[np.float64]
REAL, SIMULATED = "#222222", "#d1495b"


def virion_slice() -> Slice:
    """SARS-CoV-2, without the support film and the cells' remains around it."""
    return np.asarray(ce.read(DATA / "virion-slice" / "TS_001.133.tif").numpy()[0, 300:700, 300:700], float)


def lysosome() -> Slice:
    return np.asarray(ce.read(DATA / "lysosome" / "lysosome_bin2.mrc").numpy()[60, 4:252, 4:252], float)


def microtubule() -> Slice:
    """Stored with protein bright."""
    return -np.asarray(ce.read(DATA / "microtubule" / "13pf_MT.tif").numpy()[16], float)


#: Recipe -> (title, the real slice, its voxel in Å).
PAIRS: dict[str, tuple[str, Callable[[], Slice], float]] = {
    "virion-slice": ("SARS-CoV-2 virions", virion_slice, 6.0),
    "lysosome": ("lysosome", lysosome, 24.64),
    "microtubule": ("microtubule", microtubule, 10.52),
}


def spectrum(image: Slice, bins: int = 40) -> tuple[Slice, Slice]:
    """Mean power over rings, as a share of the variance; frequency in cycles a pixel."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 / (image.var() * np.sum(window**2))
    k = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    ring = np.minimum((k * 2 * bins).astype(int), bins)
    means = [power[ring == i].mean() for i in range(bins)]
    return (np.arange(bins) + 0.5) / (2 * bins), np.array(means)


def real() -> None:
    """Real slices, simulated ones at the same binning, their grey values and their power."""
    if not DATA.is_dir():
        print("left out: no real data here")
        return
    figure, axes = plt.subplots(len(PAIRS), 4, figsize=(13, 3.3 * len(PAIRS)), width_ratios=(1, 1, 0.9, 0.9))
    for row, (name, (title, load, voxel)) in zip(axes, PAIRS.items(), strict=True):
        found = load()
        plan = read_plan((RECIPES / f"{name}.toml").read_text())
        volume = simulate(plan.recipe).tomogram.numpy()
        plane = volume[len(volume) // 2].astype(float)
        y, x = ((n - m) // 2 for n, m in zip(plane.shape, found.shape, strict=True))
        made = plane[y : y + found.shape[0], x : x + found.shape[1]]
        for axis, image, what in ((row[0], found, "real"), (row[1], made, "simulated")):
            middle, spread = np.median(image), image.std()
            axis.imshow(image, cmap="gray", vmin=middle - 3.2 * spread, vmax=middle + 3.2 * spread, origin="lower")
            bar = 10 ** math.floor(math.log10(image.shape[1] * voxel / 40)) * 20  # Å
            axis.plot([8, 8 + bar / voxel], [8, 8], color="white", lw=3, solid_capstyle="butt")
            axis.set_title(f"{title}, {what} (bar {bar / 10:.0f} nm)", fontsize=9)
            axis.set_axis_off()
        for image, colour, what in ((found, REAL, "real"), (made, SIMULATED, "simulated")):
            # Bins of whole numbers of grey values: both are stored as such.
            step = max(1, round(image.std() / 6))
            edges = np.arange(image.min() - 0.5, image.max() + step, step)
            counts, _ = np.histogram(image, edges, density=True)
            row[2].stairs(counts * image.std(), (edges - np.median(image)) / image.std(), color=colour, label=what)
            k, power = spectrum(image)
            row[3].semilogy(k / voxel * 10, power, color=colour, label=what)
        row[2].set_xlabel("grey value, standard deviations from the median", fontsize=8)
        row[3].set_xlabel("spatial frequency, 1/nm", fontsize=8)
        row[2].set_title("grey values", fontsize=9)
        row[3].set_title("power spectrum", fontsize=9)
        for axis in row[2:]:
            axis.tick_params(labelsize=7)
            axis.locator_params(axis="x", nbins=5)
            axis.legend(fontsize=7, frameon=False)
        row[2].set_yticks([])
        row[2].set_xlim(-5, 5)
    save(figure, "simulation_real.png")


def physics() -> None:
    """The missing wedge of noise and specimen, and where a view's power vanishes."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2))
    n, voxel = 128, 12.0
    rng = np.random.default_rng(0)
    potential = ndimage.gaussian_filter(rng.standard_normal((n, 64, n), dtype=np.float32), 1) * 3
    for axis, scheme in zip(axes[:2], ("wbp", "sirt"), strict=True):
        imaging = Imaging(tilt_step_deg=2, defocus_um=3, reconstruction=scheme)
        series = record_tilt_series(potential, imaging, voxel_size_A=voxel, rng=rng)
        density = reconstruct(series, potential.shape, (slice(0, n), slice(0, 64), slice(0, n)), imaging)
        for a, length in enumerate(density.shape):
            density = density * np.hanning(length).astype(np.float32).reshape([-1 if b == a else 1 for b in range(3)])
        power = np.fft.fftshift(np.mean(np.abs(np.fft.fftn(density)[:, :3]) ** 2, axis=1))
        log = np.log10(power / power.max())
        edge = 5 / voxel  # of what is shown: Nyquist, in 1/nm
        axis.imshow(log, cmap="magma", vmin=-6, vmax=0, origin="lower", extent=(-edge, edge, -edge, edge))
        for sign in (-1, 1):
            slope = math.tan(math.radians(imaging.tilt_range_deg))
            axis.plot([-edge / slope, edge / slope], [-sign * edge, sign * edge], "w--", lw=0.8)
        name = {"wbp": "weighted back-projection", "sirt": "SIRT, 15 rounds"}[scheme]
        axis.set_title(f"{name}: power, log10; dashed: ±60°", fontsize=9)
        axis.set_xlabel("kx, 1/nm", fontsize=8)
        axis.set_ylabel("kz, 1/nm", fontsize=8)
    voxel = 4.0
    imaging = Imaging(
        defocus_um=3, defocus_error_um=0, b_factor_A2=0, dose_e_per_A2=0.1, tilt_range_deg=1, tilt_step_deg=1
    )
    thin = rng.normal(0, 1e-3, (1, 512, 512)).astype(np.float32)
    view = record_tilt_series(thin, imaging, voxel_size_A=voxel, rng=None).views[1]
    k, power = spectrum(view.astype(float), 200)
    axes[2].plot(k / voxel, power / power.max(), color=SIMULATED, lw=1, label="power of an untilted view")
    theory = imaging.ctf(k / voxel) ** 2
    axes[2].plot(k / voxel, theory, color=REAL, lw=0.8, ls="--", label="CTF², theory")
    axes[2].set_xlim(0, 0.09)
    axes[2].set_ylim(0, 1.25)
    axes[2].set_xlabel("spatial frequency, 1/Å", fontsize=8)
    axes[2].set_title("contrast transfer at 3 µm underfocus, 300 kV", fontsize=9)
    axes[2].legend(fontsize=7, frameon=False, loc="upper left")
    save(figure, "simulation_physics.png")


def save(figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(PICTURES / name, dpi=110, pil_kwargs={"optimize": True})
    print(PICTURES / name)


FIGURES = {"real": real, "physics": physics}

if __name__ == "__main__":
    for figure in sys.argv[1:] or FIGURES:
        FIGURES[figure]()
