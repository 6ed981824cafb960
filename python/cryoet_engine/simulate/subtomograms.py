# SPDX-License-Identifier: MIT
"""Boxes cut from simulated tomograms at the true centres of particles, and sets of them for training networks.

A box has its particle's centre, rounded to a voxel, at the index edge // 2; neighbours stay in it. What the networks of
SSN3D (Liu et al. 2018) are to give for a box is `mask * class_number`: the target's voxels by its class, and neighbours
background. CIVA-Net is trained on `class_number` alone, and judged by the mask.

A resized box keeps its particle where the same rule has it, at new edge // 2: its value at o is the old one at
edge // 2 + (o - new edge // 2) * edge / new edge, by cubic splines; where it gets smaller after a Gaussian of
(edge / new edge - 1) / 2 voxels, so that fine noise does not come back as coarse. Masks and labels take the nearest
voxel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .. import __version__
from .._checks import CryoETError, file_error, input_error
from .._progress import Progress, silent
from ..io import LazyArray, partial_path
from ..io._files import existing, is_zarr, reason
from ..io._lazy import StoredArray
from ..volume import Region
from ._ranges import number, numbers
from .complexes import ComplexRecipe, apportioned
from .recipe import Recipe
from .specimen import Particle
from .tomogram import Simulation, simulate

SPLITS = ("train", "validation", "test")
SHARES = (0.7, 0.15, 0.15)  # of Zhu et al. 2022 (CIVA-Net), section 5

_KEY, _KIND, _VERSION = "cryoet_engine", "subtomograms", 1
_CHUNK_VOXELS = 1 << 20
_LARGEST_EDGE = 1024
_BARREN = 10  # tomograms in a row that give nothing wanted, before it is given up
#: Columns: one number or one triple a subtomogram.
_COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "class_number": ("uint8", ()),
    "instance": ("uint16", ()),
    "seed": ("int64", ()),
    "snr": ("float64", ()),
    "centre_vox": ("float64", (3,)),
    "euler_deg": ("float64", (3,)),
    "split": ("uint8", ()),
}
_BOXES = {"data": "float32", "mask": "uint8", "labels": "uint8"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Subtomograms:
    """n cubic boxes, each about one particle. Boxes are read, or cut, as they are sliced: `data[3]`, `mask[10:20]`.

    data: (n, z, y, x) float32, grey values of the tomogram. mask: uint8, 1 where the target is.
    labels: uint8, the class of every voxel, whosever it is: neighbours are `labels` where `mask` is 0.
    class_number: (n,) of the target, from 1; 0 is the background. classes: names, in the order of their numbers.
    instance, seed: (n,) the target's number in its tomogram's `instances`, and the seed of that tomogram's recipe.
    snr: (n,) that was asked for; 0 where the dose decided. centre_vox: (n, 3) in the tomogram, (z, y, x).
    euler_deg: (n, 3) RELION's (rot, tilt, psi); NaN for what has no orientation.
    voxel_size_A: of the boxes as they are, resized or not. split: (n,) numbers of `SPLITS`; None before it is made.
    source: the recipe as TOML, but for the columns `seed` and `snr`.
    """

    data: Any
    mask: Any
    labels: Any
    class_number: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.uint16]
    seed: npt.NDArray[np.int64]
    snr: npt.NDArray[np.float64]
    centre_vox: npt.NDArray[np.float64]
    euler_deg: npt.NDArray[np.float64]
    classes: tuple[str, ...]
    voxel_size_A: float
    source: str
    split: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.class_number)

    def indices(self, split: str) -> npt.NDArray[np.int64]:
        """Which boxes belong to "train", "validation" or "test". InputError for another word, or if none was made."""
        if split not in SPLITS or self.split is None:
            got = repr(split) if self.split is not None else "subtomograms that are not split yet"
            raise input_error("Subtomograms.indices", "split", expected=", ".join(SPLITS), got=got)
        return np.flatnonzero(self.split == SPLITS.index(split))


def cut_subtomograms(
    simulation: Simulation,
    *,
    box: int = 40,
    resize: int | None = None,
    at_most: Mapping[str, int] | None = None,
) -> Subtomograms:
    """Boxes about all particles of a simulated tomogram that lie wholly within it, at the particles' true centres.

    box: edge in voxels. resize: edge to which boxes are interpolated. at_most: for some classes, how many to cut.
    What counts as background (gold, free protein) is no target.

    The boxes are cut as they are sliced; `np.asarray(found.data)` has all of them in memory.
    Errors: InputError for impossible edges, and for what is no tomogram.
    """
    where = "cut_subtomograms"
    edge = number(where, "box", box, 2, _LARGEST_EDGE, whole=True)
    new_edge = edge if resize is None else number(where, "resize", resize, 2, _LARGEST_EDGE, whole=True)
    recipe, shape = simulation.recipe, np.array(simulation.tomogram.shape)
    if not isinstance(recipe, Recipe):
        raise input_error(where, "simulation", expected="a tomogram", got=recipe.kind)
    left = dict(at_most or {})
    chosen: list[Particle] = []
    for particle in simulation.particles:
        name = recipe.parts[particle.part]
        first = _first(particle, edge)
        if name == recipe.classes[0] or np.any(first < 0) or np.any(first + edge > shape) or left.get(name, 1) < 1:
            continue
        if name in left:
            left[name] -= 1
        chosen.append(particle)
    regions: list[Region] = []
    for particle in chosen:
        z, y, x = (slice(int(a), int(a) + edge) for a in _first(particle, edge))
        regions.append((z, y, x))
    truth, instances = simulation.truth.data, simulation.instances.data
    sizes = (len(chosen), edge, new_edge)

    def density(i: int) -> npt.NDArray[Any]:
        return _interpolated(np.asarray(simulation.tomogram.data[regions[i]], np.float32), new_edge)

    def mask(i: int) -> npt.NDArray[Any]:
        return _nearest(np.asarray(instances[regions[i]]) == chosen[i].instance, new_edge)

    def labels(i: int) -> npt.NDArray[Any]:
        return _nearest(np.asarray(truth[regions[i]]), new_edge)

    n = len(chosen)
    no_orientation = (math.nan,) * 3
    return Subtomograms(
        data=_Cut(density, sizes, "float32"),
        mask=_Cut(mask, sizes, "uint8"),
        labels=_Cut(labels, sizes, "uint8"),
        class_number=np.array([recipe.classes.index(recipe.parts[p.part]) for p in chosen], np.uint8),
        instance=np.array([p.instance for p in chosen], np.uint16),
        seed=np.full(n, recipe.seed, np.int64),
        snr=np.full(n, recipe.snr if isinstance(recipe, ComplexRecipe) else 0.0),
        centre_vox=np.array([p.centre_vox for p in chosen], np.float64).reshape(n, 3),
        euler_deg=np.array([p.euler_deg or no_orientation for p in chosen], np.float64).reshape(n, 3),
        classes=recipe.classes,
        voxel_size_A=recipe.voxel_size_A * edge / new_edge,
        source=recipe.to_toml(),
    )


def _first(particle: Particle, edge: int) -> npt.NDArray[Any]:
    return np.asarray(np.rint(particle.centre_vox).astype(int) - edge // 2)


class _Cut(LazyArray):
    """Boxes (n, z, y, x) that are cut as they are sliced."""

    def __init__(self, cut: Callable[[int], npt.NDArray[Any]], sizes: tuple[int, int, int], dtype: str) -> None:
        n, _, edge = sizes
        super().__init__((n, edge, edge, edge), dtype)
        self._cut = cut

    def _read(self, region: tuple[slice, ...]) -> npt.NDArray[Any]:
        rows = range(region[0].start, region[0].stop)
        return np.stack([self._cut(i)[region[1:]] for i in rows]).astype(self.dtype)


def _interpolated(values: npt.NDArray[np.float32], edge: int) -> npt.NDArray[np.float32]:
    old = len(values)
    if edge == old:
        return values
    step = old / edge
    if step > 1:
        values = ndimage.gaussian_filter(values, (step - 1) / 2, mode="nearest")
    start = old // 2 - edge // 2 * step
    found = np.empty((edge, edge, edge), np.float32)
    ndimage.affine_transform(values, np.full(3, step), start, found.shape, output=found, order=3, mode="nearest")
    return found


def _nearest(values: npt.NDArray[Any], edge: int) -> npt.NDArray[Any]:
    old = len(values)
    at = np.floor(old // 2 + (np.arange(edge) - edge // 2) * (old / edge) + 0.5).astype(int)
    at = np.clip(at, 0, old - 1)
    return values[np.ix_(at, at, at)]


def stratified_split(
    subtomograms: Subtomograms, *, shares: Sequence[float] = SHARES, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """(n,) numbers of `SPLITS`, drawn at random within each class at each signal-to-noise ratio.

    shares: of train, validation and test, which add up to 1; met but for rounding (1000 are 700, 150 and 150).
    Boxes of one tomogram may overlap, as in the papers: who wants none shared splits by the column `seed`.

    Errors: InputError for impossible shares.
    """
    return _split(subtomograms.class_number, subtomograms.snr, shares, seed)


def _split(
    labels: npt.NDArray[Any], ratios: npt.NDArray[Any], shares: Sequence[float], seed: int
) -> npt.NDArray[np.uint8]:
    found = numbers("stratified_split", "shares", shares, 0, 1, count=len(SPLITS))
    if abs(sum(found) - 1) > 1e-6:
        raise input_error("stratified_split", "shares", expected="numbers that add up to 1", got=tuple(shares))
    rng = np.random.default_rng(number("stratified_split", "seed", seed, 0, 2**63 - 1, whole=True))
    split = np.zeros(len(labels), np.uint8)
    for ratio, label in sorted(set(zip(ratios.tolist(), labels.tolist(), strict=True))):
        members = np.flatnonzero((ratios == ratio) & (labels == label))
        counts = apportioned(len(members), np.array(found) / sum(found))
        split[members] = rng.permutation(np.repeat(np.arange(len(SPLITS)), counts))
    return split


def write_subtomograms(
    path: str | os.PathLike[str],
    subtomograms: Subtomograms,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    progress: Progress = silent,
) -> None:
    """Write one zarr store (v3), which appears under its name when it is whole.

    path: a name that ends in .zarr; an older store there is replaced. shares, seed: of the split, if there is none yet.
    Beside the boxes and columns of `Subtomograms` it has the attributes "cryoet_engine": classes, voxel size, source.

    Errors: InputError for another name and impossible shares, FileFormatError where the place cannot be written.
    """
    split = subtomograms.split
    if split is None:
        split = stratified_split(subtomograms, shares=shares, seed=seed)
    _write(Path(path), [dataclasses.replace(subtomograms, split=split)], {}, progress)


def _write(path: Path, parts: Sequence[Subtomograms], request: Mapping[str, Any], progress: Progress) -> None:
    """One store of all parts, row after row; `request`: what else to remember."""
    if path.suffix.lower() != ".zarr":
        raise input_error("write_subtomograms", "path", expected="a name ending in .zarr", got=path)
    n, edge = sum(len(part) for part in parts), parts[0].data.shape[1]
    record = {
        "kind": _KIND,
        "version": _VERSION,
        "classes": list(parts[0].classes),
        "splits": list(SPLITS),
        "voxel_size_A": parts[0].voxel_size_A,
        "source": parts[0].source,
        "request": dict(request),
        "software": f"cryoet-engine {__version__}",
    }
    rows = max(1, _CHUNK_VOXELS // edge**3)
    with partial_path(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import zarr

        group = zarr.create_group(str(partial), zarr_format=3, attributes={_KEY: record})

        def array(name: str, shape: tuple[int, ...], dtype: str, chunk: int) -> Any:
            return group.create_array(
                name,
                shape=shape,
                dtype=dtype,
                chunks=(chunk, *shape[1:]),
                compressors=zarr.codecs.ZstdCodec(level=1, checksum=True),
                fill_value=0,
                # Empty chunks are written as well: a missing one then tells of a store that lost something.
                config={"write_empty_chunks": True},
            )

        for name, (dtype, shape) in _COLUMNS.items():
            column = np.concatenate([np.asarray(getattr(part, name), dtype) for part in parts])
            array(name, (n, *shape), dtype, max(n, 1))[...] = column
        stored = {name: array(name, (n, edge, edge, edge), dtype, rows) for name, dtype in _BOXES.items()}
        places = [(part, i) for part in parts for i in range(len(part))]
        for first in range(0, n, rows):
            progress("subtomograms", first, n)
            for name, out in stored.items():
                out[first : first + rows] = _gathered(places[first : first + rows], name)
        progress("subtomograms", n, n)


def _gathered(places: Sequence[tuple[Subtomograms, int]], name: str) -> npt.NDArray[Any]:
    """Rows of several parts, those that follow each other read at once."""
    runs: list[tuple[Subtomograms, int, int]] = []
    for part, i in places:
        if runs and runs[-1][0] is part and runs[-1][2] == i:
            runs[-1] = (part, runs[-1][1], i + 1)
        else:
            runs.append((part, i, i + 1))
    return np.concatenate([np.asarray(getattr(part, name)[a:b]) for part, a, b in runs])


def read_subtomograms(path: str | os.PathLike[str]) -> Subtomograms:
    """Open a store that `write_subtomograms` wrote. Boxes are read as they are sliced, columns at once.

    Errors: FileFormatError for what is no such store, misses something, or contradicts itself; a broken chunk of boxes
    shows when it is read.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[Subtomograms, dict[str, Any]]:
    existing(path)
    if not is_zarr(path):
        raise file_error(path, "store", expected="a zarr store of subtomograms", got="something else")
    with _store_errors(path):
        import zarr

        group = zarr.open_group(str(path), mode="r")
        record = group.attrs.get(_KEY)
        if not isinstance(record, dict) or record.get("kind") != _KIND:
            got = record.get("kind", "no kind") if isinstance(record, dict) else "a store of another origin"
            raise file_error(path, "store", expected="subtomograms of cryoet-engine", got=got)
        if record.get("version") != _VERSION:
            raise file_error(path, "version", expected=_VERSION, got=repr(record.get("version")))
        arrays = {name: _array(path, group, name) for name in (*_BOXES, *_COLUMNS)}
        columns = {name: np.asarray(arrays[name][...]) for name in _COLUMNS}
    shape = arrays["data"].shape
    boxes = {
        name: StoredArray(path, arrays[name], shape=shape, dtype=dtype, chunks=tuple(arrays[name].chunks))
        for name, dtype in _BOXES.items()
    }
    _check_record(path, record, columns)
    values: dict[str, Any] = {**boxes, **columns}
    found = Subtomograms(
        **values,
        classes=tuple(record["classes"]),
        voxel_size_A=float(record["voxel_size_A"]),
        source=record["source"],
    )
    return found, record.get("request", {})


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (CryoETError, MemoryError):
            raise
        except Exception as error:
            expected, got = "a whole store of subtomograms", f"{type(error).__name__}: {reason(error)}"
            raise file_error(path, "store", expected=expected, got=got) from error


