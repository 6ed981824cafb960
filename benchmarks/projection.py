# SPDX-License-Identifier: MIT
"""Projection and back-projection, ours beside the peers: one thread each, the same numbers first. And on a card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from cryoet_engine import filters, projection
from cryoet_engine.cuda.device import Device
from gpu_pixel_classification import WHOLE, repeated, row, seconds
from harness import Contest

Shape = tuple[int, int, int]

THREADS = 1
OURS = "cryoet-engine"
ANGLES = np.arange(-60.0, 60.1, 2.0)


def _specimen(shape: Shape) -> np.ndarray:
    """Smooth blobs that end before the volume does: two interpolations of it agree."""
    blobs = filters.gaussian(np.random.default_rng(0).standard_normal(shape, dtype=np.float32), 3.0)
    blobs /= blobs.std()
    for axis, n in enumerate(shape):
        if axis != 1:
            window = np.hanning(n + 2)[1:-1].astype(np.float32)
            blobs *= window.reshape([-1 if i == axis else 1 for i in range(3)])
    return blobs


def _sparse_matrix(nz: int, nx: int, width: int, angle_deg: float) -> Any:
    """(u, z * x): every voxel gives its value to its two nearest pixels; the transpose interpolates linearly."""
    zs, xs = np.arange(nz) - (nz - 1) / 2, np.arange(nx) - (nx - 1) / 2
    tilt = math.radians(angle_deg)
    u = np.add.outer(zs * math.sin(tilt), xs * math.cos(tilt)).ravel() + (width - 1) / 2
    first = np.floor(u).astype(np.int32)
    share = (u - first).astype(np.float32)
    pixels = np.stack([first, first + 1], axis=1).ravel()
    shares = np.stack([1 - share, share], axis=1).ravel()
    return sparse.csc_matrix((shares, pixels, 2 * np.arange(u.size + 1)), shape=(width, u.size))


def _different(error: float, bound: float) -> Mapping[str, float]:
    if error > bound:
        raise AssertionError(f"not the same: {error:.2e}")
    return {"scipy.sparse": error}


def project(shape: Shape = (128, 64, 256)) -> Contest:
    """61 views. The sparse matrix spreads voxels where ours follows rays: what it folds back is its error."""
    nz, ny, nx = shape
    volume = _specimen(shape)
    width = math.ceil(math.hypot(nz, nx)) + 2

    def theirs() -> np.ndarray:
        columns = np.ascontiguousarray(volume.transpose(0, 2, 1)).reshape(nz * nx, ny)
        return np.stack([(_sparse_matrix(nz, nx, width, angle) @ columns).T for angle in ANGLES])

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        ours, spread = results[OURS], results["scipy.sparse"]
        return _different(float(np.std(ours - spread) / np.std(ours)), 0.03)

    entries = {OURS: lambda: projection.project(volume, ANGLES, width=width), "scipy.sparse": theirs}
    name = f"project, {len(ANGLES)} views, {nz} x {ny} x {nx}"
    return Contest(name, entries, volume.size, parity, f"{THREADS} thread")


def back_project(shape: Shape = (128, 64, 256)) -> Contest:
    """61 views: the same sums, in another order."""
    nz, ny, nx = shape
    width = math.ceil(math.hypot(nz, nx)) + 2
    views = np.random.default_rng(1).standard_normal((len(ANGLES), ny, width), dtype=np.float32)

    def theirs() -> np.ndarray:
        out = np.zeros((nz * nx, ny), np.float32)
        for view, angle in zip(views, ANGLES, strict=True):
            out += _sparse_matrix(nz, nx, width, angle).T @ np.ascontiguousarray(view.T)
        return np.ascontiguousarray(out.reshape(nz, nx, ny).transpose(0, 2, 1))

    def parity(results: Mapping[str, Any]) -> Mapping[str, float]:
        return _different(float(np.abs(results[OURS] - results["scipy.sparse"]).max()), 1e-4)

    entries = {OURS: lambda: projection.back_project(views, ANGLES, shape), "scipy.sparse": theirs}
    name = f"back-project, {len(ANGLES)} views, {nz} x {ny} x {nx}"
    return Contest(name, entries, nz * ny * nx, parity, f"{THREADS} thread")


def on_card(device: Device, shape: Shape = WHOLE, rounds: int = 5) -> list[dict[str, Any]]:
    """61 views of a volume that lies on a card, and back; a small one is compared with the CPU first.

    Bytes of a voxel: read once a view, as no volume stays in L2; or written once, since views are read out of L2. Two
    multiply-adds a voxel and view.
    """
    part = _specimen((min(64, shape[0]), min(64, shape[1]), min(64, shape[2])))
    views = projection.project(device.adopt(part, np.float32).native, ANGLES)
    truth = projection.project(part, ANGLES)
    error = float(np.abs(_host(views) - truth).max() / np.abs(truth).max())
    back = projection.back_project(views, ANGLES, part.shape)
    truth = projection.back_project(_host(views), ANGLES, part.shape)
    error = max(error, float(np.abs(_host(back) - truth).max() / np.abs(truth).max()))
    if error > 1e-5:
        raise AssertionError(f"not the CPU's: {error:.2e}")
    volume = device.adopt(repeated(part, shape), np.float32).native
    n, work = len(ANGLES), math.prod(shape)
    text = f"{n} views, {' x '.join(map(str, shape))}"
    times = seconds(lambda: projection.project(volume, ANGLES), rounds)
    rows = [row(f"project, {text}", times, work, moved=4.0 * n, operations=4.0 * n, error=error)]
    views = projection.project(volume, ANGLES)
    times = seconds(lambda: projection.back_project(views, ANGLES, shape), rounds)
    return [*rows, row(f"back-project, {text}", times, work, moved=4.0, operations=4.0 * n, error=error)]


def _host(array: Any) -> np.ndarray:
    return np.asarray(array.get() if hasattr(array, "get") else array)
