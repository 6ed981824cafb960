# SPDX-License-Identifier: MIT
"""How the window is laid out: menus, panes, panels, dialogs, keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, panels
from .document import Document
from .strokes import Brush

if TYPE_CHECKING:
    from .app import Viewer

VOLUMES = (".mrc", ".mrc.gz", ".rec", ".map", ".st", ".tif", ".tiff", ".h5", ".hdf5", ".zarr")
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


class Layout:
    """Draws all of ImGui's windows of a frame. help, closing: open these dialogs in the next frame."""

    def __init__(self, viewer: Viewer) -> None:
        self.help = self.closing = False
        self._panels_hidden = self._laid_out = False
        self._viewer = viewer

    def draw(self) -> None:
        """Everything that is seen, and what keys do."""
        viewer = self._viewer
        self._menus()
        self._layout()
        self._windows()
        viewer.browser.draw(viewer)
        self._popups()
        if not viewer.imgui.get_io().want_text_input:
            self._keys()

    def _windows(self) -> None:
        imgui, document = self._viewer.imgui, self._viewer.document
        for pane in self._viewer.slices:
            if imgui.begin(pane.name)[0] and document is not None:
                pane.draw(self._viewer, document)
            imgui.end()
        if imgui.begin("3D")[0]:
            self._viewer.scene.draw(self._viewer, document)
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
            if imgui.begin(name)[0] and document is not None and self._viewer.document is document:
                imgui.push_item_width(-7.5 * imgui.get_font_size())
                panel(self._viewer, document)
                imgui.pop_item_width()
            imgui.end()
        if imgui.begin("State")[0]:
            panels.state(self._viewer, document)
        imgui.end()

    def _welcome(self) -> None:
        imgui = self._viewer.imgui
        imgui.set_cursor_pos((24 * self._viewer.window.scale, 48 * self._viewer.window.scale))
        imgui.begin_group()
        imgui.text("Drop a tomogram here (MRC, TIFF, HDF5, OME-Zarr), or")
        if imgui.button("Open a tomogram"):
            self._viewer.browse("Open a tomogram", self._viewer.open_tomogram, endings=VOLUMES)
        for path in files.recent():
            if imgui.selectable(path, False)[0]:
                self._viewer.open_tomogram(path)
        imgui.end_group()

    def _layout(self) -> None:
        imgui = self._viewer.imgui
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
            (self._viewer.slices[0].name, upper_left),
            ("3D", upper_right),
            (self._viewer.slices[1].name, lower_left_pane),
            (self._viewer.slices[2].name, lower_right),
        ):
            build.dock_builder_dock_window(name, node)
        build.dock_builder_finish(dock)

    def _menus(self) -> None:
        imgui = self._viewer.imgui
        if not imgui.begin_main_menu_bar():
            return
        document = self._viewer.document

        def item(label: str, shortcut: str = "", enabled: bool = True) -> bool:
            return bool(imgui.menu_item(label, shortcut, False, enabled)[0])

        if imgui.begin_menu("File"):
            if item("Open tomogram...", "Ctrl+O"):
                self._viewer.browse("Open a tomogram", self._viewer.open_tomogram, endings=VOLUMES)
            if imgui.begin_menu("Recent", bool(files.recent())):
                for path in files.recent():
                    if item(path):
                        self._viewer.open_tomogram(path)
                imgui.end_menu()
            if item("Open strokes...", "", document is not None):
                self._viewer.browse("Open strokes", self._viewer.open_strokes, endings=VOLUMES)
            if item("Open segmentation...", "", document is not None):
                self._viewer.browse(
                    "Open a segmentation", lambda path: self._viewer.open_segmentation((path,)), endings=VOLUMES
                )
            if item("Open session..."):
                self._viewer.browse("Open a session", self._viewer.open_session, endings=(".json", ".png"))
            imgui.separator()
            if item("Save strokes", "Ctrl+S", document is not None):
                self._viewer.saving.ask_strokes()
            if item("Save session...", "Ctrl+Shift+S", document is not None and document.scene is not None):
                self._viewer.saving.ask_session()
            if item("Export classes...", "", document is not None and document.has_classes):
                self._viewer.browse(
                    "Export as OME-Zarr (.zarr) or a folder of MRC", self._viewer.saving.classes, proposal="labels.zarr"
                )
            imgui.separator()
            if item("Save 3D picture...", "Ctrl+P", document is not None and document.scene is not None):
                self._viewer.saving.ask_picture()
            if item("Save turntable...", "", document is not None and document.scene is not None):
                self._viewer.saving.ask_turntable()
            if item("Save picture of the window..."):
                self._viewer.browse("Save the window as", self._viewer.saving.window, proposal="window.png")
            imgui.separator()
            if item("Quit", "Ctrl+Q") and self._viewer.may_close():
                self._viewer.window.close()
            imgui.end_menu()
        if imgui.begin_menu("Edit"):
            if item("Undo", "Ctrl+Z", self._viewer.can_undo):
                self._viewer.undo()
            if item("Redo", "Ctrl+Shift+Z", self._viewer.can_redo):
                self._viewer.redo()
            imgui.end_menu()
        if imgui.begin_menu("View"):
            if item("Fit 3D", "R"):
                self._viewer.reset_view()
            if item("Dark or light", "T"):
                self._viewer.toggle_theme()
            if item("Hide or show panels", "H"):
                self._panels_hidden = not self._panels_hidden
            imgui.end_menu()
        if imgui.begin_menu("Help"):
            if item("Keys and mouse", "?"):
                self.help = True
            imgui.end_menu()
        if document is not None:
            z, y, x = document.volume.shape
            edge = document.volume.voxel_size_A[2]
            imgui.text_disabled(f"   {Path(document.tomogram.path).name}   {z} x {y} x {x}, {edge:.2f} Å a voxel")
        imgui.end_main_menu_bar()

    def _popups(self) -> None:
        imgui = self._viewer.imgui
        if self.help:
            imgui.open_popup("Keys and mouse")
            self.help = False
        middle = tuple(n / 2 for n in self._viewer.window.size)
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
        if self.closing:
            imgui.open_popup("Quit?")
            self.closing = False
        if imgui.begin_popup_modal("Quit?", None, imgui.WindowFlags_.always_auto_resize)[0]:
            for reason in self._viewer.reasons_to_stay():
                imgui.text(reason)
            document = self._viewer.document
            if document is not None and document.unsaved:
                if imgui.button("Save"):
                    imgui.close_current_popup()
                    self._viewer.saving.ask_strokes(self._viewer.window.close)
                imgui.same_line()
                if imgui.button("Quit without saving"):
                    document.strokes.discard_journal()
                    self._viewer.window.close()
                    imgui.close_current_popup()
                imgui.same_line()
                if imgui.button("Keep for the next time"):
                    self._viewer.window.close()
                    imgui.close_current_popup()
            elif imgui.button("Quit all the same"):
                self._viewer.window.close()
                imgui.close_current_popup()
            imgui.same_line()
            if imgui.button("Cancel"):
                imgui.close_current_popup()
            imgui.end_popup()

    def _keys(self) -> None:
        imgui = self._viewer.imgui
        key = imgui.Key
        io_ = imgui.get_io()
        if imgui.is_key_pressed(key.escape) and imgui.is_popup_open("", imgui.PopupFlags_.any_popup):
            imgui.internal.close_popup_to_level(0, True)
            return
        if io_.key_ctrl:
            self._control_keys()
            return
        actions: dict[Any, Callable[[], None]] = {
            key.b: self._viewer.draw_strokes,
            key.e: self._viewer.erase,
            key.n: self._viewer.navigate,
            key.r: self._viewer.reset_view,
            key.t: self._viewer.toggle_theme,
            key.f1: lambda: setattr(self, "help", True),
            key.h: lambda: setattr(self, "_panels_hidden", not self._panels_hidden),
            key.u: lambda: setattr(
                self._viewer, "overlay", replace(self._viewer.overlay, uncertainty=not self._viewer.overlay.uncertainty)
            ),
            key.left_bracket: lambda: self._resize_brush(1 / 1.25),
            key.right_bracket: lambda: self._resize_brush(1.25),
            key.up_arrow: lambda: self._next_slice(1),
            key.down_arrow: lambda: self._next_slice(-1),
        }
        for code, action in actions.items():
            if imgui.is_key_pressed(code):
                action()
        if io_.key_shift and imgui.is_key_pressed(key.slash):
            self.help = True
        for number in range(1, 10):
            if imgui.is_key_pressed(getattr(key, f"_{number}")):
                self._viewer.choose(number)

    def _control_keys(self) -> None:
        imgui = self._viewer.imgui
        key, shift = imgui.Key, imgui.get_io().key_shift
        if imgui.is_key_pressed(key.z):
            self._viewer.redo() if shift else self._viewer.undo()
        if imgui.is_key_pressed(key.y):
            self._viewer.redo()
        if imgui.is_key_pressed(key.o, False):
            self._viewer.browse("Open a tomogram", self._viewer.open_tomogram, endings=VOLUMES)
        if imgui.is_key_pressed(key.q, False) and self._viewer.may_close():
            self._viewer.window.close()
        if self._viewer.document is None:
            return
        if imgui.is_key_pressed(key.s, False):
            self._viewer.saving.ask_session() if shift else self._viewer.saving.ask_strokes()
        if imgui.is_key_pressed(key.p, False):
            self._viewer.saving.ask_picture()

    def _resize_brush(self, factor: float) -> None:
        self._viewer.brush = Brush(
            min(max(self._viewer.brush.radius_vox * factor, 0.5), 20.0), self._viewer.brush.spherical
        )

    def _next_slice(self, step: int) -> None:
        if self._viewer.document is not None:
            self._viewer.document.move_to(0, self._viewer.document.at[0] + step)
