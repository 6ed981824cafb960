# SPDX-License-Identifier: MIT
"""`cryoet evaluate`: the table, the JSON, from which number the truth counts, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine.volume import SoftSegmentation, Volume

CLASSES = ("background", "membrane", "spikes", "lumen")


@pytest.fixture(scope="module")
def proba(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soft segmentation of the tomogram's truth, with the membrane moved by one voxel along x."""
    truth = io.read_volume(inputs / "truth.mrc")
    moved = np.roll(truth.numpy(), 1, 2)
    soft = np.where(moved == np.arange(1, 5)[:, None, None, None], 204, 17).astype(np.uint8)
    path = tmp_path_factory.mktemp("evaluate") / "proba.zarr"
    io.write(path, SoftSegmentation(soft, CLASSES, **truth.grid()))
    return path


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| \n").split("|")]


def test_a_table_and_the_same_as_json(inputs: Path, proba: Path, cryoet: Callable, tmp_path: Path) -> None:
    words = ("--truth", inputs / "truth.mrc", "--surface-tolerance", 1.25, "--json", tmp_path / "scores.json")
    outcome = cryoet("evaluate", proba, *words)
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert _cells(lines[0]) == [
        "class", "F1", "IoU", "F1 at 0.5", "IoU at 0.5", "surface Dice", "voxels", "found",
    ]  # fmt: skip
    rows = {cells[0]: cells[1:] for cells in map(_cells, lines[2:8])}
    assert tuple(rows) == (*CLASSES, "class mean", "by voxels")
    facts = json.loads((tmp_path / "scores.json").read_text())
    truth = io.read_volume(inputs / "truth.mrc").numpy()
    found = np.roll(truth, 1, 2)
    for k, name in enumerate(CLASSES, start=1):
        a, b = truth == k, found == k
        f1 = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert facts["f1"]["classes"][k - 1] == facts["f1_at_threshold"]["classes"][k - 1] == pytest.approx(f1)
        assert rows[name][0] == f"{f1:.3f}"
        assert rows[name][4] == "1.000"  # moved by 1 voxel of 12.5 A, which is the tolerance
        assert rows[name][5] == f"{a.sum():,}"
    assert rows["class mean"][0] == f"{facts['f1']['class_mean']:.3f}"
    assert rows["by voxels"][0] == f"{facts['f1']['weighted_mean']:.3f}" != rows["class mean"][0]
    accuracy = (truth == found).mean()
    assert facts["accuracy"] == pytest.approx(accuracy)
    assert facts["calibration_error"] == pytest.approx(abs(accuracy - 0.8), abs=1e-7)
    assert facts["truth_from"] == 1
    assert f"accuracy {accuracy:.3f}" in lines[-1]
    # A smaller tolerance is told from a larger one, and the file of an older evaluation is replaced.
    tight = cryoet("evaluate", proba, *words[:3], 1.2, "--json", tmp_path / "scores.json")
    assert tight.status == 0, tight.err
    assert json.loads((tmp_path / "scores.json").read_text())["surface_dice"]["class_mean"] < 0.9
    assert "surface" not in cryoet("evaluate", proba, *words[:2]).out


def test_from_which_number_the_truth_counts(inputs: Path, proba: Path, cryoet: Callable, tmp_path: Path) -> None:
    """As the simulator writes it: from 0, with notes longer than a label of an MRC header."""
    ones = io.read_volume(inputs / "truth.mrc")
    note = "truth of simulated virions, seed 7: " + ", ".join(f"{k} {name}" for k, name in enumerate(CLASSES))
    zeros = Volume(ones.numpy() - 1, **(ones.grid() | {"notes": (note[:80], note[80:])}))
    io.write(tmp_path / "truth.mrc", zeros)
    told = cryoet("evaluate", proba, "--truth", tmp_path / "truth.mrc")
    assert told.status == 0, told.err
    assert told.out == cryoet("evaluate", proba, "--truth", inputs / "truth.mrc").out
    io.write(tmp_path / "plain.mrc", Volume(zeros.numpy()))
    plain = ("evaluate", proba, "--truth", tmp_path / "plain.mrc")
    assert cryoet(*plain, "--truth-from", 0).out == told.out
    # Without notes 0 is unlabelled, and the rest is taken for the classes before it.
    assert cryoet(*plain).out != told.out


