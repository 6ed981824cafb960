# SPDX-License-Identifier: MIT
"""Strokes that a person draws: what a brush covers, undo, files, and the journal that outlives a killed viewer."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine import io
from cryoet_engine._checks import CryoETError, FileFormatError, InputError
from cryoet_engine.forest.strokes import MAX_CLASSES
from cryoet_engine.viewer import strokes as module
from cryoet_engine.viewer.strokes import Brush, StrokeClass, Strokes, journal_path, state_folder
from cryoet_engine.volume import Volume

SHAPE = (12, 30, 40)
TIE = 1e-6  # distances this near to the radius may fall on either side
RED = (1.0, 0.0, 0.0)


@pytest.fixture
def tomogram():
    return Volume(
        np.zeros(SHAPE, np.float32), voxel_size_A=(12.0, 8.0, 8.0), origin_A=(1.0, 2.0, 3.0), notes=("by hand",)
    )


def distances(shape, points, scale):
    """Of every voxel to a polyline, in units of the voxel's shortest edge; brute force."""
    voxels = np.stack(np.indices(shape), axis=-1) * scale
    points = [np.array(point) * scale for point in points]
    nearest = np.linalg.norm(voxels - points[0], axis=-1)
    for a, b in pairwise(points):
        way = b - a
        share = np.clip((voxels - a) @ way / max(way @ way, 1e-300), 0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(voxels - (a + share[..., None] * way), axis=-1))
    return nearest


def content(strokes):
    return strokes.marks.tobytes(), strokes.classes, strokes.counts()


def counted(strokes):
    return tuple(int(np.sum(strokes.marks == k + 1)) for k in range(len(strokes.classes)))


# ---- what a brush covers


@pytest.mark.parametrize("sizes", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.5), (1.0, 2.5, 1.0)])
@pytest.mark.parametrize("radius", [1.3, 3.0, 6.2])
@pytest.mark.parametrize("axis", ["z", "y", "x", "ball"])
@pytest.mark.parametrize("box", [module._BOX_VOXELS, 50])
def test_a_stroke_is_all_that_is_near_its_line(sizes, radius, axis, box, monkeypatch):
    """Points outside the volume, too: the tube is cut at its borders. In one box, and in many small ones."""
    monkeypatch.setattr(module, "_BOX_VOXELS", box)
    monkeypatch.setattr(module, "_SLAB_VOXELS", 4 * box)
    scale = np.array(sizes) / min(sizes)
    rng = np.random.default_rng([int(10 * radius), ord(axis[0])])
    across = None if axis == "ball" else "zyx".index(axis)
    for _ in range(4):
        points = rng.uniform(-6, np.array(SHAPE) + 6, (4, 3))
        if across is not None:
            points[:, across] = rng.integers(SHAPE[across])
        strokes = Strokes(SHAPE, np.array(sizes) * 7)
        region = strokes.draw("z" if axis == "ball" else axis, points, 2, Brush(radius, axis == "ball"))
        away = distances(SHAPE, points, scale)
        if across is not None:
            away[np.indices(SHAPE)[across] != points[0, across]] = np.inf
        painted = strokes.marks == 2
        assert painted[away < radius - TIE].all()
        beyond = away > radius + TIE
        reach = scale.copy()
        if across is not None:
            reach[across] = 0
        if radius >= np.linalg.norm(reach) / 2:
            assert not painted[beyond].any()
        else:  # the voxels that the line itself goes through
            assert not painted[away > np.linalg.norm(reach) / 2 + TIE].any()
        assert strokes.counts() == counted(strokes)
        bounds = ndimage.find_objects(painted.astype(int))
        assert region == (bounds[0] if bounds else None)


def test_ties_belong_to_the_brush():
    disc = Strokes((5, 9, 9), 1.0)
    disc.draw("z", [(2, 4, 4)], 1, Brush(2.0))
    assert disc.counts() == (13, 0)
    assert np.array_equal(np.argwhere(disc.marks)[:, 0], [2] * 13)
    ball = Strokes((9, 9, 9), 1.0)
    ball.draw("z", [(4, 4, 4)], 1, Brush(2.0, spherical=True))
    assert ball.counts() == (33, 0)


