# SPDX-License-Identifier: MIT
"""OME-Zarr 0.4 and 0.5 and plain zarr arrays (zarr v2 and v3); what we write is OME-Zarr 0.5.

Beside OME's own metadata a store of ours has the attributes "cryoet_engine": kind (volume or soft_segmentation), grid,
classes, colors, unit, software. Source: the OME-NGFF specification, versions 0.4 and 0.5.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from .._checks import CryoETError, FileFormatError, file_error, input_error
from .._progress import Progress, silent
from ..tiling import blocks
from ..volume import Grid, Region, SoftSegmentation, Triple, Volume, quantise
from ._files import partial_path, reason
from ._lazy import AnyArray, StoredArray, basic_index
from ._voxels import angstrom_per, converted, grid_from_record, grid_record, sized_grid, stored_dtype

EXTENSIONS = (".zarr",)

_CHUNK = 64
_KEY = "cryoet_engine"
_STORED = (
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32),
)


def read_zarr(path: Path, *, channel: int | None = None, keep_channels: bool = False) -> Volume | SoftSegmentation:
    """Open a store lazily: the finest level of an OME-Zarr image, or a plain array of three axes.

    channel: which one of an image of several channels (a soft segmentation of ours is read whole).
    Errors: FileFormatError for a store without an array that fits, with broken metadata, several channels and none
    chosen, or several time points. A broken chunk shows when it is read.
    """
    with _zarr_errors(path):
        array, names, attributes, grid = _image(path)
        record = attributes.get(_KEY, {})
        if record.get("kind") == "soft_segmentation":
            data = _spatial(path, array, names, keep_channel=True)
            colors = tuple((float(r), float(g), float(b)) for r, g, b in record.get("colors", ()))
            return SoftSegmentation(data, tuple(map(str, record["classes"])), colors, **grid)
        return Volume(_spatial(path, array, names, channel=channel), **grid)


def channel_names(path: Path) -> tuple[str, ...]:
    """What an image of several channels calls them (OME's labels, else "channel 0", ...); () for a single one."""
    with _zarr_errors(path):
        array, names, attributes, _ = _image(path)
        n = int(array.shape[names.index("c")]) if "c" in names else 1
        channels = attributes.get("ome", attributes).get("omero", {}).get("channels", ())
        labels = [str(one["label"]) for one in channels if "label" in one]
        if len(labels) != n:
            labels = [f"channel {i}" for i in range(n)]
        return tuple(labels) if n > 1 else ()


def _image(path: Path) -> tuple[Any, list[str], dict[str, Any], dict[str, Any]]:
    """The array to read, its axes' names, the attributes around it, and its grid."""
    import zarr

    node = zarr.open(str(path), mode="r")
    attributes = dict(node.attrs)
    image = None if isinstance(node, zarr.Array) else _multiscales(attributes)
    if image:
        dataset = _finest(image["datasets"])
        array = node[dataset["path"]]
        if not isinstance(array, zarr.Array):
            raise file_error(path, f"level {dataset['path']}", expected="an array", got="a group")
        axes = _axes(image, array.ndim)
        names = [str(axis["name"]).lower() for axis in axes]
        grid = _ngff_grid(image, dataset, axes)
    else:
        array = node if isinstance(node, zarr.Array) else _only_array(path, node)
        if not 2 <= array.ndim <= 5:
            raise file_error(path, "zarr array", expected="three axes (z, y, x)", got=f"shape {array.shape}")
        names = list("tczyx"[-array.ndim :])
        grid = sized_grid((0.0, 0.0, 0.0))
    record = attributes.get(_KEY, {})
    return array, names, attributes, grid_from_record(record["grid"]) if "grid" in record else grid


@contextlib.contextmanager
def _zarr_errors(path: Path) -> Iterator[None]:
    """Keep the library's warnings from the user, and turn whatever it raises into one clear error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (FileFormatError, MemoryError):
            raise
        except CryoETError as error:
            raise file_error(path, "zarr store", expected="sound metadata", got=str(error)) from error
        except Exception as error:
            raise file_error(
                path,
                "zarr store",
                expected="a zarr array or an OME-Zarr image with sound metadata",
                got=f"{type(error).__name__}: {reason(error)}",
            ) from error


def _multiscales(attributes: dict[str, Any]) -> dict[str, Any] | None:
    images = attributes.get("ome", attributes).get("multiscales")
    return images[0] if images else None


def _only_array(path: Path, group: Any) -> Any:
    arrays = {name: array for name, array in group.arrays() if array.ndim >= 3}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    inside = sorted(arrays) or sorted(name for name, _ in group.groups())
    raise file_error(
        path,
        "zarr store",
        expected="an OME-Zarr image, or one array of three axes",
        got=f"{'several arrays' if arrays else 'no such array'}; inside: {', '.join(inside) or 'nothing'}",
        fix=f"name one of them, as in {path / inside[0]}" if inside else "",
    )


def _finest(datasets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def size(dataset: dict[str, Any]) -> float:
        scale, _ = _transform(dataset, 0)
        return float(np.prod(scale)) if scale else 1.0

    return min(datasets, key=size)  # the first of equals; the specification wants the finest first


def _transform(owner: dict[str, Any], ndim: int) -> tuple[list[float], list[float]]:
    """Scale and translation out of one list of coordinateTransformations."""
    scale, shift = [1.0] * ndim, [0.0] * ndim
    for one in owner.get("coordinateTransformations", ()):
        if one["type"] == "scale":
            scale = [float(v) for v in one["scale"]]
        elif one["type"] == "translation":
            shift = [float(v) for v in one["translation"]]
    return scale, shift


def _axes(image: dict[str, Any], ndim: int) -> list[dict[str, Any]]:
    axes = image.get("axes") or list("tczyx"[-ndim:])  # before 0.4 axes were plain names, or left out
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    if len(axes) != ndim:
        raise ValueError(f"{len(axes)} axes named for an array of {ndim}")
    return axes


def _ngff_grid(image: dict[str, Any], dataset: dict[str, Any], axes: list[dict[str, Any]]) -> dict[str, Any]:
    """Voxel size and origin: the level's transforms, then the image's, in the axes' units."""
    fine_scale, fine_shift = _transform(dataset, len(axes))
    all_scale, all_shift = _transform(image, len(axes))
    sizes, origin, units = [], [], []
    for name in "zyx":
        at = next((i for i, axis in enumerate(axes) if str(axis["name"]).lower() == name), None)
        if at is None:
            continue
        unit = angstrom_per(axes[at].get("unit"))
        units.append(unit)
        sizes.append(fine_scale[at] * all_scale[at] * (unit or 1.0))
        origin.append((fine_shift[at] * all_scale[at] + all_shift[at]) * (unit or 1.0))
    if len(sizes) == 2:  # a single image
        sizes, origin = [sizes[0], *sizes], [0.0, *origin]
    if None not in units:
        return sized_grid(tuple(sizes), origin_A=tuple(origin))
    if set(sizes) == {1.0}:
        return sized_grid((0.0, 0.0, 0.0), origin_A=tuple(origin))
    note = "The voxel size came without a unit: A is an estimate"
    return sized_grid(tuple(sizes), (note,), origin_A=tuple(origin))


def _spatial(
    path: Path, array: Any, names: list[str], *, channel: int | None = None, keep_channel: bool = False
) -> StoredArray:
    """The array as (z, y, x), or (class, z, y, x): other axes must be of length one, or chosen."""
    if np.dtype(array.dtype).kind not in "biuf":
        raise file_error(path, "zarr array", expected="real numbers", got=array.dtype)
    at = {name: i for i, name in enumerate(names)}
    kept = ["c"] * keep_channel + ["z", "y", "x"]
    if "y" not in at or "x" not in at or (keep_channel and "c" not in at):
        raise file_error(path, "axes", expected=", ".join(kept), got=", ".join(names))
    index = {}
    for name, i in at.items():
        if name in kept:
            continue
        index[i] = 0
        if name == "c" and channel is not None:
            if not 0 <= channel < array.shape[i]:
                raise file_error(path, "channel", expected=f"0 to {array.shape[i] - 1}", got=channel)
            index[i] = channel
        elif array.shape[i] != 1:
            what = {"c": "channels", "t": "time points"}.get(name, f"positions along {name}")
            raise file_error(
                path,
                "image",
                expected="a single volume (z, y, x)",
                got=f"{array.shape[i]} {what}",
                fix="choose one: read_volume(path, channel=0)" if name == "c" else "cut out the one you need",
            )
    return StoredArray(
        path,
        array,
        shape=tuple(array.shape),
        dtype=array.dtype,
        axes=tuple(at.get(name) for name in kept),
        index=index,
        chunks=tuple(array.chunks),
    )


def write_zarr_volume(
    path: Path, volume: Volume, *, dtype: npt.DTypeLike | None = None, progress: Progress = silent
) -> None:
    """Write a volume as OME-Zarr 0.5, one level, chunks of 64^3. Stored types: any integer, float16, float32."""
    kind = stored_dtype(volume, dtype, _STORED, "zarr")
    array = _create(path, volume.shape, kind, _image_attributes(volume, path.stem, {"kind": "volume"}))
    for region in _regions(volume.shape):
        _store(array, region, converted(np.asarray(volume.data[region]), kind))
        progress("write", region[0].stop, volume.shape[0])


class ZarrStream:
    """A zarr volume whose parts are written in any order: `out[z0:z1, y0:y1, x0:x1] = array` (see io.create_volume)."""

    def __init__(self, path: Path, like: Volume) -> None:
        kind = stored_dtype(like, like.dtype, _STORED, "zarr")
        attributes = _image_attributes(like, path.stem, {"kind": "volume"})
        self._array = _reopen(path) if path.exists() else _create(path, like.shape, kind, attributes)
        self.shape, self.dtype = like.shape, kind

    def __setitem__(self, region: Any, part: Any) -> None:
        box, _ = basic_index(region, self.shape)
        sizes = tuple(one.stop - one.start for one in box)
        values = np.asarray(part)
        if values.shape != sizes:
            raise input_error("create_volume", "array", expected=f"shape {sizes}", got=values.shape)
        _store(self._array, box, converted(values, self.dtype))


def _regions(shape: tuple[int, int, int]) -> Iterator[Region]:
    """Whole chunks, as many as memory always has room for."""
    return (block.core for block in blocks(shape, (_CHUNK, 8 * _CHUNK, 8 * _CHUNK), 0))


def _store(array: Any, box: tuple[slice, ...], part: AnyArray) -> None:
    """Write chunk by chunk, so that no other one is still on its way when one fails (a full disk)."""
    if not part.size:
        return
    cuts = []
    for one, chunk in zip(box, array.chunks, strict=True):
        edges = [one.start, *range((one.start // chunk + 1) * chunk, one.stop, chunk), one.stop]
        cuts.append([slice(low, high) for low, high in itertools.pairwise(edges)])
    for cell in itertools.product(*cuts):
        array[cell] = part[tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(cell, box, strict=True))]


def _create(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], attributes: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import zarr

        group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
        return group.create_array(
            "0",
            shape=shape,
            dtype=dtype,
            chunks=(*(1,) * (len(shape) - 3), *(min(_CHUNK, n) for n in shape[-3:])),
            compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
            fill_value=0,
            dimension_names=["c", "z", "y", "x"][-len(shape) :],
        )


def _reopen(path: Path, mode: str = "r+") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import zarr

        return zarr.open_array(str(path), path="0", mode=mode)


def _image_attributes(grid: Grid, name: str, ours: dict[str, Any], channels: Sequence[Any] = ()) -> dict[str, Any]:
    lead = 1 if channels else 0
    unit = {} if grid.voxel_size_status == "unknown" else {"unit": "angstrom"}
    space = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    transforms = [
        {"type": "scale", "scale": [*[1.0] * lead, *grid.voxel_size_A]},
        {"type": "translation", "translation": [*[0.0] * lead, *grid.origin_A]},
    ]
    image = {
        "name": name,
        "axes": [{"name": "c", "type": "channel"}] * lead + space,
        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
    if channels:
        ome["omero"] = {"channels": list(channels)}
    return {"ome": ome, _KEY: {**ours, "grid": grid_record(grid), "software": f"cryoet-engine {__version__}"}}


def _hex_color(linear: Triple) -> str:
    """An RGB triple as OME wants it: six hexadecimal digits, sRGB-encoded (IEC 61966-2-1)."""
    light = np.clip(np.asarray(linear), 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return "".join(f"{round(255 * float(value)):02X}" for value in coded)


class SegmentationWriter:
    """A soft segmentation on its way to the disk; `create_segmentation` makes it.

    `out[:, z0:z1, y0:y1, x0:x1] = array` stores a part: floats are probabilities in 0..1 and are quantised, arrays of
    the stored dtype go as they are; `out[...]` reads parts back. `close()` (or the end of `with`) gives the store its
    final name; `discard()`, or leaving `with` by an exception, removes it.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], attributes: dict[str, Any], in_place: bool
    ) -> None:
        self.path = path
        self._partial = contextlib.nullcontext(path) if in_place else partial_path(path)
        self._array: Any = None
        partial = self._partial.__enter__()
        with self._removing_on_error():
            found = in_place and path.exists()
            self._array = _reopen(path) if found else _create(partial, shape, dtype, attributes)
        self._record = attributes[_KEY]
        self._open = True
        self.shape, self.dtype, self.chunks = shape, dtype, tuple(self._array.chunks)

    @contextlib.contextmanager
    def _removing_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._open = False
            self._partial.__exit__(type(error), error, error.__traceback__)
            raise

    def __setitem__(self, region: Any, part: Any) -> None:
        part = np.asarray(part)
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise input_error(
                "create_segmentation", "probabilities", expected="numbers in 0..1", got="NaN or infinite ones"
            )
        if part.dtype.kind != "f" and part.dtype != self.dtype:
            raise input_error("create_segmentation", "array", expected=f"floats or {self.dtype}", got=part.dtype)
        if not self._open:
            raise input_error("create_segmentation", str(self.path), expected="an open one", got="a closed one")
        box, within = basic_index(region, self.shape)
        expected = np.broadcast_to(part.dtype.type(0), [one.stop - one.start for one in box])[within].shape
        if part.shape != expected or any(one.step not in (None, 1) for one in within if isinstance(one, slice)):
            raise input_error("create_segmentation", "array", expected=f"shape {expected}", got=f"{part.shape}")
        part = part.reshape([one.stop - one.start for one in box])
        _store(self._array, box, quantise(part.astype(np.float32), self.dtype) if part.dtype.kind == "f" else part)

    def __getitem__(self, region: Any) -> AnyArray:
        return np.asarray(self._array[region])

    @property
    def segmentation(self) -> SoftSegmentation:
        """What has been written, read lazily; also before it is closed."""
        data = StoredArray(self.path, self, shape=self.shape, dtype=self.dtype, chunks=self.chunks)
        record = self._record
        colors = tuple(tuple(color) for color in record["colors"])
        return SoftSegmentation(data, tuple(record["classes"]), colors, **grid_from_record(record["grid"]))

    def close(self) -> None:
        """Give the finished store its final name; more than once does nothing."""
        if self._open:
            self._open = False
            self._partial.__exit__(None, None, None)
            self._array = _reopen(self.path, "r")

    def discard(self) -> None:
        """Remove the unfinished store; nothing happens to one that is closed."""
        if self._open:
            self._open = False
            stop = CryoETError("discarded")
            self._partial.__exit__(CryoETError, stop, None)

    def __enter__(self) -> SegmentationWriter:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._open = False
            self._partial.__exit__(kind, error, trace)


def create_segmentation(
    path: str | os.PathLike[str],
    shape_zyx: Sequence[int],
    classes: Sequence[str],
    *,
    dtype: npt.DTypeLike = "uint8",
    grid: Grid | Mapping[str, Any] | None = None,
    colors: Sequence[Triple] = (),
    attributes: Mapping[str, Any] | None = None,
    in_place: bool = False,
) -> SegmentationWriter:
    """Create a soft segmentation on the disk (OME-Zarr 0.5, chunks of 1 x 64^3) to be filled block by block.

    path: a name ending in .zarr; an older zarr store of that name is replaced when the new one is whole.
    shape_zyx: (z, y, x) in voxels. classes: one name a class, background first.
    dtype: uint8, uint16 or float32. grid: another object's `grid()`. colors: one RGB triple a class, linear 0..1.
    attributes: anything else to keep beside it (plain JSON values), such as what made it.
    in_place: write to `path` itself, which has to lie in a folder of `partial_path` or `resumable_path`; what was
    stored there before, by a call with the same arguments, stays.

    Use it as a context manager, or call `close()`. See SegmentationWriter.
    Errors: InputError for arguments that do not fit, FileFormatError where the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise input_error("create_segmentation", "path", expected="a name ending in .zarr", got=path)
    if path.is_file():
        raise file_error(path, "output", expected="a place for a folder", got="a file of that name")
    shape = (len(classes), *(int(n) for n in shape_zyx))
    if len(set(classes)) < len(classes):
        raise input_error("create_segmentation", "classes", expected="different names", got=", ".join(classes))
    if len(shape) != 4 or min(shape) < 1:
        raise input_error(
            "create_segmentation", "shape_zyx, classes", expected="three sizes, one name or more", got=shape
        )
    fields = grid.grid() if isinstance(grid, Grid) else dict(grid or {})
    # An array that holds one value in no memory, so that the segmentation's own checks are made here.
    blank = np.broadcast_to(np.zeros((), dtype), shape)
    like = SoftSegmentation(blank, tuple(map(str, classes)), tuple(colors), **fields)
    if len(like.colors) != len(like.classes):
        raise input_error("create_segmentation", "colors", expected=f"{len(classes)} triples", got=len(like.colors))
    ours = {
        **(attributes or {}),
        "kind": "soft_segmentation",
        "classes": list(like.classes),
        "colors": [list(color) for color in like.colors],
        "unit": like.unit,
    }
    try:
        json.dumps(ours, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise input_error("create_segmentation", "attributes", expected="plain JSON values", got=error) from error
    window = {"start": 0, "end": like.unit, "min": 0, "max": like.unit}
    channels = [
        {"label": name, "color": _hex_color(color), "active": True, "window": window}
        for name, color in zip(like.classes, like.colors, strict=True)
    ]
    return SegmentationWriter(path, shape, blank.dtype, _image_attributes(like, path.stem, ours, channels), in_place)


def write_zarr_segmentation(
    path: Path,
    segmentation: SoftSegmentation,
    *,
    dtype: npt.DTypeLike | None = None,
    progress: Progress = silent,
) -> None:
    """Write a soft segmentation slab by slab, in its own type or quantised to another (uint8, uint16, float32)."""
    kind = np.dtype(dtype or segmentation.data.dtype)
    same = kind == np.dtype(segmentation.data.dtype)
    with create_segmentation(
        path,
        segmentation.shape,
        segmentation.classes,
        dtype=kind,
        grid=segmentation,
        colors=segmentation.colors,
    ) as out:
        for region in _regions(segmentation.shape):
            where = (slice(None), *region)
            out[where] = np.asarray(segmentation.data[where]) if same else segmentation.block(region)
            progress("write", region[0].stop, segmentation.shape[0])
