# SPDX-License-Identifier: MIT
"""HDF5: the only volume of a file, or the one named by `file.h5:/path/in/file` or `file.h5/path/in/file`.

Voxel sizes come from `element_size_um` (z, y, x), which ilastik's and paintera's tools write.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from .._checks import FileFormatError, file_error
from .._progress import Progress, silent
from ..volume import Volume
from ._files import read_error
from ._lazy import StoredArray, slabs
from ._voxels import converted, grid_from_record, grid_record, sized_grid, stored_dtype

EXTENSIONS = (".h5", ".hdf5", ".hdf", ".he5")

_KEY = "cryoet_engine"
_STORED = (
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
    *(np.float16, np.float32),
)


@dataclass(frozen=True)
class _Dataset:
    """Opens the file for each read, so that none stays open (or locked) while a volume lives."""

    path: Path
    name: str

    def __getitem__(self, key: Any) -> Any:
        import h5py

        with h5py.File(self.path, "r") as file:
            return file[self.name][key]


def read_hdf5(path: Path, inside: str = "") -> Volume:
    """Open a dataset lazily. Axes of length one beside three others are dropped.

    inside: its name in the file; not needed if only one dataset has three axes.
    Errors: FileFormatError for what is no HDF5 file, holds no volume, or several and none is named.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            name = inside.strip("/") or _only_volume(path, file)
            if name not in file or not isinstance(file[name], h5py.Dataset):
                raise file_error(path, f"dataset {name}", expected=_listing(file), got="none of that name")
            dataset = file[name]
            axes = _volume_axes(dataset.shape)
            if axes is None or np.dtype(dataset.dtype).kind not in "biuf":
                raise file_error(
                    path,
                    f"dataset {name}",
                    expected="real numbers with three axes (z, y, x)",
                    got=f"{dataset.dtype} of shape {dataset.shape}",
                )
            data = StoredArray(
                path,
                _Dataset(path, name),
                shape=dataset.shape,
                dtype=dataset.dtype,
                axes=axes,
                index={axis: 0 for axis in range(len(dataset.shape)) if axis not in axes},
                chunks=dataset.chunks,
            )
            return Volume(data, **_grid(path, dict(dataset.attrs)))
    except FileFormatError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise read_error(path, error) from error


def _volume_axes(shape: tuple[int, ...] | None) -> tuple[int | None, ...] | None:
    if not shape or 0 in shape:
        return None
    if len(shape) == 2:
        return (None, 0, 1)
    long = [axis for axis, n in enumerate(shape) if n > 1]
    if len(shape) == 3:
        return (0, 1, 2)
    if len(long) == 3 and len(shape) <= 5:
        return tuple(long)
    return None


def _volumes(file: Any) -> list[str]:
    import h5py

    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf" and len(item.shape or ()) >= 3:
            found.extend([name] if _volume_axes(item.shape) else [])

    file.visititems(visit)
    return found


def _listing(file: Any) -> str:
    names = _volumes(file)
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "a dataset with three axes"


def _only_volume(path: Path, file: Any) -> str:
    names = _volumes(file)
    if len(names) == 1:
        return names[0]
    raise file_error(
        path,
        "HDF5 file",
        expected="one dataset with three axes",
        got=f"{len(names)}: {_listing(file)}" if names else "none",
        fix=f"name the one you mean: {path}:/{names[0]}" if names else "",
    )


def _grid(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    if _KEY in attributes:
        try:
            return grid_from_record(json.loads(attributes[_KEY])["grid"])
        except (ValueError, TypeError, KeyError) as error:
            raise file_error(path, f"attribute {_KEY}", expected="what this program wrote", got=error) from error
    sizes = np.ravel(attributes.get("element_size_um", ()))
    if sizes.size != 3:
        return sized_grid((0.0, 0.0, 0.0))
    return sized_grid(tuple(float(size) * 1e4 for size in sizes))


def write_hdf5(path: Path, volume: Volume, *, dtype: npt.DTypeLike | None = None, progress: Progress = silent) -> None:
    """Write a volume as the dataset "data", uncompressed, slab by slab. Stored: any integer, float16, float32."""
    import h5py

    kind = stored_dtype(volume, dtype, _STORED, "HDF5")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", volume.shape, kind)
        if volume.voxel_size_status != "unknown":
            dataset.attrs["element_size_um"] = [size / 1e4 for size in volume.voxel_size_A]
        record = {"grid": grid_record(volume), "software": f"cryoet-engine {__version__}"}
        dataset.attrs[_KEY] = json.dumps(record)
        for slab in slabs(volume.data):
            dataset[slab] = converted(np.asarray(volume.data[slab]), kind)
            progress("write", slab.stop, volume.shape[0])
