# SPDX-License-Identifier: MIT
"""How the viewer starts and ends: pictures of itself, what is missing or wrong, signals, and strokes that stay."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import driving
import numpy as np
import pytest
from driving import Driver

from cryoet_engine import Volume, io

COMMAND = (sys.executable, "-m", "cryoet_engine.cli", "view")


def view(folder: Path, screen: str | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`cryoet view ...` in the folder."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=driving.environment(folder, screen) | more,
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a refused command said, which is one line."""
    assert done.returncode == 1, (done.returncode, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


# ---- by itself


def test_screenshot_saves_the_window_and_quits(folder: Path, screen: str) -> None:
    from PIL import Image

    done = view(folder, screen, "tomogram.mrc", "--screenshot", "window.png", "--size", "320x240", "--exit-after", "3")
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "window.png") as picture:
        assert picture.size == (320, 240)
        assert len(np.unique(np.asarray(picture))) > 20
    assert "Traceback" not in done.stderr


def test_a_picture_that_cannot_come_is_not_waited_for(folder: Path, screen: str) -> None:
    (folder / "junk.mrc").write_bytes(b"no tomogram" * 200)
    assert "junk.mrc" in one_line(view(folder, screen, "junk.mrc", "--screenshot", "window.png"))


def test_exit_after_quits(folder: Path, screen: str) -> None:
    done = view(folder, screen, "--exit-after", "0.1", "--size", "320x240")
    assert done.returncode == 0, done.stderr
    assert not done.stderr


# ---- what is missing


@pytest.mark.parametrize("screen_name", [None, ":987"])
def test_without_a_display_one_line_names_the_way_out(folder: Path, screen_name: str | None) -> None:
    said = one_line(view(folder, screen_name, "tomogram.mrc"))
    assert "cryoet render" in said
    assert "display" in said.lower()


