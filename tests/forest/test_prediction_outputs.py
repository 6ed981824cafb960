# SPDX-License-Identifier: MIT
"""Uncertainty, hard labels and extra channels beside the probabilities; none depends on blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cryoet_engine import FeatureSpec, PixelClassifier, Volume, feature_stack, io
from cryoet_engine._checks import InputError
from cryoet_engine.forest import entropy, hard_labels, margin
from cryoet_engine.volume import quantise

SMALL = FeatureSpec(filters=("GaussianSmoothing", "HessianOfGaussianEigenvalues"), scales=(0.7, 1.6))
SHAPE = (14, 30, 33)


@pytest.fixture(scope="module")
def sample() -> tuple[Volume, np.ndarray]:
    """Three grey levels in noise, and strokes."""
    rng = np.random.default_rng(0)
    truth = 1 + np.digitize(np.indices(SHAPE)[2] + np.indices(SHAPE)[1] / 2, (16, 32))
    data = (truth * 1.5 + rng.normal(0, 0.7, SHAPE)).astype(np.float32)
    return Volume(data, voxel_size_A=10.0), np.where(np.arange(30)[:, None] % 4 == 0, truth, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(sample) -> PixelClassifier:
    return PixelClassifier(11, spec=SMALL, n_threads=1).fit(*sample, classes=["a", "b", "c"])


def test_formulas_by_hand() -> None:
    proba = np.array([[1, 0.5, 0.25, 1 / 3], [0, 0.5, 0.25, 1 / 3], [0, 0, 0.5, 1 / 3]], np.float32)
    expected = [0, math.log(2) / math.log(3), 1.5 * math.log(2) / math.log(3), 1]
    np.testing.assert_allclose(entropy(proba), expected, atol=2e-7)
    np.testing.assert_allclose(margin(proba), [1, 0, 0.25, 0], atol=1e-7)
    np.testing.assert_array_equal(hard_labels(proba), [1, 1, 3, 1])
    assert entropy(proba).dtype == margin(proba).dtype == np.float32


def test_maps_agree_with_numpy_and_do_not_depend_on_blocks(sample, trained) -> None:
    exact = trained.predict_proba(sample[0], dtype="float32").data
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = exact.astype(np.float64)
        truth = -np.where(wide > 0, wide * np.log(wide), 0).sum(axis=0) / math.log(3)
    top = np.sort(exact, axis=0)
    first = None
    for block in (None, 13, (1, 7, 33)):
        maps = {"entropy": np.empty(SHAPE, np.float32), "margin": np.empty(SHAPE, np.uint16)}
        maps["labels"] = np.empty(SHAPE, np.int8)
        soft = trained.predict_proba(sample[0], maps=maps, block=block)
        assert np.array_equal(soft.data, quantise(exact, "uint8"))
        assert np.abs(maps["entropy"] - truth).max() < 1e-6  # measured 1.3e-7
        assert np.array_equal(maps["margin"], quantise(top[-1] - top[-2], "uint16"))
        assert np.array_equal(maps["labels"], exact.argmax(axis=0) + 1)
        first = first or maps
        assert all(np.array_equal(maps[name], first[name]) for name in maps)


def test_maps_that_do_not_fit(sample, trained) -> None:
    for maps, message in (
        ({"doubt": np.empty(SHAPE, np.uint8)}, "entropy, margin, labels, got doubt"),
        ({"entropy": np.empty((14, 30, 32), np.uint8)}, r"maps\['entropy'\]: expected shape"),
        ({"entropy": np.empty(SHAPE, np.int16)}, "uint8, uint16 or float32"),
        ({"labels": np.empty(SHAPE, np.float32)}, "an integer type that counts to 3"),
    ):
        with pytest.raises(InputError, match=message):
            trained.predict_proba(sample[0], maps=maps)


def test_maps_stream_to_files(sample, trained, tmp_path) -> None:
    with (
        io.create_volume(tmp_path / "l.mrc", SHAPE, dtype="int8", grid=sample[0]) as labels,
        io.create_volume(tmp_path / "u.zarr", SHAPE, dtype="uint8", grid=sample[0]) as unsure,
    ):
        soft = trained.predict_proba(sample[0], dtype="float32", maps={"labels": labels, "entropy": unsure}, block=9)
    assert np.array_equal(io.read_volume(tmp_path / "l.mrc").numpy(), soft.data.argmax(axis=0) + 1)
    assert np.array_equal(io.read_volume(tmp_path / "u.zarr").numpy(), quantise(entropy(soft.data), "uint8"))
    assert io.read_volume(tmp_path / "u.zarr").voxel_size_A == (10, 10, 10)


# ---- extra channels


def test_extra_channels_follow_the_specs(sample, tmp_path) -> None:
    tomogram, marks = sample
    rng = np.random.default_rng(1)
    extra = {"depth": rng.normal(size=SHAPE).astype(np.float64), "mask": (marks == 2).astype(np.uint8)}
    made = PixelClassifier(9, spec=SMALL, n_threads=1).fit(tomogram, marks, extra=extra)
    assert made.extra == ("depth", "mask")
    assert made.n_features == SMALL.n_channels + 2
    assert made.importance is not None
    assert made.importance.channels[-2:] == ("depth", "mask")
    channels = feature_stack(tomogram, SMALL, offset=made.training.offset)
    whole = np.concatenate([channels, np.stack([extra["depth"], extra["mask"]]).astype(np.float32)])
    rows = made.predict_rows(whole.reshape(len(whole), -1).T)
    made.save(tmp_path / "F")
    for classifier in (made, PixelClassifier.load(tmp_path / "F")):
        for given in (extra, dict(reversed(extra.items())), list(extra.values())):
            for block in (None, (5, 11, 33)):
                found = classifier.predict_proba(tomogram, dtype="float32", extra=given, block=block).data
                assert np.array_equal(found, rows.T.reshape(3, *SHAPE))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), r"2 extra channels \(extra 1, extra 2\), got 0"),
        ([np.zeros(SHAPE)] * 3, "got 3"),
        ({"x": np.zeros(SHAPE), "y": np.zeros(SHAPE)}, "extra 1, extra 2.*got x, y"),
        ([np.zeros(SHAPE), np.zeros((14, 30, 32))], r"'extra 2': expected the tomogram's shape \(14, 30, 33\)"),
        ([np.zeros(SHAPE), np.full(SHAPE, np.inf)], "extra channel 2: expected finite"),
        (np.zeros(SHAPE), "a list of volumes"),
    ],
)
def test_extra_channels_that_do_not_fit(sample, extra, message) -> None:
    made = PixelClassifier(2, spec=SMALL, n_threads=1).fit(*sample, extra=[sample[0], sample[0]])
    with pytest.raises(InputError, match=message):
        made.predict_proba(sample[0], extra=extra)
    with pytest.raises(InputError, match="no extra channels, got 1"):
        PixelClassifier(2, spec=SMALL, n_threads=1).fit(*sample).predict_proba(sample[0], extra=[sample[0]])
    with pytest.raises(InputError, match="at most 247 channels"):
        PixelClassifier(2, spec=SMALL).fit(*sample, extra=[sample[0]] * 248)


# ---- importance


def test_importance_finds_the_informative_channel(sample, tmp_path) -> None:
    _, marks = sample
    hint = marks.astype(np.float32) + np.random.default_rng(0).normal(0, 0.01, SHAPE).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=SHAPE)
    made = PixelClassifier(40, spec=SMALL, n_threads=1).fit(
        Volume(noise.astype(np.float32)), marks, extra={"hint": hint}
    )
    found = made.importance
    assert sum(found.impurity) == pytest.approx(1)
    by_filter = found.by_filter()
    assert by_filter["hint"] > 0.6
    assert sum(by_filter.values()) == pytest.approx(sum(found.by_scale().values()))
    assert found.error_without_filter["hint"] > 0.3
    assert abs(found.error_without_filter["GaussianSmoothing"]) < 0.05
    made.save(tmp_path / "F")
    assert PixelClassifier.load(tmp_path / "F").importance == found
