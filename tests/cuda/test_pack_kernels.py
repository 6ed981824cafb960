# SPDX-License-Identifier: MIT
"""The kernels that make the renderer's texels (csrc/ops/pack.cu), run by the emulation, against numpy and scipy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from emulated import CudaArray
from scipy import ndimage

from cryoet_engine import _core
from cryoet_engine.cuda import structures
from cryoet_engine.cuda.features import Taps
from cryoet_engine.cuda.texels import RAW_TYPES, CardSlices, LowPass, Texels

SHAPES = [(3, 5, 7), (2, 9, 40), (1, 1, 1), (4, 8, 32), (1, 17, 33)]
GUARD = 64


def stored(kind, shape, seed=0):
    """Probabilities as they are stored, with both ends; as float32 beyond them, and with ties of 255 levels."""
    rng = np.random.default_rng(seed)
    if kind != "float32":
        values = rng.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
        values.flat[0], values.flat[-1] = 0, np.iinfo(kind).max
        return values
    values = rng.uniform(-0.2, 1.2, shape).astype(np.float32)
    values.flat[:: max(values.size // 40, 1)] = 0.5
    return values


def levels(values, bits):
    """The nearest level of 8 or 16 bit; NaN and infinite ones are 0. Floats are multiplied in their own precision."""
    unit = {8: 255, 16: 65535}[bits]
    if values.dtype.kind == "u":
        values = values / np.iinfo(values.dtype).max
    finite = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    return np.rint(np.clip(finite, 0, 1) * values.dtype.type(unit)).astype(np.int64)


def address(array):
    return array.ctypes.data


def run(kernels, launch, seed=0):
    kernels.launch(launch.file, launch.kernel, launch.grid, launch.block, launch.shared, launch.job, seed=seed)


def pack(kernels, data, texels, *, raw=None, first=0, n=None, seed=0):
    """(z, y, x, channel), and how many values were not finite. data: (class, z, y, x); raw: (LowPass's) result."""
    n = data.shape[1] - first if n is None else n
    shape = (n, *data.shape[2:])
    dtype = np.uint8 if texels.bits == 8 else np.uint16
    n_bytes = texels.n_bytes * int(np.prod(shape))
    out, bad = np.full(n_bytes + GUARD, 0xCD, np.uint8), np.zeros(1, np.uint32)
    classes = CardSlices.of(data.view(CudaArray))
    run(kernels, texels.launch(raw, classes, (first, shape), address(out), address(bad)), seed)
    assert (out[n_bytes:] == 0xCD).all(), "wrote behind the texels"
    return out[:n_bytes].view(dtype).reshape(*shape, texels.channels), int(bad[0])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", SHAPES, ids=[f"shape{i}" for i in range(len(SHAPES))])
def test_pack_classes(kernels, shape, kind, bits):
    data = stored(kind, (5, *shape))
    for channels, classes in ((1, (3,)), (2, (4, 1)), (4, (1, 2, 4)), (4, (0, 1, 2, 3))):
        found, bad = pack(kernels, data, Texels(channels, bits, False, classes), seed=channels)
        truth = np.zeros((*shape, channels), np.int64)
        truth[..., : len(classes)] = np.moveaxis(levels(data[list(classes)], bits), 0, -1)
        assert np.array_equal(found, truth)
        assert bad == 0


def test_pack_counts_what_is_not_finite(kernels):
    data = stored("float32", (2, 3, 4, 50))
    data[1, 0, 0, :5], data[1, 2, 3, 7], data[0, 1, 1, 1] = np.nan, np.inf, np.nan
    found, bad = pack(kernels, data, Texels(1, 8, False, (1,)))
    assert bad == 6  # of the class that is packed
    assert np.array_equal(found[..., 0], levels(data[1], 8))


@pytest.mark.parametrize("order", ["channels last", "reversed", "a part"])
def test_pack_strides(kernels, order):
    if order == "channels last":
        data = np.ascontiguousarray(np.moveaxis(stored("uint8", (3, 4, 6, 35)), 0, -1))
        data = np.moveaxis(data, -1, 0)
    elif order == "reversed":
        data = stored("uint16", (3, 4, 6, 35))[:, ::-1, :, ::-1]
    else:
        data = stored("float32", (3, 9, 12, 40))[:, 2:6, 1:7, 3:38]
    assert not data.flags.c_contiguous
    found, _ = pack(kernels, data, Texels(4, 8, False, (0, 1, 2)), first=1, n=2)
    assert np.array_equal(np.moveaxis(found[..., :3], -1, 0), levels(data[:, 1:3], 8))


def low_pass(sigma, zero, one, shape, n):
    """LowPass in memory, and what has to stay alive for it."""
    radius = int(np.ceil(3 * sigma))
    taps = _core.gaussian_taps(sigma, 0, radius / sigma) if sigma else np.zeros(0, np.float32)
    room = LowPass.scratch_bytes(n, *shape[1:], radius)
    scratch = [np.full(room + GUARD, 0xFF, np.uint8) for _ in range(2)]
    there = Taps(address(taps), radius) if sigma else None
    return LowPass(there, zero, one, (address(scratch[0]), address(scratch[1]))), (taps, scratch), room


def mapped(raw, sigma, zero, one):
    """transfer.RawRamp in float64."""
    values = np.nan_to_num(raw.astype(np.float64), nan=zero, posinf=zero, neginf=zero)
    if sigma:
        values = ndimage.gaussian_filter(values, sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
    return np.clip((values - zero) / (one - zero), 0, 1)


def raw_slab(kernels, raw, sigma, zero, one, first, n, bits=16, seed=0):
    """One channel of slices [first, first + n), and the count of voxels that are not finite."""
    step, kept, room = low_pass(sigma, zero, one, raw.shape, n)
    bad = np.zeros(1, np.uint32)
    lowest = max(first - step.radius, 0)
    part = CardSlices.of(raw[lowest:].view(CudaArray))
    held = CardSlices(part.address, part.dtype, part.shape, part.strides, lowest)
    for launch in step.launches(held, raw.shape, first, n, address(bad)):
        run(kernels, launch, seed)
    for one_scratch in kept[1]:
        assert (one_scratch[room:] == 0xFF).all(), "wrote behind the scratch"
    nothing = np.zeros((1, *raw.shape), np.uint8)
    found, none = pack(kernels, nothing, Texels(1, bits, True, ()), raw=step, first=first, n=n)
    assert none == 0
    return found[..., 0], int(bad[0])


@pytest.mark.parametrize("kind", RAW_TYPES)
def test_raw_types(kernels, kind):
    raw = np.random.default_rng(1).normal(60, 20, (4, 9, 37)).astype(kind)
    for zero, one in ((90.0, 20.0), (20.0, 90.0)):  # protein dark, and bright
        found, bad = raw_slab(kernels, raw, 0.0, zero, one, 1, 2)
        truth = levels(mapped(raw, 0.0, zero, one)[1:3], 16)
        assert np.abs(found - truth).max() <= 1
        assert np.mean(found != truth) < 0.01
        assert bad == 0
        assert 0 < np.mean((found > 0) & (found < 65535)) < 1


@pytest.mark.parametrize(
    ("shape", "sigma", "first", "n"),
    [
        ((12, 20, 41), 1.0, 0, 4),
        ((12, 20, 41), 1.0, 4, 5),
        ((12, 20, 41), 1.0, 9, 3),
        ((12, 20, 41), 2.5, 5, 2),
        ((1, 1, 1), 1.0, 0, 1),
        ((2, 3, 300), 0.4, 1, 1),
        ((3, 40, 2), 7.0, 0, 3),
    ],
)
def test_low_pass_is_that_of_the_raw_ramp(kernels, shape, sigma, first, n):
    """Nearest voxels beyond the faces, slab = part of the whole. Measured: 1 level of 65535, in at most 4 %."""
    raw = (1000 + np.random.default_rng(2).normal(0, 30, shape)).astype(np.float32)
    zero, one = 1000 + 40 / (1 + sigma), 1000 - 40 / (1 + sigma)
    found, _ = raw_slab(kernels, raw, sigma, zero, one, first, n, seed=3)
    truth = levels(mapped(raw, sigma, zero, one)[first : first + n], 16)
    assert np.abs(found - truth).max() <= 1
    assert np.mean(found != truth) < 0.06


def test_raw_voxels_that_are_not_finite(kernels):
    """They count as at_zero, and are counted once: in the slab's own slices, not where faces are repeated."""
    raw = np.random.default_rng(4).normal(size=(9, 6, 8)).astype(np.float32)
    raw[0], raw[3, 0, 0], raw[4, 5, 7], raw[5, 2, 2] = np.nan, np.inf, np.nan, -np.inf
    found, bad = raw_slab(kernels, raw, 1.0, 1.0, -1.0, 3, 2)
    assert bad == 2
    assert np.abs(found - levels(mapped(raw, 1.0, 1.0, -1.0)[3:5], 16)).max() <= 1


def test_raw_and_classes_share_a_texel(kernels):
    raw = np.random.default_rng(5).normal(size=(3, 8, 33)).astype(np.float32)
    data = stored("uint16", (4, 3, 8, 33))
    step, _kept, _ = low_pass(0.0, 1.0, -1.0, raw.shape, 3)
    bad = np.zeros(1, np.uint32)
    for launch in step.launches(CardSlices.of(raw.view(CudaArray)), raw.shape, 0, 3, address(bad)):
        run(kernels, launch)
    found, _ = pack(kernels, data, Texels(4, 8, True, (1, 3)), raw=step)
    assert np.array_equal(found[..., 0], levels(mapped(raw, 0.0, 1.0, -1.0).astype(np.float32), 8))
    assert np.array_equal(found[..., 1], levels(data[1], 8))
    assert np.array_equal(found[..., 2], levels(data[3], 8))
    assert (found[..., 3] == 0).all()


def test_structures_of_packing_are_the_kernels(kernels):
    sizes = (ctypes.c_int * 4)()
    for kernel, structure in (("spread_raw", structures.RawSpread), ("pack_texels", structures.TexelPack)):
        assert getattr(kernels.library("pack"), f"sizes_{kernel}")(sizes) == 1
        assert sizes[0] == ctypes.sizeof(structure)
