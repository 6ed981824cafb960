# SPDX-License-Identifier: MIT
"""Events, sensible and not: whatever comes, the viewer's state holds together and no stroke is lost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import driving
import numpy as np
import pytest
from driving import Driver
from PIL import Image

from cryoet_engine import SoftSegmentation, Volume, io
from cryoet_engine.render import turntable
from cryoet_engine.viewer.document import in_memory
from cryoet_engine.viewer.live import Confinement
from cryoet_engine.viewer.strokes import Brush

EVENTS, CHECKED_EVERY, UNDONE_EVERY = 1000, 50, 250
_LETTERS = tuple("abbbbenrtuhzysop")  # b draws
_OTHERS = (
    *("f1", "slash", "left_bracket", "right_bracket", "up_arrow", "down_arrow", "left_arrow", "right_arrow", "enter"),
    *("escape", "tab", "space", "backspace", "delete", "home", "end", "page_up", "page_down"),
    *("_1", "_2", "_3", "_4", "_9"),
)
_KEYS = (*_LETTERS, *_OTHERS)
_CHARACTERS = "abzåµ01239.,- _\t"
_SIZES = (30.0, 250.0)  # pixels that the mouse moves at once


# ---- a thousand random events


def consistent(driver: Driver) -> None:
    """What holds at any time."""
    viewer, document = driver.viewer, driver.viewer.document
    assert not driver.errors
    for text in viewer.messages:
        assert "Error:" not in text, text
        assert "Traceback" not in text, text
    if document is None:
        return
    strokes = document.strokes
    marked = np.bincount(strokes.marks.ravel(), minlength=len(strokes.classes) + 1)
    assert strokes.counts() == tuple(marked[1:])
    assert 1 <= viewer.label <= len(strokes.classes)
    assert all(0 <= at < n for at, n in zip(document.at, document.volume.shape, strict=True))
    replace(document.settings)  # which checks them
    assert not viewer.scene.failed, viewer.scene.failed


def replays(driver: Driver, folder: Path) -> None:
    """The journal, as a killed process would leave it, tells of the same marks and classes."""
    from cryoet_engine.viewer.strokes import Strokes, journal_path

    document = driver.viewer.document
    if document is None:
        return
    strokes = document.strokes
    strokes.end()  # an open stroke is not on the disk yet
    journal = journal_path(document.tomogram.path)
    if not journal.exists():  # the person quit without saving
        return
    copied = shutil.copy(journal, folder / "copy.journal")
    again = Strokes.recover(copied, document.volume)
    if again is None:
        assert not strokes.changed_since_save
        assert not strokes.marks.any()
        return
    assert np.array_equal(again.marks, strokes.marks)
    assert again.classes == strokes.classes
    again.discard_journal()


def undone(driver: Driver, first: np.ndarray[Any, Any]) -> None:
    """Undo to the beginning gives the first marks, redo to the end the last ones."""
    viewer, document = driver.viewer, driver.viewer.document
    if document is None:
        return
    viewer.live_wanted = False
    while viewer.can_redo:  # the hand may have taken steps back
        viewer.redo()
    last, classes = document.strokes.marks.copy(), document.strokes.classes
    while viewer.can_undo:
        viewer.undo()
    assert np.array_equal(document.strokes.marks, first)
    while viewer.can_redo:
        viewer.redo()
    assert np.array_equal(document.strokes.marks, last)
    assert document.strokes.classes == classes
    viewer.live_wanted = True


class Hand:
    """Random events: of a hand that holds what it pressed until it lets go."""

    def __init__(self, driver: Driver, seed: int) -> None:
        self._driver, self._rng = driver, np.random.default_rng(seed)
        self._place = np.array([320.0, 240.0])
        self._held: set[int] = set()
        self._keys: set[str] = set()

    def event(self) -> None:
        """One, of the kinds that come most often while one draws."""
        rng, driver = self._rng, self._driver
        kind = rng.choice(["move", "button", "key", "modifier", "wheel", "text"], p=[0.4, 0.22, 0.2, 0.06, 0.08, 0.04])
        if kind == "move":
            self._place = np.clip(self._place + rng.normal(size=2) * rng.choice(_SIZES), -20, (660, 500))
            driver.move(*map(float, self._place))
        elif kind == "button":
            number = int(rng.choice(3, p=[0.8, 0.1, 0.1]))
            self._held ^= {number}
            driver.button(number, number in self._held)
        elif kind == "wheel":
            driver.wheel(float(rng.choice([-3, -1, 1, 2])))
        elif kind == "text":
            driver._io.add_input_character(ord(rng.choice(list(_CHARACTERS))))
        else:
            name = str(rng.choice(_KEYS if kind == "key" else ["left_ctrl", "left_shift"]))
            self._keys ^= {name}
            driver.key(name, name in self._keys)

    def let_go(self) -> None:
        """Of everything, and leave what asks for an answer."""
        for number in self._held:
            self._driver.button(number, False)
        for name in self._keys:
            self._driver.key(name, False)
        self._held, self._keys = set(), set()
        self._driver.frame(12)  # ImGui takes one change of a button a frame


def random_events(driver: Driver, seed: int) -> dict[str, int]:
    """A thousand events; what came of them."""
    driver.opened().rarely_3d(25)
    viewer, folder = driver.viewer, Path.cwd()
    # Minutes of work that the hand would only start by accident.
    for owner, names in ((viewer, ("train", "segment")), (viewer.saving, ("video", "picture"))):
        for long in names:
            setattr(owner, long, lambda *_: None)
    viewer.window.close = lambda: None  # type: ignore[method-assign]
    hand = Hand(driver, seed)
    document, first = viewer.document, np.zeros(driving.SHAPE, np.uint8)
    for number in range(1, EVENTS + 1):
        hand.event()
        if not number % 3:
            driver.frame()
        if viewer.document is not document and viewer.document is not None:
            document, first = viewer.document, viewer.document.strokes.marks.copy()
        if not number % CHECKED_EVERY:
            hand.let_go()
            consistent(driver)
            replays(driver, folder)
            driver.press("escape")
        if not number % UNDONE_EVERY:
            undone(driver, first)
            consistent(driver)
    assert viewer.document is not None
    return {"strokes": viewer.document.strokes.version}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_events_leave_it_whole(folder: Path, screen: str, seed: int) -> None:
    (folder / "other").mkdir()
    driving.small_tomogram(folder / "other" / "b.mrc", (10, 30, 50), seed=1)
    came = driving.in_a_window(random_events, folder, screen, seed=seed)
    assert came["strokes"] >= 5, "the events did nothing"


# ---- undo takes back what was drawn last, and only that


def draws_with_what_is_no_step(driver: Driver, what: str) -> list[int]:
    """Voxels drawn after a stroke, after something that changes no voxel, and after one undo."""
    viewer = driver.opened().rarely_3d(30).viewer
    document = viewer.document
    assert document is not None
    driver.stroke(0, -20)
    driver.stroke(0, 20)
    drawn = [sum(document.strokes.counts())]
    if what == "erased where nothing is":
        viewer.erase()
        driver.drag(driver.middle(1, -20, 60), driver.middle(1, 20, 60))
    elif what == "a name that is taken":
        viewer.rename(2, document.strokes.classes[0].name)
    driver.frame(3)
    drawn.append(sum(document.strokes.counts()))
    driver.press("left_ctrl", "z")
    return [*drawn, sum(document.strokes.counts())]


@pytest.mark.parametrize("what", ["nothing", "erased where nothing is", "a name that is taken"])
def test_one_undo_takes_one_stroke_back(folder: Path, screen: str, what: str) -> None:
    before, after, undone_once = driving.in_a_window(draws_with_what_is_no_step, folder, screen, what=what)
    assert before == after
    assert 0 < undone_once < before


def undoes_while_drawing(driver: Driver) -> list[int]:
    """Voxels after undoing everything, where the undo key was pressed in the middle of a stroke."""
    viewer = driver.opened().rarely_3d(30).viewer
    document = viewer.document
    assert document is not None
    driver.stroke(0, -20)
    driver.stroke(1)
    driver.move(*driver.middle(0, -30, 20))
    driver.frame(2)
    driver.button(0, True)
    driver.frame(2)
    driver.move(*driver.middle(0, 0, 20))
    driver.frame(2)
    driver.press("left_ctrl", "z")
    driver.move(*driver.middle(0, 30, 20))
    driver.frame(2)
    driver.button(0, False)
    driver.frame(4)
    drawn = sum(document.strokes.counts())
    while viewer.can_undo:
        viewer.undo()
    return [drawn, sum(document.strokes.counts())]


def test_undo_in_the_middle_of_a_stroke_loses_no_step(folder: Path, screen: str) -> None:
    drawn, left = driving.in_a_window(undoes_while_drawing, folder, screen)
    assert drawn > 0
    assert left == 0


def undoes_loaded_strokes(driver: Driver) -> list[int]:
    """Voxels drawn; after strokes of a file took their place; after one undo; after all."""
    viewer = driver.opened().rarely_3d(30).viewer
    document = viewer.document
    assert document is not None
    driver.stroke()
    drawn = [sum(document.strokes.counts())]
    viewer.open_strokes("labels.mrc")
    driver.until(lambda: not viewer.jobs.running)
    driver.frame(3)
    drawn.append(sum(document.strokes.counts()))
    viewer.undo()
    drawn.append(sum(document.strokes.counts()))
    while viewer.can_undo:
        viewer.undo()
    return [*drawn, sum(document.strokes.counts())]


def test_opened_strokes_are_a_step_of_their_own(folder: Path, screen: str) -> None:
    marks = np.zeros(driving.SHAPE, np.int8)
    marks[3, 3:9, 3:9] = 1
    io.write(folder / "labels.mrc", Volume(marks, voxel_size_A=10.0))
    drawn, with_loaded, undone_once, left = driving.in_a_window(undoes_loaded_strokes, folder, screen)
    assert with_loaded == 36  # in place of what was drawn
    assert (undone_once, left) == (drawn, 0)


# ---- a session is of one tomogram


def opens_another_after_a_session(driver: Driver) -> list[object]:
    """Elevation and hidden dust: saved, after the session was opened again, after another tomogram."""
    viewer = driver.opened().rarely_3d(30).viewer
    assert viewer.document is not None
    viewer.document.settings = replace(viewer.document.settings, elevation_deg=77.0)
    viewer.document.hide_dust_nm = 4.0
    driver.until(lambda: not viewer.jobs.running)
    viewer.saving.session("all.json")
    viewer.open_session("all.json")
    driver.until(lambda: not viewer.jobs.running)
    again = viewer.document
    assert again is not None
    seen: list[object] = [again.settings.elevation_deg, again.hide_dust_nm]
    viewer.open_tomogram("other.mrc")
    driver.until(lambda: not viewer.jobs.running and viewer.document is not again)
    assert viewer.document is not None
    return [*seen, viewer.document.settings.elevation_deg, viewer.document.hide_dust_nm, viewer.failures]


def test_a_session_ends_with_its_tomogram(folder: Path, screen: str) -> None:
    driving.small_tomogram(folder / "other.mrc", (10, 30, 50), seed=1)
    turned, dust, other, no_dust, failures = driving.in_a_window(opens_another_after_a_session, folder, screen)
    assert (turned, dust) == (77.0, 4.0)
    assert other != 77.0
    assert no_dust is None
    assert failures == []


def pictures_of_an_array(driver: Driver) -> list[str]:
    """What is told where a tomogram lies in no file."""
    viewer = driver.opened().rarely_3d(30).viewer
    assert viewer.document is not None
    viewer._opened(in_memory("", viewer.document.volume))
    driver.until(lambda: not viewer.jobs.running)
    viewer.saving.picture_size = (64, 48)
    viewer.saving.picture("array.png")
    driver.until(lambda: not viewer.jobs.running)
    viewer.saving.session("array.json")
    driver.frame(2)
    return viewer.messages


def test_an_array_has_pictures_and_no_session(folder: Path, screen: str) -> None:
    told = driving.in_a_window(pictures_of_an_array, folder, screen)
    assert (folder / "array.png").exists()
    assert not (folder / "array.json").exists()
    assert any("one that lies in a file" in line for line in told)


# ---- the rest of what a person does, by the functions that menus and panels call


def does_the_rest(driver: Driver) -> dict[str, object]:
    viewer = driver.opened().rarely_3d(30).viewer

    def rest() -> None:
        driver.until(lambda: not viewer.jobs.running)
        driver.frame(2)

    document = viewer.document
    assert document is not None
    viewer.choose(2)
    viewer.brush = Brush(2.0, True)
    driver.stroke(0, 0)
    seen: dict[str, object] = {"slices drawn by the ball": int((document.strokes.marks > 0).any(axis=(1, 2)).sum())}
    for name in ("s.tif", "s.zarr"):
        viewer.saving.strokes(name)
        viewer.window.dropped.append(name)  # as GLFW does for a file that is let fall
        driver.frame(2)
        rest()
        seen[name] = document.strokes.counts()
    viewer.recolor("class 1", (0.1, 0.9, 0.1))
    viewer.recolored()
    seen["colour"] = document.color_of("class 1")
    labels = np.zeros((2, *document.volume.shape), np.uint8)
    labels[1, 2:8, 5:20, 5:20] = 255
    labels[0] = 255 - labels[1]
    viewer._new_labels(SoftSegmentation(labels, ("background", "class 1"), **document.volume.grid()))
    rest()
    document.settings = replace(document.settings.with_light("side"), frames=1)
    viewer.saving.classes("mrc")
    rest()
    viewer.saving.picture_size, viewer.saving.fps = (48, 32), 5.0
    viewer.saving.add_key_frame()
    viewer.saving.key_step_s = 0.4
    document.settings = replace(document.settings, azimuth_deg=80.0)
    viewer.saving.add_key_frame()
    viewer.saving.video("keys.gif", tuple(viewer.saving.key_frames))
    rest()
    viewer.saving.video("turn", turntable(document.settings, 0.4))
    rest()
    viewer.confine(Confinement("class 1", near="background", distance_vox=3.0))
    seen["kept near"] = [c.near for c in document.confinements]
    return seen | {"failures": viewer.failures}


def test_the_rest_of_what_goes_in_and_out(folder: Path, screen: str) -> None:
    seen = driving.in_a_window(does_the_rest, folder, screen)
    assert seen["failures"] == []
    assert seen["slices drawn by the ball"] >= 3
    assert seen["s.tif"] == seen["s.zarr"] and sum(seen["s.tif"]) > 0
    assert tuple(seen["colour"]) == (0.1, 0.9, 0.1)
    assert seen["kept near"] == ["background"]
    assert {path.name for path in (folder / "mrc").iterdir()} == {"background.mrc", "class_1.mrc"}
    with Image.open(folder / "keys.gif") as keys:
        assert keys.size == (48, 32) and keys.n_frames == 3
    assert len(list((folder / "turn").glob("*.png"))) == 2
