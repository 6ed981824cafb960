# SPDX-License-Identifier: MIT
"""The semi-supervised route over several tomograms: on shapes simple enough to be learned in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cryoet_engine as ce
from cryoet_engine import io
from cryoet_engine._checks import InputError
from cryoet_engine.semi_supervision import (
    Hooks,
    SemiSupervisedSettings,
    confidence_thresholds,
    default_loss,
    default_targets,
    semi_supervised,
)
from cryoet_engine.training import TrainingSettings
from cryoet_engine.volume import SoftSegmentation, Volume

CLASSES = ("background", "ball", "rod")
QUICK = SemiSupervisedSettings(
    n_trees=10,
    steps=8,
    training=TrainingSettings(patch=16, batch=2, patches_per_epoch=8, device="cpu"),
    tile=32,
    overlap=8,
)


def scene(seed: int, shape: tuple[int, int, int] = (16, 32, 32), gain: float = 1.0) -> tuple[Volume, Volume, Volume]:
    """A dark ball and a darker rod in noise, strokes on three slices, the truth 1..3."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    truth = np.ones(shape, np.uint8)
    truth[(z - 8) ** 2 + (y - 10) ** 2 + (x - 10) ** 2 < 36] = 2
    truth[(abs(y - 24) < 3) & (abs(z - 8) < 5)] = 3
    grey = gain * (np.choose(truth - 1, [0.0, -20.0, -45.0]) + rng.normal(0, 5, shape))
    strokes = np.where((np.isin(z, (3, 8, 12))) & (y % 3 == 0), truth, 0).astype(np.uint8)
    return tuple(Volume(data, voxel_size_A=10.0) for data in (grey.astype(np.float32), strokes, truth))  # type: ignore[return-value]


def mean_f1(truth: Volume, found: SoftSegmentation) -> float:
    a, b = truth.numpy(), np.asarray(found.data[:]).argmax(0) + 1
    return float(np.mean([2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in (1, 2, 3)]))


def numbers(segmentation: SoftSegmentation) -> np.ndarray:
    return np.asarray(segmentation.data[:])


def test_each_tomogram_has_its_own_forest_and_all_one_network() -> None:
    """The second one's grey scale is inverted and stretched: a forest of the first would be lost on it."""
    first, second, other = scene(0), scene(1, (16, 40, 32), gain=-3.0), scene(2)
    told: list[str] = []
    result = semi_supervised(
        [first[:2], second[:2]], [other[0]], classes=CLASSES, settings=QUICK, hooks=Hooks(tell=told.append)
    )
    for (_, _, truth), soft in zip((first, second), result.pseudo_labels, strict=True):
        assert mean_f1(truth, soft) > 0.95  # 0.992, 0.988 measured
    carried = result.forests[0].predict_proba(second[0])
    assert mean_f1(second[2], carried) < 0.5  # 0.217
    assert [one.shape for one in result.segmentations] == [one[0].shape for one in (first, second, other)]
    assert all(one.classes == CLASSES for one in result.segmentations)
    assert result.drawn[0] == tuple(np.bincount(first[1].numpy().ravel())[1:])
    assert result.model.info is not None
    assert result.model.info.training_data == ("tomogram 1", "tomogram 2")
    assert len(result.rounds) == 1
    assert not told


def test_a_second_round_learns_from_all_and_differs(tmp_path: Path) -> None:
    """Its files lie beside those of the first round, which is what it would be alone."""
    first, other = scene(0), scene(3)
    seen: list[str] = []

    def stage(name: str, work: Any, reopen: Any) -> Any:
        seen.append(name)
        return work()

    settings = replace(QUICK, rounds=2)
    result = semi_supervised(
        [first[:2]], [other[0]], classes=CLASSES, settings=settings, names=("a", "b"), out=tmp_path,
        hooks=Hooks(stage=stage),
    )  # fmt: skip
    assert seen == [
        "forest: a", "pseudo labels: a", "training, round 1", "segmentation, round 1: a", "segmentation, round 1: b",
        "training, round 2", "segmentation, round 2: a", "segmentation, round 2: b",
    ]  # fmt: skip
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*") if path.suffix in (".zarr", ".json")}
    assert left == {
        "a/soft.zarr", "a/proba.zarr", "a/proba_round1.zarr", "b/proba.zarr", "b/proba_round1.zarr",
        "net/model.json", "net_round1/model.json",
    }  # fmt: skip
    before, after = (io.read_segmentation(tmp_path / "b" / name) for name in ("proba_round1.zarr", "proba.zarr"))
    assert (numbers(before) != numbers(after)).any()
    assert result.model.info is not None
    assert result.model.info.training_data == ("a", "b")
    assert len(result.rounds) == 2
    assert result.rounds[1].strokes.counts.sum() == np.count_nonzero(first[1].numpy())
    assert result.rounds[1].pseudo_labels.counts.sum() == first[0].numpy().size
    alone = semi_supervised([first[:2]], [other[0]], classes=CLASSES, settings=QUICK)
    np.testing.assert_array_equal(numbers(alone.segmentations[1]), numbers(before))


