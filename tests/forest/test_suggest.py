# SPDX-License-Identifier: MIT
"""Suggestions lie where the forest is unsure of what it has not been shown."""

from __future__ import annotations

import numpy as np
import pytest

from cryoet_engine import FeatureSpec, PixelClassifier, Volume
from cryoet_engine._checks import InputError
from cryoet_engine.forest import Suggestion

SPEC = FeatureSpec(filters=("GaussianSmoothing",), scales=(0.7, 1.6))
SHAPE = (12, 96, 160)


def striped() -> tuple[Volume, np.ndarray]:
    """Dark and light, drawn on, and a grey patch between them that nobody has drawn on."""
    data = np.where(np.arange(160) < 80, -3.0, 3.0) + np.random.default_rng(0).normal(0, 0.3, SHAPE)
    data[:, 30:70, 100:150] = np.random.default_rng(1).normal(0, 1.5, (12, 40, 50))
    marks = np.zeros(SHAPE, np.uint8)
    marks[2, 10:16, 4:60], marks[2, 10:16, 90:150] = 1, 2
    return Volume(data.astype(np.float32)), marks


@pytest.fixture(scope="module")
def trained() -> PixelClassifier:
    return PixelClassifier(20, spec=SPEC, n_threads=1).fit(*striped(), classes=["dark", "light"])


def test_the_patch_that_was_never_shown_is_found(trained) -> None:
    tomogram, marks = striped()
    places = trained.suggest(tomogram, marks, n=3, size=24)
    assert 1 <= len(places) <= 3
    best = places[0]
    assert isinstance(best, Suggestion)
    _, y, x = best.centre
    assert 30 <= y < 70
    assert 100 <= x < 150
    assert best.classes == ("dark", "light")
    assert 0 < best.score <= 1
    assert best.uncertainty > 0.1
    for place in places:
        assert place.box[0].stop - place.box[0].start == 1
        assert all(part.stop - part.start == 24 for part in place.box[1:])
        assert not marks[place.box].any() or place.centre[1] > 16
    centres = np.array([place.centre for place in places])
    for i in range(len(centres)):
        for j in range(i):
            assert np.abs(centres[i] - centres[j]).max() >= 24


def test_strokes_on_a_place_end_its_being_suggested(trained) -> None:
    tomogram, marks = striped()
    first = trained.suggest(tomogram, marks, n=1, size=24)[0]
    more = marks.copy()
    more[first.box] = 1
    again = trained.suggest(tomogram, more, n=3, size=24)
    assert all(place.box != first.box for place in again)


def test_it_works_without_strokes_and_on_small_volumes(trained) -> None:
    tomogram, _ = striped()
    assert trained.suggest(tomogram, n=2)
    for shape in ((1, 40, 41), (3, 9, 160), (2, 5, 5)):
        part = tomogram.crop(tuple(slice(30, 30 + n) if n < 60 and i else slice(0, n) for i, n in enumerate(shape)))
        for place in trained.suggest(part, n=2):
            assert all(0 <= one.start < one.stop <= length for one, length in zip(place.box, shape, strict=True))


def test_bad_input(trained) -> None:
    tomogram, marks = striped()
    with pytest.raises(InputError, match="n: expected a whole number"):
        trained.suggest(tomogram, n=0)
    with pytest.raises(InputError, match="size: expected"):
        trained.suggest(tomogram, size=2.5)
    with pytest.raises(InputError, match="marks: expected the tomogram's shape"):
        trained.suggest(tomogram, marks[1:])
    with pytest.raises(InputError, match="call fit first"):
        PixelClassifier().suggest(tomogram)
