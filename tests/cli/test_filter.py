# SPDX-License-Identifier: MIT
"""cryoet filter: steps in their order, the grid kept, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import filters, intensity, io
from cryoet_engine.cli._console import Bars


@pytest.mark.parametrize("name", ["out.mrc", "out.zarr", "new/folder/out.h5"])
def test_low_pass_and_inversion(name: str, inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    out = tmp_path / name
    outcome = cryoet("filter", inputs / "tomogram.mrc", "-o", out, "--low-pass", 50, "--invert")
    assert outcome.status == 0, outcome.err
    before, found = io.read_volume(inputs / "tomogram.mrc"), io.read_volume(out)
    assert np.array_equal(found.numpy(), filters.invert(filters.low_pass(before, resolution_A=50)).data)
    assert (found.voxel_size_A, found.origin_A, found.start) == (before.voxel_size_A, before.origin_A, before.start)
    assert "cryoet filter --low-pass 50 --invert" in found.notes
    assert found.dtype == np.float32


def test_the_order_given_is_the_order_done(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    tomogram = io.read_volume(inputs / "tomogram.mrc")
    words = {
        "a": ("--normalise", "2,98", "--low-pass", "1.5vox", "--invert"),
        "b": ("--invert", "--low-pass", "1.5vox", "--normalise", "2,98"),
    }
    found = {}
    for name, steps in words.items():
        out = tmp_path / f"{name}.mrc"
        assert cryoet("filter", tomogram_path := inputs / "tomogram.mrc", "-o", out, *steps).status == 0
        assert tomogram_path.exists()
        found[name] = io.read_volume(out).numpy()
    low_high = intensity.percentile_range(tomogram, 2, 98)
    truth = filters.invert(filters.low_pass(intensity.normalise(tomogram, low_high), 1.5))
    assert np.array_equal(found["a"], truth.data)
    smooth = filters.low_pass(filters.invert(tomogram), 1.5)
    assert np.array_equal(found["b"], intensity.normalise(smooth, intensity.percentile_range(smooth, 2, 98)).data)


def test_bilateral_then_clahe_then_min_max(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    steps = ("--bilateral", "1,12", "--clahe", "16,0.02", "--clahe-slices", 24, "--normalise", "min-max")
    assert cryoet("filter", inputs / "tomogram.mrc", "-o", tmp_path / "out.mrc", *steps).status == 0
    v = filters.bilateral(io.read_volume(inputs / "tomogram.mrc"), sigma_vox=1, sigma_range=12)
    v = intensity.clahe(v, intensity.percentile_range(v, 0.1, 99.9), tile_vox=16, clip_limit=0.02)
    v = intensity.clahe(v, intensity.percentile_range(v, 0.1, 99.9), tile_vox=24, slice_wise=True)
    v = intensity.normalise(v, intensity.min_max(v))
    assert np.array_equal(io.read_volume(tmp_path / "out.mrc").numpy(), v.data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mrc"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "steps"),
        (("--low-pass", "10"), "two voxels"),
        (("--low-pass", "ten"), "expected 1 number"),
        (("--low-pass", "0"), "above 0"),
        (("--bilateral", "1"), "expected 2 numbers"),
        (("--bilateral", "0,5"), "sigma_vox"),
        (("--bilateral", "1,nan"), "sigma_range"),
        (("--clahe", "8.5"), "whole voxels"),
        (("--clahe", "nan"), "whole voxels"),
        (("--clahe", "8,2"), "clip_limit"),
        (("--normalise", "60,40"), "low < high"),
        (("--normalise", "all"), "expected 2 numbers"),
    ],
)
def test_wrong_steps(words: tuple[str, ...], says: str, inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    outcome = cryoet("filter", inputs / "tomogram.mrc", "-o", tmp_path / "o.mrc", *words)
    assert outcome.status in (1, 2)
    assert len(outcome.errors) == 1
    assert says in outcome.errors[0]
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_refused(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    tomogram, taken = inputs / "tomogram.mrc", tmp_path / "taken.mrc"
    before = tomogram.read_bytes()
    taken.write_text("years of work")
    for out, says in ((tomogram, "input"), (taken, "--overwrite"), (tmp_path / "o.png", ".mrc")):
        outcome = cryoet("filter", tomogram, "-o", out, "--invert")
        assert outcome.status == 1
        assert says in outcome.errors[0]
    assert taken.read_text() == "years of work"
    assert cryoet("filter", tomogram, "-o", tomogram, "--invert", "--overwrite").status == 1
    assert tomogram.read_bytes() == before
    assert cryoet("filter", tomogram, "-o", taken, "--invert", "--overwrite").status == 0
    assert np.array_equal(io.read_volume(taken).numpy(), -io.read_volume(tomogram).numpy())


def test_a_constant_volume_cannot_be_normalised(inputs: Path, cryoet: Callable, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mrc"
    io.write(flat, io.read_volume(inputs / "tomogram.mrc").with_data(np.ones((4, 5, 6), np.float32)))
    outcome = cryoet("filter", flat, "-o", tmp_path / "o.mrc", "--normalise", "min-max")
    assert outcome.status == 1
    assert "one grey value" in outcome.errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flat.mrc"]


@pytest.mark.parametrize("stage", ["filter", "percentiles", "tile histograms", "write"])
def test_cancelling_leaves_nothing(
    stage: str, inputs: Path, cryoet: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(self: Bars, name: str, done: int, total: int, note: str = "") -> None:
        if name == stage:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bars, "__call__", report)
    outcome = cryoet("filter", inputs / "tomogram.mrc", "-o", tmp_path / "o.mrc", "--invert", "--clahe", 16)
    assert outcome.status == 130
    assert outcome.errors == ["cryoet filter: cancelled"]
    assert not list(tmp_path.iterdir())
