# SPDX-License-Identifier: MIT
"""The CUDA kernels of tile blending, run by the emulation and compared with the CPU's."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated import CudaArray, EmulatedDevice

from cryoet_engine._checks import InputError
from cryoet_engine.blending import SlabBlender
from cryoet_engine.cuda import structures
from test_blend import CASES, blended, noise, shares_of

SMALL = [*CASES[:2], CASES[4]]


@pytest.fixture(params=[0, 3])
def card(kernels, request):
    used = EmulatedDevice(kernels, seed=request.param)
    yield used
    assert not used.held


def there(tile):
    return tile.view(CudaArray)


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", range(len(SMALL)), ids=lambda i: f"shape{i}")
def test_blend_on_a_card(card, shape, kind):
    """The emulation has no fused multiply-add: values up to 2 differ by 1.8e-7, after softmax by 1.2e-7."""
    size, tile, overlap = SMALL[shape]
    at, shares, _ = shares_of(size, tile, overlap, "trimmed")
    tiles = noise(at, tile, 3)
    if kind != "float32":
        kept = {"float16": torch.float16, "bfloat16": torch.bfloat16}[kind]
        halves = {k: torch.from_numpy(one).to(kept) for k, one in tiles.items()}
        as_numpy = (lambda t: t.numpy()) if kind == "float16" else (lambda t: t.view(torch.uint16).numpy())
        tiles = {k: as_numpy(one) for k, one in halves.items()}
    for how in ({}, {"softmax": True}):
        truth, classes = blended(tiles, size, at, shares, **how)
        found, labels = blended(tiles, size, at, shares, device=card, sent=there, **how)
        assert np.abs(found - truth).max() < 5e-7
        assert np.mean(labels != classes) < 1e-3
    launched = card.launches
    assert set(launched) == {f"blend_{kind}", "finish_blend"}
    assert launched.count(f"blend_{kind}") == 2 * len(tiles)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [0, 2], ids=lambda i: f"shape{i}")
def test_blend_stores_on_a_card(card, shape, dtype):
    size, tile, overlap = SMALL[shape]
    at, shares, _ = shares_of(size, tile, overlap, "gaussian")
    tiles = noise(at, tile, 2, 1)
    for how in ({}, {"softmax": True}):
        truth, _ = blended(tiles, size, at, shares, dtype=dtype, **how)
        found, _ = blended(tiles, size, at, shares, device=card, sent=there, dtype=dtype, **how)
        assert found.dtype == dtype
        different = np.mean(found != truth)  # measured: 0 and 0.006
        assert different < (1e-3 if dtype == "uint8" else 0.02)
        assert np.abs(found.astype(int) - truth).max() <= 1


def test_many_slices_channels_last_and_the_border(card):
    """More slices than are downloaded at a time; strides as torch's channels-last tensors have; tiles cut."""
    tile = np.random.default_rng(5).random((37, 7, 9, 3), np.float32).transpose(3, 0, 1, 2)
    weights = tuple(np.linspace(0, 1, n, dtype=np.float32) for n in tile.shape[1:])
    found = []
    for device, sent in ((None, tile), (card, there(tile))):
        with SlabBlender(3, (37, 12, 13), device=device) as blender:
            for at in ((0, 0, 0), (0, 3, 4), (0, 8, 9)):
                blender.add(sent, weights, at)
            found.append(blender.finish(35, labels=True))
            blender.add(sent, weights, (35, 2, 2))  # around the ring's end
            whole = np.full((3, 40, 12, 13), 7, np.float32)
            found.append(blender.finish(72, out=whole[:, 2:39]))
            assert (whole[:, [0, 1, 39]] == 7).all()
    (one, labels), (rest, _), (card_one, card_labels), (card_rest, none) = found
    assert none is None
    assert np.abs(card_one - one).max() < 5e-7
    assert np.abs(card_rest - rest).max() < 5e-7
    assert np.array_equal(card_labels, labels)
    assert np.ptp(one) > 0.5


@pytest.mark.parametrize("written", [False, True])
def test_all_work_is_waited_for_unless_a_tile_is_written(card, written, monkeypatch):
    waits, tile = [], np.full((1, 2, 3, 4), 0.5, np.float32)
    ones = tuple(np.ones(n, np.float32) for n in (2, 3, 4))
    monkeypatch.setattr(card, "synchronise", lambda: waits.append(EmulatedDevice.synchronise(card)))
    with SlabBlender(1, (2, 3, 4), device=card) as blender:
        blender.add(there(tile), ones, (0, 0, 0), written=written)
        assert len(waits) == (0 if written else 1)
        assert (blender.finish(2)[0] == 0.5).all()


def test_blending_tells_where_a_tile_has_to_lie(card):
    tile = np.zeros((1, 2, 3, 4), np.float32)
    ones = tuple(np.ones(n, np.float32) for n in (2, 3, 4))
    with (
        SlabBlender(1, (2, 3, 4), device=card) as blender,
        pytest.raises(InputError, match="expected an array on the card, got ndarray"),
    ):
        blender.add(tile, ones, (0, 0, 0))
    with pytest.raises(InputError, match="expected a numpy array, got one that lies on a card"):
        SlabBlender(1, (2, 3, 4)).add(there(tile), ones, (0, 0, 0))


def test_the_benchmark_of_a_card_runs_blending(card, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import inference as benchmark

    rows = benchmark.on_card(card, (8, 20, 30), tile=12, overlap=4, rounds=1)
    assert [one["what"] for one in rows] == ["blend, 8 x 20 x 30, 8 tiles", "finish and download, 8 x 20 x 30, 8 tiles"]
    assert all(one["mvoxel_per_s"] > 0 and one["error"] < 1e-6 for one in rows)


def test_structures_of_blending_are_the_kernels(kernels):
    sizes = (ctypes.c_int * 4)()
    for kernel, structure in (("blend_float16", structures.TileBlend), ("finish_blend", structures.BlendFinish)):
        assert getattr(kernels.library("blend"), f"sizes_{kernel}")(sizes) == 1
        assert sizes[0] == ctypes.sizeof(structure)
