# SPDX-License-Identifier: MIT
"""Choosing files inside the window, the same on every system, and the ones that were open lately."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..io import partial_path
from .strokes import state_folder

if TYPE_CHECKING:
    from .app import Viewer

_RECENT = 10


def recent() -> list[str]:
    """Paths of tomograms, the latest first."""
    try:
        names = json.loads((state_folder() / "recent.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)][:_RECENT] if isinstance(names, list) else []


def remember(path: str) -> None:
    """Put a tomogram at the head of the list. A state folder that cannot be written is no reason to stop."""
    names = [path, *(name for name in recent() if name != path)][:_RECENT]
    try:
        state_folder().mkdir(parents=True, exist_ok=True)
        with partial_path(state_folder() / "recent.json") as partial:
            Path(partial).write_text(json.dumps(names), encoding="utf-8")
    except OSError:
        pass


class Browser:
    """A dialog that asks for a path, by typing or by clicking through folders."""

    def __init__(self) -> None:
        self.title = ""
        self._text = self._asked = ""
        self._folder = Path.cwd()
        self._endings: tuple[str, ...] = ()
        self._then: Callable[[str], None] | None = None
        self._opening = self._folders = self._saving = False
        self._listing: tuple[Path, list[Path]] | None = None

    def begin_at(self, folder: Path) -> None:
        """The folder that is shown first."""
        self._folder = folder

    def ask(
        self,
        title: str,
        then: Callable[[str], None],
        *,
        endings: tuple[str, ...] = (),
        folders: bool = False,
        proposal: str = "",
    ) -> None:
        """Open the dialog; `then` gets the path. proposal: a name for a file that is to be written."""
        self.title, self._then, self._endings, self._folders = title, then, endings, folders
        self._saving, self._opening, self._listing = bool(proposal), True, None
        if proposal:
            self._folder = Path(proposal).resolve().parent
        self._text, self._asked = proposal, ""

    def _entries(self) -> list[Path]:
        if self._listing is None or self._listing[0] != self._folder:
            try:
                found = sorted(self._folder.iterdir(), key=lambda p: (not p.is_dir(), p.name.lower()))
            except OSError:
                found = []
            wanted = [
                p
                for p in found
                if not p.name.startswith(".") and (p.is_dir() or not self._endings or p.name.endswith(self._endings))
            ]
            self._listing = (self._folder, wanted)
        return self._listing[1]

    def draw(self, viewer: Viewer) -> None:
        """The dialog, where it is open."""
        imgui = viewer.imgui
        label = f"{self.title}###browser"
        if self._opening:
            imgui.open_popup(label)
        elif not imgui.is_popup_open(label):
            return
        size = viewer.window.size
        imgui.set_next_window_size((0.6 * size[0], 0.65 * size[1]), imgui.Cond_.appearing)
        if not imgui.begin_popup_modal(label, None, imgui.WindowFlags_.no_saved_settings)[0]:
            return
        if self._opening:
            imgui.set_keyboard_focus_here()
        self._opening = False
        imgui.set_next_item_width(-1)
        done, self._text = imgui.input_text("##path", self._text, imgui.InputTextFlags_.enter_returns_true)
        imgui.text_disabled(str(self._folder))
        height = -1.6 * imgui.get_frame_height_with_spacing()
        chosen: str | None = self._text if done and self._text.strip() else None
        if imgui.begin_child("##list", (0, height), imgui.ChildFlags_.borders):
            if imgui.selectable("..", False, imgui.SelectableFlags_.no_auto_close_popups)[0]:
                self._folder = self._folder.parent
            for entry in self._entries():
                name = entry.name + ("/" if entry.is_dir() else "")
                flags = imgui.SelectableFlags_.no_auto_close_popups | imgui.SelectableFlags_.allow_double_click
                if imgui.selectable(name, self._text == str(entry), flags)[0]:
                    chosen = self._clicked(entry, imgui.is_mouse_double_clicked(imgui.MouseButton_.left)) or chosen
        imgui.end_child()
        if imgui.button("Save" if self._saving else "Open") and self._text.strip():
            chosen = self._text
        imgui.same_line()
        if imgui.button("Cancel") or imgui.is_key_pressed(imgui.Key.escape):
            imgui.close_current_popup()
        if chosen is not None:
            chosen = str(self._folder / Path(chosen.strip()).expanduser())  # a name alone: in the folder that is shown
        if chosen is not None and self._saving and Path(chosen).exists() and chosen != self._asked:
            self._asked, chosen = chosen, None  # once more, knowing it
        if self._asked and str(self._folder / Path(self._text.strip()).expanduser()) == self._asked:
            imgui.same_line()
            imgui.text_colored((1.0, 0.6, 0.2, 1.0), "it exists: Save once more replaces it")
        if chosen is not None:
            imgui.close_current_popup()
            if self._then is not None:
                self._then(chosen)
        imgui.end_popup()

    def _clicked(self, entry: Path, twice: bool) -> str | None:
        """A click on an entry: into a folder, or a file into the field; the path where that is the answer."""
        store = entry.suffix == ".zarr"
        if entry.is_dir() and not store and not self._folders:
            self._folder = entry
            return None
        if entry.is_dir() and self._folders and twice:
            self._folder = entry
            return None
        if self._saving and self._text:
            self._text = str(entry) if not entry.is_dir() else str(entry / Path(self._text).name)
            return None
        self._text = str(entry)
        return self._text if twice else None
