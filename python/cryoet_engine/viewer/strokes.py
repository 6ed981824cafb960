# SPDX-License-Identifier: MIT
"""The strokes a person draws on a tomogram: painting, undo, files, and a journal that a crash does not take along.

Marks are 0 where nothing was drawn, else the number of a class from 1 on, as everywhere in the package. Everything here
belongs to one thread and knows no window.

A journal is a text file of one JSON record a line: a header, the state it begins with, then every finished step, undo
and redo, each with a checksum and on the disk before the call returns. What a killed process leaves is whole but for
its last line.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import math
import operator
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import io
from .._checks import file_error, input_error
from ..forest.strokes import MAX_CLASSES
from ..io._files import reason
from ..io.volumes import named_format
from ..volume import DEFAULT_COLORS, Grid, Region, Triple, Volume, drop_pages

PathLike: TypeAlias = str | os.PathLike[str]
Axis: TypeAlias = Literal["z", "y", "x"]
Point: TypeAlias = tuple[float, float, float]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Flat: TypeAlias = npt.NDArray[np.int64]  # positions in the flattened volume
_Vector: TypeAlias = npt.NDArray[np.float64]

_AXES = ("z", "y", "x")
_ONE_VOXEL = 0.5  # radius of the smallest brush
_ROUNDING = 1e-9  # by which a distance may exceed the radius: what float64 makes of a tie
_HALF_WAY = 0.5 + 1e-6  # added before rounding down: points half-way between voxels all go the same way
_FAR_VOX = 1e8  # beyond it points are taken for this far: products stay finite
_BOX_VOXELS = 1 << 15  # a longer piece of a stroke is halved: diagonal ones bound far more than they paint
_SLAB_VOXELS = 1 << 20  # whose distances are computed at a time
_SCAN_VOXELS = 1 << 24  # looked through at a time
_UNDO_BYTES = 256 << 20  # of steps that are kept; the last one always is

_JOURNAL_KIND, _JOURNAL_VERSION = "cryoet-engine strokes journal", 1
_COMPACT_BYTES = 64 << 20
_CELL = np.dtype("<i8")

#: As `io.read_segmentation` reads names, and `cryoet pseudolabel --labels-out` writes them.
_NAME_NOTE = re.compile(r"label (\d+) (.+)")
_COLOR_NOTE = re.compile(r"label colors((?: [0-9A-Fa-f]{6})+)")
_MRC_LINES, _MRC_COLUMNS = 8, 80  # of MRC's ten lines two are the writer's


@dataclass(frozen=True)
class StrokeClass:
    """What strokes of one label stand for.

    name: not empty; white space in it becomes single blanks. color: linear RGB, 0..1.

    Errors: InputError.
    """

    name: str
    color: Triple = DEFAULT_COLORS[0]

    def __post_init__(self) -> None:
        name = " ".join(self.name.split()) if isinstance(self.name, str) else ""
        if not name:
            raise input_error("StrokeClass", "name", expected="a name", got=repr(self.name))
        color = tuple(self.color) if isinstance(self.color, list | tuple) else ()
        if len(color) != 3 or not all(isinstance(v, int | float) and 0 <= v <= 1 for v in color):
            raise input_error("StrokeClass", "color", expected="three numbers 0..1 (linear RGB)", got=self.color)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "color", tuple(float(value) for value in color))


@dataclass(frozen=True)
class Brush:
    """What a stroke is painted with.

    radius_vox: in units of the voxel's shortest edge, at least 0.5, which paints one voxel.
    spherical: a ball; else a disc within the slice.

    Errors: InputError.
    """

    radius_vox: float = 2.0
    spherical: bool = False

    def __post_init__(self) -> None:
        radius = self.radius_vox
        if not isinstance(radius, int | float) or not math.isfinite(radius) or radius < _ONE_VOXEL:
            raise input_error("Brush", "radius_vox", expected=f"a number from {_ONE_VOXEL} on", got=radius)


DEFAULT_CLASSES = (StrokeClass("background", DEFAULT_COLORS[0]), StrokeClass("class 1", DEFAULT_COLORS[1]))


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of undo: the voxels that changed, in order, and the classes before and after."""

    serial: int
    where: Flat
    old: Bytes
    new: Bytes
    before: tuple[StrokeClass, ...]
    after: tuple[StrokeClass, ...]

    @property
    def size(self) -> int:
        return self.where.nbytes + self.old.nbytes + self.new.nbytes


# ---- the document


