# SPDX-License-Identifier: MIT
"""A small tomogram with strokes, on which every command runs in seconds."""

from __future__ import annotations

import io as text_io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine.cli import main
from cryoet_engine.volume import Volume

CLASSES = "background,membrane,spikes,lumen"
SIZE_A, ORIGIN_A = 12.5, (10.0, 20.0, 30.0)


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """What is left of stderr without progress bars: lines that start with the command's name."""
        lines = self.err.replace("\r", "\n").splitlines()
        return [line for line in lines if line.startswith("cryoet ")]


@pytest.fixture(scope="session")
def cryoet() -> Callable[..., Outcome]:
    """Run the command in this process."""

    def run(*words: object) -> Outcome:
        out, err = text_io.StringIO(), text_io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main([str(word) for word in words])
            except SystemExit as stop:  # argparse
                status = int(stop.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


def vesicle(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball with a shell and knobs in noise, protein dark, and its truth 1..4."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[:24, :48, :48]
    radius = np.sqrt((z - 12.0) ** 2 + (y - 24.0) ** 2 + (x - 24.0) ** 2)
    truth = np.ones((24, 48, 48), np.uint8)
    truth[radius < 10] = 4
    truth[(radius >= 10) & (radius < 13)] = 2
    for angle in np.arange(8) * np.pi / 4:
        knob = (z - 12.0) ** 2 + (y - 24 - 16 * np.sin(angle)) ** 2 + (x - 24 - 16 * np.cos(angle)) ** 2 < 8
        truth[knob & (truth == 1)] = 3
    grey = np.choose(truth - 1, [0.0, -40.0, -28.0, -12.0]) + rng.normal(0, 6, truth.shape)
    return grey.astype(np.float32), truth


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tomogram.mrc, strokes.mrc and truth.mrc."""
    folder = tmp_path_factory.mktemp("inputs")
    grey, truth = vesicle(0)
    strokes = np.where(np.isin(np.arange(24), (8, 12))[:, None, None], truth, 0).astype(np.uint8)
    strokes[:, ::3] = 0
    for name, data in (("tomogram", grey), ("strokes", strokes), ("truth", truth)):
        io.write(folder / f"{name}.mrc", Volume(data, voxel_size_A=SIZE_A, origin_A=ORIGIN_A))
    return folder


@pytest.fixture(scope="session")
def finished(inputs: Path, cryoet: Callable[..., Outcome], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `cryoet run` leaves."""
    out = tmp_path_factory.mktemp("run") / "out"
    outcome = cryoet(
        "run", inputs / "tomogram.mrc", "--labels", inputs / "strokes.mrc", "--classes", CLASSES, *QUICK, "-o", out
    )
    assert outcome.status == 0, outcome.err
    return out


#: Settings of a run that is over in seconds.
QUICK = ("--trees", 10, "--steps", 40, "--patch", 16, "--batch", 2, "--size", "160x90", "--frames", 1)
