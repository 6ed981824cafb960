# SPDX-License-Identifier: MIT
"""A person at the viewer: a screen of its own, a hand on mouse and keys, eyes on the pixels.

Xvfb draws the screen into a file (XWD), so that it can be looked at whenever one likes; xdotool moves the hand. Nothing
here imports the viewer: what is seen is what a customer sees. Places are of a window of 1440 x 900 at scale 1.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = (1440, 900)


class Pane(NamedTuple):
    """What of the screen a picture fills, in pixels: columns left to right (not included), rows top to bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> tuple[int, int]:
        return (self.left + self.right) // 2, (self.top + self.bottom) // 2


# Where things are on the screen.
SLICE_Z = Pane(254, 48, 684, 441)
SLICE_Y = Pane(254, 479, 684, 892)
SLICE_X = Pane(702, 479, 1132, 892)
SCENE = Pane(702, 48, 1132, 441)
RAMPS = (Pane(1160, 84, 1422, 111), Pane(1160, 182, 1422, 209), Pane(1160, 280, 1422, 307))  # of classes 2, 3, 4
PANEL = Pane(1150, 45, 1430, 330)  # ramps, light, view, ...
STATE, BAR = Pane(4, 680, 240, 892), (230, 179, 0)  # background work is a bar of this colour
LIGHT_TAB = 1238, 30
MENUS = Pane(900, 4, 1400, 16)  # the empty part of the bar
RAMPS_TAB, VIEW_TAB, PICTURES_TAB = (1190, 31), (1280, 31), (1331, 31)
CUT_Z, HIDE_DUST = (1166, 201), (1205, 254)  # in the panel View
PICTURE_WIDTH = 1180, 58  # in the panel Pictures
SAVE_AND_QUIT, QUIT_WITHOUT_SAVING, CANCEL_QUIT = (
    (548, 469),
    (638, 469),
    (884, 469),
)  # of the question


def swatch(label: int) -> Pane:
    """The colour of a class in the panel of classes."""
    top = 53 + 24 * (label - 1)
    return Pane(13, top, 23, top + 10)


def shown_in_3d(label: int) -> tuple[int, int]:
    """The box that hides a class from 3D."""
    return 217, 58 + 24 * (label - 1)


def missing() -> str:
    """What this machine lacks for such a test; empty where it has all."""
    lacking = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
    lacking += [name for name in ("glfw", "imgui_bundle", "moderngl") if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(lacking)}" if lacking else ""


def until(seen: Callable[[], object], what: str, seconds: float = 20.0, every: float = 0.1) -> float:
    """Look again and again until something is seen; seconds that it took. AssertionError where it never was."""
    began = time.perf_counter()
    while not seen():
        if time.perf_counter() - began > seconds:
            raise AssertionError(f"not seen within {seconds:.0f} s: {what}")
        time.sleep(every)
    return time.perf_counter() - began


# ---- pictures


def read_xwd(data: bytes) -> np.ndarray:
    """RGB uint8 (rows, columns, 3) of an X window dump with 32 bits a pixel, as Xvfb keeps it."""
    head = np.frombuffer(data, ">u4", 25)
    start, columns, rows, bits, a_line, colours = (int(head[n]) for n in (0, 4, 5, 11, 12, 19))
    if int(head[1]) != 7 or bits != 32:
        raise ValueError(f"not an X window dump of 32 bits a pixel: version {head[1]}, {bits} bits")
    body = np.frombuffer(data, np.uint8, rows * a_line, start + 12 * colours).reshape(rows, a_line)
    pixels = body[:, : 4 * columns].reshape(rows, columns, 4)
    blue_first = int(head[7]) == 0  # byte order: least significant first
    return np.ascontiguousarray(pixels[..., 2::-1] if blue_first else pixels[..., 1:])