@pytest.mark.parametrize("sizes", [1.0, (1.0, 1.0, 4.0)])
@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_the_thinnest_brush_leaves_no_gap(sizes, radius):
    rng = np.random.default_rng(3)
    for _ in range(20):
        points = rng.uniform(0, np.array(SHAPE) - 1, (3, 3))
        strokes = Strokes(SHAPE, sizes)
        strokes.draw("z", points, 1, Brush(radius, spherical=True))
        _, parts = ndimage.label(strokes.marks, np.ones((3, 3, 3)))
        assert parts == 1
        assert all(strokes.marks[tuple(np.floor(point + 0.5).astype(int))] for point in points)
    for start in ((3, 3.5, 3.5), (2.5, 3, 4.5)):  # half-way between voxels: no step may be skipped
        strokes = Strokes(SHAPE, sizes)
        strokes.draw("z", [start, tuple(n + 8 for n in start)], 1, Brush(radius, spherical=True))
        assert ndimage.label(strokes.marks, np.ones((3, 3, 3)))[1] == 1
    one = Strokes(SHAPE, sizes)
    one.draw("y", [(3.5, 4.5, 5.5)], 1, Brush(0.5))
    assert one.counts() == (1, 0)


def test_a_line_into_another_slice_is_painted_where_it_ends():
    strokes = Strokes(SHAPE, 1.0)
    strokes.draw("z", [(2, 5, 5), (4, 5, 15)], 1, Brush(1.0))
    assert strokes.marks[2, 5, 5] and not strokes.marks[2, 5, 8] and not strokes.marks[3].any()
    assert strokes.marks[4, 5, 5:16].all()


def test_far_points_cost_nothing_and_paint_what_lies_between():
    strokes = Strokes(SHAPE, 1.0)
    begun = time.perf_counter()
    strokes.draw("z", [(3, 10, -1e30), (3, 10, 1e30)], 1, Brush(0.5))
    strokes.draw("z", [(3, 20, 5), (3, 20, 1e7)], 1, Brush(2.0, True))
    assert time.perf_counter() - begun < 1
    assert strokes.marks[3, 10].all() and strokes.marks[3, 20, 3:].all() and not strokes.marks[3, 20, :3].any()
    assert strokes.draw("z", [(-9, 3, 3), (-9, 3, 30)], 1, Brush(2.0)) is None
    assert strokes.draw("z", [(3, 10, 0)], 1, Brush(0.5)) is None  # it bears that label already


def test_a_brush_of_usual_size_keeps_up_with_the_mouse():
    """Measured 0.5 ms on one core; a whole slice of this volume or the whole of it would take far more."""
    strokes = Strokes((64, 1024, 1024), 10.0)
    times = []
    for k in range(5):
        begun = time.perf_counter()
        strokes.draw("z", [(30, 100, 100), (30, 171, 171)], 1 + k % 2, Brush(4.5))
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.005


def test_erasing_and_filling():
    strokes = Strokes(SHAPE, 1.0)
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 3:9, 4:6] = True
    assert strokes.fill(2, mask) == (slice(2, 5), slice(3, 9), slice(4, 6))
    assert strokes.fill(1, [(2, 3, 4), (2, 3, 4), (11, 29, 39)]) == (slice(2, 12), slice(3, 30), slice(4, 40))
    assert strokes.counts() == (2, 35)
    strokes.draw("z", [(3, 6, 4)], 0, Brush(50.0))
    assert not strokes.marks[3].any() and strokes.counts() == counted(strokes)
    assert strokes.fill(1, np.zeros((0, 3), int)) is None


# ---- undo


def edit(strokes, rng):
    """One random edit, as a person might make it."""
    label = int(rng.integers(len(strokes.classes) + 1))
    points = rng.uniform(-3, np.array(SHAPE) + 3, (int(rng.integers(1, 4)), 3))
    brush = Brush(float(rng.uniform(0.5, 5)), bool(rng.integers(2)))
    kinds = ["draw", "stroke", "fill", "add", "rename", "recolour", "remove"]
    kind = rng.choice(kinds, p=[0.38, 0.2, 0.1, 0.12, 0.07, 0.07, 0.06])
    if kind == "draw":
        strokes.draw(str(rng.choice(list("zyx"))), points, label, brush)
    elif kind == "stroke":
        strokes.begin()
        strokes.draw("z", points, label, brush)
        strokes.draw("x", points[::-1], int(rng.integers(len(strokes.classes) + 1)), brush)
        strokes.end()
    elif kind == "fill":
        strokes.fill(label, rng.random(SHAPE) < 0.01)
    elif kind == "add" and len(strokes.classes) < 6:
        strokes.add_class(f"name {rng.integers(1 << 30)}")
    elif kind == "rename":
        strokes.rename_class(max(label, 1), f"name {rng.integers(1 << 30)}")
    elif kind == "recolour":
        strokes.recolor_class(max(label, 1), tuple(rng.random(3)))
    elif kind == "remove" and len(strokes.classes) > 1:
        strokes.remove_class(max(label, 1))


