# SPDX-License-Identifier: MIT
"""The CUDA kernel of stage two, run by the emulation, against float64 and the CPU's features."""

from __future__ import annotations

import math

import numpy as np
import pytest
from emulation.structures import FLOAT, I3, StageTwo, across, address, field

from cryoet_engine import FeatureSpec, _core, feature_stack
from cryoet_engine.cuda.structures import StageTaps
from reference import features as oracle

MARGIN, WIDTH, HEIGHT = 3, 26, 10  # voxels that a block reads around what it writes, and writes along x and y
# Each filter of the specification: the field of its first channel, and how many it has.
CHANNELS = {
    "GaussianSmoothing": ("gaussian", 1),
    "LaplacianOfGaussian": ("laplacian", 1),
    "GaussianGradientMagnitude": ("magnitude", 1),
    "DifferenceOfGaussians": ("difference", 1),
    "StructureTensorEigenvalues": ("structure", 3),
    "HessianOfGaussianEigenvalues": ("hessian", 3),
}
# Of the largest error, relative to the largest range of a filter's channels; the worst measured beside them.
BOUNDS = {
    "GaussianSmoothing": 5e-7,  # 9e-8
    "LaplacianOfGaussian": 5e-7,  # 8e-8
    "GaussianGradientMagnitude": 5e-7,  # 1.6e-7
    "DifferenceOfGaussians": 5e-7,  # 1.2e-7
    "StructureTensorEigenvalues": 1e-6,  # 1.7e-7
    "HessianOfGaussianEigenvalues": 1e-6,  # 1.9e-7
}


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def stage_two(kernels, smoothed, scale, filters=tuple(CHANNELS), *, core=None, planes=None, offset=0.0, seed=0):
    """{filter: its channels} of the box `core` (start, shape), from a whole smoothed volume.

    Of the volume the kernel gets no more than the core and three voxels around it.
    """
    start, shape = core or ((0, 0, 0), smoothed.shape)
    low = [max(0, s - MARGIN) for s in start]
    high = [min(n, s + m + MARGIN) for s, m, n in zip(start, shape, smoothed.shape, strict=True)]
    part = smoothed[tuple(map(slice, low, high))].copy()
    out = {name: np.full((CHANNELS[name][1], *shape), np.nan, np.float32) for name in filters}
    planes = planes or shape[0]
    job = StageTwo(
        smoothed=field(part, tuple(low)),
        length=I3(*smoothed.shape),
        start=I3(*start),
        shape=I3(*shape),
        planes=planes,
        taps=StageTaps((FLOAT * 10)(*_core.stage_taps(scale))),
        offset=offset,
        channel=math.prod(shape),
        **{CHANNELS[name][0]: address(channels) for name, channels in out.items()},
    )
    grid = (across(shape[2], WIDTH), across(shape[1], HEIGHT), across(shape[0], planes))
    kernels.launch("features", "stage_two", grid, (32, 16, 1), 0, job, seed=seed)
    return out


def check(found, smoothed, scale, core=None, offset=0.0):
    inside = tuple(slice(s, s + n) for s, n in zip(*core, strict=True)) if core else (slice(None),) * 3
    for name, channels in found.items():
        whole = oracle.one_filter(name, smoothed, min(scale, 1.0), 2.0)
        truth = whole[(slice(None), *inside)] + (offset if name == "GaussianSmoothing" else 0.0)
        size = max(np.ptp(channel) for channel in whole)
        assert np.abs(channels - truth).max() < BOUNDS[name] * size, name


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6, 3.5, 10.0])
@pytest.mark.parametrize(("shape", "seed"), [((1, 5, 40), 1), ((7, 1, 33), 2), ((7, 12, 1), 1), ((5, 13, 29), 0)])
def test_every_scale(kernels, shape, scale, seed):
    v = noise(shape, seed)
    check(stage_two(kernels, v, scale, offset=0.5, seed=seed), v, scale, offset=0.5)


@pytest.mark.parametrize("name", CHANNELS)
def test_one_filter_alone(kernels, name):
    v = noise((4, 12, 31), 3)
    alone = stage_two(kernels, v, 1.0, (name,), seed=1)
    assert np.array_equal(alone[name], stage_two(kernels, v, 1.0)[name])


def test_scale_with_smoothing_alone(kernels):
    """At 0.3 nothing but the Gaussian is defined."""
    v = noise((4, 5, 31), 3)
    check(stage_two(kernels, v, 0.3, ("GaussianSmoothing",)), v, 0.3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (2, 3, 4), (1, 1, 5), (3, 1, 1)])
def test_axes_shorter_than_the_margin(kernels, shape):
    v = noise(shape, 4)
    for name, channels in stage_two(kernels, v, 1.0, seed=3).items():
        truth = oracle.one_filter(name, v, 1.0, 2.0)
        assert np.abs(channels - truth).max() < 1e-6, name  # measured 2.2e-7


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "core",
    [
        ((0, 0, 0), (6, 14, 30)),  # borders before it
        ((9, 11, 13), (6, 14, 30)),  # and behind it
        ((5, 6, 7), (4, 11, 27)),  # next to neither, more than one block along y and x
        ((1, 2, 1), (13, 21, 41)),  # all six within the margin
    ],
)
def test_core_of_a_volume(kernels, core, seed):
    """Every border, within reach and out of it, by blocks of whole cores and of two planes."""
    v = noise((15, 25, 43), 5)
    found = stage_two(kernels, v, 1.0, core=core, seed=seed)
    check(found, v, 1.0, core)
    cut = stage_two(kernels, v, 1.0, core=core, planes=2, seed=seed)
    for name, channels in found.items():
        assert np.array_equal(channels, cut[name]), name


def test_cores_add_up_to_the_volume(kernels):
    """The same bits wherever a voxel stands in its core."""
    v = noise((7, 16, 31), 6)
    whole = stage_two(kernels, v, 1.0)
    for start, shape in [((0, 0, 0), (3, 9, 31)), ((3, 9, 5), (4, 7, 26)), ((2, 1, 1), (2, 13, 17))]:
        inside = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        for name, channels in stage_two(kernels, v, 1.0, core=(start, shape)).items():
            assert np.array_equal(channels, whole[name][(slice(None), *inside)]), name


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6, 5.0])
def test_both_stages_equal_the_cpu(kernels, scale):
    v = noise((5, 14, 33), 7)
    sigma = math.sqrt(scale * scale - 1) if scale > 1 else scale
    smoothed = v if sigma == 0 else _core.gaussian(v, sigma, (0, 0, 0), 3.5, 1)
    found = np.concatenate(list(stage_two(kernels, smoothed, scale, seed=1).values()))
    spec = FeatureSpec(scales=(scale,))
    ours = feature_stack(v, spec)
    truth, labels = oracle.feature_stack(v, scales=(scale,))
    ranges = np.ptp(truth, axis=(1, 2, 3))
    for channel, cpu, exact, label in zip(found, ours, truth, labels, strict=True):
        size = max(r for r, other in zip(ranges, labels, strict=True) if other == label)
        assert np.abs(channel - cpu).max() < 5e-5 * size, label  # measured 1.5e-5
        assert np.abs(channel - exact).max() < 5e-5 * size, label  # measured 1.5e-5
