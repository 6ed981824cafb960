# SPDX-License-Identifier: MIT
"""What is open: tomogram, strokes, segmentation, ramps, look. It knows no window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import io
from .._checks import input_error
from .._progress import Progress
from ..render.packing import MAX_CLASSES, Packing, Slab
from ..render.picture import background_of
from ..render.session import Session
from ..render.settings import Cut, RenderSettings
from ..transfer import TransferFunction, histograms
from ..volume import SoftSegmentation, Volume
from .live import Axis, Confinement, Plane
from .strokes import Strokes, journal_path

AXES: tuple[Axis, ...] = ("z", "y", "x")
_BINS = 64  # of the histograms that ramps are dragged over
_CONTRAST = (0.5, 99.5)  # percentiles that become black and white
_SAMPLES = 1_000_000


@dataclass(frozen=True, eq=False)
class Tomogram:
    """A tomogram in memory. path: its file, or "". contrast: grey values that are shown black and white.

    note: what the person should know of its voxels.
    """

    path: str
    volume: Volume
    contrast: tuple[float, float]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Scene:
    """A segmentation ready for the card. ahead: its texels; counts: (class, bin) voxels by probability."""

    segmentation: SoftSegmentation
    files: tuple[str, ...]
    transfer: TransferFunction
    ahead: tuple[Slab, ...]
    counts: npt.NDArray[np.float64]


def open_tomogram(path: str, progress: Progress) -> Tomogram:
    """Read a tomogram into memory, with what is not finite at its mean."""
    progress("opening", 0, 0)
    volume = io.read_volume(path)
    data = np.empty(volume.shape, volume.dtype.newbyteorder("="))
    depth = len(data)
    for start in range(0, depth, 16):
        stop = min(start + 16, depth)
        data[start:stop] = volume.data[start:stop]
        progress("reading", stop, depth)
    return in_memory(str(Path(path).resolve()), volume.with_data(data))


def in_memory(path: str, volume: Volume) -> Tomogram:
    """A tomogram of an array, whose voxels that are not finite get the mean; path: "" where it is in no file."""
    data = np.asarray(volume.data)
    finite = np.isfinite(data) if data.dtype.kind == "f" else None
    note = ""
    if finite is not None and not finite.all():
        note = f"{int((~finite).sum())} voxels that are not finite numbers are shown at the mean"
        data = np.where(finite, data, data[finite].mean() if finite.any() else 0).astype(data.dtype)
    step = max(1, round((data.size / _SAMPLES) ** (1 / 3)))
    sample = data[::step, ::step, ::step].astype(np.float32)
    low, high = (float(v) for v in np.percentile(sample, _CONTRAST))
    note = note or ("all voxels looked at have one value" if low == high else "")
    return Tomogram(path, volume.with_data(data), (low, high if high > low else low + 1), note)


def prepare(
    tomogram: Tomogram,
    segmentation: SoftSegmentation | None,
    files: Sequence[str],
    old: TransferFunction | None,
    kept: frozenset[str],
    colors: dict[str, Any],
    progress: Progress,
) -> Scene:
    """Ramps, histograms and texels of a segmentation, or of the tomogram alone: all that takes time before drawing.

    old: ramps that there were; those of the classes in `kept`, which a person has changed, stay. colors: by class.
    """
    volume = tomogram.volume
    drawn = segmentation if segmentation is not None else background_of(volume)
    if drawn.shape != volume.shape:
        raise input_error(
            "open", "segmentation", expected=f"the tomogram's shape {volume.shape} (z, y, x)", got=drawn.shape
        )
    transfer = TransferFunction.estimate(drawn, volume, hidden=drawn.classes[:1], progress=progress)
    for name in drawn.classes[1:]:
        if old is not None and name in kept and name in old.classes:
            ramp = old.ramp(name)
            transfer = transfer.with_ramp(
                name, left=ramp.left, right=ramp.right, opacity=ramp.opacity, visible=ramp.visible
            )
        if name in colors:
            transfer = transfer.with_ramp(name, color=colors[name])
    if old is not None and old.raw is not None:
        transfer = replace(transfer, raw=old.raw)
    progress("counting", 0, 0)
    counts = histograms(drawn).reshape(len(drawn.classes), -1, 256).sum(axis=1) if segmentation is not None else None
    bins = np.zeros((len(drawn.classes), _BINS)) if counts is None else counts.reshape(len(counts), _BINS, -1).sum(2)
    transfer = _drawable(transfer, bins, kept)
    packing = Packing.plan(volume, drawn, transfer, keep_hidden=keeps_hidden(transfer))
    ahead = []
    for slab in packing.slabs():
        ahead.append(slab)
        progress("packing", slab.first + slab.textures[0].shape[0], packing.shape[0])
    return Scene(drawn, tuple(files), transfer, tuple(ahead), bins.astype(np.float64))


def keeps_hidden(transfer: TransferFunction) -> bool:
    """Whether all classes go to the card, so that hidden ones can be shown without bringing the scene anew."""
    return len(transfer.classes) <= MAX_CLASSES + 1


def _drawable(transfer: TransferFunction, counts: npt.NDArray[np.float64], kept: frozenset[str]) -> TransferFunction:
    """As many classes visible as can be drawn at a time: those that a person set first, then the largest."""
    if keeps_hidden(transfer):
        return transfer
    likely = counts[:, _BINS // 2 :].sum(axis=1)
    visible = [n for n, ramp in zip(transfer.classes, transfer.ramps, strict=True) if ramp.visible]
    visible.sort(key=lambda name: (name not in kept, -likely[transfer.classes.index(name)]))
    for name in visible[MAX_CLASSES:]:
        transfer = transfer.with_ramp(name, visible=False)
    return transfer


@dataclass(eq=False)
class Document:
    """The state of one window. Whoever changes it in place grows the number that tells.

    at: the cross-hair, (z, y, x) in voxels. look, ramps: what 3D shows. scene_number: of the scene that is to be on
    the card. found: probabilities of slices by plane, from live labels, newer than the scene's.
    touched: classes whose ramps a person has changed.
    strokes_file: where they came from or were saved to, strokes_in_file: their version then; -1: nowhere.
    """

    tomogram: Tomogram
    strokes: Strokes
    settings: RenderSettings
    scene: Scene | None = None
    transfer: TransferFunction | None = None
    confinements: tuple[Confinement, ...] = ()
    at: list[int] = field(default_factory=list)
    found: dict[Plane, npt.NDArray[np.uint8]] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)
    scene_number: int = 0
    found_number: int = 0
    hide_dust_nm: float | None = None
    strokes_file: str | None = None
    strokes_in_file: int = -1
    slices_in_3d: bool = False

    def __post_init__(self) -> None:
        if not self.at:
            self.at = [n // 2 for n in self.volume.shape]

    @property
    def volume(self) -> Volume:
        """The tomogram's voxels."""
        return self.tomogram.volume

    @property
    def has_classes(self) -> bool:
        """Whether there is a segmentation, not the tomogram alone."""
        return self.scene is not None and len(self.scene.segmentation.classes) > 1

    @property
    def visible_planes(self) -> tuple[Plane, ...]:
        """The three slices through the cross-hair."""
        return tuple(Plane(axis, n) for axis, n in zip(AXES, self.at, strict=True))

    @property
    def unsaved(self) -> bool:
        """Whether strokes are in no file."""
        return any(self.strokes.counts()) and self.strokes.version != self.strokes_in_file

    def probabilities(self, plane: Plane) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]] | None:
        """Class names, and uint8 (class, rows, columns), of a slice: live ones, or the scene's, or none."""
        live = self.found.get(plane)
        names = tuple(one.name for one in self.strokes.classes)
        if live is not None and len(live) == len(names):  # a class may have come or gone since
            return names, live
        if not self.has_classes:
            return None
        assert self.scene is not None
        segmentation = self.scene.segmentation
        number = 1 + AXES.index(plane.axis)
        part: Any = [slice(None)] * 4
        part[number] = plane.index
        data = np.asarray(segmentation.data[tuple(part)])
        if data.dtype != np.uint8:
            data = np.rint(data * (255 / segmentation.unit)).astype(np.uint8)
        return segmentation.classes, data

    def color_of(self, name: str) -> tuple[float, float, float]:
        """Linear RGB of a class: the strokes', the ramps', or grey."""
        for one in self.strokes.classes:
            if one.name == name:
                return one.color
        if self.transfer is not None and name in self.transfer.classes:
            return self.transfer.ramp(name).color
        return (0.6, 0.6, 0.6)

    def drawn_settings(self) -> RenderSettings:
        """What 3D is drawn with: slices at the cross-hair; and a tomogram alone, noise as a solid, is its slices."""
        settings = self.settings
        z, y, x = self.at
        if not self.has_classes and not (settings.source == "raw" and settings.mode not in ("cached", "reference")):
            return replace(settings, mode="cached", source="classes", slices=(z, y, x), bloom=0.0)
        return replace(settings, slices=(z, y, x) if self.slices_in_3d else (None, None, None))

    def move_to(self, axis: int, index: int) -> None:
        """Another slice along z (0), y (1) or x (2), as near as there is one."""
        self.at[axis] = min(max(index, 0), self.volume.shape[axis] - 1)

    def nm_of(self, voxels: float) -> float | None:
        """A length in voxels' shortest edges, in nm; None where the voxel size is unknown."""
        unknown = self.volume.voxel_size_status == "unknown"
        return None if unknown else voxels * min(self.volume.voxel_size_A) / 10

    def session(self, settings: RenderSettings, size: tuple[int, int]) -> Session:
        """What `cryoet render --session` draws again. Needs a segmentation that lies in files, or none."""
        assert self.transfer is not None
        assert self.scene is not None
        if not self.tomogram.path:
            fix = "write it with cryoet_engine.write and open the file"
            raise input_error("session", "tomogram", expected="one that lies in a file", got="an array", fix=fix)
        return Session(
            tomogram=self.tomogram.path,
            segmentation=self.scene.files if self.has_classes else (),
            transfer=self.transfer,
            settings=settings,
            size=size,
            hide_dust_nm=self.hide_dust_nm,
            strokes=self.strokes_file,
        )


