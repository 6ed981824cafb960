# SPDX-License-Identifier: MIT
"""Where patches come from, and that held-back voxels stay held back."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine._progress import silent
from cryoet_engine.training import TrainingSettings
from cryoet_engine.training import data as data_module
from cryoet_engine.training.data import LabelledTomogram, TrainingData, chunk_regions

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


def test_samples_do_not_hang_on_how_labels_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than so many voxels at once, where slices are large; the samples and counts stay."""
    first = _data([PAIR]).tomograms[0]
    plane = SHAPE[1] * SHAPE[2]
    for most in (5 * plane + 7, plane - 1):
        monkeypatch.setattr(data_module, "_SLAB_VOXELS", most)
        labels = Volume(Lazy(LABELS, max(most, plane)))
        other = LabelledTomogram(PAIR[0], labels, 3, TrainingSettings(seed=3))
        whole = [slice(0, n) for n in SHAPE]
        for a, b in zip(first.samples_in(whole).values(), other.samples_in(whole).values(), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(LABELS[tuple(a.T)], LABELS[tuple(a[0])])
        for a, b in zip(first.profiles, other.profiles, strict=True):
            np.testing.assert_array_equal(a, b)
    for axis, profile in enumerate(first.profiles):
        others = tuple({0, 1, 2} - {axis})
        expected = np.stack([np.count_nonzero(k == LABELS, axis=others) for k in (1, 2, 3)], 1)
        np.testing.assert_array_equal(profile, expected)


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

    assert share(1.0) > 0.33  # one of three classes at least; measured 0.39
    assert share(0.0) < 0.25  # measured 0.15


def test_a_class_of_one_tomogram_among_many_is_found() -> None:
    """Class 3: 8 voxels (0.017 %) of the last of twelve tomograms, and nowhere else."""
    others = Volume(np.where(LABELS == 3, 1, LABELS))
    data = _data([(PAIR[0], others)] * 11 + [PAIR], rare_share=1.0, validation_share=0, batch=10)
    found = [bool((target == 2).any()) for step in range(30) for target in data.batch(step)[1]]
    assert np.mean(found) > 0.28  # one of three classes; a tomogram first would give 0.03; measured 0.33
    seen = Counter(patch.tomogram for step in range(30) for patch in data.batch(step)[2])
    assert len(seen) == 12
    assert max(seen, key=lambda k: seen[k]) == 11


def test_a_tenth_of_a_thousandth_is_found() -> None:
    labels = np.ones((50, 100, 100), np.uint8)
    labels[20, 40:45, 60:70] = 2  # 0.01 %
    data = _data([(Volume(labels.astype(np.float32)), Volume(labels))], 2, validation_share=0, batch=20, patch=8)
    found = np.mean([(target == 1).any() for step in range(10) for target in data.batch(step)[1]])
    assert found > 0.18  # half of all patches are aimed, half of those at it; measured 0.27


def test_chunks_of_paper_1() -> None:
    chunks = chunk_regions((slice(0, 500), slice(0, 1024), slice(0, 1440)), 512)
    assert len(chunks) == 9
    assert all(z == slice(0, 500) for z, _, _ in chunks)
    assert sorted({(y.start, y.stop) for _, y, _ in chunks}) == [(0, 512), (256, 768), (512, 1024)]
    assert sorted({(x.start, x.stop) for _, _, x in chunks}) == [(0, 512), (464, 976), (928, 1440)]
    assert chunk_regions((slice(2, 9), slice(5, 17), slice(0, 512)), 512) == [
        (slice(2, 9), slice(5, 17), slice(0, 512))
    ]
    assert [y.start for _, y, _ in chunk_regions((slice(0, 1), slice(10, 523), slice(0, 3)), 512)] == [10, 11]


def test_every_epoch_visits_every_chunk_once() -> None:
    other = (Volume(RNG.random((16, 20, 70))), Volume(RNG.integers(1, 4, (16, 20, 70)).astype(np.uint8)))
    data = _data([PAIR, other], sampling="chunks", chunk=20, batch=4, patch=8, validation_share=0)
    chunks = [(0, chunk) for chunk in chunk_regions(data.tomograms[0].training, 20)]
    chunks += [(1, chunk) for chunk in chunk_regions(data.tomograms[1].training, 20)]
    assert data.patches_per_epoch == len(chunks) == 13  # 3 x 3, and 1 x 4
    assert _data([PAIR], patches_per_epoch=7).patches_per_epoch == 7
    epochs = 8
    patches = [patch for number in range(epochs * 13 // 4) for patch in data.batch(number)[2]]
    for epoch in range(epochs):
        turns = patches[epoch * 13 : (epoch + 1) * 13]
        # As chunks overlap, a patch may lie in several; still each chunk has one that can be its own.
        inside = [
            [
                patch.tomogram == number
                and all(c.start <= p.start and p.stop <= c.stop for p, c in zip(patch.region, chunk, strict=True))
                for number, chunk in chunks
            ]
            for patch in turns
        ]
        assert (maximum_bipartite_matching(csr_array(np.array(inside))) >= 0).all()
    orders = {tuple(patch.tomogram for patch in patches[k * 13 : (k + 1) * 13]) for k in range(epochs)}
    assert len(orders) > 4
    assert Counter(patch.tomogram for patch in patches) == {0: 9 * epochs, 1: 4 * epochs}


def test_rare_classes_are_aimed_at_within_their_chunks() -> None:
    data = _data([PAIR], sampling="chunks", chunk=24, batch=12, patch=8, rare_share=1.0, validation_share=0)
    has = [2 in place.samples for place in data.places]
    assert 0 < sum(has) < len(has) == 6
    found = np.mean([(target == 2).any() for step in range(40) for target in data.batch(step)[1]])
    assert found > 0.8 * sum(has) / len(has) / 3  # a third of the patches of chunks that have it; measured 0.12
    unaimed = _data([PAIR], sampling="chunks", chunk=24, batch=12, patch=8, rare_share=0, validation_share=0)
    assert np.mean([(target == 2).any() for step in range(40) for target in unaimed.batch(step)[1]]) < found / 2


def test_chunks_hold_a_patch() -> None:
    with pytest.raises(CryoETError, match=r"chunk: expected at least the patch's edge \(40\), got 32"):
        TrainingSettings(sampling="chunks", chunk=32)
    with pytest.raises(CryoETError, match="sampling: expected random, chunks"):
        TrainingSettings(sampling="tiles")  # type: ignore[arg-type]
    thin = (Volume(RNG.random((6, 30, 9))), Volume(np.tile(np.uint8([1, 2, 2]), (6, 30, 3))))
    data = _data([thin], 2, sampling="chunks", chunk=16)
    assert data.batch(0)[0].shape == (2, *data.patch)


def test_batches_are_the_same_from_many_threads() -> None:
    data = _data([PAIR, PAIR], sampling="chunks", chunk=20)
    expected = [data.batch(number)[:2] for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for (x, target), got in zip(expected, pool.map(data.batch, range(24)), strict=True):
            np.testing.assert_array_equal(got[0], x)
            np.testing.assert_array_equal(got[1], target)


def test_notes_name_missing_classes_and_mixed_voxel_sizes() -> None:
    assert _data([PAIR]).notes == ()
    what = "classes of no voxel in any labels, which cannot be learnt"
    assert _data([PAIR], n_classes=5).notes == (f"{what}: class 4, class 5",)
    empty = np.concatenate([SOFT.data, np.zeros((1, *SHAPE), np.uint8)])
    soft = SoftSegmentation(empty, classes=("background", "membrane", "spikes", "lumen"))
    assert _data([(PAIR[0], soft)], 4).notes == (f"{what}: lumen",)

    def sized(*size: float) -> Any:
        return (Volume(VOXELS, voxel_size_A=size if len(size) == 3 else size[0]), PAIR[1])

    unknown = (Volume(VOXELS, voxel_size_status="unknown"), PAIR[1])
    assert _data([sized(10.0), sized(10.9), unknown]).notes == ()
    (note,) = _data([sized(10.0), unknown, sized(13.33333), sized(10.0), sized(10.0, 10.0, 13.0)]).notes
    assert "10 Å in pair 1, 4; 13.33 Å in pair 3; 10 x 10 x 13 Å in pair 5" in note
    (note,) = _data([sized(10.0), sized(11.1)]).notes
    assert "differ by more than 10 %" in note
    labels = Volume(LABELS, voxel_size_A=8.0)
    (note,) = _data([(sized(8.5)[0], labels), (sized(10.0)[0], labels)], validation_share=0.1).notes[1:] or ("",)
    assert note == "labels have other voxel sizes than their tomograms: pair 2"


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
