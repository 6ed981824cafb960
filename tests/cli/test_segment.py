# SPDX-License-Identifier: MIT
"""What `cryoet segment` adds to the network: maps, dust, slices left out, another voxel size, and going on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoet_engine import Volume, io
from cryoet_engine.cli._console import Bars
from cryoet_engine.refine import remove_dust

SMALL = ("--tile", 16, "--overlap", 0)  # of a volume (24, 48, 48): layers at 0 and 8


@pytest.fixture
def segment(inputs: Path, finished: Path, cryoet: Callable, tmp_path: Path) -> Callable[..., Any]:
    def run(*words: object, net: Path = finished / "net", out: str = "proba.zarr") -> Any:
        return cryoet("segment", inputs / "tomogram.mrc", "--model", net, "-o", tmp_path / out, *SMALL, *words)

    return run


def stored(path: Path) -> Any:
    found = io.read(path)
    return np.asarray(found.data[:]) if isinstance(found, Volume) else io.read_segmentation(path).data[:]


def test_maps_and_what_is_left_out(segment: Callable, tmp_path: Path) -> None:
    files = ("--labels-out", tmp_path / "labels.mrc", "--variance-out", tmp_path / "variance.zarr")
    words = (*files, "--tta", "turn", "--leave-out-slices", "2,3")
    outcome = segment(*words)
    assert outcome.status == 0, outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.mrc", "proba.zarr", "variance.zarr"]
    proba, labels, variance = (stored(tmp_path / n) for n in ("proba.zarr", "labels.mrc", "variance.zarr"))
    most = np.sort(proba, axis=0)
    sure = most[-1] > most[-2]  # rounding makes ties
    np.testing.assert_array_equal(labels[sure], proba.argmax(0)[sure] + 1)
    assert variance.dtype == np.float32
    assert 0 <= variance.min() < variance.max() <= 0.25
    for left_out in (slice(0, 2), slice(21, 24)):
        assert (proba[0, left_out] == 255).all()
        assert (labels[left_out] == 1).all()
        assert not variance[left_out].any()
    volume = io.read_volume(tmp_path / "labels.mrc")
    assert "label 2 membrane" in volume.notes
    assert volume.voxel_size_A == (12.5,) * 3
    assert volume.origin_A == (10, 20, 30)
    assert segment(*words).status == 0  # its own results may be replaced
    (tmp_path / "labels.mrc").unlink()
    io.write(tmp_path / "labels.mrc", Volume(np.zeros((2, 2, 2), np.int8)))
    assert "other data" in segment(*words).errors[0]


def test_dust_and_labels_agree(segment: Callable, tmp_path: Path) -> None:
    assert segment(out="raw.zarr").status == 0
    outcome = segment("--min-diameter", 40, "--labels-out", tmp_path / "labels.zarr")
    assert outcome.status == 0, outcome.err
    raw, clean = (io.read_segmentation(tmp_path / name) for name in ("raw.zarr", "proba.zarr"))
    expected = remove_dust(raw, min_diameter_A=400).data  # the one ball, of 34 nm
    assert (expected != raw.data[:]).any()
    np.testing.assert_array_equal(clean.data[:], expected)
    np.testing.assert_array_equal(stored(tmp_path / "labels.zarr"), expected.argmax(0) + 1)
    assert clean.grid() == raw.grid()


def test_rescaling(segment: Callable, inputs: Path, finished: Path, cryoet: Callable, tmp_path: Path) -> None:
    """The same voxels said to be half as large: a note without --rescale, and with it the same grid."""
    words = ("segment", inputs / "tomogram.mrc", "--model", finished / "net", "--voxel-size", 6.25, *SMALL)
    outcome = cryoet(*words, "-o", tmp_path / "plain.zarr")
    assert "trained on 12.5 x 12.5 x 12.5 Å: rescale it (--rescale)" in outcome.err
    outcome = cryoet(*words, "-o", tmp_path / "proba.zarr", "--rescale")
    assert outcome.status == 0, outcome.err
    assert "note" not in outcome.err
    plain, found = (io.read_segmentation(tmp_path / name) for name in ("plain.zarr", "proba.zarr"))
    assert found.grid() == plain.grid()
    assert found.shape == plain.shape
    assert (found.data[:] != plain.data[:]).any()


@pytest.mark.parametrize("words", [(), ("--min-diameter", 8, "--labels-out", "MAP")])
def test_ctrl_c_and_the_same_command_again(
    words: tuple[object, ...], segment: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tuple(tmp_path / "labels.zarr" if word == "MAP" else word for word in words)
    maps = ["labels.zarr"] if words else []
    words = (*words, "--tile", 8, "--overlap", 0)
    assert segment(*words, out="whole.zarr").status == 0
    expected = [stored(tmp_path / name) for name in ("whole.zarr", *maps)]
    reports = []

    def report(self: Bars, stage: str, done: int, total: int, note: str = "") -> None:
        reports.append((stage, done))
        if stage == "segmenting" and done == total:
            raise KeyboardInterrupt

    monkeypatch.setattr("cryoet_engine.io.omezarr._CHUNK", 8)
    monkeypatch.setattr(Bars, "__call__", report)
    outcome = segment(*words)
    assert outcome.status == 130
    assert "the same command goes on from there" in outcome.err
    assert not (tmp_path / "proba.zarr").exists()
    partial = tmp_path / "proba.zarr.partial"
    assert partial.is_dir()
    refused = segment(*words, "--blend", "plain")
    assert "interrupted run: expected the settings of this command, got another blend" in refused.errors[0]
    monkeypatch.setattr(Bars, "__call__", lambda self, stage, done, total, note="": reports.append((stage, total)))
    reports.clear()
    outcome = segment(*words)
    assert outcome.status == 0, outcome.err
    assert "resuming" in outcome.err
    assert reports[0] == ("segmenting", 36)  # one layer of three
    assert not partial.exists()
    for one, name in zip(expected, ("proba.zarr", *maps), strict=True):
        np.testing.assert_array_equal(stored(tmp_path / name), one)


def test_ctrl_c_at_once_leaves_nothing(segment: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: Bars, stage: str, done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bars, "__call__", stop)
    assert segment().status == 130
    assert not list(tmp_path.iterdir())


_KILLED = """
import os, signal, sys
from cryoet_engine.cli import main
from cryoet_engine.cli._console import Bars
from cryoet_engine.io import omezarr, Work
omezarr._CHUNK = 8
mark = Work.mark
def die(self, stage, steps):
    mark(self, stage, steps)
    os.kill(os.getpid(), signal.SIGKILL)
