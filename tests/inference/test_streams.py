# SPDX-License-Identifier: MIT
"""Reading, computing and writing at the same time, on several devices, in batches that fit: the bits stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cryoet_engine import CryoETError, Volume
from cryoet_engine.inference import choose_devices, replica, segment, tomogram
from cryoet_engine.inference.replica import automatic_batch
from cryoet_engine.models import create_model
from cryoet_engine.models.device import number_type
from cryoet_engine.models.summary import inference_memory

pytestmark = pytest.mark.usefixtures("no_thread_left")

HOW: dict[str, Any] = {"tile": 10, "overlap": 4, "dtype": "float32", "batch": 1}
TILES = 3 * 4 * 3  # of a volume (20, 26, 22): a layer has 12


class Watched:
    """Voxels that tell when a part of them is read, statistics' slices left out."""

    def __init__(self, voxels: Any, tell: Callable[[], None]) -> None:
        self.shape, self.dtype = voxels.shape, voxels.dtype
        self._voxels, self._tell = voxels, tell

    def __getitem__(self, key: Any) -> Any:
        part = self._voxels[key]
        if part.shape[0] > 1:
            self._tell()
        return part


def hooked(model: Any, tell: Callable[[Any], None]) -> Any:
    """A network that tells of each batch before it computes."""
    forward = model.forward

    def told(x: torch.Tensor) -> torch.Tensor:
        tell(x)
        out: torch.Tensor = forward(x)
        return out

    model.forward = told
    return model


def test_the_next_tile_is_read_while_one_is_computed(network: Callable, volume: Volume) -> None:
    """The network waits until the reader is one tile further, which it is only beside it; and not far ahead."""
    read, computed, lead = threading.Semaphore(0), 0, []
    reads = 0

    def reading() -> None:
        nonlocal reads
        reads += 1
        lead.append(reads - computed)
        read.release()

    def computing(_: Any) -> None:
        nonlocal computed
        computed += 1
        if computed == 1:
            assert read.acquire(timeout=20)
        if computed < TILES:
            assert read.acquire(timeout=20)

    model = network("test_pointwise")
    expected = segment(model, volume, **HOW).data
    found = segment(hooked(model, computing), volume.with_data(Watched(volume.data, reading)), **HOW)
    np.testing.assert_array_equal(found.data, expected)
    assert computed == reads == TILES
    assert max(lead) <= 3  # tiles in memory


def test_slices_are_written_while_the_next_layer_is_computed(network: Callable, volume: Volume, recorder: Any) -> None:
    computed = threading.Semaphore(0)

    class Slow(recorder):  # type: ignore[misc]
        def __setitem__(self, key: Any, value: Any) -> None:
            if key[-3].stop < self.shape[1]:  # nothing is computed beside the last slices
                for _ in range(12 + 1 if key[-3].start == 0 else 12):
                    assert computed.acquire(timeout=20)
            super().__setitem__(key, value)

    model = network("test_pointwise")
    expected = segment(model, volume, **HOW).data
    out = Slow((2, *volume.shape), np.float32)
    segment(hooked(model, lambda _: computed.release()), volume, out=out, **HOW)
    np.testing.assert_array_equal(out.data, expected)
    assert [z.start for z in out.written] == [0, 6, 10]


def failing(at: int, error: type[BaseException]) -> Callable[..., None]:
    count = 0

    def fail(*_: Any, **__: Any) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise error("on purpose")

    return fail