class Strokes:
    """Marks on one tomogram, their classes, and the steps that led there.

    shape: (z, y, x). voxel_size_A: (z, y, x), or one number for a cube. classes: of labels 1, 2, ..., background first.
    journal: a file that records every step (see `journal_path`); one that is there with unsaved steps, which `recover`
    would give back, is kept as `NAME.previous`. tomogram: its file, noted in the journal.

    `close`, or leaving `with`, lets go of the journal and leaves it where it is; `discard_journal` removes it.

    Errors: InputError for a wrong shape or classes, and where another viewer holds the journal; FileFormatError where
    it cannot be written. A step whose record does not get to the disk is done all the same, and recorded with the next.
    """

    def __init__(
        self,
        shape: Sequence[int],
        voxel_size_A: float | Sequence[float],
        classes: Sequence[StrokeClass] = DEFAULT_CLASSES,
        *,
        journal: PathLike | None = None,
        tomogram: PathLike | None = None,
    ) -> None:
        sizes = tuple(operator.index(n) for n in shape)
        if len(sizes) != 3 or min(sizes) < 1:
            raise input_error("Strokes", "shape", expected="(z, y, x), each above 0", got=shape)
        self._marks = np.zeros(sizes, np.uint8)
        self._flat = self._marks.reshape(-1)
        self._shown = self._marks.view()
        self._shown.flags.writeable = False
        edges = (voxel_size_A,) * 3 if isinstance(voxel_size_A, int | float) else tuple(voxel_size_A)
        self.voxel_size_A = Grid(voxel_size_A=edges).voxel_size_A  # type: ignore[arg-type]  # which checks it
        self._scale = np.asarray(self.voxel_size_A) / min(self.voxel_size_A)
        self._classes = _checked_classes(classes)
        self._tally = np.zeros(MAX_CLASSES + 1, np.int64)
        self._undo: list[_Step] = []
        self._redo: list[_Step] = []
        self._serial = 0
        # Of the step that is open: what was painted over, and the classes it began with.
        self._painted: list[tuple[Flat, Bytes]] = []
        self._began: tuple[StrokeClass, ...] | None = None
        self._version = self._saved_version = 0
        self._journal: _Journal | None = None
        #: After `recover`: whether the tomogram's file is no longer the one that the strokes were drawn on.
        self.tomogram_changed = False
        if journal is not None:
            self._start_journal(Path(journal), tomogram)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) in voxels."""
        z, y, x = self._marks.shape
        return z, y, x

    @property
    def marks(self) -> Bytes:
        """Labels (z, y, x): 0 nothing drawn, else a class from 1 on. A view to read: it follows what is drawn."""
        return self._shown

    @property
    def classes(self) -> tuple[StrokeClass, ...]:
        """Of labels 1, 2, ..."""
        return self._classes

    @property
    def version(self) -> int:
        """A number that grows with every change of marks or classes."""
        return self._version

    @property
    def changed_since_save(self) -> bool:
        """Whether anything changed since the strokes were saved, loaded or made."""
        return self._version != self._saved_version

    def counts(self) -> tuple[int, ...]:
        """Voxels of each class."""
        return tuple(int(n) for n in self._tally[1 : len(self._classes) + 1])

    # -- painting

    def draw(self, axis: Axis, points: Sequence[Point], label: int, brush: Brush) -> Region | None:
        """Paint along the line through the points, without gaps; what lies outside the volume is left out.

        axis: across the slice. points: (z, y, x) in voxels; 0 is the middle of the first voxel. A disc is painted in
        the slice nearest to a point, and the line to a point in another slice lies in that one. label: a class from 1
        on, or 0 to erase. Whoever calls again and again for one stroke begins with the last point of the call before,
        between `begin` and `end`; outside of them each call is a step of its own.

        Returns the region that changed, or None. Errors: InputError; FileFormatError as for the class.
        """
        if axis not in _AXES:
            raise input_error("draw", "axis", expected="z, y or x", got=repr(axis))
        path = np.asarray(points, np.float64)
        if path.ndim != 2 or path.shape[1] != 3 or not len(path) or not np.isfinite(path).all():
            raise input_error("draw", "points", expected="finite (z, y, x), one or more", got=points)
        label = self._checked_label("draw", label)
        tube = _Tube(self.shape, self._scale, brush, _AXES.index(axis))
        with self._in_a_step():
            changed = [self._cover(found, label) for found in tube.along(np.clip(path, -_FAR_VOX, _FAR_VOX))]
        return self._region(changed)

    def fill(self, label: int, where: npt.ArrayLike) -> Region | None:
        """Give many voxels a label at once (0 erases), as one step of undo.

        where: bool (z, y, x), or whole numbers (n, 3), the voxels' (z, y, x).

        Returns the region that changed, or None. Errors: InputError for another shape or voxels outside the volume.
        """
        label = self._checked_label("fill", label)
        cells = self._cells(np.asarray(where))
        with self._in_a_step():
            changed = self._cover(cells, label)
        return self._region([changed])

    def begin(self) -> None:
        """Open a step of undo, for what is drawn (and done to classes) until `end`; one that is open ends."""
        self.end()
        self._began = self._classes

    def end(self) -> None:
        """Close the step and record it on the disk. Nothing, where none is open or nothing changed."""
        if self._began is None:
            return
        before, painted = self._began, self._painted
        self._began, self._painted = None, []
        where = np.concatenate([np.zeros(0, np.int64), *(cells for cells, _ in painted)])
        old = np.concatenate([np.zeros(0, np.uint8), *(values for _, values in painted)])
        where, first = np.unique(where, return_index=True)  # the first of several old values is the step's
        old, new = old[first], self._flat[where]
        differ = old != new
        if not differ.any() and before == self._classes:
            return
        self._serial += 1
        step = _Step(self._serial, where[differ], old[differ], new[differ], before, self._classes)
        self._keep(step)
        self._record(_step_record("step", step))

    # -- undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._undo) or self._open_changed()

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone step to do again."""
        return bool(self._redo) and not self._open_changed()

    def undo(self) -> Region | None:
        """Take the last step back (an open one ends first).

        Returns the region whose marks changed: None also for a step that only changed classes.
        """
        self.end()
        if not self._undo:
            return None
        step = self._undo.pop()
        self._redo.append(step)
        region = self._put(step.where, step.old, step.before)
        self._record(_step_record("undo", step))
        return region

    def redo(self) -> Region | None:
        """Do the step that was undone last again; returns as `undo`."""
        self.end()
        if not self._redo:
            return None
        step = self._redo.pop()
        self._undo.append(step)
        region = self._put(step.where, step.new, step.after)
        self._record(_step_record("redo", step))
        return region

    def _open_changed(self) -> bool:
        return bool(self._painted) or (self._began is not None and self._began != self._classes)

    # -- classes

    def add_class(self, name: str, color: Triple | None = None) -> int:
        """Add a class behind the others; returns its label. color: by default one that no class has yet.

        Errors: InputError for a name that is empty or taken, a wrong colour, one class too many.
        """
        if color is None:
            used = {one.color for one in self._classes}
            at = len(self._classes) % len(DEFAULT_COLORS)
            color = next((c for c in (*DEFAULT_COLORS[at:], *DEFAULT_COLORS) if c not in used), DEFAULT_COLORS[at])
        self._set_classes((*self._classes, StrokeClass(name, color)))
        return len(self._classes)

    def rename_class(self, label: int, name: str) -> None:
        """Give a class another name. Errors: InputError, as for `add_class`."""
        at = self._checked_label("rename_class", label, least=1) - 1
        new = StrokeClass(name, self._classes[at].color)
        self._set_classes((*self._classes[:at], new, *self._classes[at + 1 :]))

    def recolor_class(self, label: int, color: Triple) -> None:
        """Give a class another colour, linear RGB. Errors: InputError."""
        at = self._checked_label("recolor_class", label, least=1) - 1
        new = StrokeClass(self._classes[at].name, color)
        self._set_classes((*self._classes[:at], new, *self._classes[at + 1 :]))

    def remove_class(self, label: int) -> Region | None:
        """Remove a class and its strokes; later classes move down by one, and their strokes with them.

        Returns the region whose marks changed, or None. Errors: InputError for the only class.
        """
        at = self._checked_label("remove_class", label, least=1) - 1
        if len(self._classes) == 1:
            raise input_error("remove_class", "classes", expected="one that stays", got="the only one")
        with self._in_a_step():
            self._classes = (*self._classes[:at], *self._classes[at + 1 :])
            where = self._find(lambda part: part >= label)
            old = self._flat[where]
            self._painted.append((where, old))
            return self._put(where, np.where(old == label, 0, old - 1).astype(np.uint8), self._classes)

    def _set_classes(self, classes: tuple[StrokeClass, ...]) -> None:
        classes = _checked_classes(classes)
        if classes != self._classes:
            with self._in_a_step():
                self._classes = classes
                self._version += 1

    # -- files

    def as_volume(self, like: Volume) -> Volume:
        """The marks on the tomogram's grid, with notes that name the classes.

        like: the tomogram. The data are `marks`, which follow what is drawn. Errors: InputError for another shape.
        """
        if like.shape != self.shape:
            raise input_error("as_volume", "shape of the tomogram", expected=self.shape, got=like.shape)
        foreign = [one for one in like.notes if not _NAME_NOTE.fullmatch(one) and not _COLOR_NOTE.fullmatch(one)]
        return Volume(self._shown, **like.grid() | {"notes": (*_class_notes(self._classes), *foreign)})

    def save(self, path: PathLike, like: Volume) -> None:
        """Write the marks, whole or not at all: MRC, TIFF, OME-Zarr (or HDF5), by the ending.

        Notes of the file name the classes and give their colours (in 8 bits), as in other labels of this package. An
        MRC header has room for few and short ones: what does not fit stands in `PATH.classes.json`.

        Errors: those of `io.write`; InputError for another shape.
        """
        path = Path(path)
        self.end()
        volume = self.as_volume(like)
        beside = _classes_file(path)
        if named_format(path) == "MRC" and not _mrc_holds(_class_notes(self._classes)):
            with io.partial_path(beside) as partial:
                partial.write_text(json.dumps({"classes": _plain(self._classes)}, indent=1) + "\n")
                io.write(path, volume)
        else:
            io.write(path, volume)
            beside.unlink(missing_ok=True)  # an older file's
        self._saved_version = self._version
        self._record({"op": "saved"})

    @classmethod
    def load(
        cls, path: PathLike, like: Volume, *, journal: PathLike | None = None, tomogram: PathLike | None = None
    ) -> Strokes:
        """Open strokes of a file: whole numbers, 0 nothing drawn, 1 the first class, and so on.

        like: the tomogram. journal, tomogram: as for `Strokes`. Labels without a name in the file get one.

        Errors: those of `io.read_volume`; InputError for another shape than the tomogram's, fractions, labels below 0
        or above MAX_CLASSES.
        """
        volume = io.read_volume(path)
        if volume.shape != like.shape:
            expected = f"{like.shape}, the tomogram's"
            raise input_error("load", f"shape of {Path(path).name}", expected=expected, got=volume.shape)
        strokes = cls(like.shape, like.voxel_size_A)
        for slab in io.slabs(volume.data):
            strokes._marks[slab] = _checked_labels(np.asarray(volume.data[slab]))
            strokes._tally += np.bincount(strokes._marks[slab].reshape(-1), minlength=MAX_CLASSES + 1)
            drop_pages(volume.data)
        strokes._tally[0] = 0
        largest = int(np.max(np.nonzero(strokes._tally)[0], initial=0))
        strokes._classes = _with_names(_stored_classes(Path(path), volume), largest)
        if journal is not None:
            strokes._start_journal(Path(journal), tomogram)
        return strokes

    # -- the journal

    @classmethod
    def recover(cls, journal: PathLike, like: Volume) -> Strokes | None:
        """What a journal tells, with its steps of undo; it goes on in the same file.

        like: the tomogram. None where there is no journal, or nothing happened since it began with what a file holds.
        A last line that was cut off is dropped. See `changed_since_save` and `tomogram_changed`.

        Errors: FileFormatError for a journal of another shape or version, or one damaged before its last line;
        InputError where another viewer has the tomogram open.
        """
        path = Path(journal)
        if not path.is_file():
            return None
        held = _Journal(path)
        try:
            strokes = _replayed(cls, held, like)
            if strokes is None:
                held.close()
                return None
            held.go_on()
        except BaseException:
            held.close()
            raise
        strokes._journal = held
        return strokes

    def close(self) -> None:
        """End the open step and let go of the journal, which stays; what is drawn later is not recorded."""
        try:
            self.end()
        finally:
            if self._journal is not None:
                self._journal.close()
            self._journal = None

    def discard_journal(self) -> None:
        """Remove the journal: after the strokes were saved, or nobody wants them. Nothing where there is none."""
        self.end()
        if self._journal is not None:
            self._journal.discard()
        self._journal = None

    def __enter__(self) -> Strokes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_journal(self, path: Path, tomogram: PathLike | None) -> None:
        held = _Journal(path)
        try:
            held.set_aside()
            held.tomogram = _file_record(tomogram)
            held.rewrite(self.shape, self._state())
        except BaseException:
            held.close()
            raise
        self._journal = held

    def _record(self, record: dict[str, Any]) -> None:
        if self._journal is None:
            return
        if not self._journal.wants_rewriting():  # the state will hold the step, too
            self._journal.append(record)
        if self._journal.wants_rewriting():
            self._journal.rewrite(self.shape, self._state())

    def _state(self) -> dict[str, Any]:
        where = self._find(lambda part: part != 0) if self._tally[1:].any() else np.zeros(0, np.int64)
        return {
            "op": "state",
            "serial": self._serial,
            "changed": self.changed_since_save,
            "classes": _plain(self._classes),
            "cells": _packed(where, self._flat[where]),
        }

    def _replay(self, record: dict[str, Any]) -> None:
        """Do what a record tells; KeyError, TypeError or ValueError for one that tells nothing sensible."""
        if record["op"] == "saved":
            self._saved_version = self._version
            return
        where, values = _unpacked(record["cells"], self._flat.size)
        after = _checked_classes(_from_plain(record["classes"])) if "classes" in record else self._classes
        if values.size and int(values.max()) > len(after):
            raise ValueError("a label without a class")
        before, old = self._classes, self._flat[where]
        self._put(where, values, after)
        serial = int(record["serial"])
        if record["op"] == "step":
            self._keep(_Step(serial, where, old, values, before, after))
        elif record["op"] in ("undo", "redo"):
            here, there = (self._undo, self._redo) if record["op"] == "undo" else (self._redo, self._undo)
            if here and here[-1].serial == serial:
                there.append(here.pop())
            else:  # a step from before the journal was compacted: what else there is no longer follows from the marks
                self._undo, self._redo = [], []
        elif record["op"] != "state":
            raise ValueError(f"op {record['op']!r}")
        self._serial = max(self._serial, serial)

    # -- marks

    def _checked_label(self, where: str, label: int, *, least: int = 0) -> int:
        try:
            number = operator.index(label)
        except TypeError:
            number = -1
        if not least <= number <= len(self._classes):
            names = ", ".join(one.name for one in self._classes)
            expected = f"{least} to {len(self._classes)} ({names})"
            raise input_error(where, "label", expected=expected, got=repr(label))
        return number

    def _cells(self, where: npt.NDArray[Any]) -> Flat:
        """Flat positions, in order and none twice, of a mask or of coordinates."""
        if where.dtype.kind == "b":
            if where.shape != self.shape:
                raise input_error("fill", "shape of where", expected=self.shape, got=where.shape)
            return np.flatnonzero(where)
        if where.ndim != 2 or where.shape[1] != 3 or (where.dtype.kind not in "iu" and where.size):
            got = f"{where.dtype} of shape {where.shape}"
            raise input_error("fill", "where", expected="bool (z, y, x), or whole numbers (n, 3)", got=got)
        if where.size and (where.min() < 0 or (where.max(axis=0) >= self.shape).any()):
            got = f"{where.min(axis=0).tolist()} to {where.max(axis=0).tolist()}"
            raise input_error("fill", "where", expected=f"voxels within {self.shape}", got=got)
        return np.unique(_flat_positions(where.astype(np.int64).T, self.shape))

    def _find(self, test: Callable[[Bytes], npt.NDArray[np.bool_]]) -> Flat:
        starts = range(0, self._flat.size, _SCAN_VOXELS)
        return np.concatenate([np.flatnonzero(test(self._flat[at : at + _SCAN_VOXELS])) + at for at in starts])

    def _cover(self, cells: Flat, label: int) -> Flat:
        """Give these voxels a label, as part of the open step; returns those that changed."""
        old = self._flat[cells]
        differ = old != label
        cells, old = cells[differ], old[differ]
        if cells.size:
            self._flat[cells] = label
            self._tally -= np.bincount(old, minlength=MAX_CLASSES + 1)
            self._tally[label] += cells.size
            self._painted.append((cells, old))
            self._version += 1
        return cells

    def _region(self, parts: Iterable[Flat]) -> Region | None:
        boxes = [box for part in parts if (box := _bounds(part, self.shape)) is not None]
        if not boxes:
            return None
        z, y, x = (slice(min(s.start for s in side), max(s.stop for s in side)) for side in zip(*boxes, strict=True))
        return z, y, x

    def _put(self, where: Flat, values: Bytes, classes: tuple[StrokeClass, ...]) -> Region | None:
        """Set voxels and classes, outside of any step."""
        self._tally -= np.bincount(self._flat[where], minlength=MAX_CLASSES + 1)
        self._tally += np.bincount(values, minlength=MAX_CLASSES + 1)
        self._flat[where] = values
        self._classes = classes
        self._version += 1
        return _bounds(where, self.shape)

    def _keep(self, step: _Step) -> None:
        self._redo.clear()
        self._undo.append(step)
        spare = sum(one.size for one in self._undo) - _UNDO_BYTES
        while spare > 0 and len(self._undo) > 1:
            spare -= self._undo.pop(0).size

    @contextlib.contextmanager
    def _in_a_step(self) -> Iterator[None]:
        """The open step, or one of its own."""
        if self._began is not None:
            yield
            return
        self.begin()
        try:
            yield
        finally:
            self.end()