def test_undo_and_redo_retrace_every_step(tmp_path, tomogram):
    """And what the journal gives back is the same, with the same steps to undo."""
    rng = np.random.default_rng(11)
    strokes = Strokes(SHAPE, tomogram.voxel_size_A, journal=tmp_path / "j")
    states = [content(strokes)]  # after each step that can be undone
    for _ in range(200):
        way = rng.random()
        if way < 0.15 and strokes.can_undo:
            before, known = strokes.marks.copy(), strokes.version
            region = strokes.undo()
            box = ndimage.find_objects((strokes.marks != before).astype(int))
            assert region == (box[0] if box else None) and strokes.version > known
            strokes.redo()
            assert np.array_equal(strokes.marks, before)
            strokes.undo()
            states.pop()
        else:
            edit(strokes, rng)
            if content(strokes) != states[-1]:
                states.append(content(strokes))
                assert not strokes.can_redo
        assert content(strokes) == states[-1]
        assert strokes.counts() == counted(strokes)
    assert len(states) > 100 and any(len(classes) > 3 for _, classes, _ in states)
    strokes.close()
    again = Strokes.recover(tmp_path / "j", tomogram)
    for one in (strokes, again):
        assert content(one) == states[-1]
        for state in states[-2::-1]:
            one.undo()
            assert content(one) == state
        assert not one.can_undo and one.undo() is None
        for state in states[1:]:
            one.redo()
            assert content(one) == state
        assert not one.can_redo and one.redo() is None
    again.close()


def test_one_step_from_press_to_release():
    strokes = Strokes(SHAPE, 1.0)
    strokes.begin()
    for x in range(5, 15):
        strokes.draw("z", [(3, 5, x), (3, 5, x + 1)], 1 + x % 2, Brush(2.0))
    assert strokes.can_undo
    strokes.undo()  # with the button still down
    assert not strokes.marks.any() and not strokes.can_undo and strokes.can_redo
    strokes.begin()
    strokes.draw("z", [(3, 5, 5)], 1, Brush(2.0))
    strokes.draw("z", [(3, 5, 5)], 0, Brush(2.0))
    strokes.end()
    assert not strokes.can_undo and strokes.can_redo  # nothing came of it


def test_old_steps_go_when_memory_is_short(monkeypatch):
    monkeypatch.setattr(module, "_UNDO_BYTES", 1000)
    strokes = Strokes(SHAPE, 1.0)
    for x in range(30):
        strokes.draw("z", [(3, 5, x)], 1, Brush(2.0))
    undone = 0
    while strokes.can_undo:
        strokes.undo()
        undone += 1
    assert 1 < undone < 30 and strokes.marks.any()
    strokes.fill(2, np.ones(SHAPE, bool))
    assert strokes.can_undo


# ---- classes


def test_removing_a_class_renumbers_later_strokes():
    strokes = Strokes(SHAPE, 1.0)
    assert strokes.add_class("spikes", RED) == 3
    for label in (1, 2, 3):
        strokes.fill(label, [(label, 1, 1), (label, 2, 2)])
    assert strokes.remove_class(2) == (slice(2, 4), slice(1, 3), slice(1, 3))
    assert [one.name for one in strokes.classes] == ["background", "spikes"]
    assert strokes.counts() == (2, 2) == counted(strokes) and strokes.marks[3, 1, 1] == 2
    assert strokes.classes[1].color == RED


