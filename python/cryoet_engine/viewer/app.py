# SPDX-License-Identifier: MIT
"""The viewer: what menus, keys, dropped files and panels do to a document, and the frame that draws it all."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import io
from .._checks import CryoETError
from .._progress import Progress
from ..io.volumes import named_format
from ..render.animation import KeyFrame, render_animation, turntable
from ..render.picture import render_image, save_image
from ..render.session import KEYWORD as SESSION
from ..render.session import Session
from ..render.settings import RenderSettings
from ..transfer import TransferFunction
from ..volume import SoftSegmentation, Volume
from . import files, panels
from .document import Document, Scene, Tomogram, in_memory, new_document, open_tomogram, prepare
from .jobs import Jobs
from .live import Confinement, Failure, LiveLabels, SliceLabels, Trained, VolumeLabels
from .orthoslices import Overlay, SlicePane
from .scene import ScenePane
from .strokes import Brush, Strokes
from .window import Window

_VOLUMES = (".mrc", ".mrc.gz", ".rec", ".map", ".st", ".tif", ".tiff", ".h5", ".hdf5", ".zarr")
_LIVE_VOXELS = 48_000_000  # of a volume that is labelled whole after every stroke: about a minute on two cores
_KEYS = (
    ("1 ... 9", "a class to draw with"),
    ("B  E  N", "brush, eraser, navigate"),
    ("[  ]", "brush smaller, larger"),
    ("Up  Down", "next slice along z"),
    ("U", "uncertainty instead of labels"),
    ("R", "fit slices and 3D"),
    ("H", "hide or show the panels"),
    ("T", "dark or light"),
    ("Ctrl+Z  Ctrl+Shift+Z", "undo, redo"),
    ("Ctrl+O", "open a tomogram"),
    ("Ctrl+S  Ctrl+Shift+S", "save strokes, session"),
    ("Ctrl+P", "save the 3D picture"),
    ("?  F1", "this help"),
    ("", ""),
    ("slices: left", "draws, or moves the cross-hair (navigate)"),
    ("shift and left", "erases"),
    ("wheel, ctrl and wheel", "next slice, zoom"),
    ("middle or right", "moves the picture"),
    ("", ""),
    ("3D: left", "turns"),
    ("middle, right, shift and left", "moves"),
    ("wheel", "zooms"),
    ("ctrl and left", "moves the light"),
)


@dataclass(frozen=True)
class Start:
    """What to open, and what to do by itself. All optional; see `cryoet view --help`. volume, drawn: see `view`."""

    tomogram: str | None = None
    volume: Volume | None = None
    drawn: tuple[SoftSegmentation, TransferFunction | None] | None = None
    labels: str | None = None
    segmentation: tuple[str, ...] = ()
    session: str | None = None
    classes: tuple[str, ...] = ()
    screenshot: str | None = None
    exit_after_s: float | None = None
    size: tuple[int, int] = (1440, 900)


@dataclass(frozen=True)
class _Look:
    """One state of what 3D shows, for undo."""

    settings: RenderSettings
    transfer: TransferFunction | None


@dataclass(frozen=True)
class _Step:
    """What one undo takes back: so many steps of the strokes, and a look to return to, if that changed."""

    strokes: int
    look: _Look | None


class Viewer:
    """One window with at most one document.

    drawing, erasing, label, brush: the tool. overlay: how slices are shown. live_wanted: whether strokes are learned.
    """

    def __init__(self, window: Window, start: Start) -> None:
        self.window, self.imgui, self.implot = window, window.imgui, window.implot
        self.document: Document | None = None
        self.jobs = Jobs(lambda name, text: self.say(text))
        self.live: LiveLabels | None = None
        self.live_wanted = self.live_whole = True
        self.messages: list[str] = []
        self.overlay = Overlay()
        self.drawing, self.erasing, self.label = False, False, 2
        self.brush = Brush(3.0, False)
        self.dust_nm = 0.0
        self.slices_in_3d = False
        self.model_path, self.train_steps = "", 500
        self.picture_size = (1920, 1080)
        self.turn_s, self.key_step_s, self.fps = 6.0, 2.0, 24.0
        self.key_frames: list[KeyFrame] = []
        self.scene = ScenePane(window.context)
        self.slices = [SlicePane(window.context, axis) for axis in range(3)]
        self.browser = files.Browser()
        self._start, self._asked_classes = start, start.classes
        self._began = time.perf_counter()
        self._opening_session: Session | None = None
        self._theme: Literal["dark", "light"] = "dark"
        self._help = self._closing = self._panels_hidden = self._recording = False
        self._laid_out = False
        self._done: list[_Step] = []
        self._undone: list[_Step] = []
        self._settled: _Look | None = None  # the look that the last step left
        self._fresh = 0  # steps of the strokes since then
        self._asked: tuple[str, Callable[[], None]] | None = None
        self._shot = False
        window.theme(self._theme)
        window.on_close = self._may_close
        if start.session:
            self.open_session(start.session, start.tomogram)
        elif start.tomogram:
            self.open_tomogram(start.tomogram)
        elif start.volume is not None:
            self._opened(in_memory("", start.volume))

    # ---- messages

    def say(self, text: str) -> None:
        """A line for the person."""
        self.messages.append(text)
        self.window.wake()

    def _tried(self, work: Callable[[], object]) -> bool:
        """Do something that may be refused; whether it was done. A refusal is told, not raised."""
        try:
            work()
        except CryoETError as error:
            self.say(" ".join(str(error).split()))
        except OSError as error:
            self.say(f"{error.filename or 'file'}: {error.strerror or error}")
        else:
            return True
        return False

    def _asked_for(self, make: Callable[[], Any]) -> Any:
        """What a function gives, or None where it is refused."""
        made: list[Any] = []
        return made[0] if self._tried(lambda: made.append(make())) else None

    # ---- opening

    def browse(self, title: str, then: Callable[[str], None], **how: Any) -> None:
        """Ask for a path."""
        self.browser.ask(title, then, **how)

    def open_tomogram(self, path: str) -> None:
        """Read a tomogram in the background and show it in place of what is open."""
        self.jobs.start("open", lambda progress: open_tomogram(path, progress), self._opened)

    def _opened(self, tomogram: Tomogram) -> None:
        self._close_document()
        session = self._opening_session
        settings = RenderSettings(frames=32) if session is None else session.settings
        document = self._asked_for(lambda: new_document(tomogram, settings, self._start.classes))
        if document is None:
            return
        self.document = document
        name = Path(tomogram.path).name or "an array"
        if tomogram.path:
            files.remember(tomogram.path)
            self.browser.begin_at(Path(tomogram.path).parent)
        self.window.set_title(f"{name} - cryoet viewer")
        if any(document.strokes.counts()):
            self.say(f"{sum(document.strokes.counts())} voxels of strokes came back from an earlier session")
        self.live = LiveLabels(tomogram.volume)
        self.live_whole = math.prod(tomogram.volume.shape) <= _LIVE_VOXELS
        self.live.look_at(document.visible_planes)
        self._done, self._undone, self._settled, self._fresh = [], [], None, 0
        start, self._start = self._start, replace(self._start, labels=None, segmentation=(), drawn=None)
        labels = start.labels or (session.strokes if session is not None else None)
        if labels:
            self.open_strokes(labels)
        elif any(document.strokes.counts()):
            self.strokes_changed(step=False)
        wanted = start.segmentation or (session.segmentation if session is not None else ())
        if wanted:
            self.open_segmentation(wanted)
        elif start.drawn is not None:
            segmentation, document.transfer = start.drawn
            document.touched = set(segmentation.classes) if document.transfer is not None else set()
            self._prepare(segmentation, ())
        else:
            self._prepare(None, ())
        self.window.wake()

    def open_strokes(self, path: str) -> None:
        """Strokes from a file in place of those that are there."""
        document = self.document
        if document is None:
            return

        def read(progress: Progress) -> tuple[Strokes, list[npt.NDArray[np.intp]]]:
            progress("reading", 0, 0)
            loaded = Strokes.load(path, document.volume)
            places = [np.argwhere(loaded.marks == label) for label in range(1, len(loaded.classes) + 1)]
            return loaded, places

        def then(found: tuple[Strokes, list[npt.NDArray[np.intp]]]) -> None:
            if self.document is document:
                self._tried(lambda: self._adopt(document, *found))
                document.strokes_file = str(Path(path).resolve())
                self.strokes_changed(step=False)

        self.jobs.start("strokes", read, then)

    def _adopt(self, document: Document, loaded: Strokes, places: list[npt.NDArray[np.intp]]) -> None:
        """Take over marks and classes of a file; no step of undo leads behind it."""
        mine = document.strokes
        mine.begin()
        try:
            self._adopt_classes(mine, loaded)
            for label, where in enumerate(places, start=1):
                if len(where):
                    mine.fill(label, where)
        finally:
            mine.end()
        slices = np.unique(np.concatenate([where[:, 0] for where in places])) if places else np.empty(0, int)
        if len(slices):
            document.move_to(0, int(slices[len(slices) // 2]))

    def _adopt_classes(self, mine: Strokes, loaded: Strokes) -> None:
        """A file's classes, under the names that were asked for, if any were."""
        asked = self._asked_classes
        for label, one in enumerate(loaded.classes, start=1):
            if label > len(mine.classes):
                mine.add_class(one.name, one.color)
            elif label > len(asked) and one.name not in {c.name for c in mine.classes}:
                mine.rename_class(label, one.name)
            mine.recolor_class(label, one.color)

    def open_segmentation(self, paths: tuple[str, ...]) -> None:
        """Soft classes from files, drawn in 3D and over the slices."""
        document = self.document
        if document is None:
            return

        def read(progress: Progress) -> SoftSegmentation:
            progress("reading", 0, 0)
            found = io.read_segmentation(list(paths) if len(paths) > 1 else paths[0])
            return SoftSegmentation(np.asarray(found.data), found.classes, found.colors, **found.grid())

        self.jobs.start("segmentation", read, lambda found: self._prepare(found, paths))

    def _prepare(self, segmentation: SoftSegmentation | None, paths: tuple[str, ...]) -> None:
        """Ramps and texels of a segmentation, in the background; then it is drawn."""
        document = self.document
        if document is None:
            return
        tomogram, old, kept = document.tomogram, document.transfer, frozenset(document.touched)
        colors = {one.name: one.color for one in document.strokes.classes}
        dust, session = document.hide_dust_nm, self._opening_session
        if session is not None and segmentation is not None and session.transfer.classes == segmentation.classes:
            old, kept = session.transfer, frozenset(segmentation.classes)
            colors = {name: session.transfer.ramp(name).color for name in segmentation.classes}
            self._opening_session = None

        def work(progress: Progress) -> Scene:
            drawn = segmentation
            if drawn is not None and dust:
                from ..refine import remove_dust

                drawn = remove_dust(drawn, min_diameter_A=10 * dust, progress=progress)
            return prepare(tomogram, drawn, paths, old, kept, colors, progress)

        def then(scene: Scene) -> None:
            if self.document is not document:
                return
            if session is not None and kept == frozenset(scene.transfer.classes):
                document.touched |= set(scene.transfer.classes)
            document.scene, document.transfer = scene, scene.transfer
            document.scene_number += 1
            self.scene.load(document.volume, scene)
            self._settled = None
            self.window.wake()

        self.jobs.start("3D", work, then)
        self._plain = segmentation

    _plain: SoftSegmentation | None = None  # before dust was hidden

    def open_session(self, path: str, tomogram: str | None = None) -> None:
        """All that `save_session`, or `cryoet render --save-session`, wrote; with another tomogram if one is named."""
        session = self._asked_for(lambda: Session.load(path))
        if session is None:
            return
        self._opening_session = session
        self.dust_nm = session.hide_dust_nm or 0.0
        self.open_tomogram(tomogram or session.tomogram)

    def open_any(self, path: str) -> None:
        """A dropped file: session, segmentation, strokes or tomogram, by what it is."""
        if path.endswith((".json", ".png")):
            self.open_session(path)
        elif self.document is None:
            self.open_tomogram(path)
        elif path.rstrip("/").endswith(".zarr"):
            self.open_segmentation((path,))
        else:
            shape = self._asked_for(lambda: io.read_volume(path).shape)
            if shape is None:
                return
            if shape != self.document.volume.shape:
                self.open_tomogram(path)
                return
            volume = io.read_volume(path)
            whole = volume.dtype.kind in "iu" and 0 <= int(np.asarray(volume.data[len(volume.data) // 2]).max()) < 32
            self.open_strokes(path) if whole else self.open_tomogram(path)

    # ---- strokes and live labels

    def choose(self, label: int) -> None:
        """A class to draw with."""
        if self.document is not None and label <= len(self.document.strokes.classes):
            self.label, self.drawing, self.erasing = label, True, False

    def navigate(self) -> None:
        """The mouse moves the cross-hair."""
        self.drawing = self.erasing = False

    def draw_strokes(self) -> None:
        """The mouse draws."""
        self.drawing, self.erasing = True, False

    def erase(self) -> None:
        """The mouse erases."""
        self.drawing = self.erasing = True

    def strokes_changed(self, *, step: bool = True) -> None:
        """After a stroke was finished, undone or read."""
        self._fresh += step
        self.learn()

    def learn(self) -> None:
        """Train on the strokes there are, and predict."""
        document = self.document
        if document is None or self.live is None or not self.live_wanted:
            return
        if sum(n > 0 for n in document.strokes.counts()) < 2:
            return
        names = [one.name for one in document.strokes.classes]
        live = self.live
        self._tried(
            lambda: live.learn(
                document.strokes.marks,
                names,
                visible=document.visible_planes,
                confinements=document.confinements,
                whole=self.live_whole,
            )
        )

    def confine(self, confinement: Confinement, *, learn: bool = True) -> None:
        """Keep a class to a place."""
        document = self.document
        assert document is not None
        others = tuple(c for c in document.confinements if c.class_name != confinement.class_name)
        free = confinement.near is None and confinement.box is None
        document.confinements = others if free else (*others, confinement)
        if learn:
            self.learn()

    def add_class(self) -> None:
        """Another class to draw."""
        document = self.document
        assert document is not None
        names = {one.name for one in document.strokes.classes}
        number = len(names)
        while f"class {number}" in names:
            number += 1
        label = self._asked_for(lambda: document.strokes.add_class(f"class {number}"))
        if label is not None:
            self.choose(label)
            self._fresh += 1

    def rename(self, label: int, name: str) -> None:
        """Another name for a class."""
        document = self.document
        assert document is not None
        old = document.strokes.classes[label - 1].name
        self._tried(lambda: document.strokes.rename_class(label, name))
        document.confinements = tuple(
            replace(
                c,
                class_name=name if c.class_name == old else c.class_name,
                near=name if c.near == old else c.near,
            )
            for c in document.confinements
        )
        self.strokes_changed()

    def recolor(self, name: str, color: tuple[float, float, float]) -> None:
        """Another colour for a class, in slices and in 3D; while it is dragged, called often: see `recolored`."""
        document = self.document
        assert document is not None
        for label, one in enumerate(document.strokes.classes, start=1):
            if one.name == name:
                if not self._recoloring:
                    document.strokes.begin()
                    self._recoloring = True
                document.strokes.recolor_class(label, color)
        if document.transfer is not None and name in document.transfer.classes:
            document.transfer = document.transfer.with_ramp(name, color=color)
        document.found_number += 1

    _recoloring = False

    def recolored(self) -> None:
        """The colour is chosen."""
        if self._recoloring and self.document is not None:
            self.document.strokes.end()
            self._recoloring = False
            self._fresh += 1

    def remove_class(self, label: int) -> None:
        """A class and its strokes."""
        document = self.document
        assert document is not None
        name = document.strokes.classes[label - 1].name
        document.confinements = tuple(c for c in document.confinements if name not in (c.class_name, c.near))
        self._tried(lambda: document.strokes.remove_class(label))
        self.label = min(self.label, len(document.strokes.classes))
        document.found.clear()
        self.strokes_changed()

    def change_ramp(self, name: str, **changes: Any) -> None:
        """A ramp that a person sets: automatic ones no longer replace it."""
        document = self.document
        assert document is not None
        assert document.transfer is not None
        document.transfer = document.transfer.with_ramp(name, **changes)
        document.touched.add(name)

    def ramp_preset(self, name: str) -> None:
        """Shape all ramps from their automatic ends."""
        document = self.document
        assert document is not None
        assert document.transfer is not None
        assert document.scene is not None
        automatic = document.scene.transfer
        for one in automatic.classes[1:]:
            ramp = document.transfer.ramp(one)
            automatic = automatic.with_ramp(one, color=ramp.color, visible=ramp.visible)
        shaped = self._asked_for(lambda: automatic.with_preset(name))
        if shaped is not None:
            document.transfer = replace(shaped, raw=document.transfer.raw)

    def hide_dust(self) -> None:
        """Draw anew without particles below the diameter."""
        document = self.document
        if document is None:
            return
        document.hide_dust_nm = self.dust_nm or None
        self._prepare(self._plain, () if document.scene is None else document.scene.files)

    def _take_live(self) -> None:
        document = self.document
        if self.live is None or document is None:
            return
        for found in self.live.poll():
            if isinstance(found, SliceLabels):
                document.found[found.plane] = found.proba
                while len(document.found) > 64:
                    document.found.pop(next(iter(document.found)))
                document.found_number += 1
            elif isinstance(found, VolumeLabels):
                document.found = {p: v for p, v in document.found.items() if p in document.visible_planes}
                self._prepare(found.segmentation, ())
            elif isinstance(found, Failure):
                self.say(found.message)
            elif isinstance(found, Trained):  # what is visible stays until its better answer comes
                document.found = {p: v for p, v in document.found.items() if p in document.visible_planes}
            self.window.wake()

    # ---- undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return bool(self._undone)

    def undo(self) -> None:
        """Take back the last step: a stroke, a class, or what 3D shows."""
        self._step(self._done, self._undone, back=True)

    def redo(self) -> None:
        """Do again what was taken back."""
        self._step(self._undone, self._done, back=False)

    def _step(self, source: list[_Step], target: list[_Step], *, back: bool) -> None:
        document = self.document
        if document is None or not source or self._fresh:
            return
        step = source.pop()
        strokes = document.strokes
        for _ in range(step.strokes):
            if strokes.can_undo if back else strokes.can_redo:
                strokes.undo() if back else strokes.redo()
        look = None if step.look is None else _Look(document.settings, document.transfer)
        target.append(_Step(step.strokes, look))
        if step.look is not None:
            document.settings = step.look.settings
            old, new = document.transfer, step.look.transfer
            if old is not None and new is not None and old.classes == new.classes:  # else of another scene
                document.transfer = new
        self._settled = _Look(document.settings, document.transfer)
        if step.strokes:
            self.label = min(self.label, len(strokes.classes))
            document.found_number += 1
            self.learn()

    def _note_step(self) -> None:
        """What changed becomes one step once the mouse lets go."""
        document = self.document
        if document is None or self.imgui.is_any_item_active():
            return
        look = _Look(document.settings, document.transfer)
        before = self._settled if self._settled is not None and look != self._settled else None
        if before is not None or self._fresh:
            self._done.append(_Step(self._fresh, before))
            self._undone.clear()
            del self._done[:-500]
        self._settled, self._fresh = look, 0

    # ---- saving

    def save_strokes(self, path: str) -> None:
        """Write the strokes as MRC, TIFF or OME-Zarr."""
        document = self.document
        if document is None:
            return
        if named_format(Path(path)) is None:
            path += ".mrc"
        if self._tried(lambda: document.strokes.save(path, document.volume)):
            document.strokes_file = str(Path(path).resolve())
            self.say(f"saved {path}")

    def ask_save_strokes(self, then: Callable[[], None] | None = None) -> None:
        """Save where they came from, or ask."""
        document = self.document
        if document is None:
            return
        known = document.strokes_file

        def save(path: str) -> None:
            self.save_strokes(path)
            if then is not None and not document.strokes.changed_since_save:
                then()

        if known:
            save(known)
        else:
            stem = Path(document.tomogram.path)
            self.browse("Save strokes as", save, proposal=str(stem.with_name(stem.name.split(".")[0] + "_strokes.mrc")))

    def save_session(self, path: str) -> None:
        """One JSON that this window and `cryoet render` open; labels that are in no file yet are written beside it."""
        document = self.document
        if document is None or document.scene is None:
            return
        path = path if path.endswith(".json") else path + ".json"
        if document.strokes.changed_since_save and any(document.strokes.counts()):
            self.save_strokes(document.strokes_file or path.removesuffix(".json") + "_strokes.mrc")
        settings = self.scene.absolute(document, (1920, 1080))
        scene = document.scene
        if document.has_classes and not scene.files:
            store = path.removesuffix(".json") + "_labels.zarr"
            self.export(store, then=lambda: self._write_session(document, settings, path, store))
        else:
            self._write_session(document, settings, path, None)

    def _write_session(self, document: Document, settings: RenderSettings, path: str, store: str | None) -> None:
        if store is not None and document.scene is not None:
            document.scene = replace(document.scene, files=(store,))
        if self._tried(lambda: document.session(settings, (1920, 1080)).save(path)):
            self.say(f"saved {path}: cryoet render --session {path} -o picture.png draws it")

    def export(self, path: str, then: Callable[[], None] | None = None) -> None:
        """Classes as an OME-Zarr, or with another ending as one MRC a class."""
        document = self.document
        if document is None or not document.has_classes:
            return
        assert document.scene is not None
        segmentation = self._plain if self._plain is not None else document.scene.segmentation
        colors = tuple(document.color_of(name) for name in segmentation.classes)

        def work(progress: Progress) -> str:
            data = np.asarray(segmentation.data)
            whole = SoftSegmentation(data, segmentation.classes, colors, **segmentation.grid())
            if path.endswith(".zarr"):
                how: dict[str, Any] = {"dtype": data.dtype, "grid": whole.grid(), "colors": colors}
                with io.create_segmentation(path, whole.shape, whole.classes, **how) as out:
                    for start in range(0, whole.shape[0], 64):
                        stop = min(start + 64, whole.shape[0])
                        out[:, start:stop] = data[:, start:stop]
                        progress("writing", stop, whole.shape[0])
            else:
                io.export_classes(whole, path, progress=progress)
            return path

        def done(written: str) -> None:
            self.say(f"saved {written}")
            if then is not None:
                then()

        self.jobs.start("export", work, done)

    def save_picture(self, path: str, size: tuple[int, int]) -> None:
        """The 3D view at any size, drawn beside the window as `cryoet render` draws it."""
        document = self.document
        if document is None or document.scene is None or document.transfer is None:
            return
        settings = self.scene.absolute(document, size)
        volume, segmentation, transfer = document.volume, document.scene.segmentation, document.transfer
        path = path if Path(path).suffix else path + ".png"
        # What lies in no file cannot be named by a session.
        again = document.session(settings, size) if document.scene.files or not document.has_classes else None

        def work(progress: Progress) -> str:
            drawn = render_image(volume, segmentation, transfer, size=size, settings=settings, progress=progress)
            drawn.save(path, text={} if again is None else {SESSION: again.text(path)})
            return "; ".join([f"saved {path}", *drawn.notices])

        self.jobs.start("picture", work, self.say)

    def save_video(self, path: str, frames: Sequence[KeyFrame]) -> None:
        """Key frames, or a turn, as a video, a GIF or a folder of PNGs, drawn beside the window."""
        document = self.document
        if document is None or document.scene is None or document.transfer is None:
            return
        size, fps = self.picture_size, self.fps
        settings = self.scene.absolute(document, size)
        volume, segmentation, transfer = document.volume, document.scene.segmentation, document.transfer

        def work(progress: Progress) -> str:
            notices = render_animation(
                volume,
                segmentation,
                transfer,
                path,
                frames,
                settings=settings,
                size=size,
                fps=fps,
                progress=progress,
            )
            return "; ".join([f"saved {path}", *notices])

        self.jobs.start("video", work, self.say)

    def ask_turntable(self) -> None:
        """Once around, to a file."""
        document = self.document
        if document is None or document.scene is None:
            return
        frames = turntable(self.scene.absolute(document, self.picture_size), self.turn_s)
        self._ask_video(frames, "turn.gif")

    def ask_key_frames(self) -> None:
        """The key frames, to a file."""
        self._ask_video(tuple(self.key_frames), "animation.gif")

    def _ask_video(self, frames: Sequence[KeyFrame], proposal: str) -> None:
        self.browse(
            "Save as .gif, .mp4, .webm, or a folder of PNGs",
            lambda path: self.save_video(path, frames),
            proposal=proposal,
        )

    def add_key_frame(self) -> None:
        """The view as it is now, some seconds after the last one."""
        document = self.document
        if document is None or document.scene is None or document.transfer is None:
            return
        settings = self.scene.absolute(document, self.picture_size)
        fixed = ("projection", "supersampling", "transparent")
        fields = {f.name: getattr(settings, f.name) for f in dataclass_fields(settings) if f.name not in fixed}
        opacity = {
            name: ramp.opacity * ramp.visible
            for name, ramp in zip(document.transfer.classes[1:], document.transfer.ramps[1:], strict=True)
        }
        time_s = self.key_frames[-1].time_s + self.key_step_s if self.key_frames else 0.0
        self.key_frames.append(KeyFrame(time_s=time_s, settings=fields, opacity=opacity))

    def screenshot(self, path: str) -> None:
        """The whole window as it is."""
        from PIL import Image

        def take(pixels: Any) -> None:
            self._tried(lambda: save_image(Image.fromarray(pixels), path))
            self.say(f"saved {path}")

        self.window.grab(take)

    # ---- networks

    def choose_model(self, path: str) -> None:
        """A folder of a trained network."""
        self.model_path = path

    def segment(self) -> None:
        """Probabilities by the chosen network, as the scene."""
        document = self.document
        if document is None:
            return
        model, volume = self.model_path, document.volume

        def work(progress: Progress) -> SoftSegmentation:
            from ..inference import segment

            progress("loading", 0, 0)
            return segment(model, volume, progress=progress)

        self.jobs.start("segment", work, lambda found: self._new_labels(found))

    def train(self) -> None:
        """A small network on the strokes, then its probabilities."""
        document = self.document
        if document is None:
            return
        volume, steps = document.volume, self.train_steps
        marks = document.strokes.as_volume(volume)
        copied: Volume = volume.with_data(np.array(marks.data))
        names = [one.name for one in document.strokes.classes]

        def work(progress: Progress) -> SoftSegmentation:
            from ..inference import segment
            from ..models import create_model
            from ..training import train

            progress("loading", 0, 0)
            model = create_model("unet3d", preset="small", in_channels=1, out_channels=len(names), activation="none")
            train(model, [(volume, copied)], steps=steps, progress=progress)
            found = segment(model, volume, progress=progress)
            return SoftSegmentation(found.data, tuple(names), **found.grid())

        self.jobs.start("train", work, lambda found: self._new_labels(found))

    def _new_labels(self, found: SoftSegmentation) -> None:
        document = self.document
        if document is None:
            return
        document.found.clear()
        document.found_number += 1
        self._prepare(found, ())

    # ---- closing

    def _may_close(self) -> bool:
        document = self.document
        if document is not None and document.strokes.changed_since_save and any(document.strokes.counts()):
            self._closing = True
            return False
        return True

    def _close_document(self) -> None:
        if self.live is not None:
            self.live.close()
            self.live = None
        if self.document is not None:
            self.document.strokes.close()
            self.document = None

    def close(self) -> None:
        """Stop what runs in the background, and let go of the journal."""
        self.jobs.close()
        self._close_document()
        self.scene.release()

    # ---- a frame

    def frame(self) -> bool:
        """Draw everything; whether to be called again at once."""
        self.jobs.poll()
        self._take_live()
        while self.window.dropped:
            self.open_any(self.window.dropped.pop(0))
        document = self.document
        planes = document.visible_planes if document is not None else ()
        # First: it may give back a texture, which ImGui must not have been told of in this frame.
        busy = document is not None and self.scene.advance(document, time.perf_counter())
        self._menus()
        self._layout()
        self._windows()
        self.browser.draw(self)
        self._popups()
        if not self.imgui.get_io().want_text_input:
            self._keys()
        if document is not None and self.document is document:
            if self.live is not None and planes != document.visible_planes:
                self.live.look_at(document.visible_planes)
            self._follow_slices(document)
        self._note_step()
        return self._by_itself() or busy

    def _follow_slices(self, document: Document) -> None:
        z, y, x = document.at
        wanted = (z, y, x) if self.slices_in_3d else (None, None, None)
        if document.settings.slices != wanted:
            document.settings = replace(document.settings, slices=wanted)
            self._settled = None if self._settled is None else replace(self._settled, settings=document.settings)

    def _by_itself(self) -> bool:
        """--screenshot and --exit-after."""
        start = self._start
        if start.exit_after_s is None and start.screenshot is None:
            return False
        passed = time.perf_counter() - self._began
        ready = self.document is not None and not self.jobs.running and self.scene.frames >= max(self.scene.wanted, 1)
        late = start.exit_after_s is not None and passed >= start.exit_after_s
        if start.screenshot and not self._shot and (late or (start.exit_after_s is None and ready)):
            self._shot = True
            self.screenshot(start.screenshot)
            return True
        if (late or start.exit_after_s is None) and (self._shot or not start.screenshot):
            self.window.close()
        return False

    def _windows(self) -> None:
        imgui, document = self.imgui, self.document
        for pane in self.slices:
            if imgui.begin(pane.name)[0] and document is not None:
                pane.draw(self, document)
            imgui.end()
        if imgui.begin("3D")[0]:
            self.scene.draw(self, document)
            if document is None:
                self._welcome()
        imgui.end()
        if self._panels_hidden:
            return
        shown: tuple[tuple[str, Callable[[Viewer, Document], None]], ...] = (
            ("Classes", panels.classes),
            ("Ramps", panels.ramps),
            ("Light", panels.light),
            ("View", panels.view),
            ("Pictures", panels.pictures),
            ("Networks", panels.networks),
        )
        for name, panel in shown:
            if imgui.begin(name)[0] and document is not None and self.document is document:
                imgui.push_item_width(-7.5 * imgui.get_font_size())
                panel(self, document)
                imgui.pop_item_width()
            imgui.end()
        if imgui.begin("State")[0]:
            panels.state(self, document)
        imgui.end()

    def _welcome(self) -> None:
        imgui = self.imgui
        imgui.set_cursor_pos((24 * self.window.scale, 48 * self.window.scale))
        imgui.begin_group()
        imgui.text("Drop a tomogram here (MRC, TIFF, HDF5, OME-Zarr), or")
        if imgui.button("Open a tomogram"):
            self.browse("Open a tomogram", self.open_tomogram, endings=_VOLUMES)
        for path in files.recent():
            if imgui.selectable(path, False)[0]:
                self.open_tomogram(path)
        imgui.end_group()

    def _layout(self) -> None:
        imgui = self.imgui
        dock = imgui.dock_space_over_viewport()
        if self._laid_out:
            return
        self._laid_out = True
        build = imgui.internal
        build.dock_builder_remove_node(dock)
        build.dock_builder_add_node(dock, build.DockNodeFlagsPrivate_.dock_space)
        build.dock_builder_set_node_size(dock, imgui.get_main_viewport().work_size)

        def split(node: int, side: Any, share: float) -> tuple[int, int]:
            _, part, rest = build.dock_builder_split_node_py(node, side, share)
            return part, rest

        left, rest = split(dock, imgui.Dir.left, 0.17)
        right, middle = split(rest, imgui.Dir.right, 0.25)
        lower_left, left = split(left, imgui.Dir.down, 0.28)
        lower, upper = split(middle, imgui.Dir.down, 0.5)
        upper_left, upper_right = split(upper, imgui.Dir.left, 0.5)
        lower_left_pane, lower_right = split(lower, imgui.Dir.left, 0.5)
        for name, node in (
            ("Classes", left),
            ("State", lower_left),
            ("Ramps", right),
            ("Light", right),
            ("View", right),
            ("Pictures", right),
            ("Networks", right),
            (self.slices[0].name, upper_left),
            ("3D", upper_right),
            (self.slices[1].name, lower_left_pane),
            (self.slices[2].name, lower_right),
        ):
            build.dock_builder_dock_window(name, node)
        build.dock_builder_finish(dock)

    def _menus(self) -> None:
        imgui = self.imgui
        if not imgui.begin_main_menu_bar():
            return
        document = self.document

        def item(label: str, shortcut: str = "", enabled: bool = True) -> bool:
            return bool(imgui.menu_item(label, shortcut, False, enabled)[0])

        if imgui.begin_menu("File"):
            if item("Open tomogram...", "Ctrl+O"):
                self.browse("Open a tomogram", self.open_tomogram, endings=_VOLUMES)
            if imgui.begin_menu("Recent", bool(files.recent())):
                for path in files.recent():
                    if item(path):
                        self.open_tomogram(path)
                imgui.end_menu()
            if item("Open strokes...", "", document is not None):
                self.browse("Open strokes", self.open_strokes, endings=_VOLUMES)
            if item("Open segmentation...", "", document is not None):
                self.browse("Open a segmentation", lambda path: self.open_segmentation((path,)), endings=_VOLUMES)
            if item("Open session..."):
                self.browse("Open a session", self.open_session, endings=(".json", ".png"))
            imgui.separator()
            if item("Save strokes", "Ctrl+S", document is not None):
                self.ask_save_strokes()
            if item("Save session...", "Ctrl+Shift+S", document is not None and document.scene is not None):
                self._ask_session()
            if item("Export classes...", "", document is not None and document.has_classes):
                self.browse("Export as OME-Zarr (.zarr) or a folder of MRC", self.export, proposal="labels.zarr")
            imgui.separator()
            if item("Save 3D picture...", "Ctrl+P", document is not None and document.scene is not None):
                self.ask_picture()
            if item("Save turntable...", "", document is not None and document.scene is not None):
                self.ask_turntable()
            if item("Save picture of the window..."):
                self.browse("Save the window as", self.screenshot, proposal="window.png")
            imgui.separator()
            if item("Quit", "Ctrl+Q") and self._may_close():
                self.window.close()
            imgui.end_menu()
        if imgui.begin_menu("Edit"):
            if item("Undo", "Ctrl+Z", self.can_undo):
                self.undo()
            if item("Redo", "Ctrl+Shift+Z", self.can_redo):
                self.redo()
            imgui.end_menu()
        if imgui.begin_menu("View"):
            if item("Fit 3D", "R"):
                self.reset_view()
            if item("Dark or light", "T"):
                self.toggle_theme()
            if item("Hide or show panels", "H"):
                self._panels_hidden = not self._panels_hidden
            imgui.end_menu()
        if imgui.begin_menu("Help"):
            if item("Keys and mouse", "?"):
                self._help = True
            imgui.end_menu()
        if document is not None:
            z, y, x = document.volume.shape
            edge = document.volume.voxel_size_A[2]
            imgui.text_disabled(f"   {Path(document.tomogram.path).name}   {z} x {y} x {x}, {edge:.2f} Å a voxel")
        imgui.end_main_menu_bar()

    def _ask_session(self) -> None:
        assert self.document is not None
        stem = Path(self.document.tomogram.path)
        self.browse(
            "Save the session as", self.save_session, proposal=str(stem.with_name(stem.name.split(".")[0] + ".json"))
        )

    def ask_picture(self) -> None:
        """The 3D view, to a file."""
        width, height = self.picture_size
        self.browse(
            f"Save the 3D view as ({width} x {height})",
            lambda path: self.save_picture(path, self.picture_size),
            proposal="picture.png",
        )

    def _popups(self) -> None:
        imgui = self.imgui
        if self._help:
            imgui.open_popup("Keys and mouse")
            self._help = False
        middle = tuple(n / 2 for n in self.window.size)
        imgui.set_next_window_pos(middle, imgui.Cond_.appearing, (0.5, 0.5))
        if imgui.begin_popup("Keys and mouse"):
            if imgui.begin_table("##keys", 2):
                for keys, what in _KEYS:
                    imgui.table_next_row()
                    imgui.table_next_column()
                    imgui.text(keys)
                    imgui.table_next_column()
                    imgui.text(what)
                imgui.end_table()
            imgui.end_popup()
        if self._closing:
            imgui.open_popup("Unsaved strokes")
            self._closing = False
        if imgui.begin_popup_modal("Unsaved strokes", None, imgui.WindowFlags_.always_auto_resize)[0]:
            imgui.text("The strokes are in no file yet.")
            if imgui.button("Save"):
                imgui.close_current_popup()
                self.ask_save_strokes(self.window.close)
            imgui.same_line()
            if imgui.button("Quit without saving"):
                if self.document is not None:
                    self.document.strokes.discard_journal()
                self.window.close()
                imgui.close_current_popup()
            imgui.same_line()
            if imgui.button("Keep for the next time"):
                self.window.close()
                imgui.close_current_popup()
            imgui.same_line()
            if imgui.button("Cancel"):
                imgui.close_current_popup()
            imgui.end_popup()

    def reset_view(self) -> None:
        """Fit 3D and slices."""
        if self.document is not None:
            self.document.settings = replace(self.document.settings, zoom=1.0, target_vox=None, roll_deg=0.0)
        self.scene.fit()
        for pane in self.slices:
            pane.zoom, pane.middle = 1.0, None

    def toggle_theme(self) -> None:
        """Dark or light."""
        self._theme = "light" if self._theme == "dark" else "dark"
        self.window.theme(self._theme)

    def _keys(self) -> None:
        imgui = self.imgui
        key = imgui.Key
        io_ = imgui.get_io()
        if io_.key_ctrl:
            self._control_keys()
            return
        actions: dict[Any, Callable[[], None]] = {
            key.b: self.draw_strokes,
            key.e: self.erase,
            key.n: self.navigate,
            key.r: self.reset_view,
            key.t: self.toggle_theme,
            key.f1: lambda: setattr(self, "_help", True),
            key.h: lambda: setattr(self, "_panels_hidden", not self._panels_hidden),
            key.u: lambda: setattr(self, "overlay", replace(self.overlay, uncertainty=not self.overlay.uncertainty)),
            key.left_bracket: lambda: self._resize_brush(1 / 1.25),
            key.right_bracket: lambda: self._resize_brush(1.25),
            key.up_arrow: lambda: self._next_slice(1),
            key.down_arrow: lambda: self._next_slice(-1),
        }
        for code, action in actions.items():
            if imgui.is_key_pressed(code):
                action()
        if io_.key_shift and imgui.is_key_pressed(key.slash):
            self._help = True
        for number in range(1, 10):
            if imgui.is_key_pressed(getattr(key, f"_{number}")):
                self.choose(number)

    def _control_keys(self) -> None:
        imgui = self.imgui
        key, shift = imgui.Key, imgui.get_io().key_shift
        if imgui.is_key_pressed(key.z):
            self.redo() if shift else self.undo()
        if imgui.is_key_pressed(key.y):
            self.redo()
        if imgui.is_key_pressed(key.o, False):
            self.browse("Open a tomogram", self.open_tomogram, endings=_VOLUMES)
        if imgui.is_key_pressed(key.q, False) and self._may_close():
            self.window.close()
        if self.document is None:
            return
        if imgui.is_key_pressed(key.s, False):
            self._ask_session() if shift else self.ask_save_strokes()
        if imgui.is_key_pressed(key.p, False):
            self.ask_picture()

    def _resize_brush(self, factor: float) -> None:
        self.brush = Brush(min(max(self.brush.radius_vox * factor, 0.5), 20.0), self.brush.spherical)

    def _next_slice(self, step: int) -> None:
        if self.document is not None:
            self.document.move_to(0, self.document.at[0] + step)


def run(start: Start) -> None:
    """Open a window and stay until it is closed. MissingDependencyError without a display, OpenGL 4.3 or libraries."""
    window = Window("cryoet viewer", start.size)
    try:
        viewer = Viewer(window, start)
        try:
            window.run(viewer.frame)
        finally:
            viewer.close()
    finally:
        window.release()


def view(
    tomogram: Volume | str | os.PathLike[str],
    segmentation: SoftSegmentation | None = None,
    transfer: TransferFunction | None = None,
) -> None:
    """Open the viewer, and return when its window is closed.

    tomogram: (z, y, x), or its file: only then strokes survive a crash, and sessions can be saved.
    segmentation: classes to draw, on the same grid; transfer: their ramps, or None for automatic ones.

    Raises MissingDependencyError without a display, OpenGL 4.3, glfw or imgui-bundle.
    """
    drawn = None if segmentation is None else (segmentation, transfer)
    if isinstance(tomogram, Volume):
        run(Start(volume=tomogram, drawn=drawn))
    else:
        run(Start(tomogram=os.fspath(tomogram), drawn=drawn))