# ---- classes and their names in files


def _checked_classes(classes: Sequence[StrokeClass]) -> tuple[StrokeClass, ...]:
    names = [one.name for one in classes]
    if not 1 <= len(names) <= MAX_CLASSES:
        raise input_error("Strokes", "classes", expected=f"1 to {MAX_CLASSES}", got=len(names))
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise input_error("Strokes", "classes", expected="names, none of them twice", got=f"{twice!r} twice")
    return tuple(classes)


def _with_names(classes: tuple[StrokeClass, ...], least: int) -> tuple[StrokeClass, ...]:
    """At least as many classes as labels; the default ones where a file names none."""
    found = list(classes or DEFAULT_CLASSES)
    while len(found) < least:
        taken = {one.name for one in found}
        free = (f"class {k}" for k in range(len(found), MAX_CLASSES + len(found) + 1))
        color = DEFAULT_COLORS[len(found) % len(DEFAULT_COLORS)]
        found.append(StrokeClass(next(name for name in free if name not in taken), color))
    return tuple(found)


def _class_notes(classes: Sequence[StrokeClass]) -> tuple[str, ...]:
    names = (f"label {k} {one.name}" for k, one in enumerate(classes, start=1))
    return (*names, "label colors " + " ".join(_hex(one.color) for one in classes))