def test_names_and_colours_are_checked():
    strokes = Strokes(SHAPE, 1.0)
    known = strokes.version
    for wrong in (
        lambda: strokes.add_class("class 1"),
        lambda: strokes.add_class("  "),
        lambda: strokes.add_class("a", (0, 0, 2)),
        lambda: strokes.rename_class(1, "class  1"),
        lambda: strokes.rename_class(0, "nothing"),
        lambda: strokes.recolor_class(3, RED),
        lambda: Strokes(SHAPE, 1.0, [StrokeClass(str(k)) for k in range(MAX_CLASSES + 1)]),
        lambda: Strokes(SHAPE, 1.0, []),
        lambda: Strokes(SHAPE[1:], 1.0),
        lambda: Strokes(SHAPE, 0.0),
        lambda: Brush(0.4),
        lambda: Brush(float("nan")),
        lambda: strokes.draw("w", [(0, 0, 0)], 1, Brush()),
        lambda: strokes.draw("z", [(0, 0)], 1, Brush()),
        lambda: strokes.draw("z", [], 1, Brush()),
        lambda: strokes.draw("z", [(0, 0, np.nan)], 1, Brush()),
        lambda: strokes.draw("z", [(0, 0, 0)], 3, Brush()),
        lambda: strokes.draw("z", [(0, 0, 0)], -1, Brush()),
        lambda: strokes.fill(1, np.ones((2, 2, 2), bool)),
        lambda: strokes.fill(1, [(0, 0, 40)]),
        lambda: strokes.fill(1, [(0.5, 0, 0)]),
    ):
        with pytest.raises(InputError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert strokes.version == known and not strokes.can_undo
    strokes.remove_class(1)
    with pytest.raises(InputError, match="only one"):
        strokes.remove_class(1)
    with pytest.raises(ValueError, match="read-only"):
        strokes.marks[0, 0, 0] = 1


def test_a_new_class_gets_a_colour_of_its_own():
    strokes = Strokes(SHAPE, 1.0)
    for k in range(2, 10):
        strokes.add_class(f"class {k}")
    assert len({one.color for one in strokes.classes}) == 10


# ---- files


def drawn(like, n=3, **more):
    classes = [StrokeClass(f"class of {k}", (k / 300, 0.5, 1 - k / 300)) for k in range(1, n + 1)]
    strokes = Strokes(SHAPE, like.voxel_size_A, classes, **more)
    for label in range(1, n + 1):
        strokes.draw("z", [(label % 12, 5, 5), (label % 12, 20, 9 + label % 20)], label, Brush(1.5))
    return strokes


@pytest.mark.parametrize("ending", [".mrc", ".tif", ".zarr", ".h5"])
@pytest.mark.parametrize("names", [("a", "b b"), ("Zelle µ", "生物"), tuple(f"class number {k}" for k in range(200))])
def test_files_keep_marks_grid_and_classes(tmp_path, tomogram, ending, names):
    path = tmp_path / f"strokes{ending}"
    strokes = drawn(tomogram, len(names))
    for label, name in enumerate(names, start=1):
        strokes.rename_class(label, name)
    assert strokes.changed_since_save
    strokes.save(path, tomogram)
    assert not strokes.changed_since_save
    beside = ending == ".mrc" and names[0] != "a"  # where the header has no room
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name] + [path.name + ".classes.json"] * beside
    stored = io.read_volume(path)
    assert stored.voxel_size_A == tomogram.voxel_size_A and stored.origin_A == tomogram.origin_A
    assert "by hand" in stored.notes or beside
    again = Strokes.load(path, tomogram)
    assert np.array_equal(again.marks, strokes.marks) and again.counts() == strokes.counts()
    assert tuple(one.name for one in again.classes) == names
    assert np.allclose([c.color for c in again.classes], [c.color for c in strokes.classes], atol=0.01)
    assert not again.changed_since_save and not again.can_undo
    if not beside:
        assert io.read_segmentation(path).classes == names  # as of other labels


def test_an_older_list_of_classes_goes(tmp_path, tomogram):
    path = tmp_path / "s.mrc"
    drawn(tomogram, 20).save(path, tomogram)
    assert len(Strokes.load(path, tomogram).classes) == 20
    drawn(tomogram, 2).save(path, tomogram)
    assert [one.name for one in tmp_path.iterdir()] == ["s.mrc"]
    assert len(Strokes.load(path, tomogram).classes) == 2


def test_a_class_named_as_what_headers_say_of_voxel_sizes(tmp_path, tomogram):
    strokes = drawn(tomogram, 2)
    strokes.rename_class(1, "voxel size unknown")
    strokes.save(tmp_path / "s.mrc", tomogram)
    assert Strokes.load(tmp_path / "s.mrc", tomogram).classes[0].name == "voxel size unknown"


