# SPDX-License-Identifier: MIT
"""Soft segmentations from and to other tools' files: one mask or score volume a class, or one label volume."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import file_error, input_error
from .._progress import Progress, silent
from ..volume import Grid, SoftSegmentation, Volume, probability_unit
from . import omezarr
from ._files import is_zarr, partial_path
from ._lazy import AnyArray, LazyArray, Slices, slabs
from ._voxels import value_range
from .mrc import write_mrc
from .volumes import named_format, read_volume

PathLike = str | os.PathLike[str]

_MAX_LABELS = 64
_OVERSHOOT = 1e-3  # what interpolation and rounding leave outside 0..1; clipped
_CLASS_NOTE = "Class {} of {}: {}"
_CLASS_PATTERN = re.compile(r"Class (\d+) of (\d+): (.+)")


def read_segmentation(
    path_or_paths: PathLike | Sequence[PathLike],
    *,
    classes: Sequence[str] | None = None,
    progress: Progress = silent,
) -> SoftSegmentation:
    """Open a soft segmentation, or make one of other tools' masks, scores or labels; lazily in every case.

    path_or_paths: one of
        - a zarr soft segmentation (also another tool's image with a channel a class);
        - several volumes, or a folder of them, one class each: masks (0 and one other value), integer scores
          (0..255, or up to the type's largest value) or floats in 0..1. A class is named after its file, without
          what all names begin or end with (tomo_membrane.mrc, tomo_spikes.mrc -> membrane, spikes);
        - one integer volume of labels 0..K (one channel a label above 0), or one mask, or one volume of scores;
        - labels that this package wrote: their notes name classes 1..K, background first, and 0 is unlabelled.
    classes: names to use instead, in the order of the files, channels or labels.

    Class 0 is always background: the class of that name, or one put in front that is 1 minus the sum of the others,
    clipped. Masks and labels give uint8, scores float32. Masks, scores and labels are read through once, for their
    range.

    Errors: FileFormatError for what cannot be read, shapes or voxel sizes that differ, scores outside 0..1 (logits),
    NaN; InputError for names that do not fit.
    """
    given = [path_or_paths] if isinstance(path_or_paths, str | os.PathLike) else list(path_or_paths)
    paths = [Path(one) for one in given]
    if len(paths) == 1 and paths[0].is_dir():
        if not is_zarr(paths[0]):
            paths = _volumes_in(paths[0])
        elif (found := _from_store(paths[0], classes)) is not None:
            return found
    if not paths:
        raise input_error("read_segmentation", "path_or_paths", expected="one path or more", got="none")
    names, order, paths, volumes = _class_volumes(paths)
    _check_same_grid(paths, volumes)
    single = len(paths) == 1
    if single and (named := _named_labels(volumes[0])) and volumes[0].dtype.kind in "iu":
        return as_soft(volumes[0], classes or named)
    n_labels = len(classes) if single and classes is not None and len(classes) > 1 else 0
    maps: list[_ClassMap] = []
    for path, volume in zip(paths, volumes, strict=True):
        maps += _class_maps(path, volume, single=single, n_labels=n_labels, progress=progress)
    if classes is not None:
        names, order = list(classes), list(range(len(maps)))
    elif single and maps[0].label:
        names, order = [f"label {one.label}" for one in maps], list(range(len(maps)))
    if len(names) != len(maps) or len(set(names)) != len(names):
        raise input_error("read_segmentation", "classes", expected=f"{len(maps)} different names", got=", ".join(names))
    background = next((i for i in order if names[i].lower() == "background"), None)
    ordered = [i for i in order if i != background]
    data = _ClassStack(
        [maps[i] for i in ordered],
        # Labels leave no voxel without a class: unlabelled ones (0) count as background.
        None if background is None or maps[background].label else maps[background],
    )
    first = next((v for v in volumes if v.voxel_size_status != "unknown"), volumes[0])
    grid = first.grid() | {"notes": tuple(note for note in first.notes if not _CLASS_PATTERN.match(note))}
    return SoftSegmentation(data, ("background", *(names[i] for i in ordered)), **grid)


def _volumes_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if named_format(path))
    if not found:
        raise file_error(folder, "folder", expected="a zarr store, or one volume a class", got="neither")
    return found


def _from_store(path: Path, classes: Sequence[str] | None) -> SoftSegmentation | None:
    """The soft segmentation that a zarr store is; None if it is something else."""
    found = omezarr.read_zarr(path, channel=0)
    if isinstance(found, Volume):
        return None
    if classes is None:
        return found
    if len(classes) != len(found.classes):
        raise input_error("read_segmentation", "classes", expected=f"{len(found.classes)} names", got=classes)
    return SoftSegmentation(found.data, tuple(classes), found.colors, **found.grid())


def _class_volumes(paths: list[Path]) -> tuple[list[str], list[int], list[Path], list[Volume]]:
    """Names, their order, and a volume (with its file) each: one a file, or one a channel of a zarr image."""
    channels = omezarr.channel_names(paths[0]) if len(paths) == 1 and is_zarr(paths[0]) else ()
    if not channels:
        volumes = [read_volume(path) for path in paths]
        return *_names(paths, volumes), paths, volumes
    opened = [omezarr.read_zarr(paths[0], channel=i) for i in range(len(channels))]
    volumes = [one for one in opened if isinstance(one, Volume)]
    return list(channels), list(range(len(channels))), paths * len(channels), volumes


def _check_same_grid(paths: Sequence[Path], volumes: Sequence[Volume]) -> None:
    sized = [(p, v) for p, v in zip(paths, volumes, strict=True) if v.voxel_size_status != "unknown"]
    for path, volume in zip(paths, volumes, strict=True):
        if volume.shape != volumes[0].shape:
            raise file_error(path, "shape", expected=f"{volumes[0].shape}, as in {paths[0].name}", got=volume.shape)
    for path, volume in sized:
        if not np.allclose(volume.voxel_size_A, sized[0][1].voxel_size_A, rtol=0.01):
            raise file_error(
                path,
                "voxel size",
                expected=f"{sized[0][1].voxel_size_A} A, as in {sized[0][0].name}",
                got=volume.voxel_size_A,
            )


@dataclass(frozen=True)
class _ClassMap:
    """One class within one volume: `== label`, `> 0` (a mask), or a score of which `scale` means 1."""

    data: Any
    label: int = 0
    mask: bool = False
    scale: float = 1.0

    def read(self, region: Slices, dtype: np.dtype[Any]) -> AnyArray:
        part = np.asarray(self.data[region])
        if self.label or self.mask:
            hit = part == self.label if self.label else part != 0
            full: AnyArray = hit.astype(dtype) * dtype.type(probability_unit(dtype))
            return full
        score: AnyArray = np.clip(part.astype(np.float32) / np.float32(self.scale), 0, 1)
        return score


class _ClassStack(LazyArray):
    """Classes read from their volumes, with the background in front: given, or what the others leave."""

    def __init__(self, classes: Sequence[_ClassMap], background: _ClassMap | None) -> None:
        self._classes, self._background = list(classes), background
        every = [*classes, *([background] if background else [])]
        dtype = np.uint8 if all(one.label or one.mask for one in every) else np.float32
        first = every[0].data
        chunks = getattr(first, "chunks", None)
        super().__init__((len(classes) + 1, *first.shape), dtype, (1, *chunks) if chunks else None)

    def _read(self, region: Slices) -> AnyArray:
        wanted, box = range(region[0].start, region[0].stop), region[1:]
        out = np.empty([part.stop - part.start for part in region], self.dtype)
        rest = np.full(out.shape[1:], probability_unit(self.dtype), self.dtype)
        complement = 0 in wanted and self._background is None
        for i, one in enumerate(self._classes, 1):
            if i not in wanted and not complement:
                continue
            part = one.read(box, self.dtype)
            if complement:
                rest -= np.minimum(part, rest)
            if i in wanted:
                out[i - wanted.start] = part
        if 0 in wanted:
            out[0] = rest if self._background is None else self._background.read(box, self.dtype)
        return out


def as_soft(labels: Volume | SoftSegmentation, classes: Sequence[str]) -> SoftSegmentation:
    """A label volume as a soft segmentation, lazily: label i is the i-th of `classes`, from 1 on.

    Voxels of label 0 are unlabelled: no class has a probability there. The labels are read through once.
    A soft segmentation is returned as it is.

    Errors: InputError for voxels that are no integers, or labels without a name.
    """
    if isinstance(labels, SoftSegmentation):
        return labels
    if labels.dtype.kind not in "biu":
        raise input_error("as_soft", "labels", expected="integers", got=labels.dtype)
    low, high = value_range(labels)
    if low < 0 or high > len(classes):
        raise input_error("as_soft", "labels", expected=f"0 to {len(classes)}, one a name", got=f"{low} to {high}")
    return SoftSegmentation(_OneHot(labels, len(classes)), tuple(classes), **labels.grid())


def labels_from_zero(labels: Volume) -> Volume:
    """Labels 0..K-1 of other tools, where every voxel has a class, as 1..K, lazily; -1 becomes 0, unlabelled.

    Such is the simulator's truth.

    Errors: InputError for voxels that are no integers.
    """
    if labels.dtype.kind not in "biu":
        raise input_error("labels_from_zero", "labels", expected="integers", got=labels.dtype)
    return labels.with_data(_FromOne(labels.data))


class _FromOne(LazyArray):
    """Each label and one more."""

    def __init__(self, labels: Any) -> None:
        super().__init__(labels.shape, np.int64, getattr(labels, "chunks", None))
        self._labels = labels
        self._mmap, self.mode = getattr(labels, "_mmap", None), getattr(labels, "mode", None)  # see drop_pages

    def _read(self, region: Slices) -> AnyArray:
        return np.asarray(self._labels[region]).astype(np.int64) + 1


def _named_labels(labels: Volume) -> tuple[str, ...]:
    """The names that notes such as "label 1 background" give to 1, 2, ...; none where there are no such notes."""
    found = [re.fullmatch(r"label (\d+) (.+)", note.strip()) for note in labels.notes]
    names = {int(one[1]): one[2] for one in found if one}
    return tuple(names[k] for k in sorted(names)) if sorted(names) == list(range(1, len(names) + 1)) else ()


class _OneHot(LazyArray):
    """Label i as 255 in channel i - 1."""

    def __init__(self, labels: Volume, n: int) -> None:
        chunks = getattr(labels.data, "chunks", None)
        super().__init__((n, *labels.shape), np.uint8, (1, *chunks) if chunks else None)
        self._labels = labels.data

    def _read(self, region: Slices) -> AnyArray:
        part = np.asarray(self._labels[region[1:]])
        names = np.arange(region[0].start + 1, region[0].stop + 1).reshape(-1, 1, 1, 1)
        return np.where(part == names, np.uint8(255), np.uint8(0))


def _class_maps(path: Path, volume: Volume, *, single: bool, n_labels: int, progress: Progress) -> list[_ClassMap]:
    """What a file means, by its values: a mask, scores, or (a single integer file) labels."""
    low, high, is_mask = _values(path, volume, progress)
    if n_labels and volume.dtype.kind in "iu" and high > n_labels:
        raise file_error(path, "labels", expected=f"0 to {n_labels}, a class each", got=f"up to {high:.0f}")
    if is_mask and not n_labels:
        return [_ClassMap(volume.data, mask=True)]
    if volume.dtype.kind == "f":
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            raise file_error(
                path,
                "scores",
                expected="probabilities in 0..1, or a mask of 0 and one other value",
                got=f"{low:.4g} to {high:.4g}",
                fix="apply a sigmoid (or softmax over the classes) to logits, or a threshold, and save that",
            )
        return [_ClassMap(volume.data)]
    if low < 0:
        raise file_error(path, "labels or scores", expected="integers from 0 on", got=f"{low:.0f} to {high:.0f}")
    if single:
        if high > _MAX_LABELS:
            raise file_error(
                path,
                "labels",
                expected=f"0 to at most {_MAX_LABELS}",
                got=f"up to {high:.0f}",
                fix="for integer scores give one file a class (two or more), or floats in 0..1",
            )
        return [_ClassMap(volume.data, label=label) for label in range(1, (n_labels or int(high)) + 1)]
    byte = high <= 255 and volume.dtype != np.int8
    return [_ClassMap(volume.data, scale=255.0 if byte else float(np.iinfo(volume.dtype).max))]


def _values(path: Path, volume: Volume, progress: Progress) -> tuple[float, float, bool]:
    """Smallest and largest value, and whether the volume is a mask: 0 and at most one other value.

    That value must be a whole number above 0, or -1, which is what 255 becomes as a signed byte.
    """
    low, high, value, mask = np.inf, -np.inf, None, True
    for slab in slabs(volume.data):
        part = np.asarray(volume.data[slab])
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise file_error(
                path, "scores", expected="finite numbers", got="NaN or infinite voxels", fix="replace them first"
            )
        low, high = min(low, float(part.min())), max(high, float(part.max()))
        if mask and (inside := part[part != 0]).size:
            value = float(inside[0]) if value is None else value
            mask = bool((inside == value).all())
        progress(f"read {path.name}", slab.stop, volume.shape[0])
    whole = value is None or (value >= 1 and value.is_integer()) or (value == -1 and volume.dtype == np.int8)
    return low, high, mask and whole


def _names(paths: Sequence[Path], volumes: Sequence[Volume]) -> tuple[list[str], list[int]]:
    """Class names, and the order of the classes: as `export_classes` noted them, else by the file names."""
    told = [next((hit for note in volume.notes if (hit := _CLASS_PATTERN.match(note))), None) for volume in volumes]
    if all(told):
        numbers = [int(hit[1]) for hit in told if hit]
        if len(set(numbers)) == len(paths):
            return [hit[3] for hit in told if hit], sorted(range(len(paths)), key=numbers.__getitem__)
    return _distinct_parts([_stem(path) for path in paths]), list(range(len(paths)))


def _stem(path: Path) -> str:
    stem = path.name
    while named_format(Path(stem)) or Path(stem).suffix.lower() in (".gz", ".bz2"):
        shorter = Path(stem).stem if Path(stem).suffix else ""
        if not shorter or shorter == stem:
            break
        stem = shorter
    return stem


def _distinct_parts(stems: list[str]) -> list[str]:
    """Names without the words that all of them begin or end with; a word ends at `_`, `-`, `.` or a space."""
    if len(stems) == 1:
        return stems
    words = [re.findall(r"[^_\-. ]+[_\-. ]*|^[_\-. ]+", stem) for stem in stems]
    plain = [[word.rstrip("_-. ") for word in parts] for parts in words]
    shortest = min(map(len, plain))
    head = 0
    while head < shortest - 1 and len({parts[head] for parts in plain}) == 1:
        head += 1
    tail = 0
    while tail < shortest - head - 1 and len({parts[-1 - tail] for parts in plain}) == 1:
        tail += 1
    return ["".join(parts[head : len(parts) - tail]).rstrip("_-. ") for parts in words]


def export_classes(
    segmentation: SoftSegmentation,
    folder: PathLike,
    *,
    dtype: npt.DTypeLike = "float32",
    prefix: str = "",
    progress: Progress = silent,
) -> list[Path]:
    """Write one MRC a class, `folder/PREFIXclass.mrc`, which ChimeraX and IMOD open; returns the paths.

    dtype: float32 or float16: probabilities in 0..1; uint16: 0..65535 (MRC mode 6); int8: 0..127 (mode 0).
    Voxel size, origin and start are kept; a label holds the class's number and full name, so that
    `read_segmentation(folder)` finds the classes in their order again. Memory holds one slab at a time; the files
    appear when all are whole.

    Errors: InputError for another dtype or a prefix that names a folder, FileFormatError where the disk does not do.
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float16, np.uint16, np.int8):
        raise input_error("export_classes", "dtype", expected="float32, float16, uint16 or int8", got=dtype)
    if os.sep in prefix:
        raise input_error("export_classes", "prefix", expected="the beginning of a file name", got=prefix)
    names = [re.sub(r"[^\w.+-]+", "_", name).strip("._") or f"class_{i}" for i, name in enumerate(segmentation.classes)]
    if len({name.lower() for name in names}) < len(names):
        names = [f"{i}_{name}" for i, name in enumerate(names)]
    paths = [Path(folder) / f"{prefix}{name}.mrc" for name in names]
    grid: dict[str, Any] = Grid.grid(segmentation)
    with contextlib.ExitStack() as all_or_none:
        for i, (path, name) in enumerate(zip(paths, segmentation.classes, strict=True)):
            note = _CLASS_NOTE.format(i, len(paths), name)
            volume = Volume(_OneClass(segmentation, i, kind), **grid | {"notes": (note, *segmentation.notes)})
            write_mrc(all_or_none.enter_context(partial_path(path)), volume)
            progress("export", i + 1, len(paths))
    return paths


class _OneClass(LazyArray):
    """One class of a segmentation, in the scale of another type."""

    def __init__(self, segmentation: SoftSegmentation, index: int, dtype: np.dtype[Any]) -> None:
        chunks = getattr(segmentation.data, "chunks", None)
        super().__init__(segmentation.shape, dtype, chunks[1:] if chunks else None)
        self._data, self._index, self._unit = segmentation.data, index, np.float32(segmentation.unit)

    def _read(self, region: Slices) -> AnyArray:
        stored = np.asarray(self._data[(self._index, *region)])
        probability = stored.astype(np.float32) / self._unit
        if self.dtype.kind == "f":
            return probability.astype(self.dtype)
        top = np.float32(np.iinfo(self.dtype).max)
        scaled: AnyArray = np.clip(np.rint(probability * top), 0, top).astype(self.dtype)
        return scaled
