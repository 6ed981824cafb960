# SPDX-License-Identifier: MIT
"""Arrays that lie on a card already (anything with `__cuda_array_interface__`): computed there, and answered there.

The one place that tells them from numpy's. Results are CuPy arrays. Without CuPy or a card such an array is an error
that says so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checks import input_error
from ..tiling import blocks
from ..volume import Volume
from .device import CardArray, Device, Launch, Triple, allocated, card
from .features import (
    Channels,
    FeatureLaunches,
    Scratch,
    TapTable,
    across,
    aligned,
    convolution,
    eigenvalues,
)
from .forest import CardTables, on_card
from .structures import BackProjection, Box, Field, Projection, triple

Plan = Callable[[Scratch, TapTable], Iterable[Launch]]


def card_array(volume: Any) -> Any | None:
    """The array that lies on a card, given as it is or as a Volume; None for any other."""
    data = volume.data if isinstance(volume, Volume) else volume
    return data if hasattr(data, "__cuda_array_interface__") else None


def sent(array: npt.NDArray[Any], where: str) -> Any:
    """A copy of numpy's array on the card."""
    device, host = card(where), np.ascontiguousarray(array)
    there = device.empty(host.shape, host.dtype)
    stream = device.stream()
    device.upload(host, there.address, stream)
    device.finish(device.mark(stream))
    return there.native


def fetched(array: Any) -> npt.NDArray[np.float32]:
    """An array of float32 as numpy's: itself, or a copy of what lies on the card."""
    if card_array(array) is None:
        return np.asarray(array, np.float32)
    device = card("fetched")
    there = device.adopt(array, np.float32)
    host = np.empty(there.shape, np.float32)
    stream = device.stream()
    device.download(there.address, host, stream)
    device.finish(device.mark(stream))
    return host


def volume_on_card(array: Any, where: str) -> Any:
    """A volume (z, y, x) of real numbers as float32 in C order."""
    return _adopted(array, 3, "volume", "(z, y, x) with no empty axis", where).native


def _adopted(array: Any, n_axes: int, what: str, expected: str, where: str) -> CardArray:
    device = card(where)
    told = array.__cuda_array_interface__
    if len(told["shape"]) != n_axes or 0 in told["shape"]:
        raise input_error(where, what, expected=expected, got=f"shape {tuple(told['shape'])}")
    if np.dtype(told["typestr"]).kind not in "fiub":
        raise input_error(where, what, expected="real numbers", got=np.dtype(told["typestr"]))
    return device.adopt(array, np.float32)


def _whole(array: CardArray) -> Field:
    z, y, x = array.shape[-3:]
    return Field(array.address, Box((0, 0, 0), (z, y, x)))


def _finite(array: CardArray, what: str, where: str) -> None:
    if not bool(np.isfinite(array.native).all()):
        raise input_error(where, what, expected="finite values", got="NaN or infinite ones")


def measured(plan: Plan) -> tuple[int, TapTable]:
    """Bytes of scratch memory that a plan takes, and its taps."""
    scratch, taps = Scratch(), TapTable()
    deque(plan(scratch, taps), maxlen=0)
    return scratch.peak, taps


def execute(device: Device, plan: Plan) -> None:
    """Run a plan to its end."""
    n_bytes, taps = measured(plan)
    with allocated(device, aligned(n_bytes + 1)) as scratch, allocated(device, aligned(taps.n_bytes + 1)) as taps.base:
        stream, values = device.stream(), taps.array()
        device.upload(values, taps.base, stream)
        try:
            for launch in plan(Scratch(scratch), taps):
                device.launch(launch, stream)
        finally:
            device.finish(device.mark(stream))


def gaussian(volume: Any, sigma: float, order: Triple, window: float) -> Any:
    """As `filters.gaussian`; `volume` comes from `volume_on_card`."""
    device = card("gaussian")
    source = device.adopt(volume, np.float32)
    out = device.empty(source.shape, np.float32)
    field, length = _whole(source), _whole(source).box.shape

    def plan(scratch: Scratch, taps: TapTable) -> Iterator[Launch]:
        along_z, along_y = scratch.take(field.box), scratch.take(field.box)
        steps = zip((field, along_z, along_y), (along_z, along_y, _whole(out)), strict=True)
        for axis, (before, after) in enumerate(steps):
            one = taps.of(sigma, order[axis], window)
            yield convolution(before, axis, one, order[axis], after, length)

    execute(device, plan)
    return out.native


def symmetric_eigenvalues(tensor: Sequence[Any]) -> Any:
    """Descending, (3, z, y, x), of tensors zz, zy, zx, yy, yx, xx (z, y, x)."""
    device = card("symmetric_eigenvalues")
    parts = [device.adopt(one, np.float32) for one in tensor]
    n = math.prod(parts[0].shape)
    out = device.empty((3, *parts[0].shape), np.float32)
    launch = eigenvalues([one.address for one in parts], [out.address + 4 * n * k for k in range(3)], n)
    execute(device, lambda scratch, taps: (launch,))
    return out.native


