# SPDX-License-Identifier: MIT
"""The scripted annotator: true where asked to be, sparse, on few slices, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cryoet_engine._checks import InputError
from cryoet_engine.simulate import VirionRecipe, draw_strokes
from cryoet_engine.simulate.virions import build_virions
from cryoet_engine.volume import Volume


@pytest.fixture(scope="module")
def truth() -> Volume:
    recipe = VirionRecipe(shape=(80, 128, 128), n_virions=3, thickness_nm=110, seed=3)
    labels = build_virions(recipe, np.random.default_rng(3)).truth
    return Volume(labels, voxel_size_A=12.0, origin_A=(1.0, 2.0, 3.0))


def test_strokes_are_true_sparse_and_of_every_class(truth: Volume) -> None:
    strokes = draw_strokes(truth)
    marks, labels = strokes.numpy(), truth.numpy()
    painted = marks > 0
    assert strokes.grid() == truth.grid()
    assert marks.dtype == np.uint8
    assert np.array_equal(marks[painted], labels[painted] + 1)
    assert 0.001 <= painted.mean() <= 0.003
    assert np.count_nonzero(painted.any(axis=(1, 2))) == 3
    assert np.all(np.bincount(marks[painted], minlength=5)[1:] > 50)


def test_strokes_are_repeatable(truth: Volume) -> None:
    first, again, other = (draw_strokes(truth, seed=s).numpy() for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_membrane_strokes_keep_to_the_middle(truth: Volume) -> None:
    marks, labels = draw_strokes(truth).numpy(), truth.numpy()
    z = int(np.argmax((marks == 2).sum(axis=(1, 2))))
    depth = ndimage.distance_transform_edt(labels[z] == 1)
    assert depth[marks[z] == 2].mean() > 1.1 * depth[labels[z] == 1].mean()


def test_background_is_marked_near_the_virions_and_far(truth: Volume) -> None:
    marks, labels = draw_strokes(truth, fraction=0.003).numpy(), truth.numpy()
    distance = np.concatenate(
        [ndimage.distance_transform_edt(labels[z] == 0)[marks[z] == 1] for z in range(len(marks)) if marks[z].any()]
    )
    assert np.mean(distance < 12) > 0.2
    assert distance.max() > 12


def test_dark_spots_of_the_background_get_marked(truth: Volume) -> None:
    labels = truth.numpy()
    tomogram = np.zeros(labels.shape, np.float32)
    spots = (labels == 0) & (np.indices(labels.shape)[1:] % 24 < 4).all(axis=0)
    tomogram[spots] = -10
    plain = draw_strokes(truth).numpy()
    shown = draw_strokes(truth, tomogram=truth.with_data(tomogram)).numpy()
    assert np.mean(spots[shown == 1]) > 2 * np.mean(spots[plain == 1])


@pytest.mark.parametrize("error_rate", [0.02, 0.1])
def test_slips_are_as_many_as_asked_and_near_borders(truth: Volume, error_rate: float) -> None:
    marks, labels = draw_strokes(truth, error_rate=error_rate).numpy(), truth.numpy()
    painted = marks > 0
    wrong = painted & (marks != labels + 1)
    assert wrong.sum() / painted.sum() == pytest.approx(error_rate, abs=0.002)
    for z, y, x in np.argwhere(wrong):
        neighbourhood = labels[z, max(y - 8, 0) : y + 9, max(x - 8, 0) : x + 9]
        assert marks[z, y, x] - 1 in neighbourhood


def test_other_classes_and_odd_shapes() -> None:
    labels = np.zeros((1, 40, 30), np.int64)
    labels[0, 10:20, 5:25] = 1
    marks = draw_strokes(Volume(labels[:, ::2, ::-1]), slices=1, classes=("ice", "gold"), fraction=0.1, brush_vox=1)
    painted = marks.numpy() > 0
    assert set(np.unique(marks.numpy())) == {0, 1, 2}
    assert np.array_equal(marks.numpy()[painted], labels[:, ::2, ::-1][painted] + 1)


def test_an_absent_class_gets_no_stroke() -> None:
    marks = draw_strokes(Volume(np.full((4, 32, 32), 3, np.uint8)), fraction=0.05).numpy()
    assert set(np.unique(marks)) == {0, 4}


@pytest.mark.parametrize(
    "change",
    [
        {"slices": 0},
        {"slices": 81},
        {"slices": 1.5},
        {"brush_vox": 0},
        {"fraction": 0},
        {"fraction": float("nan")},
        {"error_rate": 0.9},
        {"seed": -1},
        {"classes": ("background", "membrane")},
        {"classes": ()},
        {"tomogram": Volume(np.zeros((4, 4, 4)))},
    ],
)
def test_bad_arguments_are_refused(truth: Volume, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="draw_strokes"):
        draw_strokes(truth, **change)  # type: ignore[arg-type]


def test_truth_must_be_numbers_of_classes() -> None:
    with pytest.raises(InputError, match="whole numbers"):
        draw_strokes(Volume(np.ones((4, 8, 8), np.float32)))
    with pytest.raises(InputError, match=r"numbers 0\.\.3"):
        draw_strokes(Volume(np.full((4, 8, 8), 4, np.uint8)))