def test_old_opengl_is_told_in_one_line(folder: Path, screen: str) -> None:
    said = one_line(view(folder, screen, "tomogram.mrc", MESA_GL_VERSION_OVERRIDE="3.3"))
    assert "OpenGL 4.3" in said
    assert "cryoet render" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing.mrc"], "missing.mrc"),
        (["tomogram.mrc", "--labels", "missing.mrc"], "missing.mrc"),
        (["tomogram.mrc", "--segmentation", "missing.zarr"], "missing.zarr"),
        (["--session", "missing.json"], "missing.json"),
        (["--labels", "tomogram.mrc"], "TOMO"),
        (["tomogram.mrc", "--exit-after", "nan"], "--exit-after"),
        (["tomogram.mrc", "--screenshot", "window.jpg"], "--screenshot"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_a_window_opens(folder: Path, arguments: list[str], named: str) -> None:
    """Without a display: it is not missed yet."""
    said = one_line(view(folder, None, *arguments))
    assert named in said
    assert "cryoet render" not in said


# ---- what is wrong, told in the window


def opens_what_is_no_use(driver: Driver) -> list[list[str]]:
    """Messages about each file, while the first tomogram stays open."""
    viewer = driver.opened().viewer
    document = viewer.document
    told = []
    for open_one, name in (
        (viewer.open_tomogram, "text.mrc"),
        (viewer.open_tomogram, "missing.mrc"),
        (viewer.open_strokes, "other.mrc"),
        (viewer.open_strokes, "fractions.mrc"),
        (viewer.open_strokes, "text.mrc"),
        (viewer.open_session, "old.json"),
        (viewer.open_session, "text.json"),
        (lambda name: viewer.open_segmentation((name,)), "other.mrc"),
        (viewer.open_any, "text.mrc"),
        (viewer.open_any, "folder"),
    ):
        viewer.messages.clear()
        open_one(name)
        driver.until(lambda: bool(viewer.messages) and not viewer.jobs.running, 20)
        assert viewer.document is document
        told.append(list(viewer.messages))
    driver.stroke()
    assert any(document.strokes.counts()), "it no longer draws"
    assert not driver.errors
    return told


def test_files_of_no_use_are_told_in_the_window_which_stays(folder: Path, screen: str) -> None:
    (folder / "text.mrc").write_text("no tomogram\n" * 200)
    (folder / "text.json").write_text("no session")
    (folder / "old.json").write_text(json.dumps({"kind": "cryoet-engine session", "version": 999}))
    (folder / "folder").mkdir()
    driving.small_tomogram(folder / "fractions.mrc", seed=1)
    io.write(folder / "other.mrc", Volume(np.ones((5, 6, 7), np.int8), voxel_size_A=10.0))
    for messages in driving.in_a_window(opens_what_is_no_use, folder, screen):
        assert len(messages) == 1
        assert "\n" not in messages[0]
        assert "Error" not in messages[0]


# ---- odd tomograms


def opens_odd_ones(driver: Driver, names: list[str]) -> list[dict[str, object]]:
    """Each opened, drawn on, erased and undone; messages and the range of what slices show."""
    viewer = driver.opened().rarely_3d(8).viewer
    found = []
    for name in names:
        viewer.messages.clear()
        before = viewer.document
        viewer.open_tomogram(name)
        driver.until(lambda before=before: viewer.document is not before and viewer.document.scene is not None)  # type: ignore[misc]
        driver.frame(3)
        document = viewer.document
        assert document is not None
        for axis in range(3):
            driver.stroke(axis)
            document.move_to(axis, 10**6)
            driver.press("up_arrow")
        drawn = sum(document.strokes.counts())
        viewer.choose(1)
        driver.stroke()
        driver.frame(8)
        while viewer.can_undo:
            viewer.undo()
        driver.until(lambda: not viewer.live.status[0])
        driver.frame(8)
        found.append(
            {
                "messages": list(viewer.messages),
                "drawn": drawn,
                "left": int(np.count_nonzero(document.strokes.marks)),
                "finite": all(np.isfinite(document.tomogram.contrast)),
                "failed": viewer.scene.failed,
                "errors": driver.errors,
            }
        )
    return found


def test_odd_tomograms_open_and_can_be_drawn_on(folder: Path, screen: str) -> None:
    some = np.random.default_rng(0).normal(size=(9, 20, 16)).astype(np.float32)
    some[2:4, 5] = np.nan
    some[6, 6, 6] = np.inf
    odd = {
        "one_voxel": np.ones((1, 1, 1), np.float32),
        "constant": np.full((6, 20, 16), 7, np.int16),
        "all_nan": np.full((6, 20, 16), np.nan, np.float32),
        "some_nan": some,
        "flat": np.random.default_rng(0).normal(size=(4, 300, 300)).astype(np.float32),
        "a_column": np.random.default_rng(0).normal(size=(40, 1, 1)).astype(np.float32),
    }
    for name, data in odd.items():
        io.write(folder / f"{name}.tif", Volume(data, voxel_size_A=10.0))
    found = driving.in_a_window(opens_odd_ones, folder, screen, names=[f"{name}.tif" for name in odd])
    for name, one in zip(odd, found, strict=True):
        assert one["drawn"], name
        assert one["left"] == 0, name
        assert one["finite"], name
        assert not one["failed"], (name, one["failed"])
        assert not one["errors"], name
        assert not any("Error" in text for text in one["messages"]), (name, one["messages"])


# ---- the end of the process, asked for or not


def draws_until_it_is_killed(driver: Driver) -> None:
    """Tells of every finished stroke, and goes on in the middle of one."""
    viewer = driver.opened().viewer
    driver.rarely_3d(1000)
    viewer.live_wanted = False
    for number in range(4):
        driver.stroke(down=4.0 * number)
        print(f"finished {sum(viewer.document.strokes.counts())}", flush=True)  # type: ignore[union-attr]
    driver.move(*driver.middle(1))
    driver.frame(2)
    driver.button(0, True)
    driver.frame(2)
    print("drawing", flush=True)
    while True:
        driver.move(*driver.middle(1, 40 * np.sin(time.monotonic()), 10))
        driver.frame()


def drawn_on(driver: Driver) -> dict[str, object]:
    """What is there after opening."""
    document = driver.opened().viewer.document
    assert document is not None
    return {"counts": document.strokes.counts(), "messages": driver.viewer.messages}


def test_killed_in_the_middle_of_a_stroke_the_finished_ones_come_back(folder: Path, screen: str) -> None:
    command = [sys.executable, driving.__file__, __file__, draws_until_it_is_killed.__name__, "{}"]
    with subprocess.Popen(
        command, cwd=folder, env=driving.environment(folder, screen), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        finished = 0
        for line in process.stdout:
            if line.startswith("finished"):
                finished = int(line.split()[1])
            if line.startswith("drawing"):
                break
        time.sleep(0.1)
        process.kill()
    assert finished > 0
    found = driving.in_a_window(drawn_on, folder, screen)
    assert sum(found["counts"]) == finished
    assert any("came back" in text for text in found["messages"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_a_signal_ends_it_and_keeps_the_journal(folder: Path, screen: str, number: signal.Signals) -> None:
    marks = np.zeros(driving.SHAPE, np.int8)
    marks[10, 10:20, 10:20] = 1
    io.write(folder / "labels.mrc", Volume(marks, voxel_size_A=10.0))
    command = [*COMMAND, "tomogram.mrc", "--labels", "labels.mrc", "--size", "320x240"]
    with subprocess.Popen(
        command, cwd=folder, env=driving.environment(folder, screen), stderr=subprocess.PIPE, text=True
    ) as process:
        journals = folder / "state" / "cryoet-engine" / "strokes"
        end = time.monotonic() + 60
        while not any(one.stat().st_size > 400 for one in journals.glob("*.journal")):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 1, said
    found = driving.in_a_window(drawn_on, folder, screen)
    assert found["counts"][0] == 100


def closes(driver: Driver, answer: str) -> dict[str, bool]:
    """Draw, ask to close, answer."""
    viewer, window = driver.opened().viewer, driver.window
    assert window.on_close(), "asks though nothing was drawn"
    driver.stroke()
    stays = not window.on_close()
    driver.frame(2)
    imgui = driver.imgui
    asks = imgui.is_popup_open("", imgui.PopupFlags_.any_popup)
    assert not window.glfw.window_should_close(window._window)
    _answer(driver, answer)
    return {
        "stays": stays,
        "asks": asks,
        "closes": bool(window.glfw.window_should_close(window._window)),
        "unsaved": viewer.document.strokes.changed_since_save,  # type: ignore[union-attr]
    }


def _answer(driver: Driver, label: str) -> None:
    """Click a button of the dialog."""
    places = {}
    button = driver.imgui.button

    def watched(text: str, *more: object) -> bool:
        pressed = button(text, *more)
        low, high = driver.imgui.get_item_rect_min(), driver.imgui.get_item_rect_max()
        places[text] = ((low.x + high.x) / 2, (low.y + high.y) / 2)
        return bool(pressed)

    driver.imgui.button = watched
    driver.frame(2)
    driver.imgui.button = button
    driver.drag(places[label])


@pytest.mark.parametrize(
    ("answer", "closed", "kept"),
    [("Keep for the next time", True, True), ("Quit without saving", True, False), ("Cancel", False, True)],
)
def test_closing_with_unsaved_strokes_asks(folder: Path, screen: str, answer: str, closed: bool, kept: bool) -> None:
    came = driving.in_a_window(closes, folder, screen, answer=answer)
    assert came == {"stays": True, "asks": True, "closes": closed, "unsaved": True}
    again = driving.in_a_window(drawn_on, folder, screen)
    assert (sum(again["counts"]) > 0) is kept
