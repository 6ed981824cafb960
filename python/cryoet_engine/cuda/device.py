# SPDX-License-Identifier: MIT
"""What plans need of a card: memory, copies, launches, and streams in which they queue up.

`CupyDevice` is a card. Tests have another one, on which the same plans and the same kernels run without a card. CuPy is
imported when a card is asked for, not before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from .._checks import InputError, MissingDependencyError, input_error, message
from .source import COMPILE_OPTIONS, compose

DeviceName = Literal["auto", "cpu", "cuda"]
Triple = tuple[int, int, int]

_SHARED_UNASKED = 48 << 10  # bytes that any block may have


@dataclass(frozen=True)
class Launch:
    """One kernel to run: `kernel` of csrc/ops/`file`.cu with its structure; `shared`: bytes of dynamic shared memory.

    grid, block: (x, y, z), as CUDA counts them.
    """

    file: str
    kernel: str
    grid: Triple
    block: Triple
    job: ctypes.Structure
    shared: int = 0


@dataclass(frozen=True)
class CardArray:
    """An array in the card's memory, C order: `native` is what a user is given."""

    native: Any
    address: int
    shape: tuple[int, ...]


class Buffer(Protocol):
    """Memory of the card."""

    address: int

    def free(self) -> None:
        """Give it back; nothing may use it any more."""