def new_document(tomogram: Tomogram, settings: RenderSettings, classes: Sequence[str] = ()) -> Document:
    """A tomogram, and the strokes that an interrupted session left for it, or none."""
    volume = tomogram.volume
    journal = journal_path(tomogram.path) if tomogram.path else None
    strokes = None if journal is None else Strokes.recover(journal, volume)
    if strokes is None:
        strokes = Strokes(volume.shape, volume.voxel_size_A, journal=journal, tomogram=tomogram.path or None)
    # By number only where nothing is drawn: what came back has names of its own.
    for label, name in enumerate(classes if not any(strokes.counts()) else (), start=1):
        if label > len(strokes.classes):
            strokes.add_class(name)
        elif strokes.classes[label - 1].name != name:
            strokes.rename_class(label, name)
    return Document(tomogram, strokes, settings)


def middle_cut(document: Document, normal: tuple[float, float, float]) -> Cut:
    """A plane through the cross-hair."""
    z, y, x = document.at
    return Cut(normal=normal, point_vox=(float(z), float(y), float(x)))


def diameter_label(document: Document, radius_vox: float) -> str:
    """A brush's diameter in voxels and nm."""
    nm = document.nm_of(2 * radius_vox)
    return f"{2 * radius_vox:.0f} voxels" + ("" if nm is None or not math.isfinite(nm) else f", {nm:.1f} nm")