def _mrc_holds(notes: tuple[str, ...]) -> bool:
    """Whether an MRC header keeps these notes as they are; of the voxel size it believes what any line says."""
    plain = all(one.isascii() and one.isprintable() and len(one) <= _MRC_COLUMNS for one in notes)
    return plain and len(notes) <= _MRC_LINES and not any("voxel size" in one.lower() for one in notes)


def _classes_file(path: Path) -> Path:
    return path.with_name(path.name + ".classes.json")


def _stored_classes(path: Path, volume: Volume) -> tuple[StrokeClass, ...]:
    """The classes that a file names, from the file beside it or from its notes; none where they are not in order."""
    beside = _classes_file(path)
    if beside.is_file():
        try:
            return _checked_classes(_from_plain(json.loads(beside.read_text())["classes"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise file_error(beside, "contents", expected="names and colours", got=reason(error)) from error
    told = [found for note in volume.notes if (found := _NAME_NOTE.fullmatch(note.strip()))]
    names = {int(found[1]): found[2] for found in told}
    if not names or sorted(names) != list(range(1, len(names) + 1)) or len(set(names.values())) < len(names):
        return ()
    colored = next((found for note in volume.notes if (found := _COLOR_NOTE.fullmatch(note.strip()))), None)
    colors = [_from_hex(one) for one in colored[1].split()] if colored else []
    colors += [DEFAULT_COLORS[k % len(DEFAULT_COLORS)] for k in range(len(colors), len(names))]
    return tuple(StrokeClass(names[k], colors[k - 1]) for k in sorted(names)[:MAX_CLASSES])


def _checked_labels(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if part.dtype.kind == "f" and not (np.isfinite(part).all() and (part == np.rint(part)).all()):
        raise input_error("load", "strokes", expected="whole numbers", got="fractions or NaN")
    if part.min() < 0 or part.max() > MAX_CLASSES:
        raise input_error("load", "strokes", expected=f"labels 0 to {MAX_CLASSES}", got=f"{part.min()} to {part.max()}")
    return part


def _plain(classes: Sequence[StrokeClass]) -> list[Any]:
    """Classes as plain JSON values."""
    return [{"name": one.name, "color": list(one.color)} for one in classes]


def _from_plain(values: Any) -> tuple[StrokeClass, ...]:
    return tuple(StrokeClass(one["name"], tuple(one["color"])) for one in values)


def _hex(linear: Triple) -> str:
    """Six hexadecimal digits, sRGB-encoded (IEC 61966-2-1), as OME wants colours."""
    coded = (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear)
    return "".join(f"{round(255 * value):02X}" for value in coded)


def _from_hex(text: str) -> Triple:
    coded = (int(text[at : at + 2], 16) / 255 for at in (0, 2, 4))
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in coded)
    return r, g, b


# ---- what a brush covers


class _Tube:
    """The voxels within a brush's radius of a line, as flat positions.

    Beside them those through which the line itself goes: between the centres of anisotropic voxels, or under a small
    brush, none need be near enough.
    """

    def __init__(self, shape: tuple[int, int, int], scale: _Vector, brush: Brush, axis: int) -> None:
        self._shape, self._scale, self._radius = shape, scale, float(brush.radius_vox)
        self._across = None if brush.spherical else axis
        self._reach = self._radius / scale
        plane = scale.copy()
        if self._across is not None:
            self._reach[self._across] = plane[self._across] = 0.0
        # Every point of a line is nearer than half a voxel's diagonal to a centre.
        self._thin = self._radius < float(np.linalg.norm(plane)) / 2

    def along(self, path: _Vector) -> Iterator[Flat]:
        """Flat positions, part by part, some more than once, of the tube around a path (n, 3)."""
        for at in range(max(1, len(path) - 1)):
            start, end = path[at], path[min(at + 1, len(path) - 1)]
            if self._across is not None:
                index = _nearest(end[self._across])
                start, end = start.copy(), end.copy()
                start[self._across] = end[self._across] = index
                if at == 0 and len(path) > 1 and _nearest(path[0][self._across]) != index:
                    yield from self.along(path[:1])
            inside = _cut(start, end, -self._reach - 1, self._reach + self._shape)
            if inside is None:
                continue
            if self._thin:
                yield self._line(*inside)
            if self._radius > _ONE_VOXEL:
                for piece in self._pieces(*inside):
                    yield from self._near(*piece)

    def _line(self, start: _Vector, end: _Vector) -> Flat:
        steps = math.ceil(np.abs(end - start).max())
        points = start + (end - start) * np.linspace(0, 1, steps + 1)[:, None]
        cells = _nearest(points)
        cells = cells[((cells >= 0) & (cells < self._shape)).all(axis=1)]
        return np.unique(_flat_positions(cells.T, self._shape))

    def _pieces(self, start: _Vector, end: _Vector) -> Iterator[tuple[_Vector, _Vector, list[int], list[int]]]:
        """Parts of a line, each with the box (first, behind the last) that holds its tube."""
        todo = [(start, end)]
        while todo:
            a, b = todo.pop()
            first = np.maximum(np.ceil(np.minimum(a, b) - self._reach - _ROUNDING), 0)
            last = np.minimum(np.floor(np.maximum(a, b) + self._reach + _ROUNDING) + 1, self._shape)
            if (last <= first).any():
                continue
            if np.prod(last - first) > _BOX_VOXELS and (np.abs(b - a) > 2 * self._reach + 1).any():
                middle = (a + b) / 2
                todo += [(middle, b), (a, middle)]
                continue
            yield a, b, [int(n) for n in first], [int(n) for n in last]

    def _near(self, start: _Vector, end: _Vector, first: list[int], last: list[int]) -> Iterator[Flat]:
        """The voxels of a box within the radius of a line, slab by slab."""
        along = (end - start) * self._scale
        length2 = float(along @ along)
        _, rows, columns = self._shape
        step = max(1, _SLAB_VOXELS // ((last[1] - first[1]) * (last[2] - first[2])))
        for z in range(first[0], last[0], step):
            low, high = [z, *first[1:]], [min(z + step, last[0]), *last[1:]]
            index = [np.arange(n, m) for n, m in zip(low, high, strict=True)]
            p = np.ix_(*((index[i] - start[i]) * self._scale[i] for i in range(3)))
            distance2 = p[0] * p[0] + p[1] * p[1] + p[2] * p[2]
            if length2:
                run = p[0] * along[0] + p[1] * along[1] + p[2] * along[2]
                share = np.clip(run / length2, 0, 1)
                distance2 = distance2 - share * (2 * run - share * length2)
            hit = np.nonzero(distance2 <= (self._radius + _ROUNDING) ** 2)
            yield ((hit[0] + low[0]) * rows + hit[1] + low[1]) * columns + hit[2] + low[2]


def _cut(start: _Vector, end: _Vector, low: _Vector, high: _Vector) -> tuple[_Vector, _Vector] | None:
    """The part of a line within a box (both ends in it), or None."""
    enter, leave = 0.0, 1.0
    for a, b, lower, upper in zip(start, end, low, high, strict=True):
        if a == b:
            if not lower <= a <= upper:
                return None
            continue
        one, other = sorted(((lower - a) / (b - a), (upper - a) / (b - a)))
        enter, leave = max(enter, one), min(leave, other)
    if enter > leave:
        return None
    way = end - start
    return (start + enter * way if enter > 0 else start), (start + leave * way if leave < 1 else end)


def _nearest(points: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The voxels in which points lie."""
    return np.floor(np.asarray(points) + _HALF_WAY).astype(np.int64)


def _flat_positions(cells: npt.NDArray[np.int64], shape: tuple[int, int, int]) -> Flat:
    """Of (z, y, x) rows, shape (3, n)."""
    z, y, x = cells
    return np.asarray((z * shape[1] + y) * shape[2] + x, np.int64)


def _bounds(cells: Flat, shape: tuple[int, int, int]) -> Region | None:
    if not cells.size:
        return None
    rows, x = np.divmod(cells, shape[2])
    z, y = np.divmod(rows, shape[1])
    a, b, c = (slice(int(one.min()), int(one.max()) + 1) for one in (z, y, x))
    return a, b, c


# ---- the journal


def state_folder() -> Path:
    """Where the viewer keeps what is to survive it: `cryoet-engine` in XDG_STATE_HOME, or in ~/.local/state."""
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    return base / "cryoet-engine"


def journal_path(tomogram_path: PathLike) -> Path:
    """Where the journal of a tomogram lies, by its name and its absolute path."""
    path = os.path.abspath(tomogram_path)
    name = re.sub(r"[^\w.+-]+", "_", os.path.basename(path), flags=re.ASCII)[:100]  # names are at most 255 bytes
    key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return state_folder() / "strokes" / f"{name}-{key}.journal"


class _Journal:
    """The file, held against other processes from the first moment until `close`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.tomogram: dict[str, Any] | None = None
        self.good_bytes = 0  # read back as whole records
        self._stream: IO[bytes] | None = None
        self._limit = _COMPACT_BYTES
        self._behind = False
        # A file of its own: the journal itself is replaced when it is compacted.
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock: int | None = _locked(self._lock_path, self.path)

    def wants_rewriting(self) -> bool:
        """Whether the file has grown too long, or lacks a step that could not be written."""
        return self._behind or (self._stream is not None and self._stream.tell() > self._limit)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records, header first; a last one that is not whole is left out.

        Errors: FileFormatError for a broken one before others.
        """
        self.good_bytes = 0
        try:
            with self.path.open("rb") as stream:
                for number, line in enumerate(stream, start=1):
                    record = _parsed(line)
                    if record is None and stream.read(1):
                        raise self.damaged(f"line {number}")
                    if record is None:
                        return
                    self.good_bytes += len(line)
                    yield record
        except OSError as error:
            if error.errno is None:  # one of ours
                raise
            raise file_error(self.path, "cannot be read", expected="a journal", got=reason(error)) from error

    def damaged(self, what: str) -> OSError:
        """An error to raise, for contents that make no sense."""
        fix = "move it away to begin anew"
        return file_error(self.path, "strokes journal", expected="whole records", got=f"a damaged {what}", fix=fix)

    def set_aside(self) -> None:
        """Keep an older journal that holds unsaved steps under another name."""
        with self._writing():
            if not self.path.exists():
                return
            try:
                _, state, *steps = self.records()
                wanted = [state, *steps][-1]["op"] != "saved" and (bool(steps) or state["changed"])
            except (OSError, ValueError, KeyError):  # damaged, or none of ours: somebody may still make sense of it
                wanted = self.path.stat().st_size > 0
            if wanted:
                os.replace(self.path, self.path.with_name(self.path.name + ".previous"))

    def rewrite(self, shape: tuple[int, int, int], state: dict[str, Any]) -> None:
        """Begin the file anew with a state, and go on from there; the older one stays until the new one is whole."""
        header = {
            "kind": _JOURNAL_KIND,
            "version": _JOURNAL_VERSION,
            "shape": list(shape),
            "tomogram": self.tomogram,
        }
        partial = self.path.with_name(self.path.name + ".partial")
        self._behind = True
        with self._writing():
            try:
                with partial.open("wb") as stream:
                    stream.write(_line(header) + _line(state))
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(partial, self.path)
            finally:
                partial.unlink(missing_ok=True)
            _sync_folder(self.path.parent)
            self._open()
            assert self._stream is not None
            self._limit = max(_COMPACT_BYTES, 2 * self._stream.tell())
        self._behind = False

    def go_on(self) -> None:
        """Write behind what was read, over a last record that is not whole."""
        with self._writing():
            os.truncate(self.path, self.good_bytes)
            self._open()

    def append(self, record: dict[str, Any]) -> None:
        """Write a record; it is on the disk when this returns."""
        stream = self._stream
        if stream is None:
            return
        before = stream.tell()
        self._behind = True
        with self._writing():
            try:
                stream.write(_line(record))
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # half a record must not stand before others
                    os.ftruncate(stream.fileno(), before)
                raise
        self._behind = False

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock_path.unlink()  # while it is held: who waits for it looks whether it is still there
            os.close(self._lock)
        self._lock = None

    def discard(self) -> None:
        """Remove the file, and let go of it."""
        with self._writing():
            self.path.unlink(missing_ok=True)
        self.close()

    def _open(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self.path.open("ab", buffering=0)
        self._stream.seek(0, os.SEEK_END)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is None:  # one of ours
                raise
            expected = "a place that may be written to"
            raise file_error(self.path, "strokes journal", expected=expected, got=reason(error)) from error


def _locked(lock: Path, journal: Path) -> int:
    """An open file that no other process holds until it is closed, which the system does for a killed one."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            got = f"another viewer has this tomogram open ({journal.name})"
            raise input_error("strokes", "journal", expected="one viewer a tomogram", got=got, fix="close it") from None
        except OSError:  # some network file systems have no locks: then nobody is held off
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        os.close(handle)  # its holder removed it just now


def _replayed(cls: type[Strokes], journal: _Journal, like: Volume) -> Strokes | None:
    """Strokes as the records tell; None where they tell of no change."""
    records = journal.records()
    header, state = next(records, None), next(records, None)
    if header is None:
        return None
    if header.get("kind") != _JOURNAL_KIND or header.get("version") != _JOURNAL_VERSION:
        got = f"{header.get('kind')} {header.get('version')}"
        expected = f"{_JOURNAL_KIND} {_JOURNAL_VERSION}"
        raise file_error(journal.path, "version", expected=expected, got=got, fix="open it with the program it is of")
    if header.get("shape") != list(like.shape):
        got = str(tuple(header.get("shape") or ()))
        raise file_error(journal.path, "shape", expected=f"{like.shape}, the tomogram's", got=got)
    if state is None:
        return None
    changed = False
    try:
        strokes = cls(like.shape, like.voxel_size_A, _from_plain(state["classes"]))
        strokes._replay(state)
        changed = bool(state["changed"])
        strokes._saved_version = strokes._version - changed
        for record in records:
            strokes._replay(record)
            changed = changed or record["op"] != "saved"
    except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
        raise journal.damaged(f"record ({reason(error)})") from error
    journal.tomogram = header.get("tomogram")
    if journal.tomogram:
        strokes.tomogram_changed = _file_record(journal.tomogram.get("path")) != journal.tomogram
    return strokes if changed else None


def _file_record(path: PathLike | None) -> dict[str, Any] | None:
    """What a file is known by again: path, size, time of its last change."""
    if path is None:
        return None
    known: dict[str, Any] = {"path": os.path.abspath(path)}
    with contextlib.suppress(OSError):
        found = os.stat(path)
        known |= {"size": found.st_size, "mtime": found.st_mtime}
    return known


def _step_record(op: str, step: _Step) -> dict[str, Any]:
    """A step, done or undone, with the values that the voxels then have."""
    values, classes = (step.old, step.before) if op == "undo" else (step.new, step.after)
    record: dict[str, Any] = {"op": op, "serial": step.serial, "cells": _packed(step.where, values)}
    return record if step.before == step.after else record | {"classes": _plain(classes)}


def _packed(where: Flat, values: Bytes) -> str:
    """Sparse voxels as text; positions as differences, which pack well."""
    gaps = np.diff(where, prepend=0).astype(_CELL)
    return base64.b64encode(zlib.compress(gaps.tobytes() + values.tobytes(), 1)).decode()


def _unpacked(text: str, size: int) -> tuple[Flat, Bytes]:
    data = zlib.decompress(base64.b64decode(text, validate=True))
    n = len(data) // (_CELL.itemsize + 1)
    gaps = np.frombuffer(data, _CELL, n)
    where = np.cumsum(gaps, dtype=np.int64)
    if n and (gaps[0] < 0 or (gaps[1:] <= 0).any() or where[-1] >= size):
        raise ValueError("voxels outside the volume")
    return where, np.frombuffer(data, np.uint8, n, n * _CELL.itemsize)


def _line(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, sort_keys=True)
    return json.dumps(record | {"crc": zlib.crc32(body.encode())}, sort_keys=True).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A record, or None if it is not whole."""
    try:
        record: dict[str, Any] = json.loads(line)
        crc = record.pop("crc")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    whole = line.endswith(b"\n") and zlib.crc32(json.dumps(record, sort_keys=True).encode()) == crc
    return record if whole else None


def _sync_folder(folder: Path) -> None:
    """A rename lasts through a power cut once the folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system does this
            os.fsync(handle)
    finally:
        os.close(handle)
