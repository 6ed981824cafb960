# SPDX-License-Identifier: MIT
"""Strokes in, results out of a background thread: order, equality with PixelClassifier, newest wins, failures."""

import multiprocessing
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from cryoet_engine._checks import InputError
from cryoet_engine.features import FeatureSource
from cryoet_engine.forest import PixelClassifier
from cryoet_engine.viewer import live as module
from cryoet_engine.viewer.live import (
    Confinement,
    Failure,
    LiveLabels,
    Plane,
    SliceLabels,
    Trained,
    VolumeLabels,
    confine,
)
from cryoet_engine.volume import Volume

SHAPE = (32, 30, 28)
CLASSES = ("background", "blob")
MIDDLE = (Plane("z", 16), Plane("y", 15), Plane("x", 14))
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def tomogram():
    """A bright ball in noise."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    ball = (z - 16) ** 2 + (y - 15) ** 2 + (x - 14) ** 2 < 49
    noise = np.random.default_rng(0).normal(0, 0.2, SHAPE)
    return Volume((ball + noise).astype(np.float32), voxel_size_A=5.0)


@pytest.fixture
def marks():
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[16, 2, 2:26] = 1
    drawn[16, 15, 11:18] = 2
    return drawn


@pytest.fixture
def live(tomogram):
    with LiveLabels(tomogram, n_trees=12, n_threads=1) as engine:
        yield engine


def results_until(live, last):
    """All results up to the first that `last` accepts."""
    found, deadline = [], time.monotonic() + PATIENCE_S
    while not any(last(one) for one in found):
        left = deadline - time.monotonic()
        assert left > 0, f"it did not come; there were {found}"
        live.wait(left)
        found += live.poll()
    return found


def is_volume(generation):
    return lambda one: isinstance(one, VolumeLabels) and one.generation == generation


def fitted(tomogram, marks, **settings):
    return PixelClassifier(12, n_threads=1, **settings).fit(tomogram, marks, classes=CLASSES)


def plane_of(data, plane):
    return np.take(data, plane.index, axis=1 + "zyx".index(plane.axis))


# ---- what it answers


def test_slices_come_before_the_volume_and_equal_the_classifier_to_the_byte(live, tomogram, marks):
    generation = live.learn(marks, CLASSES, visible=MIDDLE)
    found = results_until(live, is_volume(generation))
    assert isinstance(found[0], Trained) and found[0].seconds > 0
    assert isinstance(found[-1], VolumeLabels)
    slices = found[1:-1]
    assert [one.plane for one in slices[:3]] == list(MIDDLE)
    beside = {Plane(p.axis, p.index + step) for p in MIDDLE for step in (-2, -1, 1, 2)}
    assert {one.plane for one in slices[3:]} == beside and len(slices) == 3 + len(beside)
    expected = fitted(tomogram, marks).predict_proba(tomogram, device="cpu").data
    for one in slices:
        np.testing.assert_array_equal(one.proba, plane_of(expected, one.plane))
        assert one.proba.dtype == np.uint8
    assert expected[1, 16, 15, 14] > 200 > 50 > expected[1, 3, 3, 3]  # there is something to be equal to
    segmentation = found[-1].segmentation
    np.testing.assert_array_equal(segmentation.data, expected)
    assert segmentation.classes == CLASSES and segmentation.voxel_size_A == tomogram.voxel_size_A


def test_the_classifier_can_be_saved_and_knows_its_tomogram(live, tomogram, marks, tmp_path):
    live.learn(marks, CLASSES, visible=(), whole=False)
    (trained,) = results_until(live, lambda one: isinstance(one, Trained))
    trained.classifier.save(tmp_path / "live.safetensors")
    loaded = PixelClassifier.load(tmp_path / "live.safetensors")
    assert loaded.classes == CLASSES and loaded.training == fitted(tomogram, marks).training


@pytest.mark.parametrize("channel_bytes", [4 * 61 * 25, 4 * 61 * 100, 4 * 61 * 900 * 3])  # pieces, pieces, 3 slices
def test_a_small_cache_changes_no_byte(tomogram, marks, channel_bytes):
    expected = fitted(tomogram, marks).predict_proba(tomogram, device="cpu").data
    with LiveLabels(tomogram, n_trees=12, n_threads=1, channel_bytes=channel_bytes) as live:
        live.learn(marks, CLASSES, visible=MIDDLE, whole=False)
        found = results_until(live, lambda one: isinstance(one, SliceLabels) and one.plane == Plane("x", 16))
        for one in found[1:]:
            np.testing.assert_array_equal(one.proba, plane_of(expected, one.plane))
        assert live._features._bytes <= live._budget


def test_pieces_of_slices_change_no_byte(live, tomogram, marks, monkeypatch):
    monkeypatch.setattr(module, "_COMPUTED_VOXELS", 5 * 13 * 13)
    monkeypatch.setattr(module, "_PREDICTED_VOXELS", 11 * 11)
    expected = fitted(tomogram, marks).predict_proba(tomogram, device="cpu").data
    live.learn(marks, CLASSES, visible=MIDDLE, whole=False)
    for one in results_until(live, lambda one: isinstance(one, SliceLabels) and one.plane == MIDDLE[-1])[1:]:
        np.testing.assert_array_equal(one.proba, plane_of(expected, one.plane))


def test_only_new_voxels_of_strokes_are_computed(live, tomogram, marks, monkeypatch):
    asked, compute = [], module.features_at
    monkeypatch.setattr(
        module, "features_at", lambda s, where, *rest: asked.append(len(where)) or compute(s, where, *rest)
    )
    live.learn(marks, CLASSES, visible=(), whole=False)
    results_until(live, lambda one: isinstance(one, Trained))
    more = marks.copy()
    more[5, 5, 5:9] = 1
    live.learn(more, CLASSES, visible=(), whole=False)
    (trained,) = results_until(live, lambda one: isinstance(one, Trained))
    assert asked == [31, 4]
    rows = np.random.default_rng(1).normal(size=(50, 61)).astype(np.float32)
    np.testing.assert_array_equal(trained.classifier.predict_rows(rows), fitted(tomogram, more).predict_rows(rows))


def test_trees_grow_in_threads_of_this_process(tomogram, marks):
    with LiveLabels(tomogram, n_trees=12, n_threads=3) as live:
        live.learn(marks, CLASSES, visible=(), whole=False)
        (trained,) = results_until(live, lambda one: isinstance(one, Trained))
    assert not multiprocessing.active_children()
    rows = np.random.default_rng(1).normal(size=(50, 61)).astype(np.float32)
    np.testing.assert_array_equal(trained.classifier.predict_rows(rows), fitted(tomogram, marks).predict_rows(rows))


def test_many_strokes_get_a_first_answer_from_the_first_trees(live, tomogram, marks, monkeypatch):
    monkeypatch.setattr(module, "_DRAFT_WORK", 6 * np.count_nonzero(marks))
    monkeypatch.setattr(module, "_STEP_WORK", 3 * np.count_nonzero(marks))
    live.learn(marks, CLASSES, visible=MIDDLE, whole=False)
    found = results_until(live, lambda one: isinstance(one, SliceLabels) and one.plane == Plane("z", 15))
    kinds = [type(one) for one in found[:8]]
    assert kinds == [SliceLabels] * 3 + [Trained] + [SliceLabels] * 4
    few = PixelClassifier(6, n_threads=1).fit(tomogram, marks, classes=CLASSES)
    for slices, classifier in ((found[:3], few), (found[4:7], fitted(tomogram, marks))):
        expected = classifier.predict_proba(tomogram, device="cpu").data
        for one, plane in zip(slices, MIDDLE, strict=True):
            assert one.plane == plane
            np.testing.assert_array_equal(one.proba, plane_of(expected, plane))


def test_the_strokes_are_copied(live, marks, tomogram):
    expected = fitted(tomogram, marks).predict_proba(tomogram, device="cpu").data
    live.learn(marks, CLASSES, visible=MIDDLE[:1], whole=False)
    marks[:] = 2
    found = results_until(live, lambda one: isinstance(one, SliceLabels))
    np.testing.assert_array_equal(found[1].proba, expected[:, 16])


def test_a_class_without_strokes_keeps_its_place(live, marks):
    marks[marks == 2] = 3
    live.learn(marks, ("background", "membrane", "blob"), visible=MIDDLE[:1])
    found = results_until(live, lambda one: isinstance(one, VolumeLabels))
    assert found[0].classifier.classes == ("background", "blob")
    assert found[1].proba.shape == (3, 30, 28)
    assert not found[1].proba[1].any() and found[1].proba[2, 15, 14] > 200
    assert not found[-1].segmentation.data[1].any() and found[-1].segmentation.classes[1] == "membrane"


def test_results_are_confined(live, marks):
    box = ((0, 32), (0, 30), (0, 14))
    live.learn(marks, CLASSES, visible=MIDDLE, confinements=[Confinement("blob", box=box)])
    found = results_until(live, lambda one: isinstance(one, VolumeLabels))
    whole = found[-1].segmentation.data
    assert not whole[1, :, :, 14:].any() and whole[1, 16, 15, 12] > 200
    for one in found[1:-1]:
        np.testing.assert_array_equal(one.proba, plane_of(whole, one.plane))


# ---- newest wins


def test_the_newest_request_wins(live, tomogram, marks):
    first = live.learn(marks, CLASSES, visible=MIDDLE)
    results_until(live, lambda one: isinstance(one, SliceLabels))
    more = marks.copy()
    more[4, 4, 4:12] = 1
    second = live.learn(more, CLASSES, visible=MIDDLE)
    found = results_until(live, is_volume(second))
    assert second > first
    assert {one.generation for one in found if isinstance(one, SliceLabels | VolumeLabels)} == {second}
    expected = fitted(tomogram, more).predict_proba(tomogram, device="cpu").data
    np.testing.assert_array_equal(found[-1].segmentation.data, expected)


def test_results_that_wait_are_dropped_when_newer_strokes_come(live, marks):
    live.learn(marks, CLASSES, visible=MIDDLE[:1], whole=False)
    with live._changed:
        assert live._changed.wait_for(lambda: any(isinstance(r, SliceLabels) for r in live._results), PATIENCE_S)
        live.learn(np.zeros_like(marks), CLASSES, visible=MIDDLE[:1])
        assert not any(isinstance(one, SliceLabels) for one in live.poll())


def test_look_at_is_served_before_the_next_block(live, marks, monkeypatch):
    """The volume pass is made to wait, between two blocks, for what is looked at then."""
    looked = Plane("z", 3)

    def predict_proba(self, volume, *, block, progress):
        progress("", 0, 2)
        live.look_at([looked])
        progress("", 1, 2)
        with live._changed:
            planes.extend(one.plane for one in live._results if isinstance(one, SliceLabels))
        return whole(self, volume, block=block, progress=progress)

    planes, whole = [], PixelClassifier.predict_proba
    monkeypatch.setattr(PixelClassifier, "predict_proba", predict_proba)
    live.learn(marks, CLASSES, visible=MIDDLE[:1])
    with live._changed:
        assert live._changed.wait_for(lambda: any(isinstance(r, VolumeLabels) for r in live._results), PATIENCE_S)
    assert looked in planes


def test_look_at_uses_the_present_forest_and_asks_once(live, marks):
    generation = live.learn(marks, CLASSES, visible=MIDDLE[:1], whole=False)
    results_until(live, lambda one: isinstance(one, SliceLabels) and one.plane == Plane("z", 18))
    live.look_at([Plane("z", 17)])
    found = results_until(live, lambda one: isinstance(one, SliceLabels) and one.plane == Plane("z", 19))
    assert [one.plane.index for one in found] == [17, 19]  # 16 and 18 were answered, 15 too
    assert {one.generation for one in found} == {generation}


def test_features_of_what_is_looked_at_are_ready_before_any_stroke(live, marks, monkeypatch):
    live.look_at(MIDDLE)
    with live._changed:
        assert live._changed.wait_for(lambda: not live._todo and live.status[0] == "", PATIENCE_S)
    assert set(MIDDLE) <= set(live._features._slices)
    monkeypatch.setattr(FeatureSource, "compute", lambda *_: pytest.fail("filters ran for a slice that was ready"))
    monkeypatch.setattr(module, "features_at", lambda _, where, *rest: rows[: len(where)])
    rows = np.random.default_rng(1).normal(size=(50, 61)).astype(np.float32)
    live.learn(marks, CLASSES, visible=MIDDLE, whole=False)
    found = results_until(live, lambda one: isinstance(one, SliceLabels | Failure))
    assert isinstance(found[-1], SliceLabels)


# ---- the end


def held_volume(monkeypatch, live):
    """The volume pass stands still between blocks until the work is superseded; an Event tells that it stands."""
    stands = threading.Event()

    def predict_proba(self, volume, *, block, progress):
        epoch = live._epoch
        stands.set()
        with live._changed:
            assert live._changed.wait_for(lambda: live._epoch != epoch, PATIENCE_S)
        progress("", 1, 2)
        raise AssertionError("the pass went on")

    monkeypatch.setattr(PixelClassifier, "predict_proba", predict_proba)
    return stands


def test_close_ends_the_thread_in_the_middle_of_the_volume(tomogram, marks, monkeypatch):
    live = LiveLabels(tomogram, n_trees=12, n_threads=1)
    stands = held_volume(monkeypatch, live)
    live.learn(marks, CLASSES, visible=())
    assert stands.wait(PATIENCE_S)
    live.close()
    live.close()
    assert not live._thread.is_alive()
    with pytest.raises(InputError, match="closed"):
        live.learn(marks, CLASSES, visible=())
    with pytest.raises(InputError, match="closed"):
        live.look_at(MIDDLE)


def test_cancel_ends_the_work_and_keeps_the_forest(live, marks, monkeypatch):
    stands = held_volume(monkeypatch, live)
    generation = live.learn(marks, CLASSES, visible=MIDDLE[:1])
    assert stands.wait(PATIENCE_S)
    live.poll()
    live.cancel()
    live.look_at([Plane("y", 3)])
    found = results_until(live, lambda one: isinstance(one, SliceLabels))
    assert found[0].generation == generation and found[0].plane == Plane("y", 3)
    assert not any(isinstance(one, Failure | VolumeLabels) for one in found)


def test_status_is_empty_when_there_is_nothing_to_do(live, marks):
    assert live.status == ("", None)
    seen = []
    send = live._send
    live._send = lambda epoch, result: (seen.append(live.status), send(epoch, result))
    live.learn(marks, CLASSES, visible=MIDDLE[:1])
    results_until(live, lambda one: isinstance(one, VolumeLabels))
    assert [word for word, _ in seen] == ["training", *["slices"] * 5, "volume"]
    assert seen[0][1] == 1.0 and all(a <= b for (_, a), (_, b) in pairwise(seen[1:-1]))


# ---- failures


@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_strokes_of_fewer_than_two_classes_are_asked_for(live, marks, drawn):
    marks[marks != drawn] = 0
    generation = live.learn(marks, CLASSES, visible=MIDDLE)
    (failure,) = results_until(live, lambda one: isinstance(one, Failure))
    assert failure.generation == generation
    assert failure.message.startswith("draw strokes of at least two classes")
    assert drawn == 0 or CLASSES[drawn - 1] in failure.message


def test_a_forest_outlives_a_failure(live, marks):
    generation = live.learn(marks, CLASSES, visible=(), whole=False)
    results_until(live, lambda one: isinstance(one, Trained))
    live.learn(np.zeros_like(marks), CLASSES, visible=())
    results_until(live, lambda one: isinstance(one, Failure))
    live.look_at(MIDDLE)
    found = results_until(live, lambda one: isinstance(one, SliceLabels))
    assert found[0].generation == generation


def test_a_voxel_that_is_not_a_number_is_a_failure_and_the_thread_lives(tomogram, marks):
    data = np.zeros((100, 12, 12), np.float32)
    data[:32] = tomogram.data[:, 9:21, 8:20]
    data[90, 5, 5] = np.nan
    strokes = np.zeros(data.shape, np.uint8)
    strokes[16, 6, 4:8], strokes[16, 0] = 2, 1
    with LiveLabels(Volume(data), n_trees=12, n_threads=1) as live:
        live.learn(strokes, CLASSES, visible=[Plane("z", 16)])
        found = results_until(live, lambda one: isinstance(one, Failure))
        assert isinstance(found[1], SliceLabels) and "NaN" in found[-1].message  # the slice does not see it
        live.look_at([Plane("z", 80)])
        (failure,) = results_until(live, lambda one: isinstance(one, Failure))
        assert "NaN" in failure.message
        live.look_at([Plane("z", 20)])
        assert isinstance(results_until(live, lambda one: True)[0], SliceLabels)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"marks": np.zeros((3, 3, 3), np.uint8)}, "marks"),
        ({"marks": np.zeros(SHAPE, np.int16)}, "marks"),
        ({"marks": np.full(SHAPE, 3, np.uint8)}, "labels 1 to 2"),
        ({"classes": ("a", "a")}, "classes"),
        ({"visible": [Plane("z", 32)]}, "visible"),
        ({"confinements": [Confinement("spike")]}, "spike"),
    ],
)
def test_what_cannot_be_learnt_is_refused_at_once(live, marks, change, match):
    given = {"marks": marks, "classes": CLASSES, "visible": MIDDLE} | change
    with pytest.raises(InputError, match=match):
        live.learn(given.pop("marks"), given.pop("classes"), **given)
    with pytest.raises(InputError, match="visible"):
        live.look_at([Plane("x", -1)])


# ---- confine

THREE = ("background", "membrane", "spikes")


def probabilities(shape):
    """Random, sum 255."""
    cuts = np.sort(np.random.default_rng(2).integers(0, 256, (2, *shape)), axis=0)
    return np.stack([cuts[0], cuts[1] - cuts[0], 255 - cuts[1]]).astype(np.uint8)


def test_confine_obeys_the_box_and_gives_to_the_others_in_proportion():
    proba = probabilities((6, 7, 8))
    out = confine(proba, THREE, [Confinement("spikes", box=((1, 4), (2, 9), (0, 5)))])
    assert (out.sum(axis=0, dtype=int) == 255).all()
    inside = np.zeros((6, 7, 8), bool)
    inside[1:4, 2:, :5] = True
    np.testing.assert_array_equal(out[:, inside], proba[:, inside])
    assert not out[2][~inside].any()
    kept = proba[:2, ~inside].astype(float)
    np.testing.assert_allclose(out[:2, ~inside], kept * 255 / np.maximum(kept.sum(axis=0), 1e-9), atol=1)


def test_confine_gives_to_the_background_where_there_is_no_other():
    proba = np.zeros((3, 2, 2, 2), np.uint8)
    proba[2] = 255
    out = confine(proba, THREE, [Confinement("spikes", box=((0, 1), (0, 2), (0, 2)))])
    assert (out[:, 1] == np.array([255, 0, 0])[:, None, None]).all() and (out[2, 0] == 255).all()


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_confine_obeys_the_neighbourhood(axis):
    shape = tuple(1 if k == axis else n for k, n in enumerate((70, 9, 9)))
    proba = np.zeros((3, *shape), np.uint8)
    proba[0], proba[2] = 100, 155
    at = tuple(n // 2 for n in shape)
    proba[(slice(None), *at)] = (0, 255, 0)
    out = confine(proba, THREE, [Confinement("spikes", near="membrane", distance_vox=2.0)])
    assert (out.sum(axis=0, dtype=int) == 255).all()
    squares = sum((grid - middle) ** 2 for grid, middle in zip(np.indices(shape), at, strict=True))
    np.testing.assert_array_equal(out[2] > 0, (squares <= 4) & (squares > 0))


def test_confine_of_a_part_is_that_part():
    proba = probabilities((6, 7, 8))
    kept = [Confinement("spikes", box=((1, 4), (2, 5), (0, 5))), Confinement("membrane", box=((0, 3), (0, 7), (2, 8)))]
    whole = confine(proba, THREE, kept)
    np.testing.assert_array_equal(confine(proba[:, 2:, 3:4], THREE, kept, origin=(2, 3, 0)), whole[:, 2:, 3:4])
    assert not whole[1, 3:].any()  # what spikes lose does not go where membrane may not be
    assert (whole.sum(axis=0, dtype=int) == 255).all()


def test_confine_without_the_neighbour_leaves_nothing():
    proba = np.full((3, 2, 3, 4), 85, np.uint8)
    out = confine(proba, THREE, [Confinement("spikes", near="membrane", distance_vox=100)])
    assert not out[2].any()  # the most probable class is the first where all are alike
    assert proba[2].all()  # and the array given is not touched


@pytest.mark.parametrize(
    "wrong",
    [
        Confinement("lumen"),
        Confinement("spikes", near="spikes", distance_vox=1),
        Confinement("spikes", near="membrane", distance_vox=-1),
        Confinement("spikes", box=((3, 1), (0, 2), (0, 2))),
    ],
)
def test_confinements_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="confine"):
        confine(probabilities((2, 2, 2)), THREE, [wrong])
