# SPDX-License-Identifier: MIT
"""A card that is not one: plans of cryoet_engine.cuda run on it, kernels by tests/cuda/emulation on numpy memory.

Streams are queues that run only when somebody waits, in an order drawn by seed: an event that a plan forgets to wait
for gives wrong numbers. Fresh memory is full of NaN, and every allocation is counted.
"""

from __future__ import annotations

import ctypes
import random
from collections import deque

import numpy as np
from emulation.launcher import Emulation

from cryoet_engine.cuda.device import CardArray, Launch

_GUARD = 64  # bytes behind every allocation, which nobody may touch


class CudaArray(np.ndarray):
    """What a user would hold on a card: numpy's memory behind `__cuda_array_interface__`."""

    @property
    def __cuda_array_interface__(self):
        return {**self.__array_interface__, "version": 3}


class Event:
    def __init__(self, passed: bool) -> None:
        self.passed = passed


class Stream:
    def __init__(self) -> None:
        self.queue: deque = deque()


class Memory:
    def __init__(self, device: EmulatedDevice, n_bytes: int) -> None:
        self._device, self.n_bytes = device, n_bytes
        self._bytes = np.full(n_bytes + _GUARD, 0xFF, np.uint8)
        self.address = self._bytes.ctypes.data

    def free(self) -> None:
        assert not any(stream.queue for stream in self._device.streams), "freed while work was queued"
        assert (self._bytes[self.n_bytes :] == 0xFF).all(), "somebody wrote behind this allocation"
        self._bytes[:] = 0xFF
        self._device.held.remove(self)


class EmulatedDevice:
    """cryoet_engine.cuda.device.Device. seed: 0 lets threads and streams take turns in order."""

    name, number = "emulated", 0
    shared_bytes = 96 << 10

    def __init__(self, kernels: Emulation, seed: int = 0, capacity: int = 1 << 30) -> None:
        self.kernels, self.seed, self.capacity = kernels, seed, capacity
        self.held: list[Memory] = []
        self.peak = 0
        self.launches: list[str] = []
        self.streams: list[Stream] = []
        self._random = random.Random(seed)

    def free_bytes(self) -> int:
        return self.capacity - sum(one.n_bytes for one in self.held)

    def allocate(self, n_bytes: int) -> Memory:
        assert n_bytes <= self.free_bytes(), "more than the card has"
        self.held.append(Memory(self, n_bytes))
        self.peak = max(self.peak, self.capacity - self.free_bytes())
        return self.held[-1]

    def staging(self, n_bytes: int) -> np.ndarray:
        return np.full(n_bytes, 0xFF, np.uint8)

    def stream(self) -> Stream:
        self.streams.append(Stream())
        return self.streams[-1]

    def upload(self, host: np.ndarray, address: int, stream: Stream) -> None:
        assert host.flags.c_contiguous
        stream.queue.append(lambda: ctypes.memmove(address, host.ctypes.data, host.nbytes))

    def download(self, address: int, host: np.ndarray, stream: Stream) -> None:
        assert host.flags.c_contiguous
        stream.queue.append(lambda: ctypes.memmove(host.ctypes.data, address, host.nbytes))

    def copy(self, source: int, to: int, n_bytes: int, stream: Stream) -> None:
        stream.queue.append(lambda: ctypes.memmove(to, source, n_bytes))

    def launch(self, launch: Launch, stream: Stream) -> None:
        assert launch.shared <= self.shared_bytes
        self.launches.append(launch.kernel)
        where = (launch.file, launch.kernel, launch.grid, launch.block, launch.shared)
        stream.queue.append(lambda: self.kernels.launch(*where, launch.job, seed=self.seed))

    def mark(self, stream: Stream) -> Event:
        event = Event(passed=False)
        stream.queue.append(lambda: setattr(event, "passed", True))
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        stream.queue.append(event)

    def finish(self, event: Event) -> None:
        while not event.passed:
            self._step()

    def synchronise(self) -> None:
        while any(stream.queue for stream in self.streams):
            self._step()

    def _step(self) -> None:
        """One thing that some stream may do now. By seed: the last stream first, so that copies overtake kernels."""
        ready = [
            stream
            for stream in self.streams
            if stream.queue and (not isinstance(stream.queue[0], Event) or stream.queue[0].passed)
        ]
        assert ready, "streams wait for each other"
        stream = self._random.choice(ready) if self.seed else ready[-1]
        work = stream.queue.popleft()
        if not isinstance(work, Event):
            work()

    def empty(self, shape, dtype) -> CardArray:
        native = np.full(shape, 0xFF, np.uint8).astype(dtype).view(CudaArray)
        return CardArray(native, native.ctypes.data, native.shape)

    def adopt(self, array, dtype) -> CardArray:
        native = np.array(array, dtype, order="C", ndmin=0).view(CudaArray)
        return CardArray(native, native.ctypes.data, native.shape)
