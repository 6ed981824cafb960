# SPDX-License-Identifier: MIT
"""Ctrl-C leaves nothing, or one partial folder that the same command resumes to the same result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine.cli._console import Bars

CLASSES = "background,membrane,spikes,lumen"
QUICK = ("--trees", 10, "--steps", 40, "--patch", 16, "--batch", 2, "--size", "160x90", "--frames", 1)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let Ctrl-C come at the n-th report of a stage whose name contains some text."""

    def arm(text: str, at: int) -> None:
        count = 0

        def report(self: Bars, stage: str, done: int, total: int, note: str = "") -> None:
            nonlocal count
            count += text in stage
            if text in stage and count == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(Bars, "__call__", report)

    return arm


@pytest.mark.parametrize("at", [1, 2])
def test_pseudolabel_leaves_nothing(
    at: int, inputs: Path, cryoet: Callable, tmp_path: Path, interrupt: Callable
) -> None:
    interrupt("", at)
    words = ("--labels", inputs / "strokes.mrc", "--classes", CLASSES, "--trees", 5, "-o", tmp_path / "soft.zarr")
    outcome = cryoet("pseudolabel", inputs / "tomogram.mrc", *words)
    assert outcome.status == 130
    assert outcome.errors == ["cryoet pseudolabel: cancelled"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("stage", "at"), [("training", 35), ("segment", 1), ("render", 1)])
def test_run_resumes_to_the_same_result(
    stage: str,
    at: int,
    inputs: Path,
    finished: Path,
    cryoet: Callable,
    tmp_path: Path,
    monkeypatch,
    interrupt: Callable,
) -> None:
    out = tmp_path / "out"
    words = (
        "run",
        inputs / "tomogram.mrc",
        "--labels",
        inputs / "strokes.mrc",
        "--classes",
        CLASSES,
        *QUICK,
        "-o",
        out,
    )
    interrupt(stage, at)
    outcome = cryoet(*words)
    assert outcome.status == 130, outcome.err
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    monkeypatch.undo()
    assert cryoet(*words, "--trees", 11).status == 1  # other settings do not mix with what is there
    outcome = cryoet(*words)
    assert outcome.status == 0, outcome.err
    assert "done before" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    for name in ("soft.zarr", "proba.zarr"):
        a, b = (io.read_segmentation(folder / name) for folder in (finished, out))
        np.testing.assert_array_equal(a.data[:], b.data[:])
    assert (finished / "picture.png").read_bytes() == (out / "picture.png").read_bytes()


def test_a_finished_run_is_not_replaced_unasked(finished: Path, inputs: Path, cryoet: Callable) -> None:
    words = ("--labels", inputs / "strokes.mrc", "--classes", CLASSES, *QUICK, "-o", finished)
    before = (finished / "report.md").stat().st_mtime_ns
    outcome = cryoet("run", inputs / "tomogram.mrc", *words)
    assert outcome.status == 1
    assert "--overwrite" in outcome.err
    assert (finished / "report.md").stat().st_mtime_ns == before
