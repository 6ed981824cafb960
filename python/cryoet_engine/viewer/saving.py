# SPDX-License-Identifier: MIT
"""What leaves the window: strokes, classes, sessions, pictures, turns and key frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import io
from .._progress import Progress
from ..io.volumes import named_format
from ..render.animation import KeyFrame, render_animation, turntable
from ..render.picture import render_image, save_image
from ..render.session import KEYWORD as SESSION
from ..render.settings import RenderSettings
from ..volume import SoftSegmentation
from .document import Document

if TYPE_CHECKING:
    from .app import Viewer


class Saving:
    """Asks for names and writes files, in the background where that takes time.

    picture_size: of pictures and videos. fps, turn_s: of videos. key_frames: so far, key_step_s apart.
    """

    def __init__(self, viewer: Viewer) -> None:
        self.picture_size = (1920, 1080)
        self.turn_s, self.key_step_s, self.fps = 6.0, 2.0, 24.0
        self.key_frames: list[KeyFrame] = []
        self._saved: set[str] = set()  # strokes' files that this window wrote: only these it writes again unasked
        self._viewer = viewer

    def _spares(self, document: Document, path: str) -> bool:
        """Whether a path is free of what was only read; told, where it is not."""
        read = [document.tomogram.path, *(document.scene.files if document.scene is not None else ())]
        if Path(path).resolve() in [Path(name).resolve() for name in read if name]:
            self._viewer.say(f"{path} is what is open: choose another name")
            return False
        return True

    def _view(self, document: Document) -> RenderSettings | None:
        """The view of the window as other renderers draw it in a picture of this size; told, where there is none."""
        settings: RenderSettings | None = self._viewer.asked_for(
            lambda: self._viewer.scene.absolute(document, self.picture_size)
        )
        return settings

    def strokes(self, path: str) -> None:
        """Write the strokes as MRC, TIFF or OME-Zarr."""
        document = self._viewer.document
        if document is None or not self._spares(document, path):
            return
        if named_format(Path(path)) is None:
            path += ".mrc"
        if self._viewer.tried(lambda: document.strokes.save(path, document.volume)):
            document.strokes_file, document.strokes_in_file = str(Path(path).resolve()), document.strokes.version
            self._saved.add(document.strokes_file)
            self._viewer.say(f"saved {path}")

    def ask_strokes(self, then: Callable[[], None] | None = None) -> None:
        """Save where they came from, or ask."""
        document = self._viewer.document
        if document is None:
            return
        known = document.strokes_file if document.strokes_file in self._saved else None

        def save(path: str) -> None:
            self.strokes(path)
            if then is not None and not document.unsaved:
                then()

        if known is not None:
            save(known)
        else:
            stem = Path(document.tomogram.path or "tomogram")
            own = str(stem.with_name(stem.name.split(".")[0] + "_strokes.mrc"))
            self._viewer.browse("Save strokes as", save, proposal=document.strokes_file or own)

    def session(self, path: str) -> None:
        """One JSON that this window and `cryoet render` open; labels that are in no file yet are written beside it."""
        document = self._viewer.document
        if document is None or document.scene is None or not self._spares(document, path):
            return
        path = path if path.endswith(".json") else path + ".json"
        settings = self._view(document)
        if settings is None:
            return
        if document.unsaved:
            mine = document.strokes_file if document.strokes_file in self._saved else None
            self.strokes(mine or path.removesuffix(".json") + "_strokes.mrc")
        scene = document.scene
        if document.has_classes and not scene.files:
            store = path.removesuffix(".json") + "_labels.zarr"
            self.classes(store, then=lambda: self._write_session(document, settings, path, store))
        else:
            self._write_session(document, settings, path, None)

    def _write_session(self, document: Document, settings: RenderSettings, path: str, store: str | None) -> None:
        if store is not None and document.scene is not None:
            document.scene = replace(document.scene, files=(store,))
        if self._viewer.tried(lambda: document.session(settings, self.picture_size).save(path)):
            self._viewer.say(f"saved {path}: cryoet render --session {path} -o picture.png draws it")

    def classes(self, path: str, then: Callable[[], None] | None = None) -> None:
        """Classes as an OME-Zarr, or with another ending as one MRC a class."""
        document = self._viewer.document
        if document is None or not document.has_classes or not self._spares(document, path):
            return
        assert document.scene is not None
        segmentation = self._viewer.plain if self._viewer.plain is not None else document.scene.segmentation
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
            self._viewer.say(f"saved {written}")
            if then is not None:
                then()

        self._viewer.jobs.start("export", work, done)

    def picture(self, path: str) -> None:
        """The 3D view in `picture_size`, drawn beside the window as `cryoet render` draws it."""
        document = self._viewer.document
        if document is None or document.scene is None or document.transfer is None:
            return
        settings = self._view(document) if self._spares(document, path) else None
        if settings is None:
            return
        size = self.picture_size
        volume, segmentation, transfer = document.volume, document.scene.segmentation, document.transfer
        path = path if Path(path).suffix else path + ".png"
        # What lies in no file cannot be named by a session.
        named = document.tomogram.path and (document.scene.files or not document.has_classes)
        again = document.session(settings, size) if named else None

        def work(progress: Progress) -> str:
            drawn = render_image(volume, segmentation, transfer, size=size, settings=settings, progress=progress)
            drawn.save(path, text={} if again is None else {SESSION: again.text(path)})
            return "; ".join([f"saved {path}", *drawn.notices])

        self._viewer.jobs.start("picture", work, self._viewer.say)

    def video(self, path: str, frames: Sequence[KeyFrame]) -> None:
        """Key frames, or a turn, as a video, a GIF or a folder of PNGs, drawn beside the window."""
        document = self._viewer.document
        if document is None or document.scene is None or document.transfer is None:
            return
        settings, size, fps = self._view(document), self.picture_size, self.fps
        if settings is None:
            return
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

        self._viewer.jobs.start("video", work, self._viewer.say)

    def ask_turntable(self) -> None:
        """Once around, to a file."""
        document = self._viewer.document
        if document is None or document.scene is None:
            return
        settings = self._view(document)
        if settings is not None:
            self._ask_video(turntable(settings, self.turn_s), "turn.gif")

    def ask_key_frames(self) -> None:
        """The key frames, to a file."""
        self._ask_video(tuple(self.key_frames), "animation.gif")

    def _ask_video(self, frames: Sequence[KeyFrame], proposal: str) -> None:
        self._viewer.browse(
            "Save as .gif, .mp4, .webm, or a folder of PNGs",
            lambda path: self.video(path, frames),
            proposal=proposal,
        )

    def add_key_frame(self) -> None:
        """The view as it is now, some seconds after the last one."""
        document = self._viewer.document
        if document is None or document.scene is None or document.transfer is None:
            return
        settings = self._view(document)
        if settings is None:
            return
        fixed = ("projection", "supersampling", "transparent")
        values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in fixed}
        opacity = {
            name: ramp.opacity * ramp.visible
            for name, ramp in zip(document.transfer.classes[1:], document.transfer.ramps[1:], strict=True)
        }
        time_s = self.key_frames[-1].time_s + self.key_step_s if self.key_frames else 0.0
        self.key_frames.append(KeyFrame(time_s=time_s, settings=values, opacity=opacity))

    def window(self, path: str) -> None:
        """The whole window as it is."""
        from PIL import Image

        def take(pixels: Any) -> None:
            if self._viewer.tried(lambda: save_image(Image.fromarray(pixels), path)):
                self._viewer.say(f"saved {path}")

        self._viewer.window.grab(take)

    def ask_session(self) -> None:
        """The session, to a file."""
        assert self._viewer.document is not None
        stem = Path(self._viewer.document.tomogram.path)
        self._viewer.browse(
            "Save the session as", self.session, proposal=str(stem.with_name(stem.name.split(".")[0] + ".json"))
        )

    def ask_picture(self) -> None:
        """The 3D view, to a file."""
        width, height = self.picture_size
        self._viewer.browse(
            f"Save the 3D view as ({width} x {height})",
            self.picture,
            proposal="picture.png",
        )
