# SPDX-License-Identifier: MIT
"""The viewer as a person uses it: mouse and keys on a screen, and what is seen there."""

import subprocess
import sys
import time

import mrcfile
import numpy as np
import person
import pytest
from person import RAMPS, SCENE, SLICE_Y, SLICE_Z, Running, Screen, arc, difference, near_hue, on_slice, until
from PIL import Image
from scipy import ndimage

SHAPE = (64, 96, 96)
RADIUS = 24.0
MIDDLE = (48.0, 48.0)  # (y, x)
BACKGROUND, MEMBRANE, LUMEN = 1, 2, 3


def test_a_window_dump_is_read_as_it_was_drawn():
    """Blue first, lines longer than the picture, colours of a palette before the pixels."""
    rows, columns, a_line, colours = 2, 3, 16, 5
    head = np.zeros(25, ">u4")
    head[[0, 1, 4, 5, 11, 12, 19]] = 100, 7, columns, rows, 32, a_line, colours
    pixels = np.zeros((rows, a_line), np.uint8)
    pixels[1, 4:8] = 10, 20, 30, 0  # row 1, column 1
    seen = person.read_xwd(head.tobytes() + bytes(12 * colours) + pixels.tobytes())
    assert seen.shape == (rows, columns, 3)
    assert seen[1, 1].tolist() == [30, 20, 10]
    assert seen.sum() == 60


def test_a_tint_is_known_under_grey():
    red, shades = np.array([230.0, 60, 115]), np.array([0.3, 0.5, 1.0])[:, None]
    assert near_hue(shades * red + (1 - shades) * 120, red).all()
    assert not near_hue(np.array([[120.0, 120, 120], [240, 190, 100], [190, 196, 203]]), red).any()


@pytest.fixture
def ball(tmp_path):
    """A vesicle in noise: a dark shell, darker inside than outside."""
    distance = np.linalg.norm(np.indices(SHAPE) - np.array([32, *MIDDLE]).reshape(3, 1, 1, 1), axis=0)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 0.7)
    data = noise - 1.0 * (distance < RADIUS) - 2.0 * np.exp(-(((distance - RADIUS) / 1.8) ** 2))
    with mrcfile.new(tmp_path / "ball.mrc") as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = 10.0
    return tmp_path / "ball.mrc"


@pytest.fixture
def screen(tmp_path):
    if person.missing():
        pytest.skip(person.missing())
    with Screen(tmp_path / "screen") as screen:
        yield screen


def colour(screen, label):
    return np.median(screen.look(person.swatch(label)).reshape(-1, 3), axis=0)


def tinted(screen, pane, label):
    """Share of a pane's pixels that have a class's tint."""
    return near_hue(screen.look(pane), colour(screen, label)).mean()


def stroke(screen, label, places):
    screen.key(str(label))
    screen.drag(on_slice(SLICE_Z, SHAPE[1:], *place) for place in places)
    screen.move(*SCENE.middle)  # out of the slice, with the circle of the brush


def drawn(screen, label):
    """Where the z slice has the colour of a class's strokes, which lie over everything else."""
    return np.abs(screen.look(SLICE_Z).astype(float) - colour(screen, label)).max(-1) < 30


def changes(screen, pane, since, least=1.0):
    return lambda: difference(screen.look(pane), since) > least


def dialog(screen):
    """Whether a dialog is there: it dims what is around it."""
    return screen.look(person.MENUS).min() > 50


def type_into_dialog(screen, keys, name):
    screen.key(keys)
    until(lambda: dialog(screen), f"the dialog of {keys}")
    screen.write(name)
    until(lambda: not dialog(screen), f"the dialog of {keys} gone")


