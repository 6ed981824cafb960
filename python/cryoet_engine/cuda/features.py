# SPDX-License-Identifier: MIT
"""The launches that compute feature channels: csrc/ops/features.h on a card.

A plan is a generator of launches in the order in which they have to run, over one piece of scratch memory. Running
through it without a card tells how much memory and which filter taps it takes: `Measure`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, product

import numpy as np
import numpy.typing as npt

from .. import _core
from .device import Launch, Triple
from .structures import (
    Box,
    Combination,
    Convolution,
    Eigenvalues,
    Eigenvalues2,
    Field,
    Product,
    StageTaps,
    StageTwo,
    triple,
)

ALIGNMENT = 256
_SMOOTHING_WINDOW, _FILTER_WINDOW = 3.5, 2.0  # of csrc/ops/features.cpp
_INNER, _DERIVATIVE = 0.66, 0.5  # of csrc/voxel/stage_taps.h
_MARGIN = 3  # of stage two
_REACH = 128  # largest radius of convolve_x
_RUN = 8  # outputs of a thread of a convolution
_TILE = (26, 10)  # voxels of a block of stage two, (x, y)
_PLANES = 32  # that it walks over: its sweep begins four planes early
_GAUSSIAN, _LAPLACIAN, _GRADIENT, _DIFFERENCE, _STRUCTURE, _HESSIAN = range(6)


def across(n: int, step: int) -> int:
    """How many steps cover n."""
    return -(-n // step)


def aligned(n_bytes: int) -> int:
    """So many bytes that what follows begins on a whole line of memory."""
    return across(n_bytes, ALIGNMENT) * ALIGNMENT


@dataclass
class Scratch:
    """Memory that is taken from the front, and given back in frames. `base` 0 only measures `peak`, in bytes."""

    base: int = 0
    top: int = 0
    peak: int = 0

    def take(self, box: Box) -> Field:
        """Room for a field."""
        return Field(self.take_bytes(4 * box.voxels), box)

    def take_bytes(self, n_bytes: int) -> int:
        """Room for so many bytes."""
        address = self.base + self.top
        self.top += aligned(n_bytes)
        self.peak = max(self.peak, self.top)
        return address

    @contextmanager
    def frame(self) -> Iterator[None]:
        """What is taken inside is given back at the end."""
        top = self.top
        yield
        self.top = top


@dataclass(frozen=True)
class Taps:
    """One side to the other of a filter, on the card."""

    address: int
    radius: int


@dataclass
class TapTable:
    """The filter taps of a plan: collected while it is measured, then uploaded together to `base`."""

    base: int = 0
    values: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _known: dict[tuple[float, int, float], tuple[int, int]] = field(default_factory=dict)

    def of(self, sigma: float, order: int, window: float) -> Taps:
        """A Gaussian (csrc/voxel/gaussian_taps.h) or its derivative."""
        key = (sigma, order, window)
        if key not in self._known:
            taps = _core.gaussian_taps(sigma, order, window)
            self._known[key] = (sum(len(one) for one in self.values), len(taps) // 2)
            self.values.append(taps)
        first, radius = self._known[key]
        return Taps(self.base + 4 * first, radius)

    @property
    def n_bytes(self) -> int:
        """Of all taps."""
        return 4 * sum(len(one) for one in self.values)

    def array(self) -> npt.NDArray[np.float32]:
        """All taps, to be uploaded."""
        return np.concatenate([*self.values, np.zeros(0, np.float32)])


@dataclass(frozen=True)
class Channels:
    """Where channels go: channel c of the core's voxel i at address + 4 * (c * stride + i)."""

    address: int
    stride: int

    def of(self, c: int) -> int:
        """The address of channel c; 0 for c = -1, which is not wanted."""
        return self.address + 4 * c * self.stride if c >= 0 else 0


def convolution(
    source: Field, axis: int, taps: Taps, order: int, out: Field, length: Triple, *, subtract: float = 0.0
) -> Launch:
    """One pass along an axis of a block of shape `length`, with Gaussian taps of `order`."""
    z, y, x = out.box.shape
    job = Convolution(source.job, out.job, taps.address, triple(length), taps.radius, int(order > 0), subtract)
    name = "convolve_z" if axis == 0 else "convolve_y" if axis == 1 else "convolve_x"
    if axis == 0:
        grid = (across(x, 32), across(y, 8), across(z, _RUN))
    elif axis == 1:
        grid = (across(x, 32), across(z, 8), across(y, _RUN))
    else:
        grid = (across(x, 32 * _RUN), across(y, 8), z)
        name += "_far" if taps.radius > _REACH else ""
    return Launch("separable", name, grid, (32, 8, 1), job)


