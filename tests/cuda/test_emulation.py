# SPDX-License-Identifier: MIT
"""The emulation itself: that it runs kernels as a card would, and notices what is wrong in one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulation.launcher import HERE, ROOT, SANITIZE, Emulation, compiler, kernel_names

THREADS = 128
PLANTED = {"planted": HERE / "planted.cu"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return Emulation(tmp_path_factory.mktemp("planted"), sources=PLANTED)


def run(emulation, kernel, data, *rest, blocks=(1, 1, 1), threads=(THREADS, 1, 1), shared=0, seed=0):
    arguments = [ctypes.c_void_p(data.ctypes.data), *map(ctypes.c_int, rest)]
    emulation.launch("planted", kernel, blocks, threads, shared, *arguments, seed=seed)
    return data


def test_a_missing_barrier_shows(planted):
    data = np.arange(3 * THREADS, dtype=np.int32)
    truth = data.reshape(3, THREADS)[:, ::-1].ravel()
    for seed in range(6):
        assert np.array_equal(run(planted, "reverse", data.copy(), 1, blocks=(3, 1, 1), seed=seed), truth)
        assert not np.array_equal(run(planted, "reverse", data.copy(), 0, blocks=(3, 1, 1), seed=seed), truth)


def test_seeds_are_orders(planted):
    data = np.arange(THREADS, dtype=np.int32)
    orders = {seed: run(planted, "reverse", data.copy(), 0, seed=seed).tobytes() for seed in range(6)}
    assert len(set(orders.values())) == 6
    assert run(planted, "reverse", data.copy(), 0, seed=4).tobytes() == orders[4]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("barrier_for_some", "not all threads"),
        ("two_barriers", "different barriers"),
        ("shuffle_with_lanes_missing", "not all its lanes"),
    ],
)
def test_barriers_that_not_all_reach(planted, kernel, message, seed):
    with pytest.raises(RuntimeError, match=message):
        run(planted, kernel, np.zeros(THREADS, np.int32), seed=seed)


@pytest.mark.parametrize("seed", [0, 1])
def test_warp_operations(planted, seed):
    data = np.full((5, THREADS), -1, np.int32)
    run(planted, "warp_operations", data, seed=seed)
    i = np.arange(THREADS)
    lane, warp = i % 32, i // 32
    votes = [sum(1 << k for k in range(32) if (32 * w + k) % 3 == 0) for w in range(THREADS // 32)]
    assert np.array_equal(data[0], 32 * warp + 5)
    assert np.array_equal(data[1], np.where(lane + 3 < 32, i + 3, i))
    assert np.array_equal(data[2], np.where(lane >= 2, i - 2, i))
    assert np.array_equal(data[3].view(np.uint32), np.array(votes, np.uint32)[warp])
    assert np.array_equal(data[4], (32 * warp + np.arange(32)[:, None]).sum(axis=0))


def test_atomics(planted):
    data = run(planted, "atomics", np.zeros(3, np.int32), blocks=(3, 1, 1), seed=2)
    assert data.tolist() == [3 * THREADS, 3 * THREADS - 1, 1 - THREADS]


def test_shared_memory_is_rubbish_at_first(planted):
    data = run(planted, "untouched", np.zeros(4 * THREADS, np.int32), blocks=(2, 1, 1), shared=4 * THREADS)
    assert np.all(data.view(np.uint32) == 0xCBCBCBCB)


def test_indices(planted):
    """Blocks and threads of three axes, none of them a whole warp."""
    data = run(planted, "indices", np.full(2 * 3 * 4 * 105, -1, np.int32), blocks=(2, 3, 4), threads=(7, 5, 3), seed=1)
    assert np.array_equal(data, np.arange(data.size))


@pytest.mark.parametrize(
    ("blocks", "threads"),
    [
        ((0, 1, 1), (1, 1, 1)),
        ((1, 65536, 1), (1, 1, 1)),
        ((1, 1, 65536), (1, 1, 1)),
        ((1, 1, 1), (1025, 1, 1)),
        ((1, 1, 1), (1, 1, 65)),
    ],
)
def test_limits_of_a_launch(planted, blocks, threads):
    with pytest.raises(RuntimeError, match=r"a grid has|a block has"):
        run(planted, "indices", np.zeros(4, np.int32), blocks=blocks, threads=threads)


def test_arguments_of_another_size_are_refused(planted):
    with pytest.raises(RuntimeError, match="takes arguments of"):
        planted.launch("planted", "atomics", (1, 1, 1), (1, 1, 1), 0, ctypes.c_int(1))


@pytest.fixture(scope="module")
def sanitized():
    """The environment in which a process finds AddressSanitizer; what it has loaded must come first."""
    found = [
        subprocess.run([compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    libraries = [path.strip() for path in found]
    if not all(Path(path).is_absolute() for path in libraries):
        pytest.skip("this compiler has no libasan and libubsan")
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    return {**os.environ, "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": options, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def sanitized_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    Emulation(folder, *SANITIZE, sources=PLANTED).build("planted")
    return folder


@pytest.mark.parametrize("where", ["global", "shared", "row", "dynamic"])
@pytest.mark.parametrize("n", [THREADS - 1, THREADS])
def test_a_read_beyond_the_end_is_named(sanitized, sanitized_folder, where, n):
    script = (
        "import ctypes, sys\n"
        "from pathlib import Path\n"
        "from emulation.launcher import Emulation\n"
        "emulation = Emulation(Path(sys.argv[1]))\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype = ctypes.c_void_p\n"
        f"data = ctypes.c_void_p(libc.malloc(4 * {THREADS}))\n"
        f"arguments = (data, ctypes.c_int({n}))\n"
        f"emulation.launch('planted', 'beyond_{where}', (1, 1, 1), ({THREADS}, 1, 1), 4 * {THREADS}, *arguments)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(sanitized_folder)],
        env={**sanitized, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
    )
    line = next(
        i for i, text in enumerate(PLANTED["planted"].read_text().splitlines(), 1) if f"planted: {where}" in text
    )
    if n < THREADS:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert f"planted.cu:{line}" in done.stderr


def test_every_kernel_under_the_sanitizers(sanitized, tmp_path):
    """No read or write beyond an array, no overflow, no misaligned access, in any kernel of csrc/ops."""
    launched = tmp_path / "launched"
    chosen = (
        "test_symmetric or test_multiply or test_combine or test_histogram or test_keys or (test_clahe and shape0)"
        " or (test_box_of_a_volume and 1-convolve) or (test_core_of_a_volume and core3-1) or test_axes_shorter"
        " or (test_bit_for_bit and 5-1) or (test_bricks and shape2) or test_whole_numbers or (test_bilateral and 1.0)"
        " or (project_on_a_card and 0) or (test_blend and shape0) or (test_pack and shape0) or (test_low_pass and 2.5)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/cuda", "-k", chosen],
        env={**sanitized, "CRYOET_SANITIZED_KERNELS": str(launched)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted((ROOT / "csrc" / "ops").glob("*.cu"))
    assert set(launched.read_text().split()) == {name for file in files for name in kernel_names(file)}
