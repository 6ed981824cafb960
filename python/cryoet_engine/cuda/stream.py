# SPDX-License-Identifier: MIT
"""Pixel classification of volumes larger than the card: block by block, copies beside kernels.

Blocks in flight have a lane each: memory of the host and of the card for what goes in and for what comes out. Three
streams (up, compute, down) pass them on by events, so that one block is read from the disk while another is uploaded, a
third computed, a fourth downloaded. Planes that the block before has read too are copied within the card: slabs read
each voxel once. Channels and all else between are scratch of the compute stream, which blocks use
one after another. How it is cut changes no bit of the result.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checks import input_error
from ..tiling import Block, blocks
from ..volume import Float32Array, Region
from .device import Device, Triple, allocated
from .features import Channels, FeatureLaunches, Scratch, TapTable, aligned
from .forest import CardForest, CardTables, on_card
from .structures import Box, Field

_LANES = 3
_SHARE = 0.8  # of the card's free memory, where no limit was given
#: Largest first; None: the whole axis. Larger ones would only take longer to begin and to end.
_BLOCKS: tuple[tuple[int, int | None, int | None], ...] = (
    *((64, None, None), (32, None, None), (16, None, None), (64, 512, None), (64, 256, 512), (64, 128, 256)),
    *((64, 64, 128), (32, 64, 64), (32, 32, 32), (16, 16, 16)),
)


class Source(Protocol):
    """What is classified (`features.FeatureSource`)."""

    @property
    def plan(self) -> _core.FeaturePlan:
        """Which channels."""

    @property
    def n_channels(self) -> int:
        """Of the plan and extra ones."""

    def read(self, region: Region) -> Float32Array:
        """A region of the volume, checked."""

    def read_extra(self, region: Region, out: Float32Array | None = None) -> Float32Array:
        """The extra channels (E, z, y, x) of a region into `out`."""


@dataclass(frozen=True)
class _Geometry:
    """Of a block, without its place: blocks that have the same one take the same memory and launches."""

    padded: Triple
    core: Box

    @classmethod
    def of(cls, block: Block) -> _Geometry:
        def sides(region: Region) -> Triple:
            z, y, x = (part.stop - part.start for part in region)
            return z, y, x

        z, y, x = block.inner
        return cls(sides(block.padded), Box((z.start, y.start, x.start), sides(block.core)))


def _kept(before: Block | None, part: Block) -> int:
    """Planes with which a block begins that the block before it has read as well."""
    if before is None or before.padded[1:] != part.padded[1:] or before.padded[0].start > part.padded[0].start:
        return 0
    return max(int(before.padded[0].stop) - int(part.padded[0].start), 0)


@dataclass
class _Sizes:
    """Bytes that blocks take: in each of the lanes, and `scratch` once. `fresh`: of a block what is read for it."""

    lanes: int
    block: int = 0
    fresh: int = 0
    extra: int = 0
    out: int = 0
    scratch: int = 0
    taps: TapTable = field(default_factory=TapTable)

    def on_card(self) -> int:
        lane = aligned(self.block) + aligned(self.out)
        return self.lanes * lane + self.scratch + aligned(self.taps.n_bytes)

    def on_host(self) -> int:
        # Beside the lanes: what is being read, in its own type and as float32.
        return self.lanes * (self.fresh + self.extra + self.out) + 3 * self.fresh


def _sizes(source: Source, tables: CardTables, kind: np.dtype[Any], parts: Sequence[Block]) -> _Sizes:
    """Found by going through every launch, without a card."""
    sizes = _Sizes(min(_LANES, len(parts)))
    for before, part in zip([None, *parts], parts, strict=False):
        depth, height, width = _Geometry.of(part).padded
        sizes.fresh = max(sizes.fresh, 4 * (depth - _kept(before, part)) * height * width)
    n_extra = source.n_channels - source.plan.n_channels
    for one in {_Geometry.of(part) for part in parts}:
        scratch = Scratch()
        channels = _channels(scratch, source, one.core)
        volume = Field(0, Box((0, 0, 0), one.padded))
        for _ in FeatureLaunches(source.plan, volume, one.core, channels, scratch, sizes.taps):
            pass
        sizes.scratch = max(sizes.scratch, scratch.peak)
        sizes.block = max(sizes.block, 4 * math.prod(one.padded))
        sizes.extra = max(sizes.extra, 4 * n_extra * one.core.voxels)
        sizes.out = max(sizes.out, tables.n_classes * kind.itemsize * one.core.voxels)
    return sizes


def _channels(scratch: Scratch, source: Source, core: Box) -> Channels:
    return Channels(scratch.take_bytes(4 * source.n_channels * core.voxels), core.voxels)


def card_block(
    device: Device,
    source: Source,
    tables: CardTables,
    kind: np.dtype[Any],
    shape: Triple,
    *,
    memory: float | None = None,
    host_memory: float | None = None,
    output_bytes: int = 0,
    chunk: Triple = (1, 1, 1),
) -> Triple:
    """The largest block of a volume of `shape` that fits.

    memory: bytes of the card to stay under, by default 0.8 of what is free. host_memory: bytes of the host;
    output_bytes: what else the host holds of results, a voxel of a block or of the `chunk` it is stored in.

    Errors: InputError that names the least that works.
    """
    limit = _SHARE * device.free_bytes() if memory is None else min(memory, device.free_bytes())
    on_card = on_host = 0
    for block in _BLOCKS:
        core = tuple(min(n or whole, whole) for n, whole in zip(block, shape, strict=True))
        z, y, x = core
        sizes = _sizes(source, tables, kind, list(blocks(shape, (z, y, x), source.plan.halo)))
        on_card = sizes.on_card() + tables.n_bytes
        stored = math.prod(max(n, min(c, whole)) for n, c, whole in zip(core, chunk, shape, strict=True))
        on_host = sizes.on_host() + output_bytes * stored
        if on_card <= limit and (host_memory is None or on_host <= host_memory):
            return z, y, x
    what, least, given = "memory of the card", on_card, limit
    if on_card <= limit and host_memory is not None:
        what, least, given = "memory", on_host, host_memory
    raise input_error(
        "predict_proba", what, expected=f"at least {math.ceil(least / 2**20)}M", got=f"{given / 2**20:.0f}M",
        fix="give more, or use device cpu",
    )  # fmt: skip


class _Lane:
    """Memory for one block in flight."""

    def __init__(self, device: Device, sizes: _Sizes, held: ExitStack) -> None:
        staging = device.staging(sizes.fresh + sizes.extra + sizes.out)
        self._fresh = staging[: sizes.fresh].view(np.float32)
        self._extra = staging[sizes.fresh : sizes.fresh + sizes.extra].view(np.float32)
        self._out = staging[sizes.fresh + sizes.extra :]
        self.block_address = held.enter_context(allocated(device, aligned(sizes.block)))
        self.out_address = held.enter_context(allocated(device, aligned(sizes.out)))

    def fresh(self, shape: Triple) -> Float32Array:
        return self._fresh[: math.prod(shape)].reshape(shape)

    def extra(self, n: int, shape: Triple) -> Float32Array:
        return self._extra[: n * math.prod(shape)].reshape((n, *shape))

    def out(self, n: int, shape: Triple, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        return self._out[: n * math.prod(shape) * kind.itemsize].view(kind).reshape((n, *shape))


def classified(
    device: Device, source: Source, tables: CardTables, parts: Sequence[Block], kind: np.dtype[Any]
) -> Generator[tuple[Block, npt.NDArray[Any]], None, None]:
    """Each block with its probabilities (class, z, y, x), stored as `kind`, in order.

    What is yielded is overwritten after the next turn. Closing the iterator ends what is in flight and frees all.
    """
    sizes = _sizes(source, tables, kind, parts)
    with ExitStack() as held:
        forest = held.enter_context(on_card(device, tables))
        work = _Work(device, source, forest, kind, sizes, held)
        lanes = [_Lane(device, sizes, held) for _ in range(sizes.lanes)]
        # Nothing is freed while a copy or a kernel may still use it; nothing is read into a lane that is gone.
        held.callback(device.synchronise)
        reader = held.enter_context(ThreadPoolExecutor(1))
        held.callback(reader.shutdown, wait=False, cancel_futures=True)
        flying: deque[tuple[_Lane, Block, Any]] = deque()
        reading: deque[tuple[_Lane, Block, int, Future[None]]] = deque()
        rest = iter(zip([None, *parts], parts, strict=False))

        def read_next(lane: _Lane) -> None:
            for before, part in islice(rest, 1):
                kept = _kept(before, part)
                reading.append((lane, part, kept, reader.submit(work.read, lane, part, kept)))

        for lane in lanes:
            read_next(lane)
        while reading or flying:
            # What has been read goes on its way; what is being read is waited for while the card has little to do.
            if reading and (len(flying) < max(len(lanes) - 1, 1) or reading[0][-1].done()):
                lane, part, kept, done = reading.popleft()
                done.result()
                flying.append((lane, part, work.enqueue(lane, part, kept)))
                continue
            lane, part, event = flying.popleft()
            device.finish(event)
            yield part, work.result(lane, part)
            read_next(lane)


def _fresh(one: _Geometry, kept: int) -> Triple:
    return one.padded[0] - kept, one.padded[1], one.padded[2]


class _Work:
    """What is done with a lane."""

    def __init__(
        self,
        device: Device,
        source: Source,
        forest: CardForest,
        kind: np.dtype[Any],
        sizes: _Sizes,
        held: ExitStack,
    ) -> None:
        self._device, self._source, self._forest, self._kind = device, source, forest, kind
        self._n_extra = source.n_channels - source.plan.n_channels
        self._scratch = held.enter_context(allocated(device, sizes.scratch))
        self._taps = sizes.taps
        self._taps.base = held.enter_context(allocated(device, aligned(self._taps.n_bytes)))
        self._up, self._compute, self._down = (device.stream() for _ in range(3))
        taps = self._taps.array()
        device.upload(taps, self._taps.base, self._compute)
        device.finish(device.mark(self._compute))
        self._end = 0  # of the block that was enqueued last: the address behind it

    def read(self, lane: _Lane, part: Block, kept: int) -> None:
        """All but the first `kept` planes into the lane's memory of the host."""
        one, (z, y, x) = _Geometry.of(part), part.padded
        if kept < one.padded[0]:
            fresh = self._source.read((slice(z.start + kept, z.stop), y, x))
            lane.fresh(_fresh(one, kept))[...] = fresh
        if self._n_extra:
            self._source.read_extra(part.core, lane.extra(self._n_extra, one.core.shape))

    def enqueue(self, lane: _Lane, part: Block, kept: int) -> Any:
        """All that is to be done on the card; the event that passes when the result is on the host."""
        device, one = self._device, _Geometry.of(part)
        n_own = self._source.plan.n_channels
        depth, height, width = one.padded
        plane = 4 * height * width
        # The block before lies in another lane, whole, and is not overwritten before this one is on its way.
        if kept:
            device.copy(self._end - (kept * plane), lane.block_address, kept * plane, self._up)
        if kept < depth:
            device.upload(lane.fresh(_fresh(one, kept)), lane.block_address + kept * plane, self._up)
        self._end = lane.block_address + depth * plane
        device.wait(self._compute, device.mark(self._up))
        scratch = Scratch(self._scratch)
        channels = _channels(scratch, self._source, one.core)
        if self._n_extra:
            device.upload(lane.extra(self._n_extra, one.core.shape), channels.of(n_own), self._compute)
        volume = Field(lane.block_address, Box((0, 0, 0), one.padded))
        for launch in FeatureLaunches(self._source.plan, volume, one.core, channels, scratch, self._taps):
            device.launch(launch, self._compute)
        launch = self._forest.launch(channels, one.core.shape, lane.out_address, self._kind)
        device.launch(launch, self._compute)
        device.wait(self._down, device.mark(self._compute))
        device.download(lane.out_address, self.result(lane, part), self._down)
        return device.mark(self._down)

    def result(self, lane: _Lane, part: Block) -> npt.NDArray[Any]:
        """The lane's probabilities."""
        return lane.out(self._forest.tables.n_classes, _Geometry.of(part).core.shape, self._kind)
