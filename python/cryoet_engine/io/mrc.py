# SPDX-License-Identifier: MIT
"""MRC2014 files (.mrc .rec .st .map .mrcs .ccp4, each also .gz or .bz2), as IMOD, CCP4, Relion and ChimeraX write them.

Of the header: nx, ny, nz and nstart stand in the file's own order (column, row, section), which mapc, mapr and maps
relate to x, y, z; mx, cella and origin stand in the order x, y, z. What leaves this module is (z, y, x).
Source: Cheng et al. 2015, J. Struct. Biol. 192:146, and IMOD's description of its own flags.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import math
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, cast

import mrcfile.dtypes
import numpy as np
import numpy.typing as npt

from .. import __version__
from .._checks import FileFormatError, file_error, input_error
from .._progress import Progress, silent
from ..volume import Volume, VoxelSizeStatus
from ._files import read_error, reason
from ._lazy import AnyArray, StoredArray, basic_index, slabs
from ._voxels import RunningStatistics, converted, sized_grid, status_from_notes, stored_dtype

EXTENSIONS = (".mrc", ".rec", ".st", ".map", ".mrcs", ".ccp4", ".ali", ".preali")

_MODES: dict[int, npt.DTypeLike] = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
_STORED = (np.int8, np.int16, np.uint16, np.float16, np.float32)
_HEADER_BYTES = 1024
_IMOD_STAMP = 1146047817  # at bytes 152-155; bit 0 of the next word: mode 0 means signed bytes
_OWN_NOTE = "Written by cryoet-engine"
_STATUS_NOTES: dict[VoxelSizeStatus, str] = {
    "estimated": "VOXEL SIZE NOT VERIFIED: an estimate",
    "unknown": "VOXEL SIZE UNKNOWN: 1 A is a placeholder",
}
_IN_MEMORY_BYTES = 1 << 30
_PIECE_BYTES = 16 << 20

Shape = tuple[int, int, int]


def read_mrc(path: Path) -> Volume:
    """Open an MRC file: a memory map where it lies uncompressed on the disk, else decompressed once.

    Errors: FileFormatError for what is not an MRC file, is cut short, has an unknown mode or impossible sizes.
    """
    compression = _compression(path)
    try:
        with _opened(path, compression) as stream:
            raw = stream.read(_HEADER_BYTES)
            if len(raw) < _HEADER_BYTES:
                raise file_error(
                    path,
                    "MRC header",
                    expected=f"{_HEADER_BYTES} bytes",
                    got=f"{len(raw)}: {'an empty file' if not raw else 'not an MRC file, or one cut short'}",
                )
            header = _parsed_header(path, raw)
            dtype = _voxel_dtype(header, raw)
            shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
            offset = _HEADER_BYTES + int(header["nsymbt"])
            if compression:
                stored = _decompressed(path, stream, offset, shape, dtype)
            else:
                _check_size(path, path.stat().st_size, offset, shape, dtype)
                stored = np.memmap(path, dtype, "r", offset, shape)
    except FileFormatError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise read_error(path, error) from error
    crs = _axis_order(header)
    order = (crs.index(3), crs.index(2), crs.index(1))  # of z, y, x among column, row, section
    axes = tuple(2 - at for at in order)  # the array's first axis is the section
    data: Any = stored.transpose(axes)
    if not dtype.isnative:
        data = StoredArray(path, data, shape=data.shape, dtype=dtype)
    return Volume(data, **_grid(header, order))


def _compression(path: Path) -> Literal["", "gzip", "bz2"]:
    with path.open("rb") as stream:
        magic = stream.read(3)
    return "gzip" if magic[:2] == b"\x1f\x8b" else "bz2" if magic == b"BZh" else ""


def _opened(path: Path, compression: str) -> IO[bytes]:
    if compression == "gzip":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if compression == "bz2":
        return cast(IO[bytes], bz2.open(path, "rb"))
    return path.open("rb")


def _axis_order(header: Any) -> tuple[int, int, int]:
    crs = (int(header["mapc"]), int(header["mapr"]), int(header["maps"]))
    return crs if crs != (0, 0, 0) else (1, 2, 3)  # old programs left them empty


def _parsed_header(path: Path, raw: bytes) -> Any:
    """The header in the byte order in which it makes sense; an error that says why it does not in either."""
    little, big = (np.frombuffer(raw, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))[0] for order in "<>")
    orders = (big, little) if raw[212] == 0x11 else (little, big)
    problems = [_header_problem(header) for header in orders]
    for header, problem in zip(orders, problems, strict=True):
        if not problem:
            return header
    if raw[208:211] != b"MAP":
        raise file_error(
            path,
            "content",
            expected="an MRC file",
            got="something else: no 'MAP ' in its header, and sizes and mode that make no sense",
        )
    what, expected, got = problems[0] or ("", "", "")
    raise file_error(path, what, expected=expected, got=got)


def _header_problem(header: Any) -> tuple[str, str, str] | None:
    shape = tuple(int(header[name]) for name in ("nx", "ny", "nz"))
    if min(shape) < 1 or max(shape) > 1 << 20:
        return "MRC header's sizes", "nx, ny, nz from 1 to 1048576", f"{shape}"
    if int(header["mode"]) not in _MODES:
        known = "0 (int8), 1 (int16), 2 (float32), 6 (uint16), 12 (float16)"
        return "MRC mode", f"one of {known}", f"{int(header['mode'])}"
    if sorted(_axis_order(header)) != [1, 2, 3]:
        return "MRC header's axes (mapc, mapr, maps)", "1, 2, 3 in some order", f"{_axis_order(header)}"
    if int(header["nsymbt"]) < 0:
        return "MRC header's nsymbt", "bytes of an extended header", f"{int(header['nsymbt'])}"
    if int(header["ispg"]) >= 401 and 0 < int(header["mz"]) < int(header["nz"]):
        return "MRC file", "one volume", f"a stack of {int(header['nz']) // int(header['mz'])} volumes"
    return None


def _voxel_dtype(header: Any, raw: bytes) -> np.dtype[Any]:
    word = header.dtype["nx"]
    stamp, flags = np.frombuffer(raw, word, count=2, offset=152)
    if int(header["mode"]) == 0 and stamp == _IMOD_STAMP and not flags & 1:
        return np.dtype(np.uint8)
    return np.dtype(_MODES[int(header["mode"])]).newbyteorder(word.byteorder)


def _check_size(path: Path, size: int, offset: int, shape: Shape, dtype: np.dtype[Any]) -> None:
    needed = offset + shape[0] * shape[1] * shape[2] * dtype.itemsize
    if size < needed:
        raise file_error(
            path,
            "file size",
            expected=f"{needed} bytes, as the header says ({shape[2]} x {shape[1]} x {shape[0]} {dtype.name})",
            got=f"{size}",
            fix="the file is cut short (an unfinished copy?) or its header is wrong",
        )


def _decompressed(path: Path, stream: IO[bytes], offset: int, shape: Shape, dtype: np.dtype[Any]) -> AnyArray:
    """The voxels of a compressed file: in memory, or in a nameless temporary file where they are many."""
    got = _HEADER_BYTES
    while got < offset and (piece := stream.read(min(_PIECE_BYTES, offset - got))):
        got += len(piece)
    end = offset + shape[0] * shape[1] * shape[2] * dtype.itemsize
    in_memory = end - offset <= _IN_MEMORY_BYTES
    with io.BytesIO() if in_memory else tempfile.TemporaryFile() as target:
        while got < end and (piece := stream.read(min(_PIECE_BYTES, end - got))):
            try:
                target.write(piece)
            except OSError as error:
                raise file_error(
                    path,
                    "decompressing",
                    expected=f"{end - offset} bytes of room in {tempfile.gettempdir()}",
                    got=reason(error),
                    fix="set TMPDIR to a larger place, or decompress the file yourself",
                ) from error
            got += len(piece)
        _check_size(path, got, offset, shape, dtype)
        stream.read(1)  # on to the end, where the checksum stands
        if in_memory:
            return np.frombuffer(cast(io.BytesIO, target).getvalue(), dtype).reshape(shape)
        target.flush()
        return np.memmap(cast(Any, target), dtype, "r", 0, shape)


def _decimal(value: float) -> float:
    """The shortest decimal that is this float32 (12.32, not 12.319999694824219); 0 for what is not finite."""
    number = float(str(np.float32(value)))
    return number + 0.0 if math.isfinite(number) else 0.0  # + 0.0 makes -0.0 positive


def _grid(header: Any, order: tuple[int, int, int]) -> dict[str, Any]:
    labels = [bytes(label).split(b"\0")[0].decode("ascii", "replace").strip() for label in header["label"]]
    notes = tuple(label for label in labels[: int(header["nlabl"])] if label)
    lengths = [float(header["cella"][axis]) for axis in "zyx"]
    cells = [int(header[name]) for name in ("mz", "my", "mx")]
    sizes = tuple(float(f"{length / n:.7g}") if n > 0 else 0.0 for length, n in zip(lengths, cells, strict=True))
    angles = [float(header["cellb"][name]) for name in ("alpha", "beta", "gamma")]
    if any(abs(angle - 90) > 0.01 for angle in angles) and any(angles):
        skew = "Cell angles {:g}, {:g}, {:g}: taken as right angles".format(*angles)
        notes = notes if skew in notes else (*notes, skew)
    starts = [int(header[name]) for name in ("nxstart", "nystart", "nzstart")]
    origin = tuple(_decimal(header["origin"][axis]) for axis in "zyx")
    return sized_grid(sizes, notes, origin_A=origin, start=tuple(starts[at] for at in order))


def write_mrc(path: Path, volume: Volume, *, dtype: npt.DTypeLike | None = None, progress: Progress = silent) -> None:
    """Write a volume, slab by slab, little-endian, by ordinary file writes; the same input gives the same bytes.

    path: its ending says whether to compress (.gz, .bz2).
    Stored types: int8, int16, uint16, float16, float32 (see `stored_dtype`). Labels: the volume's notes (80
    characters each, the first ones), a line that says if the voxel size is an estimate or unknown, and one of ours.
    """
    kind = stored_dtype(volume, dtype, _STORED, "MRC").newbyteorder("<")
    statistics = RunningStatistics()
    packed = path.suffix.lower() in (".gz", ".bz2")
    if packed:  # the header comes first and cannot be mended afterwards
        for slab in slabs(volume.data):
            statistics.add(converted(np.asarray(volume.data[slab]), kind))
    with _created(path) as stream:
        stream.write(_header(volume, kind, statistics))
        for slab in slabs(volume.data):
            part = converted(np.asarray(volume.data[slab]), kind)
            if not packed:
                statistics.add(part)
            stream.write(part.reshape(-1).view(np.uint8).data)
            progress("write", slab.stop, volume.shape[0])
        if not packed:
            stream.seek(0)
            stream.write(_header(volume, kind, statistics))


class MrcStream:
    """An MRC file whose parts are written in any order: `out[z0:z1, y0:y1, x0:x1] = array` (see io.create_volume)."""

    def __init__(self, stream: IO[bytes], shape: Shape, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype.newbyteorder("=")
        self._stream, self._stored = stream, dtype.newbyteorder("<")

    def __setitem__(self, region: Any, part: Any) -> None:
        box, _ = basic_index(region, self.shape)
        sizes = tuple(one.stop - one.start for one in box)
        values = np.asarray(part)
        if values.shape != sizes:
            raise input_error("create_volume", "array", expected=f"shape {sizes}", got=values.shape)
        values = converted(values, self._stored)
        z, y, x = box
        _, rows, columns = self.shape
        runs = values.reshape(sizes[0], -1) if sizes[2] == columns else values.reshape(-1, sizes[2])
        starts = [(k * rows + j) * columns + x.start for k in range(z.start, z.stop) for j in range(y.start, y.stop)]
        for start, run in zip(starts[:: len(starts) // len(runs)], runs, strict=True):
            self._stream.seek(_HEADER_BYTES + start * self._stored.itemsize)
            self._stream.write(run.data)

    def finish(self, volume: Volume) -> None:
        """Write the header, with the statistics of what has been written; `volume` has grid and notes."""
        plane_bytes = math.prod(self.shape[1:]) * self._stored.itemsize
        self._stream.truncate(_HEADER_BYTES + self.shape[0] * plane_bytes)
        statistics = RunningStatistics()
        # Read back in order: statistics that are added up block by block would depend on the blocks.
        self._stream.seek(_HEADER_BYTES)
        for _ in range(self.shape[0]):
            plane = np.frombuffer(self._stream.read(plane_bytes), self._stored)
            statistics.add(plane.reshape(1, *self.shape[1:]))
        self._stream.seek(0)
        self._stream.write(_header(volume, self._stored, statistics))


@contextlib.contextmanager
def stream_mrc(path: Path, like: Volume) -> Iterator[MrcStream]:
    """A file of `like`'s shape, type (one that MRC has), grid and notes, to be filled part by part."""
    with path.open("w+b") as file:
        stream = MrcStream(file, like.shape, stored_dtype(like, like.dtype, _STORED, "MRC"))
        yield stream
        stream.finish(like)


