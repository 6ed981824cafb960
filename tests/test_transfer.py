# SPDX-License-Identifier: MIT
from __future__ import annotations

import json

import numpy as np
import pytest

from cryoet_engine import CryoETError, SoftSegmentation, TransferFunction, Volume
from cryoet_engine.transfer import Ramp, RawRamp, automatic_threshold, histograms
from cryoet_engine.volume import quantise
from reference.thresholds import iterated_threshold

CLASSES = ("background", "membrane", "spikes")


def blob(shape: tuple[int, int, int], center: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.reshape(center, (3, 1, 1, 1))
    distance = np.sqrt((grid**2).sum(0))
    return (1 / (1 + np.exp(distance - radius))).astype(np.float32)


def scene(dtype: str = "uint8") -> SoftSegmentation:
    membrane = blob((12, 20, 22), (6, 10, 11), 4) * 0.9
    spikes = blob((12, 20, 22), (6, 3, 3), 2) * 0.8
    background = 1 - np.maximum(membrane, spikes)
    return SoftSegmentation(quantise(np.stack([background, membrane, spikes]), dtype), CLASSES)


def histogram(values: np.ndarray) -> np.ndarray:
    return np.bincount(values.ravel(), minlength=256)


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_equals_the_float64_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Two populations of any sizes and widths, sparse foregrounds included.
    low, high = sorted(rng.uniform(0, 255, 2))
    n = int(rng.integers(1, 400))
    values = np.concatenate([rng.normal(low, 12, 3000), rng.normal(high, 25, n)])
    grey = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    assert automatic_threshold(histogram(grey)) == iterated_threshold(grey)  # measured: bit-equal on all


def test_a_slice_of_one_value_has_no_threshold() -> None:
    for value in (0, 7, 255):
        assert automatic_threshold(histogram(np.full((4, 4), value, np.uint8))) is None
    assert automatic_threshold(np.zeros(256)) is None


def test_a_foreground_of_one_voxel_is_found() -> None:
    # The mean rounds to 0, below which nothing lies: the printed algorithm divides by zero here.
    grey = np.zeros((200, 200), np.uint8)
    grey[5, 5] = 254
    assert automatic_threshold(histogram(grey)) == 127 / 255


def test_two_neighbouring_values_are_separated() -> None:
    grey = np.array([[3, 3, 3, 4]], np.uint8)
    assert automatic_threshold(histogram(grey)) == 4 / 255


def test_the_left_limit_is_the_mean_over_slices_with_foreground() -> None:
    soft = scene()
    tf = TransferFunction.estimate(soft)
    for index, ramp in enumerate(tf.ramps):
        votes = [iterated_threshold(plane) for plane in soft.data[index] if plane.max() >= 128]
        assert ramp.left == pytest.approx(np.mean([v for v in votes if v is not None]), abs=1e-12)
        assert len(tf.thresholds[index]) == soft.shape[0]
    assert [ramp.visible for ramp in tf.ramps] == [False, True, True]
    assert tf.raw is None


def test_empty_slices_do_not_vote() -> None:
    soft = scene()
    faint = np.random.default_rng(0).integers(0, 4, (3, 12, 20, 22)).astype(np.uint8)
    taller = SoftSegmentation(np.concatenate([soft.data, faint], axis=1), CLASSES)
    flat, tall = TransferFunction.estimate(soft), TransferFunction.estimate(taller)
    assert [r.left for r in flat.ramps] == [r.left for r in tall.ramps]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_storage_changes_the_limits_by_no_more_than_a_grey_step(dtype: str) -> None:
    bytes_, other = TransferFunction.estimate(scene()), TransferFunction.estimate(scene(dtype))
    # measured: equal; values on a rounding edge may move a threshold by a step
    assert [r.left for r in other.ramps] == pytest.approx([r.left for r in bytes_.ramps], abs=1 / 255)


def test_a_class_that_is_never_predicted_is_hidden() -> None:
    soft = scene()
    soft.data[2] = 0
    ramp = TransferFunction.estimate(soft).ramp("spikes")
    assert (ramp.visible, ramp.left) == (False, 0.5)


def test_a_weak_class_votes_when_nothing_stronger_is_there() -> None:
    soft = scene()
    soft.data[2] //= 3  # nowhere above 0.27
    ramp = TransferFunction.estimate(soft).ramp("spikes")
    assert ramp.visible and 0 < ramp.left < 0.27


def test_nan_probabilities_count_as_zero() -> None:
    soft = scene("float32")
    expected = TransferFunction.estimate(soft).ramp("membrane").left
    soft.data[1, :, 0, 0] = np.nan
    assert TransferFunction.estimate(soft).ramp("membrane").left == pytest.approx(expected, abs=1 / 255)


def test_hidden_classes_can_be_named() -> None:
    tf = TransferFunction.estimate(scene(), hidden=("membrane",))
    assert [ramp.visible for ramp in tf.ramps] == [True, False, True]


def test_the_ramp_is_equation_1() -> None:
    ramp = Ramp(left=0.2, right=1.0, opacity=0.5)
    p = np.array([0.0, 0.2, 0.6, 1.0])
    assert ramp(p) == pytest.approx([0, 0, 0.25, 0.5], abs=1e-7)


@pytest.mark.parametrize("protein", ["dark", "bright"])
def test_the_raw_ramp_inverts_dark_protein_and_spares_every_class(protein: str) -> None:
    soft = scene()
    matter = soft.data[1] / np.float32(255) + 0.6 * (soft.data[2] / np.float32(255))
    noise = np.random.default_rng(1).normal(0, 0.1, matter.shape).astype(np.float32)
    grey = (-1 if protein == "dark" else 1) * (100 * matter + noise)
    tf = TransferFunction.estimate(soft, Volume(grey), protein=protein, low_pass_sigma_vox=0.7)
    assert tf.raw is not None and tf.raw.protein == protein
    mapped = tf.raw.mapped(grey.astype(np.float32))
    for index in (1, 2):
        assert mapped[soft.data[index] > 150].mean() > 0.15  # measured 0.23 for the small, pale spikes
    assert mapped[soft.data[0] > 240].mean() < 0.05


def test_a_constant_raw_volume_multiplies_by_one() -> None:
    for protein in ("dark", "bright"):
        volume = Volume(np.full((12, 20, 22), 7, np.int8))
        tf = TransferFunction.estimate(scene(), volume, protein=protein)
        assert tf.raw is not None
        assert (tf.raw.mapped(volume.block((slice(None),) * 3)) == 1).all()


def test_mapping_by_blocks_equals_the_whole() -> None:
    rng = np.random.default_rng(3)
    grey = rng.normal(0, 1, (20, 9, 8)).astype(np.float32)
    raw = RawRamp(low_pass_sigma_vox=1.3, at_zero=2.0, at_one=-2.0)
    whole = raw.mapped(grey)
    part = raw.mapped(grey[5 - raw.halo : 12 + raw.halo])[raw.halo : raw.halo + 7]
    assert np.array_equal(part, whole[5:12])


def test_nan_voxels_do_not_spread() -> None:
    grey = np.ones((8, 8, 8), np.float32)
    grey[4, 4, 4], grey[2, 2, 2] = np.nan, np.inf
    raw = TransferFunction.estimate(
        SoftSegmentation(np.full((2, 8, 8, 8), 200, np.uint8), ("background", "a")), Volume(grey)
    ).raw
    assert raw is not None and np.isfinite(raw.mapped(grey)).all()


def test_json_round_trip(tmp_path) -> None:
    tf = TransferFunction.estimate(scene(), Volume(np.random.default_rng(0).normal(size=(12, 20, 22))))
    tf = tf.with_ramp("spikes", color=(0.1, 0.2, 0.3), opacity=0.7)
    path = tmp_path / "tf.json"
    tf.save(path)
    back = TransferFunction.load(path)
    assert (back.classes, back.ramps, back.raw) == (tf.classes, tf.ramps, tf.raw)
    assert np.array_equal(np.array(back.thresholds), np.array(tf.thresholds), equal_nan=True)
    assert [p.name for p in tmp_path.iterdir()] == ["tf.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=99), "version: expected 1, got 99"),
        (lambda c: c.update(kind="cake"), "expected a cryoet-engine transfer function"),
        (lambda c: c["classes"][1].update(left=2.0), "left: expected a number from 0 to 1, got 2.0"),
        (lambda c: c["classes"][1].update(left=True), "left: expected a number"),
        (lambda c: c["classes"][1].update(colour=[1, 1, 1]), "colour"),
        (lambda c: c["classes"][1].pop("name"), "missing 'name'"),
        (lambda c: c["classes"][1].update(color="red"), "color: expected three numbers"),
        (lambda c: c["raw"].update(at_one=c["raw"]["at_zero"]), "two different grey values"),
        (lambda c: c.pop("classes"), "missing 'classes'"),
        (lambda c: c.update(classes=3), "expected complete, valid ramps"),
    ],
)
def test_edited_json_is_checked(tmp_path, change, words: str) -> None:
    tf = TransferFunction.estimate(scene(), Volume(np.zeros((12, 20, 22))))
    path = tmp_path / "tf.json"
    tf.save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CryoETError, match=r"tf\.json") as caught:
        TransferFunction.load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CryoETError, match="expected JSON"):
        TransferFunction.load(path)
    with pytest.raises(CryoETError, match="readable file"):
        TransferFunction.load(tmp_path / "none.json")