def test_a_forest_learns_from_saved_strokes(tmp_path, tomogram):
    from cryoet_engine.forest.strokes import labelled_voxels

    strokes = drawn(tomogram)
    strokes.save(tmp_path / "s.mrc", tomogram)
    where, labels = labelled_voxels(io.read_volume(tmp_path / "s.mrc"))
    assert np.array_equal(strokes.marks[tuple(where.T)], labels) and len(labels) == sum(strokes.counts())


def test_strokes_of_other_programs(tmp_path, tomogram):
    """Without names; floats that are whole."""
    marks = np.zeros(SHAPE, np.float32)
    marks[3, 4, 5:9] = 4
    io.write(tmp_path / "s.mrc", tomogram.with_data(marks))
    found = Strokes.load(tmp_path / "s.mrc", tomogram)
    assert [one.name for one in found.classes] == ["background", "class 1", "class 2", "class 3"]
    assert found.counts() == (0, 0, 0, 4)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.zeros((12, 30, 41), np.int8), r"\(12, 30, 40\).*\(12, 30, 41\)"),
        (np.full(SHAPE, 0.5, np.float32), "fractions"),
        (np.full(SHAPE, -1, np.int8), "-1"),
        (np.full(SHAPE, 300, np.int16), "300"),
    ],
)
def test_files_that_hold_no_strokes(tmp_path, tomogram, data, told):
    io.write(tmp_path / "s.mrc", Volume(data))
    with pytest.raises(InputError, match=told):
        Strokes.load(tmp_path / "s.mrc", tomogram, journal=tmp_path / "j")
    assert [one.name for one in tmp_path.iterdir()] == ["s.mrc"]


def test_a_broken_list_of_classes(tmp_path, tomogram):
    drawn(tomogram, 2).save(tmp_path / "s.mrc", tomogram)
    (tmp_path / "s.mrc.classes.json").write_text('{"classes": [{"name": "a"}]}')
    with pytest.raises(FileFormatError, match="names and colours"):
        Strokes.load(tmp_path / "s.mrc", tomogram)


def test_a_failed_save_leaves_the_older_file(tmp_path, tomogram, monkeypatch):
    path = tmp_path / "s.mrc"
    drawn(tomogram, 20).save(path, tomogram)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}

    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cryoet_engine.io.mrc._header", full)
    strokes = drawn(tomogram, 30)
    with pytest.raises(FileFormatError, match="no space"):
        strokes.save(path, tomogram)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    assert strokes.changed_since_save


def test_another_tomogram_is_refused(tmp_path, tomogram):
    other = Volume(np.zeros((3, 4, 5), np.float32))
    with pytest.raises(InputError, match=r"\(12, 30, 40\).*\(3, 4, 5\)"):
        drawn(tomogram).save(tmp_path / "s.mrc", other)
    assert not list(tmp_path.iterdir())


# ---- the journal

_CHILD = """
import sys
import numpy as np
from cryoet_engine.viewer.strokes import Brush, Strokes
strokes = Strokes((12, 30, 40), (12.0, 8.0, 8.0), journal=sys.argv[1])
strokes.rename_class(2, "membrane")
for y in range(3, 28):
    strokes.draw("z", [(3, y, 3), (3, y, 36)], 1 + y % 2, Brush(1.5))
strokes.undo()
strokes.begin()
strokes.draw("z", [(9, 9, 3), (9, 9, 36)], 1, Brush(1.5))
print("drawing", flush=True)
sys.stdin.read()
"""


def test_a_killed_viewer_loses_no_finished_step(tmp_path, tomogram):
    journal = tmp_path / "j"
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(journal)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "drawing\n"
        for other in (lambda: Strokes(SHAPE, 1.0, journal=journal), lambda: Strokes.recover(journal, tomogram)):
            with pytest.raises(InputError, match="another viewer has this tomogram open"):
                other()
        child.send_signal(signal.SIGKILL)
    expected = Strokes(SHAPE, tomogram.voxel_size_A)
    expected.rename_class(2, "membrane")
    for y in range(3, 27):
        expected.draw("z", [(3, y, 3), (3, y, 36)], 1 + y % 2, Brush(1.5))
    with Strokes.recover(journal, tomogram) as found:
        assert content(found) == content(expected)
        assert found.changed_since_save and found.can_redo and found.can_undo
        found.draw("y", [(5, 5, 5)], 2, Brush(3.0))  # and it goes on
        last = content(found)
    with Strokes.recover(journal, tomogram) as found:
        assert content(found) == last