def test_an_interrupted_second_round_goes_on_to_the_same_result(tmp_path: Path) -> None:
    pair, other = scene(0)[:2], scene(3)[0]
    settings = replace(QUICK, rounds=2)
    whole = semi_supervised([pair], [other], classes=CLASSES, settings=settings)
    done: set[str] = set()

    def stage(name: str, work: Any, reopen: Any) -> Any:
        if name in done:
            return reopen()
        result = work()
        done.add(name)
        return result

    def interrupted(name: str, at: int, total: int, note: str = "") -> None:
        if "training, round 1" in done and name == "training" and at == 6:
            raise KeyboardInterrupt

    words: Any = {"classes": CLASSES, "settings": settings, "out": tmp_path, "hooks": Hooks(stage=stage)}
    with pytest.raises(KeyboardInterrupt):
        semi_supervised([pair], [other], progress=interrupted, **words)
    assert "training, round 2" not in done
    again = semi_supervised([pair], [other], **words)
    for a, b in zip(whole.segmentations, again.segmentations, strict=True):
        np.testing.assert_array_equal(numbers(a), numbers(b))
    np.testing.assert_array_equal(whole.rounds[1].strokes.counts, again.rounds[1].strokes.counts)


def test_a_class_drawn_in_one_tomogram_only() -> None:
    first, second = scene(0), scene(1)
    without = second[1].with_data(np.where(second[1].numpy() == 2, 0, second[1].numpy()))
    told: list[str] = []
    settings = replace(QUICK, n_trees=50, steps=2)
    result = semi_supervised(
        [first[:2], (second[0], without)], classes=CLASSES, settings=settings, names=("a", "b"),
        hooks=Hooks(tell=told.append),
    )  # fmt: skip
    assert len(told) == 1
    assert told[0].startswith("b: no strokes of ball")
    assert result.notes == tuple(told)
    soft = result.pseudo_labels[1]
    assert soft.classes == CLASSES
    assert not numbers(soft)[1].any()
    assert result.forests[1].classes == ("background", "rod")
    rod = second[2].numpy() == 3
    assert (numbers(soft).argmax(0) == 2)[rod].mean() > 0.75  # 0.861 measured: renumbered and back


def bad(strokes: Volume, label: int, *, keep: bool = False) -> Volume:
    """Strokes without a class, or with that alone."""
    data = strokes.numpy()
    return strokes.with_data(np.where((data == label) == keep, data, 0).astype(data.dtype))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda marks: bad(marks, 2, keep=True), ("strokes of b", "only ball")),
        (lambda marks: bad(marks, 9, keep=True), ("strokes of b", "0 everywhere")),
        (lambda marks: marks.with_data(marks.numpy() * 2), ("strokes of b", "labels 1 to 3", "got 6")),
        (lambda marks: marks.with_data(marks.numpy() * np.float32(0.5)), ("strokes of b", "whole numbers")),
        (lambda marks: marks.crop((slice(0, 8), slice(0, 32), slice(0, 32))), ("strokes of b", "(16, 32, 32)")),
    ],
)
def test_strokes_that_do_not_do_are_told_before_the_work(spoil: Any, says: tuple[str, ...]) -> None:
    first, second = scene(0), scene(1)

    def stage(name: str, work: Any, reopen: Any) -> Any:
        raise AssertionError("work began")

    with pytest.raises(InputError) as error:
        semi_supervised(
            [first[:2], (second[0], spoil(second[1]))], classes=CLASSES, names=("a", "b"), hooks=Hooks(stage=stage)
        )
    assert all(text in str(error.value) for text in says), error.value
    assert "\n" not in str(error.value)


def test_a_class_that_nobody_drew_is_named() -> None:
    pairs = [(volume, bad(marks, 2)) for volume, marks, _ in (scene(0), scene(1))]
    with pytest.raises(InputError, match="none of ball"):
        semi_supervised(pairs, classes=CLASSES)


def test_other_voxel_sizes_are_told() -> None:
    first, other = scene(0), scene(1)[0]
    told: list[str] = []

    class Stop(Exception):
        pass

    def stage(name: str, work: Any, reopen: Any) -> Any:
        raise Stop

    others = [replace(other, voxel_size_A=(20.0,) * 3), replace(other, voxel_size_A=(10.5,) * 3)]
    others.append(replace(other, voxel_size_A=(20.0,) * 3, voxel_size_status="unknown"))
    with pytest.raises(Stop):
        semi_supervised([first[:2]], others, classes=CLASSES, hooks=Hooks(stage=stage, tell=told.append))
    assert len(told) == 1
    assert "tomogram 2" in told[0]
    assert "20 x 20 x 20" in told[0]


