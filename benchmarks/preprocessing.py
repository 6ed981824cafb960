# SPDX-License-Identifier: MIT
"""Preprocessing, ours beside the peers: one thread each, the same numbers first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cryoet_engine import filters, intensity
from harness import Contest

THREADS = 1
OURS = "cryoet-engine"


def _structures(edge: int) -> np.ndarray:
    """Noise of deviation 1 on blobs of deviation 3, float32."""
    noise = np.random.default_rng(0).standard_normal((edge, edge, edge), dtype=np.float32)
    blobs = filters.gaussian(np.random.default_rng(1).standard_normal(noise.shape, dtype=np.float32), 4.0)
    return noise + blobs * np.float32(3 / blobs.std())


def bilateral(edge: int = 64) -> Contest:
    """A 9^3 cube. SimpleITK looks the range Gaussian up in a table of samples; 10 000 make it the same filter."""
    import SimpleITK

    volume = _structures(edge)
    sigma_vox, sigma_range = 1.6, 2.0
    peer = SimpleITK.BilateralImageFilter()
    peer.SetDomainSigma(sigma_vox)  # its cube reaches ceil(2.5 sigma) = 4 voxels
    peer.SetRangeSigma(sigma_range)
    peer.SetNumberOfRangeGaussianSamples(10_000)
    peer.SetNumberOfThreads(THREADS)
    image = SimpleITK.GetImageFromArray(volume)
    inside = (slice(4, -4),) * 3  # borders: we mirror, it repeats the edge

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        ours = results[OURS]
        theirs = SimpleITK.GetArrayFromImage(results["SimpleITK"])
        error = float(np.abs(ours - theirs)[inside].max())
        if error > 1e-3:
            raise AssertionError(f"not the same filter: {error:.2e}")
        return {"SimpleITK": error}

    entries = {
        OURS: lambda: filters.bilateral(volume, sigma_vox=sigma_vox, sigma_range=sigma_range, window=2.5),
        "SimpleITK": lambda: peer.Execute(image),
    }
    return Contest(f"3D bilateral, 9^3 taps, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")


def _stretched(data: np.ndarray) -> np.ndarray:
    return (data - data.min()) / np.ptp(data)


def clahe(edge: int = 128, *, slice_wise: bool = False) -> Contest:
    """Tiles of 32 or, slice by slice, 64 voxels a side; csrc/ops/clahe.h tells how scikit-image's definition differs.

    It stretches every image to its own extremes, so the results are compared after that.
    """
    from skimage import exposure

    volume = _structures(edge)
    unit = intensity.normalise(volume, intensity.min_max(volume))
    tile = 64 if slice_wise else 32
    images = [unit[z : z + 1] for z in range(edge)] if slice_wise else [unit]

    def ours() -> list[np.ndarray]:
        return [intensity.clahe(image, intensity.min_max(image), tile_vox=tile) for image in images]

    def theirs() -> list[np.ndarray]:
        return [exposure.equalize_adapthist(image[0] if slice_wise else image, tile, 0.01) for image in images]

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        pairs = zip(results[OURS], results["scikit-image"], strict=True)
        error = max(float(np.abs(_stretched(a) - _stretched(b)).mean()) for a, b in pairs)
        bound = 4 / 256 if slice_wise else 2 / 256  # smaller tiles: more is given back there than was cut off
        if error > bound:
            raise AssertionError(f"too far apart on average: {error:.2e}")
        return {"scikit-image": error}

    kind = "slice by slice" if slice_wise else "3D"
    entries = {OURS: ours, "scikit-image": theirs}
    return Contest(f"CLAHE, {kind}, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")


def percentiles(edge: int = 192) -> Contest:
    """Two percentiles; numpy's needs the volume in memory twice."""
    volume = _structures(edge)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        if not np.array_equal(results[OURS], results["numpy"]):
            raise AssertionError(f"not the same: {results}")
        return {"numpy": 0.0}

    entries = {
        OURS: lambda: intensity.percentiles(volume, (1, 99)),
        "numpy": lambda: np.percentile(volume.astype(np.float64), (1, 99)),
    }
    return Contest(f"1st and 99th percentile, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")


def histogram(edge: int = 192) -> Contest:
    """256 bins."""
    volume = _structures(edge)

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        if not np.array_equal(results[OURS], results["numpy"][0]):
            raise AssertionError("not the same counts")
        return {"numpy": 0.0}

    entries = {
        OURS: lambda: intensity.histogram(volume, 256, (-12, 12)),
        "numpy": lambda: np.histogram(volume.astype(np.float64), 256, (-12, 12)),
    }
    return Contest(f"histogram of 256 bins, {edge}^3", entries, volume.size, parity, f"{THREADS} thread")