def test_a_torn_last_line_is_dropped(tmp_path, tomogram):
    journal = tmp_path / "j"
    with drawn(tomogram, journal=journal) as strokes:
        before = content(strokes)
        size = journal.stat().st_size
        strokes.fill(1, [(1, 2, 3)])
    whole = journal.read_bytes()
    flipped = whole[:size] + whole[size:].replace(b'"serial": 4', b'"serial": 5')
    assert flipped != whole
    for torn in (whole[:-1], whole[:-20], whole[: size + 1], whole[:size], whole[:size] + b"\0" * 50, flipped):
        journal.write_bytes(torn)
        with Strokes.recover(journal, tomogram) as found:
            assert content(found) == before
            found.fill(2, [(4, 4, 4)])
            after = content(found)
        with Strokes.recover(journal, tomogram) as found:  # what came after the torn line is whole
            assert content(found) == after


def test_journals_that_cannot_be_used(tmp_path, tomogram):
    journal = tmp_path / "j"
    assert Strokes.recover(journal, tomogram) is None and not list(tmp_path.iterdir())
    with drawn(tomogram, journal=journal):
        pass
    whole = journal.read_bytes()
    with pytest.raises(FileFormatError, match=r"shape.*\(3, 4, 5\).*\(12, 30, 40\)"):
        Strokes.recover(journal, Volume(np.zeros((3, 4, 5), np.float32)))
    lines = whole.splitlines(keepends=True)
    header = json.loads(lines[0])
    header.pop("crc")
    beyond = {"op": "step", "serial": 9, "cells": module._packed(np.array([10**6]), np.array([1], np.uint8))}
    labels = {"op": "step", "serial": 9, "cells": module._packed(np.array([1]), np.array([9], np.uint8))}
    for content_, told in (
        (module._line(header | {"version": 2}) + b"".join(lines[1:]), "version"),
        (module._line(header | {"kind": "diary"}) + b"".join(lines[1:]), "diary"),
        (lines[0] + lines[1] + lines[2][:-9] + b"\n" + lines[3], "line 3"),
        (lines[0] + lines[1] + module._line(beyond) + lines[2], "outside the volume"),
        (lines[0] + lines[1] + module._line(labels), "without a class"),
        (lines[0] + module._line({"op": "state"}), "damaged"),
        (whole + module._line({"op": "step", "serial": 9}), "damaged"),
    ):
        journal.write_bytes(content_)
        with pytest.raises(FileFormatError, match=told) as caught:
            Strokes.recover(journal, tomogram)
        assert "\n" not in str(caught.value) and journal.read_bytes() == content_
    assert [one.name for one in tmp_path.iterdir()] == ["j"]  # no lock is left
    for empty in (b"", lines[0][:40], lines[0]):
        journal.write_bytes(empty)
        assert Strokes.recover(journal, tomogram) is None


def test_a_journal_of_nothing_new(tmp_path, tomogram):
    drawn(tomogram).save(tmp_path / "s.tif", tomogram)
    with Strokes.load(tmp_path / "s.tif", tomogram, journal=tmp_path / "j") as strokes:
        expected = content(strokes)
    assert Strokes.recover(tmp_path / "j", tomogram) is None
    with Strokes.load(tmp_path / "s.tif", tomogram, journal=tmp_path / "j") as strokes:
        strokes.fill(1, [(0, 0, 0)])
    with Strokes.recover(tmp_path / "j", tomogram) as found:
        assert found.changed_since_save and found.marks[0, 0, 0] == 1
        found.undo()
        assert content(found) == expected
        found.save(tmp_path / "s.tif", tomogram)
    with Strokes.recover(tmp_path / "j", tomogram) as found:
        assert not found.changed_since_save
        found.discard_journal()
        found.fill(1, [(0, 0, 0)])
    assert [one.name for one in tmp_path.iterdir()] == ["s.tif"]


def test_a_new_journal_keeps_unsaved_steps_of_an_older_one(tmp_path, tomogram):
    journal = tmp_path / "j"
    with drawn(tomogram, journal=journal) as strokes:
        expected = content(strokes)
    for _ in range(2):  # the second has nothing in it, and drives nothing away
        Strokes(SHAPE, 1.0, journal=journal).close()
    assert Strokes.recover(journal, tomogram) is None
    with Strokes.recover(tmp_path / "j.previous", tomogram) as found:
        assert content(found) == expected