def _array(path: Path, group: Any, name: str) -> Any:
    """One array of the store, of the type and shape that it has to have, with all of its chunks."""
    import zarr

    n = group["class_number"].shape[0] if "class_number" in group else 0
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise file_error(path, name, expected="an array", got="none", fix="the store is not whole")
    dtype = _BOXES.get(name) or _COLUMNS[name][0]
    edge = array.shape[-1] if array.ndim == 4 else 0
    shape = (n, edge, edge, edge) if name in _BOXES else (n, *_COLUMNS[name][1])
    if name in _BOXES and "data" in group and edge != group["data"].shape[-1]:
        shape = (n, *group["data"].shape[1:])
    if tuple(array.shape) != shape or np.dtype(array.dtype) != np.dtype(dtype):
        expected, got = f"{dtype} of shape {shape}", f"{array.dtype} of shape {array.shape}"
        raise file_error(path, name, expected=expected, got=got)
    if n and array.nchunks_initialized != array.nchunks:
        expected, got = f"{array.nchunks} chunks", f"{array.nchunks_initialized}"
        raise file_error(path, name, expected=expected, got=got, fix="the store lost some of its files")
    return array


def _check_record(path: Path, record: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> None:
    classes, size = record.get("classes"), record.get("voxel_size_A")
    is_list = isinstance(classes, list) and all(isinstance(name, str) and name for name in classes)
    if not is_list or len(set(classes or ())) != len(classes or ()) or len(classes or ()) < 2:
        raise file_error(path, "classes", expected="different names, background first", got=repr(classes))
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1e6:
        raise file_error(path, "voxel_size_A", expected="a number above 0", got=repr(size))
    if not isinstance(record.get("source"), str):
        raise file_error(path, "source", expected="a recipe's text", got=repr(record.get("source")))
    allowed = {"class_number": (1, len(classes or ()) - 1), "split": (0, len(SPLITS) - 1)}
    for name, (low, high) in allowed.items():
        if np.any((columns[name] < low) | (columns[name] > high)):
            raise file_error(path, name, expected=f"numbers from {low} to {high}", got="others")
    for name in ("centre_vox", "snr"):
        if not np.all(np.isfinite(columns[name])):
            raise file_error(path, name, expected="finite numbers", got="others")


def subtomogram_set(
    recipe: ComplexRecipe,
    folder: str | os.PathLike[str],
    *,
    per_class: int = 0,
    n_tomograms: int = 0,
    snrs: Sequence[float] = (),
    box: int = 40,
    resize: int | None = None,
    shares: Sequence[float] = SHARES,
    progress: Progress = silent,
) -> Subtomograms:
    """Simulate tomograms with successive seeds and cut them, until there are enough boxes; leaves one store.

    folder: gets `subtomograms.zarr`, and until that is whole, a store for each tomogram that is done, from which an
        interrupted call goes on. n_tomograms, per_class: exactly one of them is given: all boxes of so many tomograms,
        or so many boxes of each class that has an abundance; both at each ratio.
    snrs: signal-to-noise ratios; none: the recipe's own. Tomogram k of ratio j, counted from 0, has the recipe's seed
        plus k times the number of ratios plus j: no specimen is used twice.
    box, resize: see `cut_subtomograms`. shares: see `stratified_split`, whose seed is the recipe's.

    Errors: InputError for contradictory wishes, and where tomograms give no whole box of a class that is wanted;
    FileFormatError where the folder holds another set. An exception from `progress` cancels; whole tomograms stay.
    """
    where = "subtomogram_set"
    number(where, "per_class", per_class, 0, 10**7, whole=True)
    number(where, "n_tomograms", n_tomograms, 0, 10**6, whole=True)
    if bool(per_class) == bool(n_tomograms):
        got = f"per_class {per_class} and n_tomograms {n_tomograms}"
        raise input_error(where, "per_class, n_tomograms", expected="one of the two, the other 0", got=got)
    ratios = tuple(float(one) for one in snrs) or (recipe.snr,)
    if len(set(ratios)) < len(ratios):
        raise input_error(where, "snrs", expected="different ratios", got=ratios)
    # What cannot be shows before the work.
    _split(np.zeros(0), np.zeros(0), shares, recipe.seed)
    for ratio in ratios:
        dataclasses.replace(recipe, snr=ratio)
    number(where, "box", box, 2, min(recipe.shape), whole=True)
    number(where, "resize", box if resize is None else resize, 2, _LARGEST_EDGE, whole=True)
    home = Path(folder)
    request = {
        "recipe": recipe.to_toml(),
        "per_class": per_class,
        "n_tomograms": n_tomograms,
        "snrs": list(ratios),
        "box": box,
        "resize": resize,
    }
    whole, parts_folder = home / "subtomograms.zarr", home / "tomograms"
    if not whole.exists():
        parts: list[Subtomograms] = []
        wanted = [name for i, name in enumerate(recipe.names) if not recipe.abundances or recipe.abundances[i]]
        total = n_tomograms * len(ratios) or per_class * len(ratios) * len(wanted)
        for j, ratio in enumerate(ratios):
            missing = Counter({name: per_class for name in wanted}) if per_class else None
            for k in range(n_tomograms or 10**6):
                if missing is not None and not +missing:
                    break
                one = dataclasses.replace(recipe, snr=ratio, seed=recipe.seed + k * len(ratios) + j)
                done = sum(len(part) for part in parts) if per_class else len(parts)
                path = parts_folder / f"{j}-{k:05d}.zarr"
                part = _part(one, path, request, missing, _within(progress, done, total, one.seed))
                if missing is not None:
                    missing -= Counter(part.classes[label] for label in part.class_number.tolist())
                    missing = +missing
                parts.append(part)
                _check_harvest(where, parts[-_BARREN:], missing)
        labels, found_ratios = (np.concatenate([getattr(p, name) for p in parts]) for name in ("class_number", "snr"))
        split = _split(labels, found_ratios, shares, recipe.seed)
        ends = np.cumsum([len(part) for part in parts])[:-1]
        parts = [dataclasses.replace(p, split=s) for p, s in zip(parts, np.split(split, ends), strict=True)]
        progress("subtomograms", total, total)
        _write(whole, parts, request, progress)
    found = _checked(whole, request)
    shutil.rmtree(parts_folder, ignore_errors=True)
    return found


def _part(
    recipe: ComplexRecipe,
    path: Path,
    request: Mapping[str, Any],
    missing: Mapping[str, int] | None,
    progress: Progress,
) -> Subtomograms:
    """The boxes of one tomogram, from its store, which is made if it is not there."""
    if not path.exists():
        made = simulate(recipe, progress=progress)
        at_most = None if missing is None else {name: missing.get(name, 0) for name in recipe.classes}
        cut = cut_subtomograms(made, box=request["box"], resize=request["resize"], at_most=at_most)
        blank = np.zeros(len(cut), np.uint8)  # the split is drawn over the whole set
        _write(path, [dataclasses.replace(cut, split=blank)], request, progress)
    return _checked(path, request)


def _checked(path: Path, request: Mapping[str, Any]) -> Subtomograms:
    """A store that was made for the same request."""
    found, told = _read(path)
    if told != json.loads(json.dumps(request)):
        names = [name for name in request if not isinstance(told, dict) or told.get(name) != request[name]]
        raise file_error(
            path,
            "store",
            expected="one made for the same recipe and wishes",
            got=f"another: {', '.join(names) or 'more wishes'} differ",
            fix="choose another folder, or remove this one",
        )
    return found


def _check_harvest(where: str, last: Sequence[Subtomograms], missing: Mapping[str, int] | None) -> None:
    if missing and len(last) == _BARREN and not any(len(part) for part in last):
        raise input_error(
            where,
            "per_class",
            expected="classes of which tomograms give whole boxes",
            got=f"{_BARREN} tomograms in a row without {', '.join(missing)}",
            fix="take a larger shape, smaller boxes, or another abundance",
        )


def _within(progress: Progress, had: int, wanted: int, seed: int) -> Progress:
    def report(stage: str, done: int, total: int, note: str = "") -> None:
        progress("subtomograms", had, wanted, f"seed {seed}: {stage} {100 * done // max(total, 1)}%")

    return report