def feature_stack(array: Any, plan_of: Callable[[float], _core.FeaturePlan], offset: float | None) -> Any:
    """As `features.feature_stack`, in slabs as thick as the card's memory allows. plan_of: by offset."""
    where = "feature_stack"
    device, volume = card(where), _adopted(array, 3, "volume", "(z, y, x) with no empty axis", where)
    _finite(volume, "volume", where)
    plan = plan_of(float(np.float32(volume.native.mean(dtype=np.float64))) if offset is None else offset)
    field = _whole(volume)
    out = device.empty((plan.n_channels, *volume.shape), np.float32)
    stride, (depth, height, width) = field.box.voxels, field.box.shape

    def slab(first: int, planes: int) -> Plan:
        core = Box((first, 0, 0), (min(planes, depth - first), height, width))
        channels = Channels(out.address + 4 * first * height * width, stride)
        return lambda scratch, taps: FeatureLaunches(plan, field, core, channels, scratch, taps)

    planes, free = depth, device.free_bytes()
    while planes > 1 and measured(slab((depth - planes) // 2, planes))[0] > free // 2:
        planes = -(-planes // 2)
    for part in blocks(field.box.shape, (planes, height, width), 0):
        execute(device, slab(part.core[0].start, planes))
    return out.native


def project(volume: Any, angles_deg: npt.NDArray[np.float64], width: int) -> Any:
    """As `projection.project`; `volume` comes from `volume_on_card`."""
    device = card("project")
    source = device.adopt(volume, np.float32)
    nz, ny, nx = source.shape
    out = device.empty((len(angles_deg), ny, width), np.float32)

    def launch(rays: int) -> Launch:
        job = Projection(source.address, triple((nz, ny, nx)), rays, out.address, width)
        return Launch("projection", "project", (across(width, 32), across(ny, 32), len(angles_deg)), (32, 8, 1), job)

    _with_table(device, _core.tilted_rays(angles_deg, nz, nx, width), launch)
    return out.native


def back_project(views: Any, angles_deg: npt.NDArray[np.float64], whole: Triple, start: Triple, shape: Triple) -> Any:
    """As `projection.back_project`; `views` come from `volume_on_card`."""
    device = card("back_project")
    source = device.adopt(views, np.float32)
    n_views, height, width = source.shape
    out = device.empty(shape, np.float32)
    box = Field(out.address, Box(start, shape))
    grid = (across(shape[2], 32), across(shape[1], 4), across(shape[0], 8))

    def launch(lines: int) -> Launch:
        job = BackProjection(source.address, lines, n_views, height, width, box.job)
        return Launch("projection", "back_project", grid, (32, 8, 1), job)

    _with_table(device, _core.detector_lines(angles_deg, whole[0], whole[2], width), launch)
    return out.native


def _with_table(device: Device, table: bytes, launch: Callable[[int], Launch]) -> None:
    """Run a kernel that reads a table, given where on the card that lies."""
    host = np.frombuffer(table, np.uint8)
    with allocated(device, aligned(len(table))) as address:
        stream = device.stream()
        try:
            device.upload(host, address, stream)
            device.launch(launch(address), stream)
        finally:
            device.finish(device.mark(stream))


def predict_channels(tables: Mapping[str, npt.NDArray[Any]], channels: Any, dtype: npt.DTypeLike) -> Any:
    """As `PixelClassifier.predict_channels`."""
    where, packed = "predict_channels", CardTables.of(tables)
    given = _adopted(channels, 4, "channels", f"shape ({packed.n_features}, z, y, x)", where)
    if given.shape[0] != packed.n_features:
        raise input_error(
            where, "channels", expected=f"shape ({packed.n_features}, z, y, x)", got=f"shape {given.shape}"
        )
    _finite(given, "channels", where)
    return _predict(card(where), packed, given, dtype).native


def predict_rows(tables: Mapping[str, npt.NDArray[Any]], rows: Any) -> Any:
    """As `PixelClassifier.predict_rows`."""
    where, packed = "predict_rows", CardTables.of(tables)
    device, given = card(where), _adopted(rows, 2, "x", f"shape (n, {packed.n_features})", where)
    n, width = given.shape
    if width != packed.n_features:
        raise input_error(where, "x", expected=f"shape (n, {packed.n_features})", got=f"shape {given.shape}")
    _finite(given, "x", where)
    # As a box of 2 x 4 x m voxels: whole warps of the kernel.
    m = -(-n // 8)
    channels = device.empty((width, 2, 4, m), np.float32)
    flat = channels.native.reshape(width, -1)
    flat[:, :n], flat[:, n:] = given.native.T, 0
    device.synchronise()
    found = _predict(device, packed, channels, np.float32)
    return device.adopt(found.native.reshape(packed.n_classes, -1)[:, :n].T, np.float32).native


def _predict(device: Device, tables: CardTables, channels: CardArray, dtype: npt.DTypeLike) -> CardArray:
    field = _whole(channels)
    out = device.empty((tables.n_classes, *field.box.shape), dtype)
    with on_card(device, tables) as forest:
        where = Channels(channels.address, field.box.voxels)
        launch = forest.launch(where, field.box.shape, out.address, dtype)
        execute(device, lambda scratch, taps: (launch,))
    return out