def test_confidence_is_a_share_of_each_class() -> None:
    """Ten voxels of one class with rising probability, two of the other, less sure one: the upper half of each."""
    first = np.array([200, 205, 210, 215, 220, 225, 230, 235, 240, 245, 60, 40], np.uint8)
    soft = SoftSegmentation(np.stack([first, 255 - first]).reshape(2, 1, 3, 4), ("a", "b"))
    np.testing.assert_allclose(confidence_thresholds([soft], 0.5) * 255, [225, 215])
    np.testing.assert_allclose(confidence_thresholds([soft], 1.0) * 255, [200, 195])
    np.testing.assert_allclose(confidence_thresholds([soft, soft], 0.5) * 255, [225, 215])
    only = SoftSegmentation(np.stack([first[:4], 255 - first[:4]]).reshape(2, 1, 2, 2), ("a", "b"))
    assert confidence_thresholds([only], 0.5)[1] == 1


def test_further_rounds_learn_from_pseudo_labels_strokes_and_sure_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at the trainer's door."""
    from cryoet_engine import semi_supervision

    seen: list[list[Any]] = []
    real = semi_supervision.train

    def watched(model: Any, pairs: Any, **words: Any) -> Any:
        seen.append([(np.asarray(labels.data[:]), words["settings"]) for _, labels in pairs])
        return real(model, pairs, **words)

    monkeypatch.setattr(semi_supervision, "train", watched)
    first, other = scene(0), scene(3)
    kept: dict[str, SoftSegmentation] = {}

    def stage(name: str, work: Any, reopen: Any) -> Any:
        kept[name] = work()
        return kept[name]

    settings = replace(QUICK, rounds=2, confident_share=0.3)
    words: Any = {"classes": CLASSES, "settings": settings, "names": ("a", "b"), "hooks": Hooks(stage=stage)}
    semi_supervised([first[:2]], [other[0]], **words)
    assert [len(pairs) for pairs in seen] == [1, 2]
    assert seen[1][0][1].learning_rate == seen[0][0][1].learning_rate / 4
    labels, hit = seen[1][0][0], first[1].numpy() > 0
    np.testing.assert_array_equal(labels[:, ~hit], numbers(kept["pseudo labels: a"])[:, ~hit])
    np.testing.assert_array_equal(labels[:, hit].argmax(0) + 1, first[1].numpy()[hit])
    assert (np.sort(labels[:, hit], axis=0) == [[0], [0], [255]]).all()
    own, found = seen[1][1][0], numbers(kept["segmentation, round 1: b"])
    sure, winner = own.any(0), found.argmax(0)
    np.testing.assert_array_equal(own[:, sure], found[:, sure])
    assert 0.3 <= sure.mean() < 0.6
    for k in np.unique(winner):
        assert found[k][~sure & (winner == k)].max(initial=0) < found[k][sure & (winner == k)].min()


def test_rounds_without_a_tomogram_to_learn_from_are_told() -> None:
    told: list[str] = []
    settings = replace(QUICK, steps=1, rounds=2)
    result = semi_supervised([scene(0)[:2]], classes=CLASSES, settings=settings, hooks=Hooks(tell=told.append))
    assert len(told) == 1
    assert "only train longer" in told[0]
    assert len(result.rounds) == 2


def test_targets_are_soft_for_two_classes_and_hard_for_more() -> None:
    assert [default_targets(n) for n in (2, 3, 4)] == ["soft", "hard", "hard"]
    losses = [default_loss(n, targets)[0] for n, targets in ((2, "soft"), (2, "hard"), (4, "hard"), (4, "soft"))]
    assert losses == ["mse", *[TrainingSettings().loss] * 3]


@pytest.mark.parametrize("words", [{"rounds": 0}, {"rounds": 1.5}, {"confident_share": 0.0}, {"confident_share": 2}])
def test_settings_out_of_range(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(words))):
        SemiSupervisedSettings(**words)


def test_names_pairs_and_model_are_checked() -> None:
    volume, strokes, _ = scene(0)
    with pytest.raises(InputError, match="pairs"):
        semi_supervised([], [volume], classes=CLASSES)
    with pytest.raises(InputError, match="names"):
        semi_supervised([(volume, strokes)], [volume], classes=CLASSES, names=("a", "a"))
    with pytest.raises(InputError, match="classes"):
        semi_supervised([(volume, strokes)], classes=("a", "a", "b"))
    with pytest.raises(InputError, match="3 output channels"):
        model = ce.create_model("unet3d", preset="small", out_channels=2)
        semi_supervised([(volume, strokes)], classes=CLASSES, model=model)
    with pytest.raises(InputError, match="Volumes"):
        semi_supervised([(volume, strokes.numpy())], classes=CLASSES)  # type: ignore[list-item]


def test_it_is_a_public_name() -> None:
    assert ce.semi_supervised is ce.semi_supervised is semi_supervised
