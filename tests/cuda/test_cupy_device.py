# SPDX-License-Identifier: MIT
"""CupyDevice, with what it asks of CuPy done by numpy and the emulation.

Shown: what is passed where, and that nothing is kept. Not shown: that CuPy and a card do the same.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from emulated import CudaArray

from cryoet_engine import FeatureSpec, PixelClassifier, feature_stack
from cryoet_engine._checks import InputError
from cryoet_engine.cuda import device, source, structures

CAPACITY = 64 << 20
SMALL = FeatureSpec(filters=("GaussianSmoothing", "HessianOfGaussianEigenvalues"), scales=(0.3, 1.6))


class Array(CudaArray):
    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


@pytest.fixture
def card(kernels, monkeypatch):
    """CuPy as far as CupyDevice uses it; `held`: bytes of the card in use. Structures travel as bytes."""
    card = SimpleNamespace(held=0, raised=set(), events=0)

    class OutOfMemoryError(MemoryError):
        pass

    class Memory:
        def __init__(self, n_bytes):
            if card.held + n_bytes > CAPACITY:
                raise OutOfMemoryError("Out of memory")
            self._bytes, self.n_bytes = np.full(n_bytes, 0xFF, np.uint8), n_bytes
            self.ptr = self._bytes.ctypes.data
            card.held += n_bytes

        def __del__(self):
            card.held -= getattr(self, "n_bytes", 0)

    class Stream:
        ptr = 7

        def __init__(self, non_blocking):
            assert non_blocking

        def __enter__(self):
            card.current = self

        def __exit__(self, *error):
            card.current = None

        def wait_event(self, event):
            card.events += 1

    class Kernel:
        max_dynamic_shared_size_bytes = 48 << 10

        def __init__(self, file, name):
            self.file, self.name = file, name
            (self.kind,) = [
                kind
                for kind in vars(structures).values()
                if isinstance(kind, type)
                and issubclass(kind, ctypes.Structure)
                and kind.__doc__
                and any(self.name.startswith(one.strip(" .*\n")) for one in kind.__doc__.split(","))
                and (self.name.endswith("_2") == kind.__name__.endswith("2"))
            ]

        def __call__(self, grid, block, arguments, *, shared_mem):
            assert isinstance(card.current, Stream)
            assert shared_mem <= self.max_dynamic_shared_size_bytes
            (job,) = arguments
            assert isinstance(job, np.ndarray)
            structure = self.kind.from_buffer_copy(job.tobytes())
            kernels.launch(self.file, self.name, grid, block, shared_mem, structure)

    class RawModule:
        def __init__(self, *, code, options):
            (self.file,) = [name for name in source.source_names() if source.compose(name) == code]
            assert options == source.COMPILE_OPTIONS

        def get_function(self, name):
            return Kernel(self.file, name)

    def memcpy(to, start, n_bytes, kind, stream):
        assert stream == Stream.ptr
        ctypes.memmove(to, start, n_bytes)

    cupy = ModuleType("cupy")
    runtime = SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        getDeviceProperties=lambda number: {"name": b"none such", "sharedMemPerBlockOptin": 99 << 10},
        memGetInfo=lambda: (CAPACITY - card.held, CAPACITY),
        memcpyAsync=memcpy,
        memcpyHostToDevice=1,
        memcpyDeviceToHost=2,
        memcpyDeviceToDevice=3,
        deviceSynchronize=lambda: None,
    )
    cupy.cuda = SimpleNamespace(
        is_available=lambda: True,
        Device=lambda: SimpleNamespace(id=0),
        Memory=Memory,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        PinnedMemory=bytearray,
        PinnedMemoryPointer=lambda memory, offset: memory,
        Stream=Stream,
        Event=lambda disable_timing: SimpleNamespace(record=lambda stream: None, synchronize=lambda: None),
        runtime=runtime,
    )
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_all_blocks=lambda: None)
    cupy.RawModule = RawModule
    cupy.empty = lambda shape, dtype: np.empty(shape, dtype).view(Array)
    cupy.asarray = lambda array: np.asarray(array).view(Array)
    cupy.ascontiguousarray = lambda array, dtype: np.ascontiguousarray(array, dtype).view(Array)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device._card.cache_clear()
    yield card
    device._card.cache_clear()


def test_streams_and_gives_everything_back(card):
    v = np.random.default_rng(0).normal(size=(9, 12, 15)).astype(np.float32)
    marks = np.zeros(v.shape, np.uint8)
    marks[::2] = 1 + (v[::2] > 0)
    made = PixelClassifier(5, spec=SMALL, n_threads=1).fit(v, marks)
    assert device.card("test").name == "none such"
    found = made.predict_proba(v, block=4)  # device "auto": there is a card
    assert np.mean(found.data != made.predict_proba(v, device="cpu").data) < 1e-3
    assert card.events > 0
    gc.collect()
    assert card.held == 0


def test_arrays(card):
    v = np.random.default_rng(1).normal(size=(6, 7, 8)).astype(np.float64)
    found = feature_stack(v.view(Array), SMALL)
    assert isinstance(found, Array)
    assert np.abs(np.asarray(found) - feature_stack(v, SMALL)).max() < 1e-5
    assert card.held == 0


def test_too_little_memory_is_told(card):
    with pytest.raises(InputError, match="memory of the card: expected 65 MiB, got Out of memory"):
        device.card("test").allocate(CAPACITY + (1 << 20))
