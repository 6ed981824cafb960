# SPDX-License-Identifier: MIT
"""TIFF stacks, with the voxel sizes that ImageJ (or OME-TIFF) writes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from .._checks import FileFormatError, file_error, input_error
from .._progress import Progress, silent
from ..volume import Volume
from ._files import read_error
from ._lazy import AnyArray, StoredArray, slabs
from ._voxels import angstrom_per, converted, grid_from_record, grid_record, sized_grid, stored_dtype

EXTENSIONS = (".tif", ".tiff")

_KEY = "cryoet_engine"
_STORED = (np.uint8, np.int16, np.uint16, np.float32)  # what ImageJ reads
_CLASSIC_BYTES = (1 << 32) - (1 << 25)  # beyond that offsets do not fit the classic format


@dataclass(frozen=True)
class _Pages:
    """Reads whole pages, as many as are asked for."""

    path: Path

    def __getitem__(self, key: Any) -> Any:
        import tifffile

        z, y, x = key
        with tifffile.TiffFile(self.path) as file:
            pages = file.series[0].pages[z]
            return np.stack([page.asarray()[y, x] for page in pages])


def read_tiff(path: Path) -> Volume:
    """Open a stack: a memory map where its pixels lie uncompressed in one piece, else read page by page.

    Errors: FileFormatError for what is no TIFF, is cut short, has colours, channels or more than one series.
    """
    import tifffile

    try:
        with _complaints_as_errors(path), tifffile.TiffFile(path) as file:
            series = file.series[0] if file.series else None
            if series is None or not series.pages:
                raise file_error(path, "TIFF", expected="images", got="none")
            shape = _stack_shape(path, series)
            dtype = np.dtype(series.dtype)
            offset = series.dataoffset
            size = math.prod(shape) * dtype.itemsize
            if offset is not None:
                if path.stat().st_size < offset + size:
                    raise file_error(
                        path,
                        "file size",
                        expected=f"{offset + size} bytes, as its header says",
                        got=path.stat().st_size,
                        fix="the file is cut short (an unfinished copy?)",
                    )
                dtype = dtype.newbyteorder(file.byteorder)
                data: Any = np.memmap(path, dtype, "r", offset, shape)
                if not dtype.isnative:
                    data = StoredArray(path, data, shape=shape, dtype=dtype)
            elif len(series.pages) == shape[0]:
                data = StoredArray(path, _Pages(path), shape=shape, dtype=dtype, chunks=(1, *shape[1:]))
            else:
                data = series.asarray().reshape(shape)
            return Volume(data, **_grid(path, file))
    except FileFormatError:
        raise
    except Exception as error:  # a broken TIFF makes the library fail in many ways
        raise read_error(path, error) from error


class _Complaint(logging.Handler):
    """Keeps the first error that the library only logs, such as pages that lie beyond the file's end."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


@contextlib.contextmanager
def _complaints_as_errors(path: Path) -> Iterator[None]:
    logger, complaint = logging.getLogger("tifffile"), _Complaint()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(complaint)
    try:
        yield
    finally:
        logger.removeHandler(complaint)
        logger.propagate = propagate
    if complaint.text:
        raise file_error(
            path, "TIFF", expected="a whole file", got=complaint.text, fix="cut short? copy or make it again"
        )


def _stack_shape(path: Path, series: Any) -> tuple[int, int, int]:
    """The series' shape as (z, y, x), without axes of length one."""
    kept = [(name, n) for name, n in zip(series.axes, series.shape, strict=True) if n > 1 or name in "YX"]
    names = "".join(name for name, _ in kept)
    lead = names[:-2]
    if names[-2:] != "YX" or len(lead) > 1 or lead in ("C", "S"):
        raise file_error(
            path,
            "TIFF",
            expected="one grey stack (z, y, x)",
            got=f"axes {series.axes} of {series.shape}",
            fix="split the channels or convert to grey first",
        )
    if np.dtype(series.dtype).kind not in "biuf":
        raise file_error(path, "TIFF", expected="real numbers", got=series.dtype)
    z = kept[0][1] if lead else 1
    return z, kept[-2][1], kept[-1][1]


def _grid(path: Path, file: Any) -> dict[str, Any]:
    imagej = file.imagej_metadata or {}
    try:
        record = json.loads(imagej.get("Info", ""))[_KEY]
    except (ValueError, TypeError, KeyError):
        pass
    else:
        try:
            return grid_from_record(record["grid"])
        except (ValueError, TypeError, KeyError) as error:
            raise file_error(path, _KEY, expected="what this program wrote", got=error) from error
    sizes = _ome_sizes(file) or _imagej_sizes(file, imagej) or (0.0, 0.0, 0.0)
    return sized_grid(tuple(float(f"{size:.7g}") for size in sizes))  # what the tags' fractions are good for


def _imagej_sizes(file: Any, imagej: dict[str, Any]) -> tuple[float, ...] | None:
    """ImageJ: the resolution tags count pixels per unit, `spacing` is the distance of slices in that unit."""
    unit = angstrom_per(imagej.get("unit"))
    if unit is None:
        return None
    plane = []
    for name in ("YResolution", "XResolution"):
        tag = file.pages[0].tags.get(name)
        if tag is None or 0 in tag.value:
            return None
        plane.append(tag.value[1] / tag.value[0] * unit)
    return (float(imagej["spacing"]) * unit if "spacing" in imagej else plane[1], *plane)


def _ome_sizes(file: Any) -> tuple[float, ...] | None:
    if not file.is_ome:
        return None
    pixels = next((one for one in ET.fromstring(file.ome_metadata).iter() if one.tag.endswith("Pixels")), None)
    if pixels is None or pixels.get("PhysicalSizeX") is None:
        return None
    sizes = []
    for axis in "ZYX":
        value = pixels.get(f"PhysicalSize{axis}") or pixels.get("PhysicalSizeX") or "0"
        sizes.append(float(value) * (angstrom_per(pixels.get(f"PhysicalSize{axis}Unit", "µm")) or 0.0))
    return tuple(sizes)


def write_tiff(path: Path, volume: Volume, *, dtype: npt.DTypeLike | None = None, progress: Progress = silent) -> None:
    """Write a stack that ImageJ reads, slab by slab (uint8, int16, uint16, float32); at most 4 GiB.

    Voxel size, origin, start and notes stand in ImageJ's "Info" as JSON.
    """
    import tifffile

    kind = stored_dtype(volume, dtype, _STORED, "TIFF")
    size = math.prod(volume.shape) * kind.itemsize
    if size > _CLASSIC_BYTES:
        raise input_error(
            "write", path.name, expected="at most 4 GiB", got=f"{size} bytes", fix="write .mrc or .zarr instead"
        )

    def planes() -> Iterator[AnyArray]:
        for slab in slabs(volume.data):
            yield from converted(np.asarray(volume.data[slab]), kind)[..., None]
            progress("write", slab.stop, volume.shape[0])

    known = volume.voxel_size_status != "unknown"
    z, y, x = (size / 10 for size in volume.voxel_size_A)
    record = {_KEY: {"grid": grid_record(volume), "software": f"cryoet-engine {__version__}"}}
    tifffile.imwrite(
        path,
        planes(),
        # All six axes, or the library takes an x axis of length one (or three) for samples of a colour.
        shape=(1, volume.shape[0], 1, *volume.shape[1:], 1),
        dtype=kind,
        imagej=True,
        photometric="minisblack",
        resolution=(1 / x, 1 / y) if known else None,
        metadata={
            "axes": "TZCYXS",
            "Info": json.dumps(record),
            **({"unit": "nm", "spacing": z} if known else {}),
        },
    )