def test_a_long_journal_is_compacted(tmp_path, tomogram, monkeypatch):
    monkeypatch.setattr(module, "_COMPACT_BYTES", 6000)
    rng = np.random.default_rng(5)
    journal, sizes = tmp_path / "j", []
    with Strokes(SHAPE, 1.0, journal=journal) as strokes:
        for k in range(60):
            edit(strokes, rng)
            if k % 7 == 6:
                for _ in range(5):  # beyond where the file begins
                    strokes.undo()
            if k % 14 == 13:
                strokes.redo()
            sizes.append(journal.stat().st_size)
            if k % 10 == 9:  # as a crash would leave it
                copy = tmp_path / f"copy {k}"
                copy.write_bytes(journal.read_bytes())
                with Strokes.recover(copy, tomogram) as found:
                    assert content(found) == content(strokes)
                    steps = 0
                    while found.can_undo:
                        found.undo()
                        steps += 1
                    for _ in range(steps):
                        found.redo()
                    assert content(found) == content(strokes)
    assert any(b < a for a, b in pairwise(sizes))
    assert not (tmp_path / "j.partial").exists()


def test_steps_from_before_compacting_are_undone_and_not_offered_again(tmp_path, tomogram):
    journal = tmp_path / "j"
    with Strokes(SHAPE, 1.0, journal=journal) as strokes:
        strokes.fill(1, [(1, 1, 1), (1, 1, 2)])
        strokes._journal.rewrite(strokes.shape, strokes._state())
        strokes.fill(2, [(1, 1, 2), (1, 1, 3)])
        strokes.undo()
        strokes.undo()
    with Strokes.recover(journal, tomogram) as found:
        assert not found.marks.any() and found.counts() == (0, 0)
        assert not found.can_redo  # the second step stands on the first, which the file no longer tells


def test_one_document_a_journal(tmp_path, tomogram):
    with drawn(tomogram, journal=tmp_path / "j") as strokes:
        with pytest.raises(InputError, match="another viewer"):
            Strokes.recover(tmp_path / "j", tomogram)
        strokes.fill(1, [(1, 2, 3)])
        strokes.discard_journal()
        with drawn(tomogram, journal=tmp_path / "j"):
            pass


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path, tomogram, monkeypatch):
    journal = tmp_path / "j"
    with drawn(tomogram, journal=journal) as strokes:
        before, length = content(strokes), journal.stat().st_size

        def full(_handle):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(module.os, "fsync", full)
            version = strokes.version
            for x in (3, 4):
                with pytest.raises(FileFormatError, match="no space left"):
                    strokes.fill(1, [(1, 2, x)])
                assert strokes.marks[1, 2, x] == 1 and strokes.version > version
            assert journal.stat().st_size == length and not (tmp_path / "j.partial").exists()
        copy = tmp_path / "copy"
        copy.write_bytes(journal.read_bytes())
        with Strokes.recover(copy, tomogram) as found:
            assert content(found) == before
        strokes.fill(1, [(1, 2, 5)])
        now = content(strokes)
    with Strokes.recover(journal, tomogram) as found:
        assert content(found) == now


def test_where_journals_lie(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "cryoet-engine"
    paths = {journal_path(tmp_path / folder / "tomo 1.mrc") for folder in ("a", "b")}
    assert len(paths) == 2
    assert all(p.parent == tmp_path / "cryoet-engine" / "strokes" and p.name.startswith("tomo_1.mrc-") for p in paths)
    assert len(journal_path(tmp_path / ("ö" * 120)).name) < 200
    monkeypatch.chdir(tmp_path)
    assert journal_path("a/tomo 1.mrc") == journal_path(tmp_path / "a" / "tomo 1.mrc")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert state_folder() == tmp_path / "home" / ".local" / "state" / "cryoet-engine"
    assert not list(tmp_path.iterdir())  # asking makes nothing


def test_the_tomogram_is_known_again(tmp_path, tomogram):
    file = tmp_path / "tomo.mrc"
    io.write(file, tomogram)
    journal = tmp_path / "deep" / "down" / "j"
    with drawn(tomogram, journal=journal, tomogram=file):
        pass
    with Strokes.recover(journal, tomogram) as found:
        assert not found.tomogram_changed
    io.write(file, tomogram.with_data(np.ones(SHAPE, np.int16)))
    with Strokes.recover(journal, tomogram) as found:
        assert found.tomogram_changed


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CryoETError, match="file"):
        Strokes(SHAPE, 1.0, journal=tmp_path / "file" / "j")
