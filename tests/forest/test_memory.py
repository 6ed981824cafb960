# SPDX-License-Identifier: MIT
"""A memory limit is kept, whatever the volume's size, and changes no byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import FeatureSpec, PixelClassifier, Volume, io
from cryoet_engine._checks import InputError
from cryoet_engine.forest.memory import BLOCKS, bytes_of, resident_bytes
from cryoet_engine.tiling import blocks_by_chunk

TINY = FeatureSpec(filters=("GaussianSmoothing",), scales=(0.7, 1.6))

#: Runs a command, and prints the most memory that the process ever held, in bytes.
MEASURED = """
import sys
from cryoet_engine.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(status, 1024 * int(peak.split()[1]))
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4G", 4 << 30),
        ("500M", 500 << 20),
        ("1.5 GiB", 3 << 29),
        ("64k", 65536),
        ("100", 100),
        (12.7, 12),
        ("2tb", 2 << 40),
    ],
)
def test_sizes(text, value) -> None:
    assert bytes_of(text) == value


@pytest.mark.parametrize("text", ["", "4X", "-1G", "G", "nan", "0", float("inf"), True, None])
def test_sizes_that_are_none(text) -> None:
    with pytest.raises(InputError, match="4G or 500M"):
        bytes_of(text)


def test_every_voxel_is_in_one_block_and_chunks_come_whole() -> None:
    shape, seen = (70, 65, 130), np.zeros((70, 65, 130), int)
    for region, parts in blocks_by_chunk(shape, (16, 32, 200), (64, 64, 64), 5):
        inside = np.zeros(shape, int)
        for part in parts:
            inside[part.core] += 1
        assert (inside[region] == 1).all()
        assert inside.sum() == inside[region].size
        seen += inside
    assert (seen == 1).all()


def test_results_do_not_depend_on_the_limit() -> None:
    rng = np.random.default_rng(0)
    tomogram = Volume(rng.normal(size=(70, 66, 80)).astype(np.float32))
    marks = np.zeros(tomogram.shape, np.uint8)
    marks[3, ::5], marks[60, ::5] = 1, 2
    forest = PixelClassifier(3, spec=TINY, n_threads=1).fit(tomogram, marks)
    limit = resident_bytes() + (60 << 20)
    within = PixelClassifier(3, spec=TINY, n_threads=1).fit(tomogram, marks, memory=limit)
    assert all(np.array_equal(forest._tables[name], within._tables[name]) for name in forest._tables)
    plain = forest.predict_proba(tomogram).data
    blocks = []
    found = forest.predict_proba(tomogram, memory=limit, progress=lambda *told: blocks.append(told[2])).data
    assert np.array_equal(found, plain)
    for block in BLOCKS[-1:]:
        assert np.array_equal(forest.predict_proba(tomogram, block=block).data, plain)


def test_too_little_memory_names_the_least(tmp_path: Path) -> None:
    tomogram = Volume(np.zeros((8, 8, 8), np.float32))
    marks = np.zeros((8, 8, 8), np.uint8)
    marks[0], marks[1] = 1, 2
    forest = PixelClassifier(2, spec=TINY, n_threads=1).fit(tomogram, marks)
    with pytest.raises(InputError, match=r"memory: expected at least \d+M, got 1M"):
        forest.predict_proba(tomogram, memory="1M")
    with pytest.raises(InputError, match="expected at least"):
        PixelClassifier(2, spec=TINY).fit(tomogram, marks, memory="1M")
    with pytest.raises(InputError, match="one of them, got both"):
        forest.predict_proba(tomogram, memory="4G", block=8)
    # A result held in memory counts: what cannot be had says to stream.
    huge = np.broadcast_to(np.float32(0), (3000, 3000, 3000))
    with pytest.raises(InputError, match="stream the result to a file"):
        forest.predict_proba(huge, memory="2G")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_the_process_stays_under_its_limit(tmp_path: Path) -> None:
    shape, limit = (28, 1100, 1100), 112 << 20
    rng = np.random.default_rng(0)
    tile = rng.normal(size=(1, 1100, 1100)).astype(np.float32)
    with io.create_volume(tmp_path / "tomogram.mrc", shape, dtype="float32") as out:
        for z in range(shape[0]):
            out[z : z + 1, :, :] = np.roll(tile, 97 * z)
    assert (tmp_path / "tomogram.mrc").stat().st_size > 1.1 * limit
    tomogram = io.read_volume(tmp_path / "tomogram.mrc")
    marks = np.zeros(shape, np.uint8)
    marks[5, 100, ::9], marks[9, 300, ::9] = 1, 2
    spec = FeatureSpec(filters=("GaussianSmoothing",), scales=(0.7,))
    forest = PixelClassifier(1, spec=spec, n_threads=1).fit(tomogram, marks)
    forest.save(tmp_path / "F")
    words = ["pseudolabel", tmp_path / "tomogram.mrc", "--forest", tmp_path / "F", "--memory", limit]
    words += ["-o", tmp_path / "soft.zarr", "--labels-out", tmp_path / "labels.mrc"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)], capture_output=True, text=True, check=False
    )
    status, peak = done.stdout.split()[-2:]
    assert status == "0", done.stderr
    assert int(peak) < limit  # measured 91 MiB where 98 were allowed
    # What no limit gives, of a part whose far borders are out of reach.
    part, halo = (slice(0, 28), slice(0, 210), slice(0, 150)), forest.spec.halo
    labels = np.empty((28, 210, 150), np.int8)
    soft = forest.predict_proba(tomogram.crop(part), maps={"labels": labels})
    seen = (slice(0, 28), slice(0, 210 - halo), slice(0, 150 - halo))
    found = io.read_segmentation(tmp_path / "soft.zarr")
    assert np.array_equal(found.data[(slice(None), *seen)], soft.data[(slice(None), *seen)])
    assert np.array_equal(io.read_volume(tmp_path / "labels.mrc").data[seen], labels[seen])
