# SPDX-License-Identifier: MIT
"""The viewer in a process of its own, on a display of its own, with events given to ImGui between frames.

A test calls `in_a_window(play, folder, ...)` with a function of its own module that gets a `Driver`; what it returns
comes back as JSON. Events go past the display, so that every run has the same ones; the frames' clock stands at 60
a second. The process may write nowhere but into its folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from cryoet_engine.viewer.app import Start
    from cryoet_engine.viewer.document import Document

SHAPE = (24, 40, 36)
SIZE = (640, 480)  # small: software OpenGL draws it in milliseconds
_FRAME_S = 1 / 60
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")


# ---- in the process of the test


@contextmanager
def display() -> Iterator[str]:
    """An X server of one's own; its name, as in DISPLAY. Skips where there is none."""
    for library in ("glfw", "imgui_bundle", "moderngl"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("no Xvfb: windows need a display")
    reading, writing = os.pipe()
    screen = ["-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    command = [server, "-displayfd", str(writing), *screen]
    process = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait()


def environment(folder: Path, screen: str | None) -> dict[str, str]:
    """Of a process that keeps its state in the folder, draws in software with one thread, and has this display."""
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MESA_GL_VERSION_OVERRIDE")}
    return kept | {
        **({"DISPLAY": screen} if screen else {}),
        "XDG_STATE_HOME": str(folder / "state"),
        "HOME": str(folder),
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "LP_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def in_a_window(play: Callable[..., Any], folder: Path, screen: str, **arguments: Any) -> Any:
    """Call `play(driver, **arguments)` in a new process with a window open on `folder / "tomogram.mrc"`.

    arguments: what JSON holds, as what it returns. AssertionError, with what it printed, where it does not end well.
    """
    module = sys.modules[play.__module__].__file__
    assert module is not None
    command = [sys.executable, __file__, module, play.__name__, json.dumps(arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder, screen), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def small_tomogram(path: Path, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Path:
    """A bright ball in noise, 10 Å a voxel."""
    from cryoet_engine import Volume, io

    grid = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    ball = (grid**2).sum(0) < (min(shape) / 3) ** 2
    noise = np.random.default_rng(seed).normal(size=shape)
    io.write(path, Volume((3 * ball + noise).astype(np.float32), voxel_size_A=10.0))
    return path


# ---- in the process of the window


class Driver:
    """A window and a viewer whose frames are drawn one at a time, on demand.

    Places are (x, y) in pixels of the window.
    """

    def __init__(self, start: Start, size: tuple[int, int] = SIZE) -> None:
        from cryoet_engine.viewer.app import Viewer
        from cryoet_engine.viewer.window import Window

        self.window = Window("driven", size)
        self.viewer = Viewer(self.window, start)
        self.imgui = self.window.imgui
        self.errors: list[str] = []  # OpenGL's
        self._io = self.imgui.get_io()

    def rarely_3d(self, every: int) -> Driver:
        """From now on work at the 3D picture only in every so manieth frame: software OpenGL is slow."""
        advance, turn = self.viewer.scene.advance, itertools.count()

        def rarely(document: Document, now: float) -> bool:
            return advance(document, now) if next(turn) % every == 0 else True

        self.viewer.scene.advance = rarely  # type: ignore[method-assign]
        return self

    def frame(self, n: int = 1) -> None:
        """Draw so many, as `Window.run` does, but that the display's own events go to nobody."""
        window, imgui = self.window, self.imgui
        for _ in range(n):
            imgui.backends.opengl3_new_frame()
            self._io.display_size = tuple(map(float, window.size))
            self._io.delta_time = _FRAME_S
            imgui.new_frame()
            self.viewer.frame()
            imgui.render()
            window.context.screen.use()
            window.context.viewport = (0, 0, *window.size)
            window.context.screen.clear(0.1, 0.1, 0.1)
            imgui.backends.opengl3_render_draw_data(imgui.get_draw_data())
            window._after_drawing()
            error = window.context.error
            if error != "GL_NO_ERROR":
                self.errors.append(error)

    def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Frames until it holds; AssertionError where it does not in time."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s:.0f} s; messages: {self.viewer.messages}"
            self.frame()

    def opened(self) -> Driver:
        """Frames until a document is open and its 3D scene made."""
        self.until(lambda: self.viewer.document is not None and self.viewer.document.scene is not None)
        self.frame(3)
        return self

    def move(self, x: float, y: float) -> None:
        """The mouse to a place."""
        self._io.add_mouse_pos_event(x, y)

    def button(self, number: int, down: bool) -> None:
        """A mouse button: 0 left, 1 right, 2 middle."""
        self._io.add_mouse_button_event(number, down)

    def wheel(self, up: float) -> None:
        """The mouse wheel."""
        self._io.add_mouse_wheel_event(0.0, up)

    def key(self, name: str, down: bool) -> None:
        """A key by ImGui's name: a, _1, enter, left_ctrl."""
        modifier = {"left_ctrl": "mod_ctrl", "left_shift": "mod_shift"}.get(name)
        if modifier is not None:
            self._io.add_key_event(getattr(self.imgui.Key, modifier), down)
        self._io.add_key_event(getattr(self.imgui.Key, name), down)

    def press(self, *names: str) -> None:
        """Keys together, down and up again, with frames between."""
        for name in names:
            self.key(name, True)
            self.frame(2)
        for name in reversed(names):
            self.key(name, False)
        self.frame(3)

    def write(self, text: str) -> None:
        """Characters into the field that has the keyboard."""
        for character in text:
            self._io.add_input_character(ord(character))
        self.frame(2)

    def drag(self, *places: tuple[float, float], button: int = 0) -> None:
        """Press at the first place, go through the others, let go."""
        self.move(*places[0])
        self.frame(2)
        self.button(button, True)
        self.frame(2)
        for place in places[1:]:
            self.move(*place)
            self.frame()
        self.button(button, False)
        self.frame(3)

    def middle(self, axis: int, right: float = 0.0, down: float = 0.0) -> tuple[float, float]:
        """The middle of a slice's pane, or a place so many pixels from it."""
        pane = self.viewer.slices[axis]
        return pane._corner[0] + pane._size[0] / 2 + right, pane._corner[1] + pane._size[1] / 2 + down

    def stroke(self, axis: int = 0, down: float = 0.0) -> None:
        """A short stroke across the middle of a slice."""
        self.viewer.draw_strokes()
        self.drag(self.middle(axis, -30, down), self.middle(axis, 0, down), self.middle(axis, 30, down))

    def close(self) -> None:
        """Of the viewer and the window."""
        self.viewer.close()
        self.window.release()


def _keep_inside(folder: Path) -> None:
    """From now on, whatever would change a file outside of the folder is refused."""
    root = folder.resolve()

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changed = [path] if isinstance(flags, int) and flags & _WRITING else []
        else:
            changed = [a for a in arguments if isinstance(a, str | bytes)] if event in _CHANGES else []
        for path in changed:
            if isinstance(path, str | bytes | os.PathLike):
                place = Path(os.path.realpath(os.fsdecode(path)))
                if place != root and root not in place.parents and place.parts[1] not in ("dev", "proc"):
                    raise PermissionError(13, "outside of the test's folder", str(place))

    sys.addaudithook(guard)


def _main() -> None:
    from cryoet_engine.viewer.app import Start

    file, function, arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(file).parent))
    _keep_inside(Path.cwd())
    play = getattr(importlib.import_module(Path(file).stem), function)
    driver = importlib.import_module("driving").Driver(Start(tomogram="tomogram.mrc"))
    try:
        found = play(driver, **json.loads(arguments))
    finally:
        driver.close()
    print(json.dumps(found))


if __name__ == "__main__":
    _main()