def near_hue(pixels: np.ndarray, colour: Sequence[int], least: float = 0.06) -> np.ndarray:
    """Where pixels have a colour's tint, however much grey is mixed with it.

    least: length of the tint, of 1 for the whole range.
    """
    tint = pixels.astype(np.float32) / 255
    tint = tint - tint.mean(-1, keepdims=True)
    wanted = np.array(colour, np.float32) / 255
    wanted = wanted - wanted.mean()
    length = np.linalg.norm(tint, axis=-1)
    alike = tint @ wanted > 0.93 * length * np.linalg.norm(wanted)
    found: np.ndarray = alike & (length > least)
    return found


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two pictures, in grey levels of 255."""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())


# ---- screen, hand and viewer


class Screen:
    """An X server without a monitor. `with Screen(folder) as screen`."""

    def __init__(self, folder: Path, size: tuple[int, int] = SIZE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "Xvfb_screen0"
        read, write = os.pipe()
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{size[0]}x{size[1]}x24", "-fbdir", str(folder)]
        with open(folder / "Xvfb.log", "wb") as log:
            self._server = subprocess.Popen(
                [*command, "-nolisten", "tcp", "-noreset", "-nocursor"], pass_fds=[write], stdout=log, stderr=log
            )
        os.close(write)
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()  # empty where the server could not start
        if not number:
            raise RuntimeError(f"Xvfb did not start: {(folder / 'Xvfb.log').read_text()}")
        self.display = f":{number}"
        self.environment = {**os.environ, "DISPLAY": self.display}
        self.environment.pop("WAYLAND_DISPLAY", None)

    def look(self, pane: Pane | None = None) -> np.ndarray:
        """RGB uint8 (rows, columns, 3) of the screen, or of a pane."""
        pixels = read_xwd(self._file.read_bytes())
        return pixels if pane is None else pixels[pane.top : pane.bottom, pane.left : pane.right]

    def keep(self, path: Path) -> None:
        """The screen as PNG, for a person who wants to see what went wrong."""
        Image.fromarray(self.look()).save(path)

    def do(self, *words: object) -> None:
        """What xdotool understands."""
        subprocess.run(["xdotool", *map(str, words)], env=self.environment, check=True, timeout=60)

    def move(self, x: float, y: float) -> None:
        """The pointer to a pixel."""
        self.do("mousemove", round(x), round(y))

    def click(self, x: float, y: float, button: int = 1) -> None:
        """As slowly as a hand that waits until the window shows that it is there."""
        point = round(x), round(y)
        self._seen_at(point, 0.3, "mousemove", *point)
        self._seen_at(point, 0.3, "mousedown", button)
        self.do("mouseup", button)

    def drag(self, points: Iterable[tuple[float, float]], button: int = 1, wait: float = 0.3) -> None:
        """Button down at the first point, along the others, and up at the last.

        The hand follows the eye: it goes on once the window has drawn something new near the pointer (which this
        screen does not show), at the latest after `wait` seconds.
        """
        first, *others = [(round(x), round(y)) for x, y in points]
        self._seen_at(first, wait, "mousemove", *first)
        self._seen_at(first, wait, "mousedown", button)
        for point in others:
            self._seen_at(point, wait, "mousemove", *point)
        time.sleep(0.1)
        self.do("mouseup", button)

    def _seen_at(self, point: tuple[int, int], wait: float, *words: object) -> None:
        x, y = (max(n - 20, 0) for n in point)
        about = Pane(x, y, x + 40, y + 40)
        before = self.look(about)
        self.do(*words)
        with suppress(AssertionError):  # it need not change
            until(lambda: (self.look(about) != before).any(), "", wait, 0.02)

    def key(self, name: str) -> None:
        """A key, or some together, as xdotool names them: "ctrl+shift+s". Down for as long as a slow window needs."""
        *held, last = name.split("+")
        words: list[object] = []
        for one in held:
            words += ["keydown", one, "sleep", 0.1]
        words += ["keydown", last, "sleep", 0.2, "keyup", last, "sleep", 0.1]
        for one in reversed(held):
            words += ["keyup", one]
        self.do(*words)

    def write(self, text: str, end: str = "Return") -> None:
        """Type in place of what stands in the field that has the keyboard, and leave it with a key."""
        self.key("ctrl+a")
        self.do("type", "--delay", 25, text)
        self.key(end)

    def steady(self, pane: Pane, still: float = 0.6, seconds: float = 30.0) -> np.ndarray:
        """A pane once it no longer changes to the eye: more frames of a mean still change its noise."""
        last, since = self.look(pane), time.perf_counter()

        def rests() -> bool:
            nonlocal last, since
            now = self.look(pane)
            if difference(now, last) > 0.3:
                last, since = now, time.perf_counter()
            return time.perf_counter() - since > still

        until(rests, "a picture that no longer changes", seconds)
        return last

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        self._server.wait(10)


class Running:
    """`cryoet view` as a process on a screen, working in the folder that holds `home`.

    `with Running(screen, home, *arguments) as viewer`.
    """

    def __init__(self, screen: Screen, home: Path, *arguments: object) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.screen, self.log = screen, home / "viewer.log"
        environment = {
            **screen.environment,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "LP_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "cryoet_engine.cli", "view", *map(str, arguments)]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--size", "{}x{}".format(*SIZE)], cwd=home.parent, env=environment, stdout=log, stderr=log
            )
        until(self._shown, f"the window ({self.log})", 40)

    def _shown(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"the viewer ended with {self._process.returncode}: {self.log.read_text()}")
        return bool(self.screen.look().any())

    def place(self) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the window on the screen."""
        found = subprocess.run(
            ["xdotool", "search", "--onlyvisible", "--name", "cryoet viewer", "getwindowgeometry", "--shell"],
            env=self.screen.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
        values = dict(line.split("=") for line in found.split())
        return int(values["X"]), int(values["Y"]), int(values["WIDTH"]), int(values["HEIGHT"])

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def ended(self, seconds: float = 20.0) -> int:
        """The exit status, once it is there."""
        return self._process.wait(seconds)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.screen.keep(self.log.with_name("last.png"))  # what there was when a test failed
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)


# ---- strokes


def on_slice(pane: Pane, shape: tuple[int, int], row: float, column: float) -> tuple[float, float]:
    """The pixel of a voxel (row, column) of a slice of `shape` that fits its pane: rows go up, columns to the right."""
    a_voxel = min((pane.right - pane.left) / shape[1], (pane.bottom - pane.top) / shape[0])
    x = (pane.left + pane.right) / 2 + (column - (shape[1] - 1) / 2) * a_voxel
    y = (pane.top + pane.bottom) / 2 - (row - (shape[0] - 1) / 2) * a_voxel
    return x, y


def arc(
    middle: tuple[float, float], radius: float, start_deg: float, stop_deg: float, n: int
) -> list[tuple[float, float]]:
    """n places (row, column) on a circle, by angles from +column towards +row."""
    angles = np.radians(np.linspace(start_deg, stop_deg, n))
    return [(float(middle[0] + radius * np.sin(a)), float(middle[1] + radius * np.cos(a))) for a in angles]
