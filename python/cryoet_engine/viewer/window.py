# SPDX-License-Identifier: MIT
"""A GLFW window with an OpenGL 4.3 context and Dear ImGui in it."""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import MissingDependencyError, message

HEADLESS = "without a display: `cryoet render` draws the same pictures, and reads the viewer's sessions"
_ACTIVE_S = 0.4  # redraw at full rate for so long after an event: ImGui fades and settles
_MOST_OWED = 600
_LONGEST_TRAIL = 20_000
_IDLE_S = 0.2  # then as rarely as this, which also is how late a result of background work can be seen


def load_libraries() -> tuple[Any, Any, Any]:
    """glfw, imgui, implot. imgui-bundle first: it brings a GLFW of its own, and two copies in a process crash."""
    try:
        from imgui_bundle import imgui, implot  # isort: skip
        import glfw
    except ImportError as error:
        fix = 'pip install "cryoet-engine[viewer]"'
        raise MissingDependencyError(
            message("viewer", "libraries", expected="glfw and imgui-bundle", got=str(error), fix=fix)
        ) from None
    return glfw, imgui, implot


class Window:
    """Opens at once. `run` draws until it is closed.

    trail: what the pointer did since `trail` was last cut: ("move" | "down" | "up" of the left button, x, y). ImGui
        keeps the last place of a frame only, of which a stroke in a slow frame would be all corners.
    context: moderngl's. scale: pixels of a font's pixel on this monitor. longest_stall_s: between two frames that
    followed each other without a pause, since it was last set to 0. frame_s: mean time of late frames.
    """

    def __init__(self, title: str, size: tuple[int, int]) -> None:
        self.glfw, self.imgui, self.implot = load_libraries()
        glfw = self.glfw
        self._errors: list[str] = []
        glfw.set_error_callback(lambda _, text: self._errors.append(text.decode(errors="replace")))
        if not glfw.init():
            raise self._refused("a display", "; ".join(self._errors) or "none")
        for hint, value in (
            (glfw.CONTEXT_VERSION_MAJOR, 4),
            (glfw.CONTEXT_VERSION_MINOR, 3),
            (glfw.OPENGL_PROFILE, glfw.OPENGL_CORE_PROFILE),
            (glfw.SCALE_TO_MONITOR, glfw.TRUE),
        ):
            glfw.window_hint(hint, value)
        self._window = glfw.create_window(*size, title, None, None)
        if not self._window:
            reason = "; ".join(self._errors) or "no window"
            glfw.terminate()
            raise self._refused("OpenGL 4.3 in a window", reason)
        glfw.make_context_current(self._window)
        glfw.swap_interval(1)
        import moderngl

        self.context = moderngl.create_context(require=430)
        self.scale = float(glfw.get_window_content_scale(self._window)[0])
        self.dropped: list[str] = []
        self.longest_stall_s = 0.0
        self.frame_s = 0.0
        self.on_close: Callable[[], bool] = lambda: True
        self.trail: list[tuple[str, float, float]] = []
        self._wanted: list[Callable[[npt.NDArray[np.uint8]], None]] = []  # who asked for this frame's pixels
        self._pointer = (0.0, 0.0)
        self._awake_until = 0.0
        self._owed = 0  # frames that ImGui may need for the events it was given: it takes some one a frame
        self._size = size
        self._events: deque[tuple[str, Callable[[], None]]] = deque()
        self._start_imgui()
        self._listen()
        glfw.set_drop_callback(self._window, lambda _, paths: self.dropped.extend(paths))

    def _listen(self) -> None:
        """Take the window's events, and hand them to ImGui before each frame: see `_hand_over`."""
        glfw, backend, window = self.glfw, self.imgui.backends, self._window
        address = ctypes.cast(window, ctypes.c_void_p).value

        def queued(kind: str, give: Callable[..., None], *values: Any) -> None:
            self._events.append((kind, lambda: give(address, *values)))
            self.wake()

        def moved(_: object, x: float, y: float) -> None:
            self._pointer = (x, y)
            self.trail.append(("move", x, y))
            queued("move", backend.glfw_cursor_pos_callback, x, y)

        def pressed(_: object, button: int, action: int, mods: int) -> None:
            down = action == glfw.PRESS
            if button == glfw.MOUSE_BUTTON_LEFT:
                # Not where the pointer is by now, which is what GLFW would say, but where it was then.
                self.trail.append(("down" if down else "up", *self._pointer))
            queued("press" if down else "", backend.glfw_mouse_button_callback, button, action, mods)

        glfw.set_cursor_pos_callback(window, moved)
        glfw.set_mouse_button_callback(window, pressed)

        def at_once(_: object, *values: Any, give: Callable[..., None]) -> None:
            give(address, *values)
            self._owe(2)
            self.wake()

        for name in ("scroll", "cursor_enter"):
            give = getattr(backend, f"glfw_{name}_callback")
            getattr(glfw, f"set_{name}_callback")(window, lambda _, *values, give=give: queued("", give, *values))
        # The back end asks which modifiers are down when it is told of a key: that must be now.
        for name in ("key", "char", "window_focus"):
            give = getattr(backend, f"glfw_{name}_callback")
            getattr(glfw, f"set_{name}_callback")(window, partial(at_once, give=give))

    def _owe(self, frames: int) -> None:
        self._owed = min(self._owed + frames, _MOST_OWED)

    def _hand_over(self) -> None:
        """Give ImGui what happened since the last frame.

        It takes a press on a tab, and on whatever may lie under something else, only where it has seen the pointer a
        frame before: in slow frames a quick hand would press in vain. So a press waits for the frame after a move.
        """
        moved = False
        while self._events:
            kind, give = self._events[0]
            if kind == "press" and moved:
                break
            moved = moved or kind == "move"
            give()
            self._events.popleft()
            self._owe(0 if kind == "move" else 2)
        self._owed = max(self._owed, 2 * bool(self._events) + 2 * moved)

    def stroke(self, begins: bool) -> list[tuple[float, float]]:
        """Where the pointer went with the left button down since the last call or, where it begins, the press."""
        if begins:
            downs = [index for index, (what, _, _) in enumerate(self.trail) if what == "down"]
            del self.trail[: downs[-1] if downs else len(self.trail)]
        ups = [index for index, (what, _, _) in enumerate(self.trail) if what == "up"]
        end = ups[0] if ups else len(self.trail)
        places = [(x, y) for _, x, y in self.trail[: end + 1]]
        del self.trail[:end]  # what comes after the release belongs to nobody
        return places

    @staticmethod
    def _refused(expected: str, got: str) -> MissingDependencyError:
        return MissingDependencyError(message("viewer", "display", expected=expected, got=got, fix=HEADLESS))

    def _start_imgui(self) -> None:
        import matplotlib

        imgui = self.imgui
        imgui.create_context()
        self.implot.create_context()
        io = imgui.get_io()
        io.set_ini_filename("")
        io.config_flags |= imgui.ConfigFlags_.docking_enable
        io.config_windows_move_from_title_bar_only = True
        # ImGui's own font has no Å, no µ; this one comes with matplotlib.
        font = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
        io.fonts.add_font_from_file_ttf(str(font), 14.0)
        style = imgui.get_style()
        style.scale_all_sizes(self.scale)
        style.font_scale_dpi = self.scale
        address = ctypes.cast(self._window, ctypes.c_void_p).value
        imgui.backends.glfw_init_for_opengl(address, False)
        imgui.backends.opengl3_init("#version 430")

    def theme(self, name: str) -> None:
        """ "dark" or "light"."""
        imgui, implot = self.imgui, self.implot
        (imgui.style_colors_dark if name == "dark" else imgui.style_colors_light)()
        (implot.style_colors_dark if name == "dark" else implot.style_colors_light)()
        style = imgui.get_style()
        style.frame_rounding = style.grab_rounding = 3 * self.scale
        style.window_rounding = 0
        for part in (imgui.Col_.slider_grab, imgui.Col_.slider_grab_active):  # over the number that it sets
            color = style.color_(part)
            style.set_color_(part, imgui.ImVec4(color.x, color.y, color.z, 0.55))

    def set_title(self, title: str) -> None:
        """Of the window."""
        self.glfw.set_window_title(self._window, title)

    def wake(self) -> None:
        """Draw at full rate for a while."""
        self._awake_until = time.perf_counter() + _ACTIVE_S

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, in this frame."""
        return self._size

    def close(self) -> None:
        """Leave `run` after this frame, asking nobody."""
        self.on_close = lambda: True
        self.glfw.set_window_should_close(self._window, True)

    def run(self, frame: Callable[[], bool]) -> None:
        """Call `frame`, which draws ImGui's windows and says whether it wants another call at once, and show it."""
        glfw, imgui = self.glfw, self.imgui
        last, paused = time.perf_counter(), True
        busy = True
        while True:
            if busy or self._owed > 0 or time.perf_counter() < self._awake_until:
                glfw.poll_events()
            else:
                began = time.perf_counter()
                glfw.wait_events_timeout(_IDLE_S)
                paused = True
                if time.perf_counter() - began < 0.9 * _IDLE_S:  # something happened
                    self.wake()
            if glfw.window_should_close(self._window):
                if self.on_close():
                    break
                glfw.set_window_should_close(self._window, False)
            now = time.perf_counter()
            if not paused:
                self.longest_stall_s = max(self.longest_stall_s, now - last)
                self.frame_s = 0.9 * self.frame_s + 0.1 * (now - last)
            last, paused = now, False
            # Once a frame: the answer comes from the X server, which may be busy drawing.
            width, height = glfw.get_framebuffer_size(self._window)
            self._size = (int(width), int(height))
            self._hand_over()
            imgui.backends.opengl3_new_frame()
            imgui.backends.glfw_new_frame()
            imgui.new_frame()
            self._owed = max(self._owed - 1, 0)
            busy = frame()
            if not imgui.is_mouse_down(imgui.MouseButton_.left) and all(what != "down" for what, _, _ in self.trail):
                self.trail.clear()
            del self.trail[:-_LONGEST_TRAIL]
            imgui.render()
            self.context.screen.use()
            self.context.viewport = (0, 0, *self.size)
            self.context.screen.clear(0.1, 0.1, 0.1)
            imgui.backends.opengl3_render_draw_data(imgui.get_draw_data())
            self._after_drawing()
            glfw.swap_buffers(self._window)

    def _after_drawing(self) -> None:
        """For `grab`."""
        for take in self._wanted:
            take(self._pixels())
        self._wanted.clear()

    def grab(self, take: Callable[[npt.NDArray[np.uint8]], None]) -> None:
        """Hand the whole window's pixels, (height, width, 3), to `take` once this frame is drawn."""
        self._wanted.append(take)

    def _pixels(self) -> npt.NDArray[np.uint8]:
        width, height = self.size
        data = self.context.screen.read(viewport=(0, 0, width, height), components=3, alignment=1)
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)[::-1].copy()

    def release(self) -> None:
        """Give window and context back."""
        imgui = self.imgui
        imgui.backends.opengl3_shutdown()
        imgui.backends.glfw_shutdown()
        self.implot.destroy_context()
        imgui.destroy_context()
        self.glfw.terminate()
