# SPDX-License-Identifier: MIT
"""Connected components of a segmentation, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from .._checks import input_error
from .._progress import Progress, silent
from ..volume import SoftSegmentation

_SLICES = 64  # of a slab: a chunk of io.create_segmentation, or several
_BLOCK = 64  # voxels along an axis, at least, where many pieces of dust are looked at together
_NEIGHBOURS = np.ones((3, 3, 3), bool)


class Output(Protocol):
    """Where slices go: an array, or a store on the disk."""

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Store one region."""


def remove_dust(
    segmentation: SoftSegmentation,
    *,
    min_diameter_A: float,
    out: Output | None = None,
    labels: Output | None = None,
    progress: Progress = silent,
) -> SoftSegmentation:
    """Give particles smaller than a diameter to the background, as paper 1's expert asks (section 7).

    A particle is a connected component (26 neighbours) of voxels whose most probable class is not the background,
    whatever their classes: a spike on a membrane is part of it. Its diameter is that of a sphere of its volume.
    The less certain voxels around it, as far as the diameter asked for, go with it where no particle that stays is as
    near.

    segmentation: (class, z, y, x), background first; read twice, slab by slab. out, labels: take the result, slices in
    order: probabilities (class, z, y, x) of the same type, and the most probable class (z, y, x), 1, 2, ...; without
    `out` the result is an array in memory. Memory: a few slabs, each twice as deep as the diameter or more, and a few
    bytes a particle.

    Errors: InputError for a diameter that is not a number above 0, or a segmentation of unknown voxel size.
    """
    if not 0 < min_diameter_A < math.inf:
        raise input_error("remove_dust", "min_diameter_A", expected="a number above 0, in Å", got=min_diameter_A)
    if segmentation.voxel_size_status == "unknown":
        expected = "a known one, without which a diameter means nothing"
        raise input_error("remove_dust", "voxel size", expected=expected, got="unknown", fix="say it (--voxel-size)")
    smallest = math.pi / 6 * min_diameter_A**3 / math.prod(segmentation.voxel_size_A)
    # As far as the rim reaches, and as far again to see who else is near.
    reach = [min(2 * math.ceil(min_diameter_A / size), n) for size, n in _axes(segmentation)]
    stored: Any = np.empty(segmentation.data.shape, segmentation.data.dtype) if out is None else out
    particles = _Particles(segmentation, -(-reach[0] // _SLICES) * _SLICES, smallest, progress)
    depth = segmentation.shape[0]
    for z, block in particles.slabs():
        dust = _rim(particles.states(z, reach[0]), z, reach, segmentation, min_diameter_A)
        cleaned = np.where(dust, block.dtype.type(0), block)
        cleaned[0] = np.where(dust, block.dtype.type(segmentation.unit), block[0])
        region = (z, slice(0, segmentation.shape[1]), slice(0, segmentation.shape[2]))
        if labels is not None:
            labels[region] = (cleaned.argmax(axis=0) + 1).astype(np.uint8)
        stored[(slice(None), *region)] = cleaned
        progress("removing dust", depth + z.stop, 2 * depth)
    return SoftSegmentation(stored, segmentation.classes, segmentation.colors, **segmentation.grid())


def _axes(segmentation: SoftSegmentation) -> Iterator[tuple[float, int]]:
    return zip(segmentation.voxel_size_A, segmentation.shape, strict=True)


class _Particles:
    """Which voxels are of particles that stay (2), of dust (1), or of none (0).

    Every slab is labelled by itself; pieces that touch across a border between slabs are put together as a graph.
    """

    def __init__(self, segmentation: SoftSegmentation, slices: int, smallest: float, progress: Progress) -> None:
        self._segmentation, self._slices = segmentation, slices
        depth = segmentation.shape[0]
        self._starts = list(range(0, depth, slices))
        self._cached = lru_cache(maxsize=3)(self._pieces)
        sizes, pairs, self._firsts = [], [], [0]
        above: npt.NDArray[np.int64] | None = None
        for k, start in enumerate(self._starts):
            pieces, count = self._cached(k)
            first = self._firsts[-1]
            sizes.append(np.bincount(pieces.ravel(), minlength=count + 1)[1:])
            if above is not None:
                pairs.append(_touching(above, np.where(pieces[0] > 0, pieces[0] + first, 0)))
            above = np.where(pieces[-1] > 0, pieces[-1] + first, 0)
            self._firsts.append(first + count)
            progress("removing dust", min(start + slices, depth), 2 * depth)
        n = self._firsts[-1]
        joined = np.concatenate([np.empty((0, 2), np.int64), *pairs]) - 1
        graph = sparse.coo_array((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(n, n))
        _, whole = sparse.csgraph.connected_components(graph, directed=False)
        voxels = np.bincount(whole, weights=np.concatenate(sizes), minlength=1)
        self._state = np.where(voxels[whole] >= smallest, np.uint8(2), np.uint8(1)) if n else np.empty(0, np.uint8)

    def slabs(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Slices and their stored probabilities, from the top."""
        for start in self._starts:
            z = slice(start, min(start + self._slices, self._segmentation.shape[0]))
            yield z, np.asarray(self._segmentation.data[:, z])

    def _pieces(self, k: int) -> tuple[npt.NDArray[np.int32], int]:
        z = slice(self._starts[k], self._starts[k] + self._slices)
        foreground = np.asarray(self._segmentation.data[:, z]).argmax(axis=0) > 0
        pieces = np.empty(foreground.shape, np.int32)
        return pieces, int(ndimage.label(foreground, _NEIGHBOURS, output=pieces))

    def states(self, z: slice, halo: int) -> npt.NDArray[np.uint8]:
        """Of the slices z of one slab and as many as `halo` beyond each end, clipped at the volume's."""
        low, high = max(z.start - halo, 0), min(z.stop + halo, self._segmentation.shape[0])
        found = []
        for k in range(low // self._slices, (high - 1) // self._slices + 1):
            pieces, count = self._cached(k)
            state = np.concatenate([[np.uint8(0)], self._state[self._firsts[k] : self._firsts[k] + count]])
            start = self._starts[k]
            found.append(state[pieces[max(low - start, 0) : high - start]])
        return np.concatenate(found)


def _touching(above: npt.NDArray[np.int64], below: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pairs of pieces in two neighbouring slices (y, x) that are neighbours."""
    height, width = above.shape
    padded = np.pad(below, 1)
    pairs = []
    for y in range(3):
        for x in range(3):
            other = padded[y : y + height, x : x + width]
            both = (above > 0) & (other > 0)
            pairs.append(np.unique(np.stack([above[both], other[both]], axis=1), axis=0))
    return np.unique(np.concatenate(pairs), axis=0)


def _rim(
    states: npt.NDArray[np.uint8], z: slice, reach: list[int], segmentation: SoftSegmentation, min_diameter_A: float
) -> npt.NDArray[np.bool_]:
    """The dust's voxels and those around it, of the slices z alone.

    Looked at in a box around each piece of dust where these are few; where the boxes would cover a slab more than once,
    or one is large, in blocks, all pieces at a time: the nearest piece decides, so that both are the same.
    """
    start = max(z.start - reach[0], 0)
    mine = slice(z.start - start, z.stop - start)
    found = np.zeros(states.shape, bool)
    pieces, _ = ndimage.label(states == 1, _NEIGHBOURS)
    boxes = {}
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        around = _wider(box, reach, states.shape)
        if around[0].stop > mine.start and around[0].start < mine.stop:
            boxes[number] = around
    radius = [min(math.ceil(min_diameter_A / size), n) for size, n in _axes(segmentation)]
    edges = [max(_BLOCK, r) for r in radius]
    voxels = [math.prod(part.stop - part.start for part in around) for around in boxes.values()]
    largest = math.prod(edge + 2 * r for edge, r in zip(edges, reach, strict=True))
    size = segmentation.voxel_size_A
    if sum(voxels) <= found[mine].size and max(voxels, default=0) <= largest:
        for number, around in boxes.items():
            found[around] |= _near(pieces[around] == number, states[around] == 2, size, min_diameter_A)
        return found[mine]
    ends = [(mine.start, mine.stop), *((0, n) for n in states.shape[1:])]
    for corner in product(*(range(*end, edge) for end, edge in zip(ends, edges, strict=True))):
        block = tuple(slice(a, min(a + edge, end[1])) for a, edge, end in zip(corner, edges, ends, strict=True))
        around = _wider(block, radius, states.shape)
        there = states[around]
        if (there == 1).any():
            within = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(around, block, strict=True))
            found[block] = _near(there == 1, there == 2, size, min_diameter_A)[within]
    return found[mine]


def _wider(box: tuple[slice, ...], by: list[int], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(part.start - r, 0), min(part.stop + r, n)) for part, r, n in zip(box, by, shape, strict=True)
    )


def _near(
    dust: npt.NDArray[np.bool_],
    kept: npt.NDArray[np.bool_],
    voxel_size_A: tuple[float, float, float],
    min_diameter_A: float,
) -> npt.NDArray[np.bool_]:
    """Voxels as near to dust as the diameter, and nearer than to what stays."""
    distance = _distance(dust, voxel_size_A)
    near: npt.NDArray[np.bool_] = distance <= min_diameter_A
    if kept.any():
        near &= distance < _distance(kept, voxel_size_A)
    return near


def _distance(particle: npt.NDArray[np.bool_], voxel_size_A: tuple[float, float, float]) -> npt.NDArray[np.float64]:
    """Of every voxel to the nearest one of a particle, in Å."""
    found: npt.NDArray[np.float64] = ndimage.distance_transform_edt(~particle, sampling=voxel_size_A)
    return found