Work.mark = die
main(sys.argv[1:])
"""


def test_sigkill_and_the_same_command_again(
    segment: Callable, inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("segment", inputs / "tomogram.mrc", "--model", finished / "net", "-o", tmp_path / "proba.zarr", *SMALL)
    done = subprocess.run([sys.executable, "-c", _KILLED, *map(str, words)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["proba.zarr.partial"]
    outcome = segment()
    assert outcome.status == 0, outcome.err
    assert "8 of 24 slices are there" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["proba.zarr"]
    assert segment(out="whole.zarr").status == 0
    np.testing.assert_array_equal(stored(tmp_path / "proba.zarr"), stored(tmp_path / "whole.zarr"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--variance-out", "v.mrc"), "--variance-out: option: expected --tta with it"),
        (("--labels-out", "l.tif"), "--labels-out: file name: expected a name that ends in .mrc or .zarr"),
        (("--device", "cpu,gpu"), "--device: device: expected auto, cpu, cuda, cuda:N, all"),
        (("--leave-out-slices", "20,4"), "leave_out_slices: expected two whole numbers (top, bottom), under 24"),
        (("--overlap", 16), "tile, overlap"),
    ],
)
def test_refuses(words: tuple[object, ...], told: str, segment: Callable, tmp_path: Path) -> None:
    outcome = segment(*words)
    assert outcome.status == 1
    assert told in outcome.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--leave-out-slices", "3", "expected TOP,BOTTOM"),
        ("--leave-out-slices", "1,-2", "expected numbers from 0 on"),
        ("--batch", "0", "expected a whole number above 0"),
        ("--min-diameter", "0", "expected a number above 0, in nm"),
        ("--min-diameter", "nan", "expected a number above 0, in nm"),
    ],
)
def test_refuses_at_the_door(option: str, value: str, told: str, segment: Callable) -> None:
    outcome = segment(option, value)
    assert outcome.status == 2
    assert told in outcome.err


def test_a_diameter_needs_a_voxel_size(inputs: Path, finished: Path, cryoet: Callable, tmp_path: Path) -> None:
    io.write(
        tmp_path / "unknown.mrc", Volume(io.read_volume(inputs / "tomogram.mrc").numpy(), voxel_size_status="unknown")
    )
    words = ("--model", finished / "net", "--min-diameter", 5, "-o", tmp_path / "out.zarr")
    outcome = cryoet("segment", tmp_path / "unknown.mrc", *words)
    assert outcome.status == 1
    assert "--min-diameter: voxel size: expected a tomogram whose voxel size is known" in outcome.errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["unknown.mrc"]