@pytest.mark.parametrize("where", ["reading", "computing", "writing", "progress"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_ends_all_threads(
    where: str, error: type[BaseException], network: Callable, volume: Volume, recorder: Any
) -> None:
    model, out, how = network("test_pointwise").train(), recorder((2, *volume.shape), np.float32), dict(HOW)
    fail = failing(2, error)
    if where == "reading":
        volume = volume.with_data(Watched(volume.data, fail))
    elif where == "computing":
        hooked(model, fail)
    elif where == "progress":
        how["progress"] = fail
    else:

        class Full(recorder):  # type: ignore[misc]
            def __setitem__(self, key: Any, value: Any) -> None:
                fail()
                super().__setitem__(key, value)

        out = Full((2, *volume.shape), np.float32)
    with pytest.raises(error, match="on purpose"):
        segment(model, volume, out=out, **how)
    assert model.training  # as it was; that no thread is left is looked at after each test


@pytest.mark.parametrize("devices", ["cpu,cpu", "cpu, cpu,cpu"])
def test_several_replicas_give_the_same_bits(devices: str, network: Callable, volume: Volume) -> None:
    model = network("unet3d", classes=3)
    how: dict[str, Any] = {"tile": 16, "overlap": 8, "dtype": "float32"}
    expected = segment(model, volume, device="cpu", **how).data
    found = segment(model, volume, device=devices, **how).data
    np.testing.assert_array_equal(found, expected)


def test_batches_are_handed_out_in_turn(network: Callable, volume: Volume) -> None:
    """Two networks each wait for the other: one alone would wait for ever."""
    meeting = threading.Barrier(2, timeout=20)
    model = hooked(network("test_pointwise"), lambda _: meeting.wait())
    segment(model, volume, device="cpu,cpu", **HOW)  # copies keep the hook
    assert not meeting.broken


def test_precision(network: Callable, volume: Volume) -> None:
    """bfloat16 has 8 bits; measured: 0.0005 from float32."""
    model = network("unet3d")
    how: dict[str, Any] = {"tile": 16, "overlap": 8, "dtype": "float32"}
    exact = segment(model, volume, **how).data
    np.testing.assert_array_equal(segment(model, volume, precision="float32", device="cpu", **how).data, exact)
    rounded = segment(model, volume, precision="bfloat16", device="cpu", **how).data
    assert 1e-6 < np.abs(rounded - exact).max() < 0.02
    with pytest.raises(CryoETError, match="precision: expected auto or float32 or bfloat16 or float16"):
        segment(model, volume, precision="half", **how)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = 2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert [str(one) for one in choose_devices("all", where="x")] == ["cuda:0", "cuda:1"]
    assert [str(one) for one in choose_devices("cuda:1, cpu", where="x")] == ["cuda:1", "cpu"]
    # By its number: the threads that compute would take the first for "the current one".
    assert [str(one) for one in choose_devices("auto", where="x")] == ["cuda:1"]
    assert [str(one) for one in choose_devices("cuda,cuda:0", where="x")] == ["cuda:1", "cuda:0"]
    for name, told in (("cuda:2", "cuda:0 to cuda:1"), ("gpu", "auto, cpu, cuda, cuda:N"), ("cpu:0", "cuda:0")):
        with pytest.raises(CryoETError, match=told):
            choose_devices(name, where="x")
    cards = 0
    for name in ("all", "cuda", "cuda:0"):
        with pytest.raises(CryoETError, match="device"):
            choose_devices(name, where="x")


@pytest.mark.parametrize("error", ["torch", "cpu", "python"])
def test_less_memory_makes_smaller_batches(error: str, network: Callable, volume: Volume) -> None:
    """Room for two tiles: batches of seven become three, then one; one at a time is what fits for sure."""
    errors = {
        "torch": torch.OutOfMemoryError("CUDA out of memory"),
        "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        "python": MemoryError(),
    }
    sizes, notes = [], []

    def computing(x: Any) -> None:
        sizes.append(len(x))
        if len(x) > 2:
            raise errors[error]

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        notes.append(note)

    model = network("test_pointwise")
    expected = segment(model, volume, **HOW | {"batch": 7}).data
    found = segment(hooked(model, computing), volume, progress=progress, **HOW | {"batch": 7}).data
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sizes[:3] == [7, 3, 1]
    assert set(sizes[2:]) == {1}
    assert [note for note in notes if note] == ["memory ran out, tiles at a time: 1"]


def test_no_room_for_a_single_tile(network: Callable, volume: Volume) -> None:
    def computing(x: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = hooked(network("test_pointwise"), computing)
    with pytest.raises(CryoETError, match="memory: expected room for a tile of 10 x 10 x 10 on cpu, got none left"):
        segment(model, volume, **HOW | {"batch": 4})

    def broken(x: Any) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        segment(hooked(network("test_pointwise"), broken), volume, **HOW)


def test_the_batch_is_what_half_of_the_memory_holds(network: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("unet3d")
    tile = (72, 64, 64)
    with torch.device("meta"):
        one = inference_memory(create_model("unet3d", preset="small", out_channels=2, activation="softmax"), tile)
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    free = {0: 7 * one, 1: 100 * one}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 10**12))
    assert automatic_batch(model, tile, [cuda], layer=100) == 3
    free[0] = one
    assert automatic_batch(model, tile, [cuda], layer=100) == 1
    free[0] = 1000 * one
    assert automatic_batch(model, tile, [cuda], layer=100) == 16
    assert automatic_batch(model, tile, [cuda, torch.device("cuda", 1)], layer=9) == 5
    monkeypatch.setattr(replica, "total_bytes", lambda: 5 * one)
    assert automatic_batch(model, tile, [cpu], layer=100) == 2
    assert automatic_batch(model, tile, [cpu, cpu], layer=100) == 1
    assert automatic_batch(model, (64,) * 3, [cpu, cpu], layer=100) == 2  # not looked at
    assert automatic_batch(model, (64,) * 3, [cpu], layer=1) == 1
    assert automatic_batch(model, tile, [cpu, cuda], layer=100) == 2


def test_slabs_lie_on_the_card_that_computes_where_it_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    current, there = 1, SimpleNamespace(number=1, free_bytes=lambda: 1000)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(tomogram.card, "choose_device", lambda name, where: there)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    in_memory = (None, torch.device("cpu"))
    assert tomogram._blending_place([second, first], 500) == (there, second)
    assert tomogram._blending_place([second, first], 501) == in_memory
    assert tomogram._blending_place([first, second], 1) == in_memory  # CuPy has another card
    assert tomogram._blending_place([torch.device("cpu"), second], 1) == in_memory
    current = 0
    assert tomogram._blending_place([second], 1) == in_memory
    monkeypatch.setattr(tomogram.card, "choose_device", lambda name, where: None)
    assert tomogram._blending_place([second], 1) == in_memory


def test_automatic_precision_is_bfloat16_where_the_card_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch emulates it on older cards: that works, more slowly than float32."""
    asked: list[torch.device] = []
    current = nullcontext()

    def enter(device: torch.device) -> Any:
        asked.append(device)
        return current

    new = True
    monkeypatch.setattr(torch.cuda, "device", enter)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or new)
    card = torch.device("cuda", 1)
    assert number_type("auto", card) == torch.bfloat16
    new = False
    assert number_type("auto", card) == torch.float32
    assert number_type("bfloat16", card) == torch.bfloat16  # who asks for it gets it
    assert number_type("auto", torch.device("cpu")) == torch.float32
    assert asked == [card, card]  # not the thread's current one


def test_chunked_stores_get_whole_chunks_and_maps_first(network: Callable, volume: Volume, recorder: Any) -> None:
    model = network("test_pointwise")
    order: list[tuple[str, int]] = []

    def store(name: str, shape: Any, chunks: Any = None) -> Any:
        class Noting(recorder):  # type: ignore[misc]
            def __setitem__(self, key: Any, value: Any) -> None:
                order.append((name, key[-3].start))
                super().__setitem__(key, value)

        return Noting(shape, np.uint8, chunks)

    out, labels = store("out", (2, *volume.shape), (1, 8, 64, 64)), store("labels", volume.shape)
    segment(model, volume, out=out, maps={"labels": labels}, tile=10, overlap=4)
    assert order == [("labels", 0), ("out", 0), ("labels", 8), ("out", 8)]  # layers end at 6, 10 and 20
    expected = segment(model, volume, tile=10, overlap=4).data
    np.testing.assert_array_equal(out.data, expected)
    exact = segment(model, volume, **HOW).data
    np.testing.assert_array_equal(labels.data, exact.argmax(0) + 1)
    assert set(np.unique(labels.data)) == {1, 2}


@pytest.mark.parametrize("first", [0, 1, 6, 9, 10, 15, 19, 20])
@pytest.mark.parametrize("blend", ["trimmed", "plain", "gaussian"])
def test_goes_on_where_it_was_interrupted(
    first: int, blend: Any, network: Callable, volume: Volume, recorder: Any
) -> None:
    model = network("unet3d")
    how: dict[str, Any] = {"tile": 8, "overlap": 4, "blend": blend}
    whole = segment(model, volume, **how).data
    out = recorder((2, *volume.shape))
    found = segment(model, volume, out=out, first_slice=first, **how)
    np.testing.assert_array_equal(found.data.data[:, first:], whole[:, first:])
    assert (found.data.data[:, :first] == 77).all()


def test_slices_left_out(network: Callable, volume: Volume) -> None:
    """They are background for sure; the others keep their bits; layers that only they need are not computed."""
    model = network("test_pointwise", classes=3)
    whole = segment(model, volume, **HOW).data
    labels, steps = np.zeros(volume.shape, np.uint8), []
    found = segment(
        model,
        volume,
        leave_out_slices=(10, 3),
        maps={"labels": labels},
        progress=lambda stage, done, total, note="": steps.append(total),
        **HOW,
    ).data
    np.testing.assert_array_equal(found[:, 10:17], whole[:, 10:17])
    for part in (slice(0, 10), slice(17, 20)):
        assert (found[0, part] == 1).all()
        assert not found[1:, part].any()
        assert (labels[part] == 1).all()
    assert set(steps) == {TILES - 12}  # layers are slices 0 to 9, 6 to 15 and 10 to 19
    for wrong in ((20, 0), (10, 10), (-1, 0), (1,), 3):
        with pytest.raises(CryoETError, match="leave_out_slices: expected two whole numbers"):
            segment(model, volume, leave_out_slices=wrong, **HOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("blend", ["trimmed", "gaussian"])
def test_slices_that_are_kept_keep_their_bits_wherever_the_others_end(
    rescale: bool, blend: Any, network: Callable
) -> None:
    """Trimmed tiles weigh nothing at their ends: a layer may begin in a wanted slice and add nothing to any."""
    model = network("unet3d", voxel_size_A=12)
    volume = Volume(np.random.default_rng(0).normal(size=(40, 8, 8)).astype(np.float32), voxel_size_A=10.0)
    how: dict[str, Any] = {"tile": 16, "overlap": 8, "dtype": "float32", "blend": blend, "rescale": rescale}
    whole = segment(model, volume, **how).data
    assert whole[0].max() < 0.95  # else background would look like a result
    for top, bottom in [*((n, 0) for n in range(40)), *((0, n) for n in range(40)), (3, 14), (13, 11), (19, 20)]:
        kept = slice(top, 40 - bottom)
        found = segment(model, volume, leave_out_slices=(top, bottom), **how).data
        np.testing.assert_array_equal(found[:, kept], whole[:, kept], err_msg=f"without {top} and {bottom}")
        assert (np.delete(found[0], np.r_[kept], axis=0) == 1).all()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"maps": {"entropy": np.zeros((20, 26, 22))}}, "maps: expected labels or variance, got 'entropy'"),
        ({"maps": {"labels": np.zeros((20, 26, 21))}}, r"maps\['labels'\]: expected shape \(z, y, x\)"),
        ({"first_slice": 21}, "first_slice: expected a slice, 0 to 20"),
        ({"batch": "many"}, "batch: expected auto, or a whole number"),
        ({"device": "cpu,gpu"}, "device"),
    ],
)
def test_refuses(how: dict[str, Any], told: str, network: Callable, volume: Volume) -> None:
    with pytest.raises(CryoETError, match=told):
        segment(network("test_pointwise"), volume, **how)


def test_a_classifier_does_not_segment(volume: Volume) -> None:
    with pytest.raises(CryoETError, match="cam3d"):
        segment(create_model("cam3d", preset="small", out_channels=2), volume)