def test_from_a_tomogram_to_a_picture_and_back(ball, screen, tmp_path):
    """Draw, look, tune, undo, save, quit, come back."""
    session, picture, again = tmp_path / "session.json", tmp_path / "picture.png", tmp_path / "again.png"
    step, began = iter(range(100)), time.perf_counter()

    def keep(name):
        print(f"{time.perf_counter() - began:5.1f} s {name}")
        screen.keep(tmp_path / f"{next(step):02d}_{name}.png")

    with Running(screen, tmp_path / "home", ball, "--classes", "background,membrane,lumen") as viewer:
        until(lambda: screen.look(SCENE).std() > 5, "the tomogram")
        assert viewer.place() == (0, 0, *person.SIZE)
        screen.steady(SCENE)
        slices, membrane = screen.look(SCENE), colour(screen, MEMBRANE)
        keep("opened")
        assert tinted(screen, SLICE_Z, MEMBRANE) < 0.01

        stroke(screen, MEMBRANE, arc(MIDDLE, RADIUS, -60, 120, 8))
        until(lambda: drawn(screen, MEMBRANE).sum() > 1000, "the stroke of the membrane")
        keep("a_stroke")
        stroke(screen, LUMEN, [(40, 36), (44, 56), (56, 54), (60, 40)])
        stroke(screen, BACKGROUND, [(6, 6), (6, 86), (86, 86)])
        keep("strokes")
        until(lambda: tinted(screen, SLICE_Y, MEMBRANE) > 0.03, "live labels in the y slice")
        until(lambda: tinted(screen, SLICE_Y, LUMEN) > 0.08, "live labels in the y slice")
        keep("labels")

        until(lambda: tinted(screen, SCENE, MEMBRANE) > 0.03, "classes in 3D")
        solid = screen.steady(SCENE)
        assert difference(solid, slices) > 3
        keep("solid")

        ramp = RAMPS[0]
        before = screen.look(SCENE)
        left = left_end(screen, ramp)
        screen.drag((x, ramp.middle[1]) for x in np.linspace(left, left + 60, 4))
        until(changes(screen, SCENE, before, 0.3), "another ramp in 3D")
        until(lambda: left_end(screen, ramp) > left + 40, "the end of the ramp at another place")
        keep("ramp")

        before = screen.steady(SCENE)
        x, y = SCENE.middle
        screen.drag((x + 12 * n, y + 6 * n) for n in range(0, 8, 2))
        until(changes(screen, SCENE, before), "the solid from another side")
        turned = screen.steady(SCENE)
        keep("turned")

        seen = tinted(screen, SCENE, MEMBRANE)
        screen.click(*person.shown_in_3d(MEMBRANE))
        until(lambda: tinted(screen, SCENE, MEMBRANE) < 0.1 * seen, "3D without the membrane")
        assert tinted(screen, SCENE, LUMEN) > 0.02  # what was inside
        keep("hidden")
        screen.key("ctrl+z")
        until(lambda: tinted(screen, SCENE, MEMBRANE) > 0.9 * seen, "the membrane is back")
        until(lambda: difference(screen.look(SCENE), turned) < 2, "the picture of before")

        screen.steady(SLICE_Z)
        before, labelled = drawn(screen, LUMEN), screen.look(SLICE_Z)
        stroke(screen, LUMEN, [(30, 48), (34, 62)])
        until(lambda: drawn(screen, LUMEN).sum() > before.sum() + 200, "another stroke")
        screen.steady(SLICE_Z)
        after = drawn(screen, LUMEN)
        screen.key("ctrl+z")
        until(lambda: (drawn(screen, LUMEN) == before).all(), "the stroke taken back")
        until(lambda: difference(screen.look(SLICE_Z), labelled) < 3, "the labels from before the stroke")
        screen.key("ctrl+shift+z")
        until(lambda: (drawn(screen, LUMEN) == after).all(), "the stroke again")
        keep("redone")

        shown = screen.steady(SCENE, 1.5)
        screen.click(*person.PICTURES_TAB)
        screen.click(*person.PICTURE_WIDTH)
        screen.write("320", "Tab")
        screen.write("180")
        type_into_dialog(screen, "ctrl+p", picture.name)
        until(picture.exists, "the picture", 40)
        type_into_dialog(screen, "ctrl+shift+s", session.name)
        until(session.exists, "the session")
        keep("saved")

        stroke(screen, BACKGROUND, [(90, 10), (90, 40)])
        until(lambda: drawn(screen, BACKGROUND).sum() > 200, "a last stroke")
        strokes = {label: drawn(screen, label) for label in (MEMBRANE, LUMEN)}
        screen.key("ctrl+q")
        until(lambda: dialog(screen), "a question about the strokes")
        keep("asked")
        screen.click(*person.CANCEL_QUIT)
        until(lambda: not dialog(screen), "the question gone")
        assert viewer.running
        screen.key("ctrl+q")
        until(lambda: dialog(screen), "the question again")
        screen.click(*person.SAVE_AND_QUIT)
        assert viewer.ended() == 0

    command = [sys.executable, "-m", "cryoet_engine.cli", "render", "--session", session, "-o", again]
    subprocess.run([*command, "--size", "320x180"], env=screen.environment, check=True, capture_output=True)
    with Image.open(picture) as first, Image.open(again) as second:
        assert first.size == second.size == (320, 180)
        expected, got = (np.asarray(one.convert("RGB")) for one in (first, second))
    assert near_hue(got, membrane).mean() > 0.03
    assert difference(got, expected) < 3

    with Running(screen, tmp_path / "home", "--session", session) as viewer:
        until(lambda: tinted(screen, SCENE, MEMBRANE) > 0.03, "the classes in 3D", 40)
        for label, where in strokes.items():
            until(lambda label=label, where=where: (drawn(screen, label) == where).mean() > 0.999, "the strokes")
        until(lambda: difference(screen.look(SCENE), shown) < 4, "the picture of before")
        keep("back")
        screen.key("ctrl+q")
        until(lambda: dialog(screen) or not viewer.running, "the end, or a question about the strokes")
        if viewer.running:
            screen.click(*person.QUIT_WITHOUT_SAVING)
        assert viewer.ended() == 0


