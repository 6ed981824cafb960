# SPDX-License-Identifier: MIT
"""Whole tomograms on a card against the CPU, blended on the card and in memory, and where its memory ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cryoet_engine as ce
from cryoet_engine.blending import SlabBlender
from cryoet_engine.inference import segment, tomogram
from test_blend import CASES, blended, noise, shares_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")]

VOLUME = ce.Volume(np.random.default_rng(0).normal(size=(40, 60, 52)).astype(np.float32), voxel_size_A=10.0)
HOW: dict[str, Any] = {"tile": 32, "overlap": 16, "dtype": "float32", "precision": "float32", "batch": 3}
#: Of probabilities, between one order of the sums in convolutions and another. Chosen before it ran on a card.
NEAR = 1e-4


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorFloat-32, whose 10 bits are what cuDNN takes for float32 otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=["card", "memory"])
def blends_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Blend there; at the end, look whether that is where all slabs were."""
    if request.param == "card":
        pytest.importorskip("cupy")
    else:
        monkeypatch.setattr(tomogram, "_SLAB_SHARE", 0.0)
    places: list[str] = []

    def noted(*arguments: Any, device: Any, **rest: Any) -> SlabBlender:
        places.append("memory" if device is None else "card")
        return SlabBlender(*arguments, device=device, **rest)

    monkeypatch.setattr(tomogram, "SlabBlender", noted)
    yield request.param
    assert request.param in places


def network() -> Any:
    torch.manual_seed(0)
    return ce.create_model("unet3d", preset="small", out_channels=3, activation="softmax").eval()


@pytest.mark.parametrize("blend", ["trimmed", "plain", "gaussian"])
def test_a_card_gives_what_the_cpu_gives(blend: Any, blends_on: str) -> None:
    model = network()
    expected = segment(model, VOLUME, device="cpu", blend=blend, **HOW).data
    found = segment(model, VOLUME, device="cuda", blend=blend, **HOW).data
    assert np.abs(found - expected).max() < NEAR
    assert expected.std() > 10 * NEAR  # else anything would be near
    kept = segment(model, VOLUME, device="cuda", blend=blend, leave_out_slices=(5, 18), **HOW).data
    np.testing.assert_array_equal(kept[:, 5:22], found[:, 5:22])


def test_two_replicas_on_one_card_give_the_same_bits(blends_on: str) -> None:
    model = network()
    expected = segment(model, VOLUME, device="cuda", **HOW).data
    one = f"cuda:{torch.cuda.current_device()}"
    np.testing.assert_array_equal(segment(model, VOLUME, device=f"{one},{one}", **HOW).data, expected)
    mixed = segment(model, VOLUME, device=f"{one},cpu", **HOW).data
    assert np.abs(mixed - expected).max() < NEAR


def test_labels_and_the_variance_of_orientations(blends_on: str) -> None:
    model, found = network(), {}
    for device in ("cpu", "cuda"):
        labels, variance = np.zeros(VOLUME.shape, np.uint8), np.full(VOLUME.shape, np.nan, np.float32)
        maps = {"labels": labels, "variance": variance}
        data = segment(model, VOLUME, device=device, tta="turn", maps=maps, **HOW).data
        np.testing.assert_array_equal(labels, data.argmax(0) + 1)
        found[device] = data, variance
    assert np.abs(found["cuda"][0] - found["cpu"][0]).max() < NEAR
    assert np.abs(found["cuda"][1] - found["cpu"][1]).max() < NEAR * found["cpu"][1].max() ** 0.5
    assert found["cpu"][1].max() > 0


@pytest.mark.parametrize("precision", ["auto", "float16", "bfloat16"])
def test_less_precision_is_near(precision: Any, blends_on: str) -> None:
    """bfloat16 has 8 bits; on a CPU it is 0.0005 from float32."""
    model = network()
    expected = segment(model, VOLUME, device="cpu", **HOW).data
    found = segment(model, VOLUME, device="cuda", **HOW | {"precision": precision}).data
    assert np.abs(found - expected).max() < 0.02


def test_a_batch_that_finds_no_room_is_halved(blends_on: str) -> None:
    """Memory for one tile and a half of it: eight do not fit."""
    model, notes = network(), []
    volume = ce.Volume(np.random.default_rng(0).normal(size=(64, 160, 160)).astype(np.float32))
    how = HOW | {"tile": 64, "batch": 1, "device": "cuda"}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    expected = segment(model, volume, **how).data
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties().total_memory
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(1.5 * peak / total)
        found = segment(
            model,
            volume,
            progress=lambda stage, done, total, note="": notes.append(note),
            **how | {"batch": 8},
        ).data
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory ran out, tiles at a time" in "".join(notes)
    assert np.abs(found - expected).max() < NEAR


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", range(len(CASES)), ids=lambda i: f"shape{i}")
def test_tiles_are_blended_on_a_card_as_in_memory(shape: int, kind: str) -> None:
    """Values up to 2. On the emulated card: 1.8e-7."""
    pytest.importorskip("cupy")
    from cryoet_engine.cuda.device import card

    size, tile, overlap = CASES[shape]
    at, shares, _ = shares_of(size, tile, overlap, "trimmed")
    tiles = {k: torch.from_numpy(one).to(getattr(torch, kind)) for k, one in noise(at, tile, 3).items()}

    def bits(one: torch.Tensor) -> torch.Tensor:
        return one.view(torch.uint16) if kind == "bfloat16" else one

    expected, labels = blended({k: bits(one).numpy() for k, one in tiles.items()}, size, at, shares)
    there = {k: one.cuda() for k, one in tiles.items()}
    found, most = blended(there, size, at, shares, device=card("test"), sent=bits)
    assert np.abs(found - expected).max() < 1e-6
    assert (most == labels).mean() > 0.999  # of sums that are all but equal either is the largest


def test_a_tile_that_is_still_being_written_is_waited_for() -> None:
    pytest.importorskip("cupy")
    from cryoet_engine.cuda.device import card

    ones = tuple(np.ones(n, np.float32) for n in (8, 64, 64))
    for written in (False, True):
        large, tile = torch.ones((4096, 4096), device="cuda"), torch.zeros((1, 8, 64, 64), device="cuda")
        torch.cuda.synchronize()
        with SlabBlender(1, (8, 64, 64), device=card("test")) as blender, torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                large = large @ large * 1e-4
            tile.add_(large[:64, :64].clamp(0, 0) + 0.5)
            if written:
                event = torch.cuda.Event()
                event.record()
                event.synchronize()
            blender.add(tile, ones, (0, 0, 0), written=written)
            assert (blender.finish(8)[0] == 0.5).all()
