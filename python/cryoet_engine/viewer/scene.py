# SPDX-License-Identifier: MIT
"""The 3D view: small and quick while something moves, and better with every frame once it rests.

While it moves: fewer pixels, as many as this machine draws in time, and light at quarter resolution. At rest: the full
picture, first with that light, then with light at half resolution, then the mean of more and more frames. All of it in
steps of some milliseconds, between which the window goes on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import CryoETError
from ..render.annotate import display_color, nice_length, scale_label
from ..render.camera import Camera, Vector
from ..render.renderer import Renderer
from ..render.settings import Cut, RenderSettings
from ..volume import Triple, Volume
from .document import Document, Scene, keeps_hidden

if TYPE_CHECKING:
    from .app import Viewer

_MOVING_S = 0.06  # a frame may take, while something moves
_STEP_S = 0.03  # of better pictures, between two frames of the window
_REST_S = 0.25  # without a change, until it is taken for rest
_SMALLEST = 1 / 6  # of the pane's pixels along an axis
_BAND = 2**14  # pixels marched at once on software OpenGL
_QUICK_LIGHT = {
    "light_spacing": 4,
    "light_occlusion_samples": 8,
    "light_shadow_rays": 1,
    "light_shadow_steps": 6,
}
_HANDLE = (1.0, 0.75, 0.2, 0.95)


class ScenePane:
    """Draws a document's scene into an ImGui window, and takes the mouse there.

    frames: of the mean that is shown; of `wanted` in all. notices: the renderer's. failed: why nothing is drawn.
    """

    def __init__(self, context: Any) -> None:
        self.frames, self.wanted = 0, 0
        self.failed = ""
        self._context = context
        self._renderer = Renderer(context)
        self._volume: Volume | None = None
        self._points: Vector | None = None
        self._key: object = None
        self._changed_at = 0.0
        self._scale = 0.5
        self._texture: Any = None
        self._work: Iterator[None] | None = None
        self._camera: Camera | None = None
        self._corner, self._size = (0.0, 0.0), (1.0, 1.0)
        self._held_cut: int | None = None

    @property
    def notices(self) -> list[str]:
        """What the person should know about the picture."""
        return [note for note in self._renderer.notices if not note.startswith("no class is visible")]

    def memory(self) -> list[tuple[str, int]]:
        """What lies on the card: names and bytes."""
        return self._renderer.memory()

    # ---- scene

    def load(self, volume: Volume, scene: Scene) -> None:
        """Bring another scene to the card."""
        self._work, self.failed = None, ""
        _ = self._context.error  # what ImGui may have left is not this renderer's
        try:
            self._renderer.load(
                volume,
                scene.segmentation,
                scene.transfer,
                keep_hidden=keeps_hidden(scene.transfer),
                ahead=scene.ahead,
                beyond="bin",
            )
        except CryoETError as error:
            self.failed = str(error)
            return
        same = self._volume is not None and self._volume.shape == volume.shape
        self._volume = volume
        if not same:
            self._points = None
        self._key = None

    def clear(self) -> None:
        """Show nothing until a scene comes."""
        self._work = self._texture = self._camera = self._volume = None
        self.frames = self.wanted = 0

    def adopt(self, document: Document, size: tuple[int, int]) -> None:
        """Settings that another renderer's camera was meant for, which fits each picture: the same view by this one."""
        settings = document.drawn_settings()
        mine = self._renderer.camera_for(self._fitted(settings), settings, size)
        other = self._renderer.fit_camera(settings, size)
        zoom = settings.zoom * mine.height_at_target() / other.height_at_target()
        document.settings = replace(document.settings, zoom=min(max(zoom, 0.01), 1000.0))

    def fit(self) -> None:
        """Look at all that is visible, anew."""
        self._points = None
        self._key = None

    def _fitted(self, settings: RenderSettings) -> Vector:
        # Kept while ramps are dragged: a picture that zooms by itself is no use.
        if self._points is None:
            self._points = self._renderer.visible_points(settings, turning=True)
        return self._points

    def absolute(self, document: Document, size: tuple[int, int]) -> RenderSettings:
        """The settings with which another renderer, which fits its own camera, gives this view."""
        settings = document.drawn_settings()
        mine = self._renderer.camera_for(self._fitted(settings), settings, size)
        target = tuple(float(v) for v in self._renderer.voxel_at(mine.eye + mine.target_depth * mine.forward))
        pinned = replace(settings, target_vox=(target[0], target[1], target[2]))
        other = self._renderer.fit_camera(pinned, size)
        zoom = settings.zoom * other.height_at_target() / mine.height_at_target()
        return replace(pinned, zoom=min(max(zoom, 0.01), 1000.0))

    # ---- frames

    def advance(self, document: Document, now: float) -> bool:
        """Draw what is to be drawn next; whether there is more to do."""
        transfer = document.transfer
        if self._volume is None or transfer is None or self.failed or min(self._size) < 16:
            return False
        settings = document.drawn_settings()
        key = (self._size, settings, transfer)
        if key != self._key:
            self._key, self._changed_at, self._work, self.frames = key, now, None, 0
            try:
                self._renderer.set_transfer(transfer)
                self._draw_quickly(settings)
            except CryoETError as error:
                self.failed = str(error)
            return True
        if now - self._changed_at < _REST_S:
            return True
        if self._work is None:
            if self.frames:
                return False
            self._work = self._better(settings)
        until = time.perf_counter() + _STEP_S
        try:
            for _ in self._work:
                if time.perf_counter() > until:
                    return True
        except CryoETError as error:
            self.failed = str(error)
        self._work = None
        return False

    def _draw_quickly(self, settings: RenderSettings) -> None:
        lit = {} if settings.mode != "reference" else {"mode": "cached"}
        quick = replace(settings, **_QUICK_LIGHT, **lit, frames=1, supersampling=1)  # type: ignore[arg-type]
        size = self._pixels(self._scale)
        started = time.perf_counter()
        self._show(quick, size)
        taken = time.perf_counter() - started - self._renderer.timings.get("light", 0.0)
        # Pixels go with the square; half of the way at a time, so that one slow frame does not blur the next ones.
        wanted = self._scale * (_MOVING_S / max(taken, 1e-4)) ** 0.5
        self._scale = min(max(0.5 * (self._scale + wanted), _SMALLEST), 1.0)

    def _better(self, settings: RenderSettings) -> Iterator[None]:
        """Frames of the full picture, one after another."""
        size = self._pixels(1.0)
        self.wanted = settings.frames
        camera = self._renderer.camera_for(self._fitted(settings), settings, size)
        coarse = replace(settings, **_QUICK_LIGHT, frames=1)  # type: ignore[arg-type]
        if settings.mode == "cached":
            yield from self._renderer.marching(camera, coarse, size, range(1), band_pixels=_BAND)
            self._finish(coarse, camera)
            while not self._renderer.refine_light(settings, budget_s=_STEP_S):
                yield
        for number in range(settings.frames):
            yield from self._renderer.marching(camera, settings, size, range(number, number + 1), band_pixels=_BAND)
            self._finish(settings, camera)
            self.frames = number + 1

    def _show(self, settings: RenderSettings, size: tuple[int, int]) -> None:
        camera = self._renderer.camera_for(self._fitted(settings), settings, size)
        self._renderer.accumulate(camera, settings, size, frames=1)
        self._finish(settings, camera)

    def _finish(self, settings: RenderSettings, camera: Camera) -> None:
        self._texture = self._renderer.show(replace(settings, transparent=False))
        self._texture.filter = (self._context.LINEAR, self._context.LINEAR)
        self._texture.repeat_x = self._texture.repeat_y = False
        self._camera = camera

    def _pixels(self, scale: float) -> tuple[int, int]:
        width, height = (max(16, round(scale * n)) for n in self._size)
        return width, height

    # ---- the window

    def draw(self, viewer: Viewer, document: Document | None) -> None:
        """The picture and what is drawn onto it; inside its ImGui window."""
        imgui = viewer.imgui
        available = imgui.get_content_region_avail()
        corner = imgui.get_cursor_screen_pos()
        self._corner, self._size = (corner.x, corner.y), (max(available.x, 16.0), max(available.y, 16.0))
        flags = imgui.ButtonFlags_
        imgui.invisible_button(
            "##scene", self._size, flags.mouse_button_left | flags.mouse_button_middle | flags.mouse_button_right
        )
        painter = imgui.get_window_draw_list()
        end = (self._corner[0] + self._size[0], self._corner[1] + self._size[1])
        if self.failed:
            painter.add_text((corner.x + 12, corner.y + 12), imgui.get_color_u32((1, 0.5, 0.4, 1)), self.failed)
            return
        if document is None or self._texture is None or self._camera is None:
            return
        painter.push_clip_rect(self._corner, end, True)
        painter.add_image(imgui.ImTextureRef(self._texture.glo), self._corner, end)
        self._handles(viewer, document, painter)
        self._mouse(viewer, document)
        self._furniture(viewer, document, painter, end)
        painter.pop_clip_rect()

    def _mouse(self, viewer: Viewer, document: Document) -> None:
        """As ChimeraX: left turns, middle or right (or shift and left) moves, wheel zooms; ctrl and left: the light."""
        imgui = viewer.imgui
        io = imgui.get_io()
        settings = document.settings
        if imgui.is_item_hovered() and io.mouse_wheel:
            document.settings = replace(settings, zoom=min(max(settings.zoom * 1.12**io.mouse_wheel, 0.05), 200.0))
        if not imgui.is_item_active() or self._held_cut is not None:
            return
        dx, dy = io.mouse_delta.x, io.mouse_delta.y
        if not (dx or dy):
            return
        left = imgui.is_mouse_down(imgui.MouseButton_.left)
        degrees = 220.0 / max(min(self._size), 1.0)
        if left and io.key_ctrl:
            document.settings = replace(
                settings,
                light_azimuth_deg=_within_turn(settings.light_azimuth_deg + degrees * dx),
                light_elevation_deg=min(max(settings.light_elevation_deg - degrees * dy, -89.0), 89.0),
            )
        elif left and not io.key_shift:
            document.settings = replace(
                settings,
                azimuth_deg=_within_turn(settings.azimuth_deg - degrees * dx),
                elevation_deg=min(max(settings.elevation_deg + degrees * dy, -90.0), 90.0),
            )
        else:
            self._pan(document, dx, dy)

    def _pan(self, document: Document, dx: float, dy: float) -> None:
        camera = self._camera
        assert camera is not None
        a_pixel = camera.height_at_target() / self._size[1]
        looked_at = camera.eye + camera.target_depth * camera.forward
        z, y, x = self._renderer.voxel_at(looked_at - a_pixel * (dx * camera.right - dy * camera.up))
        document.settings = replace(document.settings, target_vox=(float(z), float(y), float(x)))

    def project(self, point_vox: Triple) -> tuple[float, float] | None:
        """Where a point (z, y, x) in voxels lies on the screen; None: behind the eye."""
        camera = self._camera
        if camera is None:
            return None
        away = self._renderer.position_of(point_vox) - camera.eye
        depth = 1.0 if camera.orthographic else float(away @ camera.forward)
        if depth <= 1e-6:
            return None
        half = camera.half_height * depth
        x = float(away @ camera.right) / (half * self._size[0] / self._size[1])
        y = float(away @ camera.up) / half
        return self._corner[0] + self._size[0] * (x + 1) / 2, self._corner[1] + self._size[1] * (1 - y) / 2

    def _handles(self, viewer: Viewer, document: Document, painter: Any) -> None:
        """A handle on every plane, which moves it along its normal."""
        imgui = viewer.imgui
        mouse = imgui.get_io().mouse_pos
        if not imgui.is_mouse_down(imgui.MouseButton_.left):
            self._held_cut = None
        for number, cut in enumerate(document.settings.cuts):
            point = cut.point_vox or tuple((n - 1) / 2 for n in document.volume.shape)
            normal = np.array(cut.normal) / np.linalg.norm(cut.normal)
            step = 0.12 * max(document.volume.shape)
            tip = tuple(float(p + step * n) for p, n in zip(point, normal, strict=True))
            here, there = self.project((point[0], point[1], point[2])), self.project((tip[0], tip[1], tip[2]))
            if here is None or there is None:
                continue
            ink = imgui.get_color_u32(_HANDLE)
            painter.add_line(here, there, ink, 2.0)
            near = (mouse.x - here[0]) ** 2 + (mouse.y - here[1]) ** 2 < (10 * viewer.window.scale) ** 2
            painter.add_circle_filled(here, (8 if near or self._held_cut == number else 6) * viewer.window.scale, ink)
            if near and imgui.is_item_hovered() and imgui.is_mouse_clicked(imgui.MouseButton_.left):
                self._held_cut = number
            if self._held_cut == number:
                along = np.array(there) - np.array(here)
                delta = imgui.get_io().mouse_delta
                length = float(along @ along)
                if length > 1:
                    moved = step * float(along @ np.array([delta.x, delta.y])) / length
                    place = np.clip(np.array(point) + moved * normal, 0, np.array(document.volume.shape) - 1.0)
                    cuts = list(document.settings.cuts)
                    cuts[number] = Cut(
                        normal=cut.normal,
                        point_vox=(float(place[0]), float(place[1]), float(place[2])),
                        classes=cut.classes,
                    )
                    document.settings = replace(document.settings, cuts=tuple(cuts))

    def _furniture(self, viewer: Viewer, document: Document, painter: Any, end: tuple[float, float]) -> None:
        """Scale bar, legend and axes, as `annotate` draws them into exports."""
        imgui, unit, camera = viewer.imgui, viewer.window.scale, self._camera
        assert camera is not None
        settings = document.drawn_settings()
        dark = settings.background in ("dark", "black")
        ink = imgui.get_color_u32((0.92, 0.93, 0.95, 1) if dark else (0.12, 0.13, 0.16, 1))
        line = imgui.get_text_line_height()
        if settings.legend and document.has_classes and settings.source == "classes":
            y = self._corner[1] + 10 * unit
            for name, color in self._renderer.shown_classes:
                shade = tuple(v / 255 for v in display_color(color))
                left = self._corner[0] + 12 * unit
                painter.add_rect_filled((left, y), (left + line, y + line), imgui.get_color_u32((*shade, 1)), 3 * unit)
                painter.add_text((left + 1.5 * line, y), ink, name)
                y += 1.45 * line
        if settings.scale_bar:
            a_pixel = camera.height_at_target() / self._size[1] * self._renderer.unit_A
            length = nice_length(0.22 * self._size[0] * a_pixel)
            right, bottom = end[0] - 14 * unit, end[1] - 14 * unit
            left = right - length / a_pixel
            painter.add_rect_filled((left, bottom - 4 * unit), (right, bottom), ink)
            text = scale_label(length, document.volume.voxel_size_status)
            start = min(left, right - imgui.calc_text_size(text).x)
            painter.add_text((start, bottom - 6 * unit - line), ink, text)
        if settings.axes:
            middle = (self._corner[0] + 42 * unit, end[1] - 42 * unit)
            arm = 26 * unit
            directions = np.eye(3)
            for number in np.argsort(-(directions @ -camera.forward))[::-1]:
                axis = directions[number]
                tip = (middle[0] + arm * float(axis @ camera.right), middle[1] - arm * float(axis @ camera.up))
                shade = ((0.85, 0.25, 0.2, 1), (0.2, 0.65, 0.25, 1), (0.25, 0.45, 0.95, 1))[int(number)]
                painter.add_line(middle, tip, imgui.get_color_u32(shade), 2.5 * unit)
                painter.add_text((tip[0] + 2, tip[1] - line / 2), imgui.get_color_u32(shade), "xyz"[int(number)])

    def release(self) -> None:
        """Give back what lies on the card."""
        self._work = None
        with suppress(CryoETError):
            self._renderer.release_scene()


def _within_turn(degrees: float) -> float:
    return (degrees + 180.0) % 360.0 - 180.0
