# SPDX-License-Identifier: MIT
"""Where patches come from, and that held-back voxels stay held back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine._progress import silent
from cryoet_engine.training import TrainingSettings
from cryoet_engine.training.data import LabelledTomogram, TrainingData

RNG = np.random.default_rng(0)
SHAPE = (24, 40, 48)
RARE = (17, 8, 33)


def _labels() -> np.ndarray[Any, Any]:
    """Class 1 nearly everywhere, 2 mixed in, 3 in one small place, some unlabelled."""
    labels = np.where(RNG.random(SHAPE) < 0.3, 2, 1).astype(np.uint8)
    labels[tuple(slice(c, c + 2) for c in RARE)] = 3
    labels[:, :, :3] = 0
    return labels


LABELS = _labels()
VOXELS = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)  # every voxel tells where it is
PAIR = (Volume(VOXELS), Volume(LABELS))
SOFT = SoftSegmentation(
    np.stack([(k == LABELS) * np.uint8(200) for k in (1, 2, 3)]), classes=("background", "membrane", "spikes")
)


def _data(pairs: Any, n_classes: int = 3, **settings: Any) -> TrainingData:
    chosen = {"patch": 16, "seed": 3, **settings}
    return TrainingData(pairs, n_classes, (8, 8, 8), TrainingSettings(**chosen), silent)


class Lazy:
    """An array that refuses to be read whole."""

    def __init__(self, data: Any, most: int) -> None:
        self.data, self.most, self.shape, self.dtype = data, most, data.shape, data.dtype

    def __getitem__(self, key: Any) -> Any:
        part = self.data[key]
        assert part.size <= self.most
        return part

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("read whole")


def test_patches_are_what_lies_there() -> None:
    data = _data([PAIR], batch=3)
    normalise = data.tomograms[0].normalisation
    for step in range(20):
        voxels, targets, patches, _ = data.batch(step)
        assert voxels.shape == targets.shape == (3, 16, 16, 16)
        assert voxels.dtype == np.float32
        for x, target, patch in zip(voxels, targets, patches, strict=True):
            np.testing.assert_array_equal(x, normalise(VOXELS[patch.region]))
            np.testing.assert_array_equal(target, LABELS[patch.region].astype(int) - 1)


def test_a_step_is_a_function_of_its_number() -> None:
    first, second = _data([PAIR]), _data([PAIR])
    first.batch(1)
    for a, b in zip(first.batch(7)[:2], second.batch(7)[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.batch(7)[0], first.batch(8)[0])
    assert not np.array_equal(first.batch(7)[0], _data([PAIR], seed=4).batch(7)[0])


def test_training_never_sees_what_is_held_back() -> None:
    data = _data([PAIR], validation_share=0.2)
    tomogram = data.tomograms[0]
    assert tomogram.held_back is not None
    held = np.zeros(SHAPE, bool)
    held[tomogram.held_back] = True
    assert 0.1 < held.mean() < 0.3
    seen = np.zeros(SHAPE, bool)
    for step in range(300):
        for patch in data.batch(step)[2]:
            seen[patch.region] = True
    assert not (seen & held).any()
    assert seen[~held].mean() > 0.99
    counted = np.zeros(SHAPE, int)
    for patch in data.validation_patches():
        x, target = data.read_validation(patch)
        assert x.shape == target.shape == data.patch
        at = tuple(slice(p.start + c.start, p.start + c.stop) for p, c in zip(patch.region, patch.counts, strict=True))
        counted[at] += 1
        assert np.count_nonzero(target >= 0) == np.count_nonzero(LABELS[at])
    assert not counted[~held].any()


def test_validation_covers_what_is_held_back() -> None:
    data = _data([PAIR], validation_share=0.5, validation_patches=1000)
    counted = np.zeros(SHAPE, int)
    for patch in data.validation_patches():
        counted[tuple(slice(p.start + c.start, p.start + c.stop) for p, c in zip(patch.region, patch.counts))] += 1  # noqa: B905
    assert data.tomograms[0].held_back is not None
    assert counted[data.tomograms[0].held_back].min() == 1
    assert len(_data([PAIR, PAIR], validation_patches=2).validation_patches()) == 2


def test_the_side_held_back_has_all_classes() -> None:
    """Class 2 lies only on the left half's top: a side must be taken that cuts through it."""
    labels = np.ones((32, 32, 32), np.uint8)
    labels[:, :8, 8:24] = 2
    tomogram = LabelledTomogram(Volume(RNG.random((32, 32, 32))), Volume(labels), 2, TrainingSettings())
    tomogram.hold_back(0.15)
    assert tomogram.held_back is not None
    assert np.unique(labels[tomogram.held_back]).tolist() == [1, 2]
    assert np.unique(labels[tomogram.training]).tolist() == [1, 2]


def test_rare_classes_are_found() -> None:
    def share(rare_share: float) -> float:
        data = _data([PAIR], rare_share=rare_share, validation_share=0, batch=1)
        return float(np.mean([(data.batch(step)[1] == 2).any() for step in range(200)]))

    assert share(1.0) > 0.33  # one of three classes at least; measured 0.49
    assert share(0.0) < 0.25  # measured 0.18