def test_unlabelled_voxels_are_left_out(inputs: Path, proba: Path, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet("evaluate", proba, "--truth", inputs / "strokes.mrc", "--json", tmp_path / "s.json")
    assert outcome.status == 0, outcome.err
    strokes = io.read_volume(inputs / "strokes.mrc").numpy()
    assert json.loads((tmp_path / "s.json").read_text())["voxels"] == np.bincount(strokes.ravel())[1:].tolist()


@pytest.mark.parametrize(
    ("data", "words", "says"),
    [
        (np.full((24, 48, 48), 5, np.uint8), (), "1 to 4 for background, membrane, spikes, lumen, got 5 to 5"),
        (np.full((24, 48, 48), 4, np.uint8), ("--truth-from", 0), "0 to 3 for background"),
        (np.zeros((24, 48, 48), np.uint8), (), "labelled voxels"),
        (np.ones((24, 48, 47), np.uint8), (), "shape (24, 48, 48)"),
        (np.full((24, 48, 48), 0.5, np.float32), (), "whole numbers"),
        (np.ones((24, 48, 48), np.uint8), ("--json", "scores.txt"), ".json"),
        (np.ones((24, 48, 48), np.uint8), ("--json", "mine.json"), "mine.json"),
    ],
)
def test_refuses(
    data: np.ndarray,
    words: tuple,
    says: str,
    proba: Path,
    cryoet: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"thesis": 1}')
    io.write(tmp_path / "truth.mrc", Volume(data))
    outcome = cryoet("evaluate", proba, "--truth", tmp_path / "truth.mrc", *words)
    assert outcome.status == 1
    assert len(outcome.errors) == 1
    assert says in outcome.errors[0]
    assert "internal error" not in outcome.err
    assert outcome.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.json", "truth.mrc"]
    assert (tmp_path / "mine.json").read_text() == '{"thesis": 1}'


def test_a_tolerance_is_a_length(proba: Path, cryoet: Callable) -> None:
    for text in ("-1", "wide", "nan"):
        outcome = cryoet("evaluate", proba, "--truth", "x.mrc", "--surface-tolerance", text)
        assert outcome.status == 2
        assert "a length in nm" in outcome.err


def test_losses_of_train(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    """Any sum of them by name; an unknown one, and one that does not go with the activation, are refused."""
    pair = ("--pair", inputs / "tomogram.mrc", inputs / "truth.mrc", "--classes", ",".join(CLASSES))
    quick = ("--steps", 2, "--patch", 16, "--batch", 1, "-o", tmp_path / "net")
    outcome = cryoet("train", *pair, *quick, "--loss", "adaptive_wing + 0.5*dice", "--activation", "normalised_relu")
    assert outcome.status == 0, outcome.err
    facts = json.loads((tmp_path / "net" / "model.json").read_text())
    assert facts["settings"]["loss"] == "adaptive_wing + 0.5*dice"
    assert facts["network"]["activation"] == "normalised_relu"
    wrong = cryoet("train", *pair, *quick[:-1], tmp_path / "n", "--loss", "hinge")
    assert wrong.status == 2
    assert "adaptive_wing, bce, cross_entropy, dice, mse" in wrong.err
    wrong = cryoet("train", *pair, *quick[:-1], tmp_path / "n", "--loss", "bce", "--activation", "softmax")
    assert wrong.status == 1
    assert "with activation sigmoid, got softmax" in wrong.errors[0]
    assert not (tmp_path / "n").exists()
    from cryoet_engine.training.losses import loss_names

    assert all(name in cryoet("train", "--help").out for name in loss_names())


def test_labels_of_ours_are_right_against_themselves(proba: Path, cryoet: Callable, tmp_path: Path) -> None:
    for name in ("labels.mrc", "labels.zarr"):
        assert cryoet("merge", proba, "--hard", "-o", tmp_path / name).status == 0
        outcome = cryoet("evaluate", tmp_path / name, "--truth", tmp_path / name)
        assert outcome.status == 0, outcome.err
        rows = [_cells(line)[0] for line in outcome.out.splitlines()[2:6]]
        assert tuple(rows) == CLASSES
        assert "accuracy 1.000" in outcome.out
        assert "note:" not in outcome.err


def test_a_truth_that_seems_to_count_from_zero_is_told(
    inputs: Path, proba: Path, cryoet: Callable, tmp_path: Path
) -> None:
    truth = io.read_volume(inputs / "truth.mrc")
    io.write(tmp_path / "from_zero.mrc", Volume(truth.numpy() - 1, **truth.grid() | {"notes": ()}))
    outcome = cryoet("evaluate", proba, "--truth", tmp_path / "from_zero.mrc")
    assert "has no lumen" in outcome.err
    assert "--truth-from 0" in outcome.err
    assert "note:" not in cryoet("evaluate", proba, "--truth", tmp_path / "from_zero.mrc", "--truth-from", 0).err
