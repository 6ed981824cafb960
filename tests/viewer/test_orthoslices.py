# SPDX-License-Identifier: MIT
"""What is laid over a slice, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine.viewer.orthoslices import Overlay, blend

GREY = np.array([[0, 100, 255]], np.uint8)
COLORS = [(10, 20, 30), (200, 0, 0), (0, 0, 250)]
NOTHING = np.zeros((1, 3), np.uint8)


def seen(proba: np.ndarray | None = None, marks: np.ndarray = NOTHING, **overlay: object) -> np.ndarray:
    return blend(GREY, proba, COLORS, marks, COLORS, Overlay(**overlay))[0, :, :3].astype(int)


def certain(*classes: int) -> np.ndarray:
    proba = np.zeros((3, 1, 3), np.uint8)
    for column, label in enumerate(classes):
        proba[label, 0, column] = 255
    return proba


def test_a_bare_slice_is_its_grey_values() -> None:
    assert seen().tolist() == [[0, 0, 0], [100, 100, 100], [255, 255, 255]]


def test_classes_tint_by_probability_and_the_background_does_not() -> None:
    pixels = seen(certain(0, 1, 2), classes=0.5)
    assert pixels[0].tolist() == [0, 0, 0]  # certain background: grey as it was
    assert pixels[1].tolist() == [150, 50, 50]  # half of (200, 0, 0), half of 100
    assert pixels[2].tolist() == [128, 128, 253]
    half = certain(1, 1, 1) // 2
    assert np.abs(seen(half, classes=1.0)[1] - [150, 50, 50]).max() <= 1


def test_uncertainty_is_greatest_between_classes() -> None:
    proba = certain(0, 0, 0)
    proba[:, 0, 1] = 85  # all three as likely
    pixels = seen(proba, classes=1.0, uncertainty=True)
    assert pixels[0].tolist() == [0, 0, 0]
    assert np.abs(pixels[1] - [255, 60, 220]).max() <= 1  # undecided: the colour of doubt alone


@pytest.mark.parametrize("label", [1, 2, 3])
def test_strokes_lie_over_everything_in_their_own_colour(label: int) -> None:
    marks = np.array([[0, label, 0]], np.uint8)
    pixels = seen(certain(1, 2, 1), marks, classes=0.5, strokes=1.0)
    assert pixels[1].tolist() == list(COLORS[label - 1])
    assert pixels[0].tolist() == [100, 0, 0]
