# SPDX-License-Identifier: MIT
"""The CUDA kernels of projection and back-projection, run by the emulation and compared with the CPU's."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated import CudaArray, EmulatedDevice
from emulation.structures import I3, BackProjection, GridLine, Projection, TiltedRays, across, field

from cryoet_engine import _core, projection
from cryoet_engine._checks import InputError, MissingDependencyError
from cryoet_engine.cuda import arrays, device, structures

ANGLES = np.array([0, 11, -23.5, 45, -45, 45.5, -46, 60, -60, 77, 89.5, 90, -90])
SHAPES = [(9, 35, 20), (12, 5, 37), (1, 3, 40), (40, 2, 1), (3, 1, 5), (1, 1, 1)]
# The emulation has no fused multiply-add: the last bit of a term may differ. Noise of deviation 1, sums up to 25:
# measured 2.9e-6 forth, 1.9e-6 back.
BOUND = 1e-5


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_project_on_a_card(kernels, shape, seed):
    v = noise(shape)
    truth = projection.project(v, ANGLES)
    n, ny, width = truth.shape
    rays = np.frombuffer(_core.tilted_rays(ANGLES, shape[0], shape[2], width), np.uint8)
    assert rays.size == n * ctypes.sizeof(TiltedRays)
    out = np.full_like(truth, np.nan)
    job = Projection(v.ctypes.data, I3(*shape), rays.ctypes.data, out.ctypes.data, width)
    grid = (across(width, 32), across(ny, 32), n)
    kernels.launch("projection", "project", grid, (32, 8, 1), 0, job, seed=seed)
    assert np.abs(out - truth).max() < BOUND


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_back_project_on_a_card(kernels, shape, seed):
    nz, ny, nx = shape
    width = max(3, nx - 7)  # some voxels fall beside the detector
    views = noise((len(ANGLES), ny, width), 1)
    lines = np.frombuffer(_core.detector_lines(ANGLES, nz, nx, width), np.uint8)
    assert lines.size == len(ANGLES) * ctypes.sizeof(GridLine)
    start = (nz // 3, ny // 4, nx // 5)
    box = tuple(slice(a, b) for a, b in zip(start, shape, strict=True))
    truth = projection.back_project(views, ANGLES, shape)[box]
    out = np.full(truth.shape, np.nan, np.float32)
    job = BackProjection(views.ctypes.data, lines.ctypes.data, len(ANGLES), ny, width, field(out, start))
    depth, height, across_x = out.shape
    grid = (across(across_x, 32), across(height, 4), across(depth, 8))
    kernels.launch("projection", "back_project", grid, (32, 8, 1), 0, job, seed=seed)
    assert np.abs(out - truth).max() < BOUND


@pytest.mark.parametrize(
    ("kernel", "structure"), [("project", structures.Projection), ("back_project", structures.BackProjection)]
)
def test_structures_of_projection_are_the_kernels(kernels, kernel, structure):
    sizes = (ctypes.c_int * 4)()
    assert getattr(kernels.library("projection"), f"sizes_{kernel}")(sizes) == 1
    assert sizes[0] == ctypes.sizeof(structure)


# ---- arrays of the card


@pytest.fixture
def card(kernels, monkeypatch):
    used = EmulatedDevice(kernels, seed=1)
    for module in (device, arrays):
        monkeypatch.setattr(module, "card", lambda where: used)
    yield used
    assert not used.held


def host(array: CudaArray) -> np.ndarray:
    """The answer, which must be on the card still."""
    assert isinstance(array, CudaArray)
    return np.asarray(array)


def test_projection_stays_on_the_card(card):
    v = noise((10, 33, 21), 2)
    truth = projection.project(v, ANGLES, width=30)
    there = projection.project(v.view(CudaArray), ANGLES, width=30)
    assert np.abs(host(there) - truth).max() < BOUND
    mirrored = host(projection.project(v[::-1].view(CudaArray), ANGLES, width=30))
    assert np.abs(mirrored - projection.project(v[::-1], ANGLES, width=30)).max() < BOUND
    box = (slice(3, 9), slice(0, 32), slice(5, None))
    back = host(projection.back_project(there, ANGLES, v.shape, box=box))
    found = projection.back_project(np.asarray(there), ANGLES, v.shape, box=box)
    assert np.abs(back - found).max() < 4 * BOUND  # of values up to 25: measured 1.5e-5
    assert card.launches == ["project", "project", "back_project"]


def test_errors_are_the_same_for_arrays_of_the_card(card):
    v = noise((4, 5, 6)).view(CudaArray)
    with pytest.raises(InputError, match="project: tilt_angles_deg"):
        projection.project(v, [91.0])
    with pytest.raises(InputError, match=r"back_project: shape: expected \(z, 5, x\)"):
        projection.back_project(v, [0.0] * 4, (7, 6, 5))
    with pytest.raises(InputError, match=r"project: volume: expected \(z, y, x\)"):
        projection.project(v[0], [0.0])


class Elsewhere:
    """What CuPy's and torch's arrays look like."""

    shape = (3, 4, 5)
    __cuda_array_interface__ = {"shape": (3, 4, 5), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


def test_arrays_of_a_card_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for call in (
        lambda: projection.project(Elsewhere(), [0.0]),
        lambda: projection.back_project(Elsewhere(), [0.0] * 3, (7, 4, 5)),
    ):
        with pytest.raises(MissingDependencyError, match=r"cryoet-engine\[cuda\]"):
            call()


def test_the_benchmark_of_a_card_runs(card, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import projection as benchmark

    rows = benchmark.on_card(card, (12, 9, 20), rounds=1)
    assert [one["what"] for one in rows] == [f"{way}, 61 views, 12 x 9 x 20" for way in ("project", "back-project")]
    assert all(one["mvoxel_per_s"] > 0 and one["error"] < 1e-6 for one in rows)
