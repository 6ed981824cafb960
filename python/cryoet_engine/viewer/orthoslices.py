# SPDX-License-Identifier: MIT
"""The three linked slices: grey values, classes laid over them, strokes, cross-hair, brush.

Turned as 3dmod and ChimeraX show them, and `cryoet_engine.render.slices`: rows go up, columns to the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..render.annotate import display_color, nice_length, scale_label
from .document import AXES, Document
from .live import Plane

if TYPE_CHECKING:
    from .app import Viewer

Pixels = npt.NDArray[np.uint8]

_UNSURE = np.array([255, 60, 220], np.float32)
_HAIR = (0.95, 0.85, 0.2, 0.75)


@dataclass(frozen=True)
class Overlay:
    """How slices are shown. classes, strokes: opacities 0..1; uncertainty: entropy instead of classes."""

    classes: float = 0.45
    strokes: float = 0.9
    uncertainty: bool = False
    contrast: tuple[float, float] = (0.0, 1.0)  # shares of the tomogram's own


def blend(
    grey: Pixels,
    proba: Pixels | None,
    colors: Sequence[tuple[int, int, int]],
    marks: Pixels,
    stroke_colors: Sequence[tuple[int, int, int]],
    overlay: Overlay,
) -> Pixels:
    """RGBA (rows, columns, 4) of a slice.

    grey: (rows, columns). proba: uint8 (class, rows, columns), colors: of its classes, the first not drawn.
    marks: labels 0..K; stroke_colors: of 1..K.
    """
    out = np.empty((*grey.shape, 4), np.uint8)
    shade = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
    if proba is not None and overlay.classes > 0:
        if overlay.uncertainty:
            p = proba.astype(np.float32) / 255
            entropy = -(p * np.log(np.maximum(p, 1e-6))).sum(0) / math.log(max(len(p), 2))
            alpha = (overlay.classes * entropy)[..., None]
            shade += alpha * (_UNSURE - shade)
        elif len(proba) > 1:
            share = proba[1:].astype(np.float32) * np.float32(overlay.classes / 255)
            tint = np.tensordot(share, np.array(colors[1:], np.float32), axes=(0, 0))
            shade = shade * (1 - share.sum(0))[..., None] + tint
    if overlay.strokes > 0 and marks.any():
        table = np.array([(0, 0, 0), *stroke_colors], np.float32)
        drawn = marks > 0
        shade[drawn] += overlay.strokes * (table[marks[drawn]] - shade[drawn])
    out[..., :3] = np.clip(shade + 0.5, 0, 255)
    out[..., 3] = 255
    return out


def grey_slice(document: Document, plane: Plane, contrast: tuple[float, float]) -> Pixels:
    """Grey values (rows, columns) of a slice, black at contrast[0] and white at contrast[1]."""
    data = np.take(document.volume.data, plane.index, axis=AXES.index(plane.axis)).astype(np.float32)
    low, high = contrast
    grey: Pixels = np.clip((data - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    return grey


class SlicePane:
    """One slice in one ImGui window: picture, pan, zoom, brush.

    zoom: 1 fits the slice. middle: (row, column) in the middle of the pane; None: the slice's own.
    """

    def __init__(self, context: Any, axis: int) -> None:
        self.axis = axis
        self.zoom = 1.0
        self.middle: tuple[float, float] | None = None
        self._context = context
        self._texture: Any = None
        self._grey: tuple[object, Pixels] | None = None
        self._key: object = None
        self._drawn_from: tuple[float, float] | None = None  # a stroke goes on from here (row, column)
        self._corner = (0.0, 0.0)
        self._size = (1.0, 1.0)

    @property
    def name(self) -> str:
        """The window's."""
        rows, columns = self._others()
        return f"{AXES[columns]}{AXES[rows]} (slices along {AXES[self.axis]})###slice{self.axis}"

    def _others(self) -> tuple[int, int]:
        rows, columns = (a for a in range(3) if a != self.axis)
        return rows, columns

    def _update(self, document: Document, overlay: Overlay) -> None:
        plane = Plane(AXES[self.axis], document.at[self.axis])
        low, high = document.tomogram.contrast
        contrast = (low + overlay.contrast[0] * (high - low), low + overlay.contrast[1] * (high - low))
        grey_key = (id(document.tomogram), plane, contrast)
        key = (grey_key, document.strokes.version, document.found_number, document.scene_number, overlay)
        if key == self._key:
            return
        if self._grey is None or self._grey[0] != grey_key:
            self._grey = (grey_key, grey_slice(document, plane, contrast))
        known = document.probabilities(plane)
        names, proba = known if known is not None else ((), None)
        colors = [display_color(document.color_of(name)) for name in names]
        marks = np.take(document.strokes.marks, plane.index, axis=self.axis)
        stroke_colors = [display_color(one.color) for one in document.strokes.classes]
        pixels = blend(self._grey[1], proba, colors, marks, stroke_colors, overlay)
        rows, columns = pixels.shape[:2]
        if self._texture is None or self._texture.size != (columns, rows):
            if self._texture is not None:
                self._texture.release()
            self._texture = self._context.texture((columns, rows), 4)
            self._texture.repeat_x = self._texture.repeat_y = False
        self._texture.write(pixels.tobytes())
        self._key = key

    # ---- between voxels and the screen

    def _pixels_a_unit(self, document: Document) -> tuple[float, float]:
        """Pixels a row and a column."""
        rows, columns = self._others()
        edges = document.volume.voxel_size_A
        shape = document.volume.shape
        fit = min(self._size[0] / (shape[columns] * edges[columns]), self._size[1] / (shape[rows] * edges[rows]))
        return self.zoom * fit * edges[rows], self.zoom * fit * edges[columns]

    def _to_screen(self, document: Document, row: float, column: float) -> tuple[float, float]:
        """Of a place in voxels, whose whole numbers are the middles of voxels."""
        a_row, a_column = self._pixels_a_unit(document)
        middle = self._middle(document)
        x = self._corner[0] + self._size[0] / 2 + (column - middle[1]) * a_column
        y = self._corner[1] + self._size[1] / 2 - (row - middle[0]) * a_row
        return x, y

    def _from_screen(self, document: Document, x: float, y: float) -> tuple[float, float]:
        a_row, a_column = self._pixels_a_unit(document)
        middle = self._middle(document)
        column = middle[1] + (x - self._corner[0] - self._size[0] / 2) / a_column
        row = middle[0] - (y - self._corner[1] - self._size[1] / 2) / a_row
        return row, column

    def _middle(self, document: Document) -> tuple[float, float]:
        if self.middle is not None:
            return self.middle
        rows, columns = self._others()
        return (document.volume.shape[rows] - 1) / 2, (document.volume.shape[columns] - 1) / 2

    def _voxel(self, document: Document, place: tuple[float, float]) -> tuple[float, float, float]:
        rows, columns = self._others()
        point = [0.0, 0.0, 0.0]
        point[self.axis], point[rows], point[columns] = float(document.at[self.axis]), *place
        return point[0], point[1], point[2]

    # ---- a frame

    def draw(self, viewer: Viewer, document: Document) -> None:
        """Update the picture, draw it and take the mouse; inside its ImGui window."""
        imgui = viewer.imgui
        self._update(document, viewer.overlay)
        available = imgui.get_content_region_avail()
        corner = imgui.get_cursor_screen_pos()
        self._corner, self._size = (corner.x, corner.y), (max(available.x, 16.0), max(available.y, 16.0))
        buttons = (
            imgui.ButtonFlags_.mouse_button_left
            | imgui.ButtonFlags_.mouse_button_middle
            | imgui.ButtonFlags_.mouse_button_right
        )
        imgui.invisible_button(f"##slice{self.axis}", self._size, buttons)
        hovered, active = imgui.is_item_hovered(), imgui.is_item_active()
        self._mouse(viewer, document, hovered, active)
        painter = imgui.get_window_draw_list()
        end = (self._corner[0] + self._size[0], self._corner[1] + self._size[1])
        painter.push_clip_rect(self._corner, end, True)
        painter.add_rect_filled(self._corner, end, imgui.get_color_u32((0.09, 0.09, 0.1, 1.0)))  # in light themes too
        rows, columns = self._others()
        shape = document.volume.shape
        left, bottom = self._to_screen(document, -0.5, -0.5)
        right, top = self._to_screen(document, shape[rows] - 0.5, shape[columns] - 0.5)
        near = self._context.NEAREST if self._pixels_a_unit(document)[1] > 3 else self._context.LINEAR
        self._texture.filter = (near, near)
        # The first row of the texture is the lowest of the picture.
        painter.add_image(imgui.ImTextureRef(self._texture.glo), (left, top), (right, bottom), (0, 1), (1, 0))
        self._cross_hair(viewer, document, painter, end)
        self._scale_bar(viewer, document, painter, end)
        if hovered and viewer.drawing:
            self._brush(viewer, document, painter)
        painter.pop_clip_rect()

    def _mouse(self, viewer: Viewer, document: Document, hovered: bool, active: bool) -> None:
        imgui = viewer.imgui
        io = imgui.get_io()
        place = self._from_screen(document, io.mouse_pos.x, io.mouse_pos.y)
        if hovered and io.mouse_wheel:
            if io.key_ctrl:
                self._zoom_about(document, place, 1.15**io.mouse_wheel)
            else:
                document.move_to(self.axis, document.at[self.axis] + (1 if io.mouse_wheel > 0 else -1))
        down = imgui.is_mouse_down(imgui.MouseButton_.left)
        if active and down:
            if viewer.drawing:
                self._stroke(viewer, document, place)
            else:
                rows, columns = self._others()
                document.move_to(rows, round(place[0]))
                document.move_to(columns, round(place[1]))
        elif self._drawn_from is not None:
            self._stroke(viewer, document, self._drawn_from)  # the rest, up to where the button came up
            self._drawn_from = None
            document.strokes.end()
            viewer.strokes_changed()
        if active and (
            imgui.is_mouse_dragging(imgui.MouseButton_.middle) or imgui.is_mouse_dragging(imgui.MouseButton_.right)
        ):
            a_row, a_column = self._pixels_a_unit(document)
            middle = self._middle(document)
            self.middle = (middle[0] + io.mouse_delta.y / a_row, middle[1] - io.mouse_delta.x / a_column)

    def _zoom_about(self, document: Document, place: tuple[float, float], factor: float) -> None:
        zoom = min(max(self.zoom * factor, 0.2), 60.0)
        middle, kept = self._middle(document), self.zoom / zoom
        self.middle = (place[0] + (middle[0] - place[0]) * kept, place[1] + (middle[1] - place[1]) * kept)
        self.zoom = zoom

    def _stroke(self, viewer: Viewer, document: Document, place: tuple[float, float]) -> None:
        """Draw from where the stroke is to `place`, by all places between them that the window knows of."""
        begins = self._drawn_from is None
        trail = [self._from_screen(document, x, y) for x, y in viewer.window.stroke(begins)]
        path = [*([] if self._drawn_from is None else [self._drawn_from]), *(trail or [place])]
        if begins:
            document.strokes.begin()
        elif path == [self._drawn_from] * len(path):
            return
        erases = viewer.erasing or viewer.imgui.get_io().key_shift
        points = [self._voxel(document, one) for one in path]
        document.strokes.draw(AXES[self.axis], points, 0 if erases else viewer.label, viewer.brush)
        self._drawn_from = path[-1]

    def _cross_hair(self, viewer: Viewer, document: Document, painter: Any, end: tuple[float, float]) -> None:
        rows, columns = self._others()
        x, y = self._to_screen(document, document.at[rows], document.at[columns])
        ink = viewer.imgui.get_color_u32(_HAIR)
        gap = 9 * viewer.window.scale  # so that it does not hide what it points at
        painter.add_line((self._corner[0], y), (x - gap, y), ink)
        painter.add_line((x + gap, y), (end[0], y), ink)
        painter.add_line((x, self._corner[1]), (x, y - gap), ink)
        painter.add_line((x, y + gap), (x, end[1]), ink)

    def _scale_bar(self, viewer: Viewer, document: Document, painter: Any, end: tuple[float, float]) -> None:
        imgui, unit = viewer.imgui, viewer.window.scale
        _, columns = self._others()
        edge = document.volume.voxel_size_A[columns]
        status = document.volume.voxel_size_status
        a_pixel = (1.0 if status == "unknown" else edge) / self._pixels_a_unit(document)[1]
        length = nice_length(max(0.25 * self._size[0] * a_pixel, 1e-3))
        right, bottom = end[0] - 10 * unit, end[1] - 10 * unit
        left = right - length / a_pixel
        white, black = imgui.get_color_u32((1, 1, 1, 1)), imgui.get_color_u32((0, 0, 0, 0.6))
        painter.add_rect_filled((left - 1, bottom - 5 * unit), (right + 1, bottom + 1), black)
        painter.add_rect_filled((left, bottom - 4 * unit), (right, bottom), white)
        text = scale_label(length, status).replace(" (voxel size estimated)", " (est.)")
        start = min(left, right - imgui.calc_text_size(text).x)
        place = (start, bottom - 7 * unit - imgui.get_text_line_height())
        number = f"{AXES[self.axis]} = {document.at[self.axis]}"
        for words, (x, y) in ((text, place), (number, (self._corner[0] + 6 * unit, self._corner[1] + 4 * unit))):
            size = imgui.calc_text_size(words)
            painter.add_rect_filled((x - 3, y - 1), (x + size.x + 3, y + size.y + 1), black, 2 * unit)
            painter.add_text((x, y), white, words)

    def _brush(self, viewer: Viewer, document: Document, painter: Any) -> None:
        imgui = viewer.imgui
        mouse = imgui.get_io().mouse_pos
        _, columns = self._others()
        shortest = min(document.volume.voxel_size_A)
        a_unit = self._pixels_a_unit(document)[1] * shortest / document.volume.voxel_size_A[columns]
        color = (1.0, 1.0, 1.0)
        if not viewer.erasing:
            red, green, blue = display_color(document.strokes.classes[viewer.label - 1].color)
            color = (red / 255, green / 255, blue / 255)
        radius = max(viewer.brush.radius_vox * a_unit, 2.0)
        painter.add_circle((mouse.x, mouse.y), radius, imgui.get_color_u32((*color, 1.0)), 0, 1.5)
