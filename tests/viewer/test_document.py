# SPDX-License-Identifier: MIT
"""What is made ready for 3D, and what a document knows, without a window."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction, Volume
from cryoet_engine._progress import silent
from cryoet_engine.render import RenderSettings
from cryoet_engine.viewer.document import Document, Scene, Tomogram, in_memory, prepare
from cryoet_engine.viewer.live import Plane
from cryoet_engine.viewer.strokes import Brush, Strokes

SHAPE = (8, 16, 16)


@pytest.fixture
def tomogram() -> Tomogram:
    return in_memory("", Volume(np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)))


def bars(n_classes: int) -> SoftSegmentation:
    """A background, and classes that fill a column of x each, later ones more rows of it."""
    data = np.zeros((n_classes, *SHAPE), np.uint8)
    for label in range(1, n_classes):
        data[label, :, : 1 + label, label] = 255
    data[0] = 255 - data[1:].max(axis=0)
    return SoftSegmentation(data, ("background", *(f"c{n}" for n in range(1, n_classes))))


def ready(
    tomogram: Tomogram,
    segmentation: SoftSegmentation | None,
    old: TransferFunction | None = None,
    kept: frozenset[str] = frozenset(),
) -> Scene:
    return prepare(tomogram, segmentation, (), old, kept, {}, silent)


def shown(scene: Scene) -> set[str]:
    return {name for name, ramp in zip(scene.transfer.classes, scene.transfer.ramps, strict=True) if ramp.visible}


def test_as_many_classes_as_can_be_drawn_are_shown_the_largest_first(tomogram: Tomogram) -> None:
    assert shown(ready(tomogram, bars(8))) == {f"c{n}" for n in range(1, 8)}
    many = ready(tomogram, bars(11))
    assert shown(many) == {f"c{n}" for n in range(4, 11)}
    assert sum(slab.textures[0].shape[0] for slab in many.ahead) == SHAPE[0]


def test_a_class_that_a_person_showed_comes_before_larger_ones(tomogram: Tomogram) -> None:
    automatic = ready(tomogram, bars(11)).transfer
    scene = ready(tomogram, bars(11), automatic.with_ramp("c1", visible=True, left=0.11), frozenset({"c1"}))
    assert shown(scene) == {"c1", *(f"c{n}" for n in range(5, 11))}
    assert scene.transfer.ramp("c1").left == 0.11


def test_touched_ramps_outlive_new_labels_and_others_are_found_anew(tomogram: Tomogram) -> None:
    first = ready(tomogram, bars(4)).transfer
    changed = first.with_ramp("c1", left=0.7, opacity=0.5).with_ramp("c2", left=0.9)
    again = ready(tomogram, bars(5), changed, frozenset({"c1"})).transfer
    assert (again.ramp("c1").left, again.ramp("c1").opacity) == (0.7, 0.5)
    assert again.ramp("c2").left == ready(tomogram, bars(5)).transfer.ramp("c2").left


def test_a_segmentation_of_another_shape_is_refused(tomogram: Tomogram) -> None:
    other = SoftSegmentation(np.zeros((2, 4, 4, 4), np.uint8), ("background", "a"))
    with pytest.raises(CryoETError, match=r"\(8, 16, 16\).*\(4, 4, 4\)"):
        ready(tomogram, other)


def test_a_tomogram_alone_is_shown_as_its_slices(tomogram: Tomogram) -> None:
    document = Document(tomogram, Strokes(SHAPE, 10.0), RenderSettings())
    document.scene = ready(tomogram, None)
    assert not document.has_classes
    assert document.drawn_settings().slices == (4, 8, 8)
    document.scene = ready(tomogram, bars(3))
    assert document.drawn_settings().slices == (None, None, None)


def test_labels_of_other_classes_than_there_are_now_are_not_shown(tomogram: Tomogram) -> None:
    document = Document(tomogram, Strokes(SHAPE, 10.0), RenderSettings())
    plane = Plane("z", 3)
    document.found[plane] = np.zeros((2, *SHAPE[1:]), np.uint8)
    assert document.probabilities(plane) is not None
    document.strokes.add_class("new")
    assert document.probabilities(plane) is None


def test_strokes_are_unsaved_until_they_lie_in_a_file(tomogram: Tomogram) -> None:
    document = Document(tomogram, Strokes(SHAPE, 10.0), RenderSettings())
    assert not document.unsaved
    document.strokes.draw("z", [(1, 2, 2)], 2, Brush(0.5))
    assert document.unsaved
    document.strokes_in_file = document.strokes.version
    assert not document.unsaved


@pytest.mark.parametrize(("data", "note"), [(np.ones(SHAPE, np.float32), "one value"), (None, "not finite")])
def test_odd_voxels_are_told(data: np.ndarray | None, note: str) -> None:
    if data is None:
        data = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
        data[0, 0, 0] = np.nan
    tomogram = in_memory("", Volume(data))
    assert note in tomogram.note
    assert np.isfinite(np.asarray(tomogram.volume.data)).all()
    assert tomogram.contrast[0] < tomogram.contrast[1]