def _voxelwise(kernel: str, job: Eigenvalues | Eigenvalues2 | Product | Combination, n: int) -> Launch:
    return Launch("separable", kernel, (across(n, 256), 1, 1), (256, 1, 1), job)


def eigenvalues(tensor: Sequence[int], out: Sequence[int], n: int) -> Launch:
    """Eigenvalues of n symmetric matrices, descending: addresses of the upper triangle by rows, and of the results."""
    job = Eigenvalues(n=n) if len(out) == 3 else Eigenvalues2(n=n)
    job.tensor[:], job.out[:] = tensor, out
    return _voxelwise("symmetric_eigenvalues" if len(out) == 3 else "symmetric_eigenvalues_2", job, n)


def multiplication(a: Field, b: Field, out: Field) -> Launch:
    """Two fields of one box, voxel by voxel."""
    return _voxelwise("multiply", Product(a.address, b.address, out.address, a.box.voxels), a.box.voxels)


def _smoothing_sigma(sigma: float) -> float:
    return math.sqrt(sigma * sigma - 1.0) if sigma > 1.0 else sigma


def _orders(total: Iterable[int], axes: tuple[int, ...]) -> list[Triple]:
    """Derivatives of these orders in all, by their orders along (z, y, x); along `axes` only."""
    return [
        (z, y, x)
        for z, y, x in product(range(2, -1, -1), repeat=3)
        if z + y + x in total and all(axis in axes for axis, order in enumerate((z, y, x)) if order)
    ]