def left_end(screen, ramp):
    """Column of the left handle of a ramp: the first that is white at the top of the plot."""
    bright = (screen.look(ramp)[:8] > 240).all(-1).any(0)
    return ramp.left + int(np.flatnonzero(bright)[0])


def test_a_hand_that_does_not_wait_is_followed(ball, screen, tmp_path):
    """A whole stroke between two frames keeps its path, and a click on a tab counts however short it is."""
    with Running(screen, tmp_path / "home", ball, "--classes", "background,membrane,lumen"):
        until(lambda: screen.look(SCENE).std() > 5, "the tomogram")
        screen.key(str(LUMEN))
        ring = [on_slice(SLICE_Z, SHAPE[1:], *place) for place in arc(MIDDLE, RADIUS, 0, 340, 40)]
        words = ["mousemove", *map(round, ring[0]), "mousedown", 1]
        for x, y in ring[1:]:
            words += ["mousemove", round(x), round(y)]
        screen.do(*words, "mouseup", 1, "mousemove", *map(round, SCENE.middle))
        until(lambda: drawn(screen, LUMEN).any(), "the stroke")
        screen.steady(SLICE_Z)
        where = drawn(screen, LUMEN)
        on_path = [where[round(y) - SLICE_Z.top, round(x) - SLICE_Z.left] for x, y in ring]
        # The cross-hair crosses it three times.
        assert sum(on_path) >= 37, f"{len(on_path) - sum(on_path)} of {len(on_path)} places of the path are not drawn"
        middle = on_slice(SLICE_Z, SHAPE[1:], *MIDDLE)
        assert not where[round(middle[1]) - SLICE_Z.top, round(middle[0]) - SLICE_Z.left]

        panel = person.Pane(1150, 60, 1430, 300)
        before = screen.steady(panel)
        screen.do("mousemove", *person.LIGHT_TAB, "click", 1)
        until(changes(screen, panel, before), "the panel of light")