class Device(Protocol):
    """A card. Work given to one stream runs in order; streams wait for each other by events only."""

    name: str
    number: int  # as torch counts cards, too
    shared_bytes: int  # that a block may have

    def free_bytes(self) -> int:
        """Memory that can be allocated now."""

    def allocate(self, n_bytes: int) -> Buffer:
        """Memory, not cleared; InputError where the card has less."""

    def staging(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Memory of the host from and to which copies run beside kernels."""

    def stream(self) -> Any:
        """A new queue of work."""

    def upload(self, host: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy to the card; `host` is contiguous, and stays as it is until then."""

    def download(self, address: int, host: npt.NDArray[Any], stream: Any) -> None:
        """Queue a copy from the card."""

    def copy(self, source: int, to: int, n_bytes: int, stream: Any) -> None:
        """Queue a copy within the card."""

    def launch(self, launch: Launch, stream: Any) -> None:
        """Queue a kernel."""

    def mark(self, stream: Any) -> Any:
        """An event that passes when all has been done that `stream` holds now."""

    def wait(self, stream: Any, event: Any) -> None:
        """What is given to `stream` from now on begins after `event`."""

    def finish(self, event: Any) -> None:
        """Return when `event` has passed."""

    def synchronise(self) -> None:
        """Return when nothing is left to do."""

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CardArray:
        """A new array for the user."""

    def adopt(self, array: Any, dtype: npt.DTypeLike) -> CardArray:
        """A user's array as `dtype` in C order, copied only if it is not so already."""


@contextmanager
def allocated(device: Device, n_bytes: int) -> Iterator[int]:
    """The address of memory that is given back at the end."""
    buffer = device.allocate(n_bytes)
    try:
        yield buffer.address
    finally:
        buffer.free()


class _CupyBuffer:
    def __init__(self, cupy: Any, n_bytes: int) -> None:
        # Not CuPy's pool: it would keep the memory from torch, which works on the same card next.
        self._memory = cupy.cuda.Memory(n_bytes)
        self.address: int = self._memory.ptr

    def free(self) -> None:
        self._memory = None


class CupyDevice:
    """The current card, through CuPy. Kernels are compiled by NVRTC at first use; CuPy keeps them on disk."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        card = cupy.cuda.Device()
        properties = cupy.cuda.runtime.getDeviceProperties(card.id)
        self.name, self.number = properties["name"].decode(), int(card.id)
        self.shared_bytes = int(properties["sharedMemPerBlockOptin"])
        self._modules: dict[str, Any] = {}
        self._kernels: dict[tuple[str, str], Any] = {}

    def free_bytes(self) -> int:
        """Memory that can be allocated now; what CuPy's pool holds for nothing is given back first."""
        self._cupy.get_default_memory_pool().free_all_blocks()
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def allocate(self, n_bytes: int) -> Buffer:
        """Memory, not cleared."""
        try:
            return _CupyBuffer(self._cupy, n_bytes)
        except (self._cupy.cuda.memory.OutOfMemoryError, self._cupy.cuda.runtime.CUDARuntimeError) as error:
            raise input_error(
                "cuda", "memory of the card", expected=f"{n_bytes / 2**20:.0f} MiB", got=str(error),
                fix="choose smaller blocks, close what else uses the card, or use device cpu",
            ) from error  # fmt: skip

    def staging(self, n_bytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked memory of the host."""
        memory = self._cupy.cuda.PinnedMemoryPointer(self._cupy.cuda.PinnedMemory(n_bytes), 0)
        return np.ndarray(n_bytes, np.uint8, memory)

    def stream(self) -> Any:
        """A new queue of work."""
        return self._cupy.cuda.Stream(non_blocking=True)

    def upload(self, host: npt.NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy to the card."""
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(address, host.ctypes.data, host.nbytes, runtime.memcpyHostToDevice, stream.ptr)

    def download(self, address: int, host: npt.NDArray[Any], stream: Any) -> None:
        """Queue a copy from the card."""
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(host.ctypes.data, address, host.nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def copy(self, source: int, to: int, n_bytes: int, stream: Any) -> None:
        """Queue a copy within the card."""
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(to, source, n_bytes, runtime.memcpyDeviceToDevice, stream.ptr)

    def launch(self, launch: Launch, stream: Any) -> None:
        """Queue a kernel."""
        kernel = self._kernel(launch.file, launch.kernel)
        if launch.shared > _SHARED_UNASKED:
            kernel.max_dynamic_shared_size_bytes = launch.shared
        # A structure goes to a kernel as a numpy array of one element of its size.
        job = np.frombuffer(bytes(launch.job), np.dtype((np.void, ctypes.sizeof(launch.job))))
        with stream:
            kernel(launch.grid, launch.block, (job,), shared_mem=launch.shared)

    def _kernel(self, file: str, name: str) -> Any:
        if file not in self._modules:
            self._modules[file] = self._cupy.RawModule(code=compose(file), options=COMPILE_OPTIONS)
        if (file, name) not in self._kernels:
            self._kernels[file, name] = self._modules[file].get_function(name)
        return self._kernels[file, name]

    def mark(self, stream: Any) -> Any:
        """An event that passes when all has been done that `stream` holds now."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return event

    def wait(self, stream: Any, event: Any) -> None:
        """What is given to `stream` from now on begins after `event`."""
        stream.wait_event(event)

    def finish(self, event: Any) -> None:
        """Return when `event` has passed."""
        event.synchronize()

    def synchronise(self) -> None:
        """Return when nothing is left to do."""
        self._cupy.cuda.runtime.deviceSynchronize()

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> CardArray:
        """A new CuPy array."""
        native = self._cupy.empty(shape, dtype)
        return CardArray(native, native.data.ptr, shape)

    def adopt(self, array: Any, dtype: npt.DTypeLike) -> CardArray:
        """Anything with `__cuda_array_interface__` as a CuPy array."""
        native = self._cupy.ascontiguousarray(self._cupy.asarray(array), dtype)
        # Whoever made it may still be writing to it in a stream of theirs.
        self.synchronise()
        return CardArray(native, native.data.ptr, native.shape)


@cache
def _card() -> Device:
    return CupyDevice()


def card(where: str) -> Device:
    """The current card. Errors: MissingDependencyError without CuPy, InputError without a card."""
    try:
        import cupy
    except ImportError as error:
        raise MissingDependencyError(
            message(where, "device cuda", expected="CuPy", got="none", fix='pip install "cryoet-engine[cuda]"')
        ) from error
    if not cupy.cuda.is_available():
        raise input_error(
            where, "device", expected="an NVIDIA card", got="none that CuPy can use", fix="use device cpu or auto"
        )
    return _card()


def choose_device(name: DeviceName, *, where: str) -> Device | None:
    """The card, or None for the CPU. "auto" is the card where there is one and CuPy can use it.

    Errors: InputError for another name; for "cuda" those of `card`.
    """
    if name not in get_args(DeviceName):
        raise input_error(where, "device", expected="auto, cpu or cuda", got=repr(name))
    if name == "cpu":
        return None
    try:
        return card(where)
    except (MissingDependencyError, InputError):
        if name == "cuda":
            raise
        return None