def test_samples_of_voxels_are_uniform() -> None:
    tomogram = LabelledTomogram(*PAIR, 3, TrainingSettings())
    background = tomogram._samples[0]
    assert len(background) == 2048
    assert (LABELS[tuple(background.T)] == 1).all()
    centre = np.mean(np.argwhere(LABELS == 1), axis=0)
    np.testing.assert_allclose(background.mean(0), centre, atol=1.0)  # standard error 0.3
    assert len(np.unique(background, axis=0)) == 2048
    assert len(tomogram._samples[2]) == 8


def test_soft_labels_hard_and_soft() -> None:
    data = _data([(PAIR[0], SOFT)], targets="soft")
    _, targets, patches, _ = data.batch(0)
    assert data.classes == ("background", "membrane", "spikes")
    assert targets.shape == (2, 3, 16, 16, 16)
    for target, patch in zip(targets, patches, strict=True):
        labels = LABELS[patch.region]
        np.testing.assert_array_equal(target.sum(0), labels > 0)  # sums to one, or all zero where unlabelled
        np.testing.assert_array_equal(target[1] == 1, labels == 2)
    hard = _data([(PAIR[0], SOFT)])
    np.testing.assert_array_equal(hard.counts, [np.count_nonzero(k == LABELS) for k in (1, 2, 3)])
    np.testing.assert_array_equal(hard.batch(5)[1], _data([PAIR]).batch(5)[1])
    assert (_data([PAIR], targets="soft").batch(0)[1] == targets).all()


def test_nothing_is_read_whole() -> None:
    most = 3 * 32 * 40 * 48
    shape = (64, 40, 48)
    labels = np.ones(shape, np.uint8)
    labels[20:40] = 2
    lazy = (Volume(Lazy(RNG.random(shape), most)), Volume(Lazy(labels, most)))
    _data([lazy], n_classes=2).batch(0)
    soft = SoftSegmentation(Lazy(np.stack([labels == k for k in (1, 2)]).astype(np.uint8), most), classes=("a", "b"))
    _data([(lazy[0], soft)], n_classes=2, targets="soft").batch(0)


@pytest.mark.parametrize("shape", [(10, 40, 40), (1, 20, 33), (5, 6, 7), (40, 9, 9)])
def test_thin_volumes_shrink_the_patch_and_are_reflected(shape: tuple[int, int, int]) -> None:
    labels = RNG.integers(1, 3, shape).astype(np.uint8)
    data = _data([(Volume(RNG.random(shape)), Volume(labels))], n_classes=2)
    voxels, targets, patches, _ = data.batch(0)
    assert voxels.shape[1:] == data.patch
    assert all(n % 8 == 0 and n <= 16 for n in data.patch)
    for target, patch in zip(targets, patches, strict=True):
        inside = labels[patch.region]
        assert np.count_nonzero(target >= 0) == inside.size  # what is reflected has no label
    assert sum(np.count_nonzero(data.read_validation(p)[1] >= 0) for p in data.validation_patches()) > 0


def test_big_endian_and_strided() -> None:
    voxels = VOXELS.astype(">f4")[::-1]
    data = _data([(Volume(voxels), Volume(LABELS[::-1].astype(">i2")))])
    x, _, patches, _ = data.batch(0)
    np.testing.assert_array_equal(x[0], data.tomograms[0].normalisation(VOXELS[::-1][patches[0].region]))


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        ([], "at least one"),
        ([(PAIR[0], Volume(LABELS[:20]))], r"shape \(24, 40, 48\), got shape \(20, 40, 48\)"),
        ([(PAIR[0], Volume(LABELS.astype(float)))], "whole numbers"),
        ([(PAIR[0], Volume(LABELS + 1))], "0 to 3, the network's number of classes, got 1 to 4"),
        ([(PAIR[0], Volume(LABELS.astype(np.int8) - 1))], "0 to 3"),
        ([(PAIR[0], Volume(np.zeros(SHAPE, np.uint8)))], "labelled voxels, got none"),
        ([(PAIR[0], Volume(np.full(SHAPE, 2, np.uint8)))], "two classes, got class 2 alone"),
        ([(PAIR[0], SoftSegmentation(SOFT.data[:2], classes=("a", "b")))], r"got 2 \(a, b\); create the model"),
        (
            [(PAIR[0], SOFT), (PAIR[0], SoftSegmentation(SOFT.data, classes=("x", "y", "z")))],
            "the same classes in the same order",
        ),
        ([PAIR, (PAIR[0], Volume(LABELS[:20]))], "pair 2: train: labels"),
        ([(PAIR[0], LABELS)], "Volume, SoftSegmentation or label Volume"),
        ([(Volume(np.full(SHAPE, np.nan)), PAIR[1])], "NaN"),
    ],
)
def test_refuses(pairs: Any, what: str) -> None:
    with pytest.raises(CryoETError, match=what):
        _data(pairs)