@dataclass
class FeatureLaunches:
    """The launches that compute all channels of the core of a block.

    volume: the block, halo and all. core: in its coordinates. A block's own mirrors stand where the volume's do, and
    every other one is out of reach (csrc/ops/features.h).
    """

    plan: _core.FeaturePlan
    volume: Field
    core: Box
    channels: Channels
    scratch: Scratch
    taps: TapTable

    @property
    def _length(self) -> Triple:
        return self.volume.box.shape

    def __iter__(self) -> Iterator[Launch]:
        for sigma, planar, channel in self.plan.scales:
            with self.scratch.frame():
                if self.plan.two_stage and not planar:
                    yield from self._sweep(sigma, channel)
                else:
                    yield from self._passes(sigma, (1, 2) if planar else (0, 1, 2), channel)

    def _sweep(self, sigma: float, channel: Sequence[int]) -> Iterator[Launch]:
        """Smoothing, and one kernel for all filters of the scale."""
        smoothed = self.scratch.take(self.core.grown(_MARGIN, self._length))
        taps = self.taps.of(_smoothing_sigma(sigma), 0, _SMOOTHING_WINDOW)
        yield from self._derivatives(self.volume, [taps], {(0, 0, 0): smoothed}, (0, 1, 2))
        job = StageTwo(
            smoothed.job, triple(self._length), triple(self.core.start), triple(self.core.shape), _PLANES,
            StageTaps.from_buffer_copy(_core.stage_taps(sigma).tobytes()), self.plan.offset, self.channels.stride,
            *(self.channels.of(c) for c in channel),
        )  # fmt: skip
        z, y, x = self.core.shape
        grid = (across(x, _TILE[0]), across(y, _TILE[1]), across(z, _PLANES))
        yield Launch("features", "stage_two", grid, (32, 16, 1), job)

    def _passes(self, sigma: float, axes: tuple[int, ...], channel: Sequence[int]) -> Iterator[Launch]:
        """Filter by filter from whole passes: at the filter's own scale, or slice by slice, or both."""
        source, own, window = self.volume, sigma, _SMOOTHING_WINDOW
        if self.plan.two_stage:
            taps = self.taps.of(_smoothing_sigma(sigma), 0, _SMOOTHING_WINDOW)
            source = self.scratch.take(self.core.grown(_MARGIN, self._length, axes))
            yield from self._derivatives(self.volume, [taps], {(0, 0, 0): source}, axes)
            own, window = min(sigma, 1.0), _FILTER_WINDOW
        wanted = {
            0: channel[_GAUSSIAN] >= 0 or channel[_DIFFERENCE] >= 0,
            1: channel[_GRADIENT] >= 0,
            2: channel[_LAPLACIAN] >= 0 or channel[_HESSIAN] >= 0,
        }
        with self.scratch.frame():
            done = {one: self.scratch.take(self.core) for one in _orders([n for n in wanted if wanted[n]], axes)}
            taps_of = [self.taps.of(own, order, window) for order in range(3)]
            yield from self._derivatives(source, taps_of, done, axes)
            narrow = None
            if channel[_DIFFERENCE] >= 0:
                narrow = self.scratch.take(self.core)
                inner = self.taps.of(_INNER * own, 0, window)
                yield from self._derivatives(source, [inner], {(0, 0, 0): narrow}, axes)
            yield self._combination(done, narrow, channel)
            if channel[_HESSIAN] >= 0:
                yield self._eigenvalues([done[one] for one in _orders([2], axes)], channel[_HESSIAN])
        if channel[_STRUCTURE] >= 0:
            yield from self._structure(source, own, window, axes, channel[_STRUCTURE])

    def _structure(
        self, source: Field, sigma: float, window: float, axes: tuple[int, ...], first: int
    ) -> Iterator[Launch]:
        """Products of gradients, integrated: the products are what is mirrored at the border."""
        slope = [self.taps.of(_DERIVATIVE * sigma, order, window) for order in (0, 1)]
        integration = self.taps.of(sigma, 0, window)
        wide = self.core.grown(integration.radius, self._length, axes)
        with self.scratch.frame():
            tensor = [self.scratch.take(self.core) for _ in _orders([2], axes)]
            gradient = {one: self.scratch.take(wide) for one in _orders([1], axes)}
            yield from self._derivatives(source, slope, gradient, axes)
            multiplied = self.scratch.take(wide)
            pairs = combinations_with_replacement(gradient.values(), 2)
            for (a, b), component in zip(pairs, tensor, strict=True):
                yield multiplication(a, b, multiplied)
                yield from self._derivatives(multiplied, [integration], {(0, 0, 0): component}, axes)
            yield self._eigenvalues(tensor, first)

    def _derivatives(
        self, source: Field, taps: Sequence[Taps], out: Mapping[Triple, Field], axes: tuple[int, ...]
    ) -> Iterator[Launch]:
        """Gaussian derivatives by their orders along (z, y, x), of one box, from shared passes.

        taps: of each order, all of one radius. Each pass makes what the next ones will read.
        """
        if not out:
            return
        offset = self.plan.offset if source is self.volume else 0.0
        x_box = next(iter(out.values())).box.grown(taps[0].radius, self._length, (2,))
        yx_box = x_box.grown(taps[0].radius, self._length, (1,))
        with self.scratch.frame():
            along_y = self.scratch.take(x_box)
            along_z = self.scratch.take(yx_box) if 0 in axes else source
            for oz in dict.fromkeys(orders[0] for orders in out):
                if 0 in axes:
                    yield convolution(source, 0, taps[oz], oz, along_z, self._length, subtract=offset)
                for oy in dict.fromkeys(orders[1] for orders in out if orders[0] == oz):
                    subtract = 0.0 if 0 in axes else offset
                    yield convolution(along_z, 1, taps[oy], oy, along_y, self._length, subtract=subtract)
                    for orders, field_ in out.items():
                        if orders[:2] == (oz, oy):
                            yield convolution(along_y, 2, taps[orders[2]], orders[2], field_, self._length)

    def _combination(self, done: Mapping[Triple, Field], narrow: Field | None, channel: Sequence[int]) -> Launch:
        """Smoothed, difference, gradient magnitude and Laplacian, as far as they are wanted."""

        def address(*orders: int) -> int:
            z, y, x = orders
            return done[z, y, x].address if (z, y, x) in done else 0

        n = self.core.voxels
        job = Combination(gauss=address(0, 0, 0), narrow=narrow.address if narrow else 0, n=n)
        job.offset = self.plan.offset
        job.gradient[:] = [address(1, 0, 0), address(0, 1, 0), address(0, 0, 1)]
        job.second[:] = [address(2, 0, 0), address(0, 2, 0), address(0, 0, 2)]
        job.smoothed, job.laplacian, job.magnitude, job.difference = (self.channels.of(c) for c in channel[:4])
        return _voxelwise("combine", job, n)

    def _eigenvalues(self, tensor: Sequence[Field], first: int) -> Launch:
        out = [self.channels.of(first + k) for k in range(3 if len(tensor) == 6 else 2)]
        return eigenvalues([one.address for one in tensor], out, self.core.voxels)