@contextlib.contextmanager
def _created(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if path.suffix.lower() == ".gz":  # no name and no time within: the same bytes for the same volume
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                yield cast(IO[bytes], packed)
        elif path.suffix.lower() == ".bz2":
            with bz2.open(file, "wb") as packed_bz2:
                yield cast(IO[bytes], packed_bz2)
        else:
            yield file


def _header(volume: Volume, dtype: np.dtype[Any], statistics: RunningStatistics) -> bytes:
    header = np.zeros((), mrcfile.dtypes.HEADER_DTYPE.newbyteorder("<"))
    for axis, at in (("x", 2), ("y", 1), ("z", 0)):
        header[f"n{axis}"] = header[f"m{axis}"] = volume.shape[at]
        header["cella"][axis] = volume.shape[at] * volume.voxel_size_A[at]
        header["origin"][axis] = volume.origin_A[at]
        header[f"n{axis}start"] = volume.start[at]
    for angle in ("alpha", "beta", "gamma"):
        header["cellb"][angle] = 90.0
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["mode"] = next(mode for mode, one in _MODES.items() if np.dtype(one) == dtype.newbyteorder("="))
    header["ispg"], header["nversion"] = 1, 20141
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    if statistics.n:
        header["dmin"], header["dmax"] = statistics.min, statistics.max
        header["dmean"], header["rms"] = statistics.mean, statistics.rms
    labels = _labels(volume)
    header["nlabl"] = len(labels)
    header["label"] = [label.encode("ascii").ljust(80) for label in labels] + [b""] * (10 - len(labels))
    return header.tobytes()


def _labels(volume: Volume) -> list[str]:
    """At most ten lines of at most 80 ASCII characters that say of the voxel size what the volume says."""
    told = [" ".join(note.replace("Å", "A").split()) for note in volume.notes]
    notes = [note.encode("ascii", "replace").decode()[:80] for note in told]
    notes = [
        note
        for note in notes
        if note and not note.startswith(_OWN_NOTE) and status_from_notes((note,)) in ("known", volume.voxel_size_status)
    ]
    status = (
        [] if status_from_notes(tuple(notes)) == volume.voxel_size_status else [_STATUS_NOTES[volume.voxel_size_status]]
    )
    last = [*status, f"{_OWN_NOTE} {__version__}"]
    said = [note for note in notes if status_from_notes((note,)) != "known"]
    spare = 10 - len(last)
    if said and said[0] not in notes[:spare]:  # the line on the voxel size must not be the one that finds no room
        notes = [*notes[: spare - 1], said[0]]
    return [*notes[:spare], *last]