def test_wrong_arguments_are_named() -> None:
    soft = scene()
    with pytest.raises(CryoETError, match="expected shape"):
        TransferFunction.estimate(soft, Volume(np.zeros((3, 3, 3))))
    with pytest.raises(CryoETError, match="protein"):
        TransferFunction.estimate(soft, protein="grey")  # type: ignore[arg-type]
    with pytest.raises(CryoETError, match="left < right"):
        Ramp(left=0.5, right=0.5)
    with pytest.raises(CryoETError, match="class name"):
        TransferFunction.estimate(soft).with_ramp("spices", visible=False)


def test_progress_that_raises_cancels() -> None:
    def cancel(stage: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TransferFunction.estimate(scene(), progress=cancel)


def test_histograms_count_every_voxel() -> None:
    data = np.random.default_rng(0).random((2, 40, 6, 7)).astype(np.float32)
    data[0, 0, 0, 0] = np.nan
    counts = histograms(SoftSegmentation(data, ("background", "a")))
    assert counts.shape == (2, 256) and (counts.sum(1) == 40 * 42).all()
    assert (counts[1] == np.bincount(np.rint(255 * data[1]).astype(int).ravel(), minlength=256)).all()


def test_a_class_that_fills_its_slices_evenly_is_drawn() -> None:
    data = np.zeros((3, 6, 5, 5), np.uint8)
    data[1, 2:4] = 255  # no slice has two values: no threshold, and yet it is there
    transfer = TransferFunction.estimate(SoftSegmentation(data, ("background", "slab", "nowhere")))
    assert [ramp.visible for ramp in transfer.ramps] == [False, True, False]
    assert transfer.ramp("slab").left == 0.5
