# SPDX-License-Identifier: MIT
"""benchmarks/gpu_pixel_classification.py runs, on a card that is not one; its figures mean nothing here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulated import EmulatedDevice

from cryoet_engine import FeatureSpec, PixelClassifier
from cryoet_engine.cuda import device
from cryoet_engine.cuda.forest import CardTables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
#: What a machine with a card may lack.
FILES = ("mrcfile", "zarr", "moderngl", "safetensors", "h5py", "tifffile", "PIL", "tqdm")


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_pixel_classification

    return gpu_pixel_classification


def test_every_row(benchmark_module, kernels, monkeypatch, capsys):
    used = EmulatedDevice(kernels)
    monkeypatch.setattr(device, "card", lambda where: used)
    rows = benchmark_module.measure(used, edges=(8,), whole=(9, 12, 10), trees=3, trained=24, rounds=1)
    assert not used.held
    assert [one["what"].split(",")[0] for one in rows] == ["features", "forest"] + 4 * ["streamed"]
    assert all(one["best_s"] > 0 and one["bytes_per_voxel"] > 0 for one in rows)
    assert set(rows[0]["kernels_s"]) == {"convolve_z", "convolve_y", "convolve_x", "stage_two"}
    assert rows[1]["node_visits_per_voxel"] > 2 * 3


def test_operations_and_visits_are_counted(benchmark_module):
    moved, operations = benchmark_module.bytes_and_operations(FeatureSpec())
    assert moved == 7 * 28 + 244
    assert operations == 2 * 471 + 6 * 750  # scale 0.3 has no stencils to speak of
    volume, marks = benchmark_module.tomogram((20, 20, 20))
    made = PixelClassifier(4, n_threads=1).fit(volume, marks)
    rows = np.random.default_rng(0).normal(size=(50, 61)).astype(np.float32)
    trained = CardTables.of(made._tables)
    visits = 0
    for tree in range(4):
        start = trained.tree_start[tree]
        for one in rows:
            at = start
            visits += 1
            while trained.nodes["link"][at] & 255 != 255:
                feature, child = trained.nodes["link"][at] & 255, trained.nodes["link"][at] >> 8
                at = start + child + (one[feature] > trained.nodes["threshold"][at])
                visits += 1
    assert benchmark_module.node_visits(trained, rows) == visits / 50


def test_it_needs_no_file_libraries():
    missing = "".join(f"sys.modules[{name!r}] = None;" for name in FILES)
    code = (
        f"import sys; {missing} import gpu_pixel_classification as g; print(g.PixelClassifier, 'cupy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("PixelClassifier'> False")
