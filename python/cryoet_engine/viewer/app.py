# SPDX-License-Identifier: MIT
"""The viewer: what menus, keys, dropped files and panels do to a document, and the frame that draws it all."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import io
from .._checks import CryoETError
from .._progress import Progress
from ..render.packing import MAX_CLASSES
from ..render.session import Session
from ..render.settings import RenderSettings
from ..transfer import TransferFunction
from ..volume import DEFAULT_COLORS, SoftSegmentation, Volume
from . import files
from .document import Document, Scene, Tomogram, in_memory, new_document, open_tomogram, prepare
from .history import History
from .jobs import Jobs
from .layout import Layout
from .live import Confinement, Failure, LiveLabels, SliceLabels, Trained, VolumeLabels
from .orthoslices import Overlay, SlicePane
from .saving import Saving
from .scene import ScenePane
from .strokes import Brush, Strokes
from .window import Window

_LIVE_VOXELS = 48_000_000  # of a volume that is labelled whole after every stroke: about a minute on two cores


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


class Viewer:
    """One window with at most one document.

    drawing, erasing, label, brush: the tool. overlay: how slices are shown. live_wanted: whether strokes are learned.
    """

    def __init__(self, window: Window, start: Start) -> None:
        self.window, self.imgui, self.implot = window, window.imgui, window.implot
        self.document: Document | None = None
        self.jobs = Jobs(lambda name, text: self.fail(text))
        self.live: LiveLabels | None = None
        self.live_wanted = self.live_whole = True
        self.messages: list[str] = []
        self.overlay = Overlay()
        self.drawing, self.erasing, self.label = False, False, 2
        self.brush = Brush(3.0, False)
        self.dust_nm = 0.0
        self.model_path, self.train_steps = "", 500
        self.scene = ScenePane(window.context)
        self.slices = [SlicePane(window.context, axis) for axis in range(3)]
        self.browser = files.Browser()
        self.layout = Layout(self)
        self.saving = Saving(self)
        self.history = History()
        self.plain: SoftSegmentation | None = None  # before dust was hidden
        self._start, self._asked_classes = start, start.classes
        self._session_classes: tuple[str, ...] = ()
        self._began = time.perf_counter()
        self._theme: Literal["dark", "light"] = "dark"
        self._shot = self._recoloring = self._live_scene = False
        self.failures: list[str] = []
        window.theme(self._theme)
        window.on_close = self.may_close
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

    def fail(self, text: str) -> None:
        """A line about what did not work."""
        self.failures.append(text)
        self.say(text)

    def tried(self, work: Callable[[], object]) -> bool:
        """Do something that may be refused; whether it was done. A refusal is told, not raised."""
        try:
            work()
        except CryoETError as error:
            self.fail(" ".join(str(error).split()))
        except OSError as error:
            self.fail(f"{error.filename or 'file'}: {error.strerror or error}")
        else:
            return True
        return False

    def asked_for(self, make: Callable[[], Any]) -> Any:
        """What a function gives, or None where it is refused."""
        made: list[Any] = []
        return made[0] if self.tried(lambda: made.append(make())) else None

    # ---- opening

    def browse(self, title: str, then: Callable[[str], None], **how: Any) -> None:
        """Ask for a path."""
        self.browser.ask(title, then, **how)

    def open_tomogram(self, path: str, session: Session | None = None) -> None:
        """Read a tomogram in the background and show it, as a session says, in place of what is open."""
        self.jobs.start("open", lambda progress: open_tomogram(path, progress), lambda one: self._opened(one, session))

    def _opened(self, tomogram: Tomogram, session: Session | None = None) -> None:
        self._close_document()
        settings = RenderSettings(frames=32) if session is None else session.settings
        self._session_classes = () if session is None else session.transfer.classes
        asked = self._start.classes
        document = self.asked_for(lambda: new_document(tomogram, settings, asked))
        if document is None:
            return
        document.slices_in_3d = any(n is not None for n in settings.slices)
        document.hide_dust_nm = None if session is None else session.hide_dust_nm
        self.dust_nm = document.hide_dust_nm or 0.0
        self.document = document
        name = Path(tomogram.path).name or "an array"
        if tomogram.path:
            files.remember(tomogram.path)
            self.browser.begin_at(Path(tomogram.path).parent)
        self.window.set_title(f"{name} - cryoet viewer")
        self.messages = [line for line in (tomogram.note, *(self.messages if session is not None else ())) if line]
        came_back = any(document.strokes.counts())
        if came_back:
            self.say(f"{sum(document.strokes.counts())} voxels of strokes came back from an earlier session")
        self.scene.clear()
        self.live = LiveLabels(tomogram.volume)
        self.live_whole = math.prod(tomogram.volume.shape) <= _LIVE_VOXELS
        self.live.look_at(document.visible_planes)
        self.history = History(document.strokes.version)
        start, self._start = self._start, replace(self._start, labels=None, segmentation=(), drawn=None)
        # What came back is newer than a session's file of strokes, and not less than it.
        labels = start.labels or (session.strokes if session is not None and not came_back else None)
        wanted = start.segmentation or (session.segmentation if session is not None else ())
        learn = not wanted and start.drawn is None  # what there is stays until somebody draws
        if labels:
            self.open_strokes(labels, learn=learn)
        elif came_back:
            self.learn()
        if wanted:
            self.open_segmentation(wanted, session)
        elif start.drawn is not None:
            segmentation, document.transfer = start.drawn
            document.touched = set(segmentation.classes) if document.transfer is not None else set()
            self._prepare(segmentation, ())
        else:
            self._prepare(None, ())
        self.window.wake()

    def open_strokes(self, path: str, *, learn: bool = True) -> None:
        """Strokes from a file over those that are there. learn: predict with them at once."""
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
                self.tried(lambda: self._adopt(document, *found))
                self.history.strokes_changed(document.strokes.version)
                document.strokes_file = str(Path(path).resolve())
                if document.strokes.classes == found[0].classes:
                    document.strokes_in_file = document.strokes.version
                if learn:
                    self.learn()

        self.jobs.start("strokes", read, then)

    def _adopt(self, document: Document, loaded: Strokes, places: list[npt.NDArray[np.intp]]) -> None:
        """A file's marks and classes in place of those that are there, as one step."""
        mine = document.strokes
        if any(mine.counts()) and not np.array_equal(mine.marks, loaded.marks):
            self.say("strokes of an earlier session were replaced by the file's; undo brings them back")
        mine.begin()
        try:
            mine.fill(0, np.argwhere(mine.marks))
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
        """A file's classes: by the names that were asked for, else its own, else (it may have none) those there are."""
        old = list(mine.classes)
        names: list[str] = []
        for label, one in enumerate(loaded.classes, start=1):
            nameless = one.name in ("background", f"class {label - 1}")
            known = self._session_classes or [c.name for c in old]
            there = known[label - 1] if label <= len(known) else one.name
            name = self._asked_classes[label - 1] if label <= len(self._asked_classes) else ""
            name = name or (there if nameless else one.name)
            names.append(name if name not in names else f"class {label - 1}")
        names += [name for name in self._asked_classes[len(names) :] if name not in names]
        for label in range(len(old), max(len(names), 2), -1):
            mine.remove_class(label)
        for label in range(1, min(len(names), len(mine.classes)) + 1):
            mine.rename_class(label, f"\u00b7{label}")  # names may change places
        for label, name in enumerate(names, start=1):
            if label > len(mine.classes):
                mine.add_class(name)
            else:
                mine.rename_class(label, name)
            if label <= len(loaded.classes) and loaded.classes[label - 1].name == name:
                mine.recolor_class(label, loaded.classes[label - 1].color)

    def open_segmentation(self, paths: tuple[str, ...], session: Session | None = None) -> None:
        """Soft classes from files, drawn in 3D, as a session says, and over the slices."""
        document = self.document
        if document is None:
            return

        def read(progress: Progress) -> SoftSegmentation:
            progress("reading", 0, 0)
            found = io.read_segmentation(list(paths) if len(paths) > 1 else paths[0])
            return SoftSegmentation(np.asarray(found.data), found.classes, found.colors, **found.grid())

        self.jobs.start("segmentation", read, lambda found: self._prepare(found, paths, session))

    def _prepare(
        self, segmentation: SoftSegmentation | None, paths: tuple[str, ...], session: Session | None = None
    ) -> None:
        """Ramps and texels of a segmentation, in the background; then it is drawn."""
        document = self.document
        if document is None:
            return
        tomogram, old, kept = document.tomogram, document.transfer, frozenset(document.touched)
        colors = {one.name: one.color for one in document.strokes.classes}
        dust = document.hide_dust_nm
        if session is not None and segmentation is not None and session.transfer.classes == segmentation.classes:
            old, kept = session.transfer, frozenset(segmentation.classes)
            colors = {name: session.transfer.ramp(name).color for name in segmentation.classes}

        def work(progress: Progress) -> Scene:
            drawn = segmentation
            if drawn is not None and dust:
                from ..refine import remove_dust

                drawn = remove_dust(drawn, min_diameter_A=10 * dust, progress=progress)
            return prepare(tomogram, drawn, paths, old, kept, colors, progress)

        def then(scene: Scene) -> None:
            if self.document is not document:
                return
            transfer = scene.transfer
            if session is not None and kept == frozenset(transfer.classes):
                document.touched |= set(transfer.classes)
            elif document.transfer is not None:  # what was changed meanwhile
                for name in document.touched & set(transfer.classes[1:]) & set(document.transfer.classes):
                    ramp = document.transfer.ramp(name)
                    transfer = transfer.with_ramp(
                        name, left=ramp.left, right=ramp.right, opacity=ramp.opacity, visible=ramp.visible
                    )
            document.scene, document.transfer = scene, transfer
            document.scene_number += 1
            self.scene.load(document.volume, scene)
            if session is not None and not self.scene.failed:
                self.scene.adopt(document, session.size)
            self.history.accept(document)
            self.window.wake()

        self.jobs.start("3D", work, then)
        self.plain, self._live_scene = segmentation, False

    def open_session(self, path: str, tomogram: str | None = None) -> None:
        """All that `save_session`, or `cryoet render --save-session`, wrote; with another tomogram if one is named."""
        session = self.asked_for(lambda: Session.load(path))
        if session is None:
            return
        unused = [name for name in ("region", "voxel_size_A", "fill") if getattr(session, name) is not None]
        if unused:
            self.say(f"the session's {', '.join(unused)}: not used in this window, which shows the file as it is")
        self.open_tomogram(tomogram or session.tomogram, session)

    def open_any(self, path: str) -> None:
        """A dropped file: session, segmentation, strokes or tomogram, by what it is."""
        if path.endswith((".json", ".png")):
            self.open_session(path)
        elif self.document is None:
            self.open_tomogram(path)
        elif path.rstrip("/").endswith(".zarr"):
            self.open_segmentation((path,))
        else:
            shape = self.asked_for(lambda: io.read_volume(path).shape)
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

    def strokes_changed(self) -> None:
        """After a stroke, or an edit of a class, was finished."""
        if self.document is not None and self.history.strokes_changed(self.document.strokes.version):
            self.learn()

    def learn(self) -> None:
        """Train on the strokes there are, and predict."""
        document = self.document
        if document is None or self.live is None or not self.live_wanted:
            return
        if sum(n > 0 for n in document.strokes.counts()) < 2:
            if self._live_scene:  # labels of strokes that are no more
                document.found.clear()
                document.found_number += 1
                self.live.cancel()
                self._prepare(None, ())
            return
        names = [one.name for one in document.strokes.classes]
        live = self.live
        self.tried(
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
        spare = [color for index, color in enumerate(DEFAULT_COLORS) if index % 8]  # greys are the background's
        color = spare[(len(names) - 1) % len(spare)]
        label = self.asked_for(lambda: document.strokes.add_class(f"class {number}", color))
        if label is not None:
            self.choose(label)
            self.history.strokes_changed(document.strokes.version)

    def rename(self, label: int, name: str) -> None:
        """Another name for a class."""
        document = self.document
        assert document is not None
        old = document.strokes.classes[label - 1].name
        self.tried(lambda: document.strokes.rename_class(label, name))
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

    def recolored(self) -> None:
        """The colour is chosen."""
        if self._recoloring and self.document is not None:
            self.document.strokes.end()
            self._recoloring = False
            self.history.strokes_changed(self.document.strokes.version)

    def remove_class(self, label: int) -> None:
        """A class and its strokes."""
        document = self.document
        assert document is not None
        name = document.strokes.classes[label - 1].name
        document.confinements = tuple(c for c in document.confinements if name not in (c.class_name, c.near))
        self.tried(lambda: document.strokes.remove_class(label))
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
        if changes.get("visible") and len(document.transfer.classes) > MAX_CLASSES + 1:
            self._prepare(self.plain, () if document.scene is None else document.scene.files)

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
        shaped = self.asked_for(lambda: automatic.with_preset(name))
        if shaped is not None:
            document.transfer = replace(shaped, raw=document.transfer.raw)

    def hide_dust(self) -> None:
        """Draw anew without particles below the diameter."""
        document = self.document
        if document is None:
            return
        document.hide_dust_nm = self.dust_nm or None
        self._prepare(self.plain, () if document.scene is None else document.scene.files)

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
                self._live_scene = True
            elif isinstance(found, Failure):
                self.say(found.message)
            elif isinstance(found, Trained):  # what is visible stays until its better answer comes
                document.found = {p: v for p, v in document.found.items() if p in document.visible_planes}
            self.window.wake()

    # ---- undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self.history.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self.history.can_redo

    def undo(self) -> None:
        """Take back the last step: a stroke, a class, or what 3D shows."""
        if self.document is not None and not self.imgui.is_any_item_active():  # a stroke is being drawn
            self._after_step(self.history.undo(self.document))

    def redo(self) -> None:
        """Do again what was taken back."""
        if self.document is not None and not self.imgui.is_any_item_active():
            self._after_step(self.history.redo(self.document))

    def _after_step(self, strokes_changed: bool) -> None:
        if self.document is not None and strokes_changed:
            self.label = min(self.label, len(self.document.strokes.classes))
            self.document.found_number += 1
            self.learn()

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

        self.jobs.start("segment", work, self._new_labels)

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

        self.jobs.start("train", work, self._new_labels)

    def _new_labels(self, found: SoftSegmentation) -> None:
        document = self.document
        if document is None:
            return
        document.found.clear()
        document.found_number += 1
        self._prepare(found, ())

    # ---- closing

    def may_close(self) -> bool:
        """Whether nothing would be lost; otherwise a dialog asks."""
        if self.reasons_to_stay():
            self.layout.closing = True
            return False
        return True

    def reasons_to_stay(self) -> list[str]:
        """What closing the window would lose."""
        document = self.document
        lost = ["The strokes are in no file yet."] if document is not None and document.unsaved else []
        working = ("export", "picture", "video", "train", "segment")
        return lost + [f"Still at work: {job.name}." for job in self.jobs.running if job.name in working]

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
        typing = self.imgui.get_io().want_text_input  # which must not wait for pictures
        busy = document is not None and not typing and self.scene.advance(document, time.perf_counter())
        self.layout.draw()
        if document is not None and self.document is document:
            if self.live is not None and planes != document.visible_planes:
                self.live.look_at(document.visible_planes)
            if not self.imgui.is_any_item_active():
                self.history.settle(document)
        return self._by_itself() or busy

    def _by_itself(self) -> bool:
        """--screenshot and --exit-after."""
        start = self._start
        if start.exit_after_s is None and start.screenshot is None:
            return False
        passed = time.perf_counter() - self._began
        shown = self.document is not None and self.scene.frames >= max(self.scene.wanted, 1)
        ready = not self.jobs.running and (shown or bool(self.failures or self.scene.failed))  # nothing more will come
        late = start.exit_after_s is not None and passed >= start.exit_after_s
        if start.screenshot and not self._shot and (late or (start.exit_after_s is None and ready)):
            self._shot = True
            self.saving.window(start.screenshot)
            return True
        if (late or start.exit_after_s is None) and (self._shot or not start.screenshot):
            self.window.close()
        return False

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
    scripted = start.screenshot is not None or start.exit_after_s is not None
    if scripted and viewer.failures:  # nobody was there to read it in the window
        raise CryoETError(viewer.failures[0])


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
