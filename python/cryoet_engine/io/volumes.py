# SPDX-License-Identifier: MIT
"""Read and write by extension, with a look at the content: a file that is not what its name says is told so."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import file_error, input_error
from .._progress import Progress, silent
from ..volume import Grid, SoftSegmentation, Volume
from . import hdf5, mrc, omezarr, tiff
from ._files import existing, is_zarr, partial_path, read_error

_FORMATS = {
    **dict.fromkeys(mrc.EXTENSIONS, "MRC"),
    **dict.fromkeys(omezarr.EXTENSIONS, "zarr"),
    **dict.fromkeys(tiff.EXTENSIONS, "TIFF"),
    **dict.fromkeys(hdf5.EXTENSIONS, "HDF5"),
}
_KNOWN = ".mrc .rec .st .map .mrcs .ccp4 (also .gz, .bz2), .zarr, .tif, .h5"
#: How files begin.
_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"PK\x03\x04", "zip archive"),
    (b"%PDF", "PDF"),
    (b"\x93NUMPY", "numpy array"),
    (b"<", "text (HTML or XML)"),
)


def read(path: str | os.PathLike[str], *, channel: int | None = None) -> Volume | SoftSegmentation:
    """Open a tomogram, a mask, a label volume or a soft segmentation; voxels are read as they are sliced.

    path: MRC (.mrc .rec .st .map .mrcs .ccp4, also .gz and .bz2), OME-Zarr or plain zarr, TIFF stack, HDF5
        (`file.h5:/path/in/file`). Data come as (z, y, x), lengths in Å.
    channel: which channel of a zarr image that has several.

    Uncompressed MRC and TIFF files are memory maps; .gz and .bz2 are decompressed once.
    A voxel size of 0 or none gives `voxel_size_status` "unknown" (and size 1); a label that calls it an estimate or
    not verified gives "estimated".

    Errors: FileFormatError, in one line, for a missing file (with names that are close), an unreadable or broken one,
    and for content that is not what the name says.
    """
    file, inside = _split(path)
    kind = _kind(file)
    if inside and kind != "HDF5":
        raise file_error(file, f"path within the file ({inside})", expected="an HDF5 file", got=f"a {kind} file")
    if kind == "zarr":
        return omezarr.read_zarr(file, channel=channel)
    if channel is not None:
        raise input_error("read", "channel", expected=f"none for a {kind} file", got=channel)
    if kind == "TIFF":
        return tiff.read_tiff(file)
    if kind == "HDF5":
        return hdf5.read_hdf5(file, inside)
    return mrc.read_mrc(file)


def read_volume(path: str | os.PathLike[str], *, channel: int | None = None) -> Volume:
    """As `read`, where a single volume is wanted.

    Errors: as `read`, and FileFormatError for a soft segmentation.
    """
    found = read(path, channel=channel)
    if isinstance(found, Volume):
        return found
    raise file_error(path, "content", expected="a volume", got=f"a soft segmentation of {', '.join(found.classes)}")


def _split(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """Part `file.h5:/inside` and `file.h5/inside`."""
    text = os.fspath(path)
    if not os.path.lexists(text):
        ends = "|".join(re.escape(one) for one in hdf5.EXTENSIONS)
        split = re.match(rf"(.+?(?:{ends}))(?::/?|/)(.+)$", text, re.IGNORECASE)
        if split and os.path.isfile(split[1]):
            return Path(split[1]), split[2]
    return existing(path), ""


def named_format(path: Path) -> str | None:
    """The format a name stands for, by its ending; None for one we do not know."""
    name = path.name.lower()
    for packing in (".gz", ".bz2"):
        stem = name.removesuffix(packing)
        if stem != name:
            return "MRC" if Path(stem).suffix in mrc.EXTENSIONS else None
    return _FORMATS.get(Path(name).suffix)


def _kind(path: Path) -> str:
    """Which reader takes this file: what its name says, if the content does not speak against it."""
    named = named_format(path)
    if path.is_dir():
        if is_zarr(path):
            return "zarr"
        got = "an empty one" if not any(path.iterdir()) else "none of zarr's files (zarr.json, .zgroup, .zarray)"
        raise file_error(path, "folder", expected="a zarr store", got=got)
    try:
        head = _head(path)
    except (OSError, EOFError, zlib.error) as error:
        raise read_error(path, error) from error
    if not head:
        raise file_error(path, "file", expected="a volume", got="an empty file")
    found = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    if head[208:211] == b"MAP":
        found = "MRC"
    if found is None and named in ("MRC", None):
        return "MRC"  # whose reader finds out, as old files bear no mark
    if found in ("MRC", "TIFF", "HDF5") and named in (found, None):
        return found
    raise file_error(
        path,
        "content",
        expected=f"{_article(named)} file, as its name says" if named else f"a volume ({_KNOWN})",
        got=f"{_article(found)} file" if found else "something else",
        fix="rename it if it is a volume" if found in _FORMATS.values() else "",
    )


def _article(kind: str | None) -> str:
    return f"an {kind}" if kind in ("MRC", "HDF5") else f"a {kind}"


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        head = stream.read(212)
    if head[:2] == b"\x1f\x8b":
        with gzip.open(path, "rb") as packed:
            return packed.read(212)
    if head[:3] == b"BZh":
        with bz2.open(path, "rb") as packed:
            return packed.read(212)
    return head


def write(
    path: str | os.PathLike[str],
    volume_or_segmentation: Volume | SoftSegmentation,
    *,
    dtype: npt.DTypeLike | None = None,
    progress: Progress = silent,
) -> None:
    """Write a volume (.mrc, .mrc.gz, .zarr, .tif, .h5) or a soft segmentation (.zarr), slab by slab.

    dtype: stored type; by default the volume's own one where the format has it, else float32 for float64 and the
        smallest integer type that holds all voxels. A conversion that would lose values is an error.
    Voxel size, its status, origin, start and notes are kept. The file appears under its name when it is whole; the
    same volume gives the same bytes.

    Errors: InputError for a format or dtype that does not fit, FileFormatError where the disk does not.
    """
    path = Path(path)
    kind = named_format(path)
    one = volume_or_segmentation
    if kind is None:
        raise input_error("write", "path", expected=f"a name ending in one of {_KNOWN}", got=path)
    if kind == "zarr" and path.is_file():
        raise file_error(path, "output", expected="a place for a folder", got="a file of that name")
    if isinstance(one, SoftSegmentation):
        if kind != "zarr":
            raise input_error(
                "write",
                "path",
                expected="a name ending in .zarr for a soft segmentation",
                got=path,
                fix="export_classes writes one MRC a class",
            )
        omezarr.write_zarr_segmentation(path, one, dtype=dtype, progress=progress)
        return
    if not isinstance(one, Volume):
        raise input_error("write", "data", expected="a Volume or a SoftSegmentation", got=type(one).__name__)
    with partial_path(path) as partial:
        _write_volume(kind, partial, one, dtype=dtype, progress=progress)


@contextlib.contextmanager
def create_volume(
    path: str | os.PathLike[str],
    shape_zyx: Sequence[int],
    *,
    dtype: npt.DTypeLike,
    grid: Grid | Mapping[str, Any] | None = None,
    in_place: bool = False,
) -> Iterator[mrc.MrcStream | omezarr.ZarrStream]:
    """A volume on the disk (.mrc, .zarr) to be filled part by part, in any order: `out[z0:z1, y0:y1, x0:x1] = array`.

    shape_zyx: (z, y, x) in voxels. dtype: one that the format stores. grid: another object's `grid()`; its notes are
    kept. in_place: as for `create_segmentation`, .zarr alone. Use it as a context manager: the file appears under its
    name at the end, or not at all.

    Errors: InputError for a format or dtype that does not fit, FileFormatError where the disk does not do.
    """
    path = Path(path)
    kind = named_format(path)
    if kind not in ("MRC", "zarr") or path.suffix.lower() in (".gz", ".bz2"):
        raise input_error("create_volume", "path", expected="a name ending in .mrc or .zarr", got=path)
    if kind == "zarr" and path.is_file():
        raise file_error(path, "output", expected="a place for a folder", got="a file of that name")
    fields = grid.grid() if isinstance(grid, Grid) else dict(grid or {})
    like = Volume(np.broadcast_to(np.zeros((), dtype), tuple(int(n) for n in shape_zyx)), **fields)
    if in_place and kind != "zarr":
        raise input_error("create_volume", "path", expected="a name ending in .zarr to write in place", got=path)
    with contextlib.nullcontext(path) if in_place else partial_path(path) as partial:
        if kind == "zarr":
            yield omezarr.ZarrStream(partial, like)
        else:
            with mrc.stream_mrc(partial, like) as stream:
                yield stream


def _write_volume(kind: str, path: Path, volume: Volume, **how: Any) -> None:
    if kind == "MRC":
        mrc.write_mrc(path, volume, **how)
    elif kind == "zarr":
        omezarr.write_zarr_volume(path, volume, **how)
    elif kind == "TIFF":
        tiff.write_tiff(path, volume, **how)
    else:
        hdf5.write_hdf5(path, volume, **how)
