# SPDX-License-Identifier: MIT
"""From arrays that lie on an NVIDIA card to textures on it, without a copy through the host.

CUDA writes texels into a pixel buffer of OpenGL's, a slab at a time, and OpenGL copies them to the texture
(csrc/ops/pack.cu, cuda/texels.py). The buffer is what both know, not the texture: registered once, it serves textures
of every format. OpenGL has to draw on the card on which the arrays lie (`egl_device` finds it); where that or anything
else is missing, `open_upload` says why, and slabs are copied through the host.

The driver is called by ctypes: libcuda is there wherever a card is, and CuPy has no calls for OpenGL. Kernels are
compiled and launched by CuPy, as all of this package's.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .. import _core
from .._checks import CryoETError
from ..cuda.device import Device, allocated, card
from ..cuda.features import Taps, aligned
from ..cuda.texels import RAW_TYPES, CardSlices, LowPass, Texels, c_strides
from ..transfer import RawRamp
from ..volume import SoftSegmentation, Volume
from .context import DeviceError, check_allocation, is_software
from .packing import Packing

_BUFFER_BYTES = 64 * 2**20  # of texels at a time; one slice at least
_WRITE_DISCARD, _ALL_DEVICES, _DEVICE_ORDINAL = 2, 1, 9  # of cuda.h and cudaGL.h
_EGL_CUDA_DEVICE = 0x323A  # EGL_NV_device_cuda
_MOST_CARDS = 64

_Grid = TypeVar("_Grid", Volume, SoftSegmentation)


class NoInterop(CryoETError, RuntimeError):
    """Why texels cannot go from CUDA to OpenGL on the card."""


class CudaDriver:
    """The calls of libcuda that bring CUDA and OpenGL together; NoInterop where one fails."""

    def __init__(self, library: Any = None) -> None:
        if library is None:
            try:
                library = ctypes.CDLL("libcuda.so.1")
            except OSError as error:
                raise NoInterop("there is no NVIDIA driver (libcuda.so.1)") from error
        self._library = library
        self._call("cuInit", ctypes.c_uint(0))

    def _call(self, name: str, *arguments: Any) -> None:
        status = int(getattr(self._library, name)(*arguments))
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
            raise NoInterop(f"{name} failed: {text.value.decode() if text.value else status}")

    def cards_of_opengl(self) -> list[int]:
        """Numbers of the cards on which the current OpenGL context draws."""
        count, cards = ctypes.c_uint(), (ctypes.c_int * _MOST_CARDS)()
        self._call("cuGLGetDevices_v2", ctypes.byref(count), cards, ctypes.c_uint(_MOST_CARDS), _ALL_DEVICES)
        return list(cards[: count.value])

    def card_of(self, address: int) -> int:
        """The number of the card on which memory lies."""
        number = ctypes.c_int()
        self._call("cuPointerGetAttribute", ctypes.byref(number), _DEVICE_ORDINAL, ctypes.c_uint64(address))
        return number.value

    def register(self, buffer: int) -> ctypes.c_void_p:
        """Make an OpenGL buffer known to CUDA, which will only write to it."""
        resource = ctypes.c_void_p()
        flags = ctypes.c_uint(_WRITE_DISCARD)
        self._call("cuGraphicsGLRegisterBuffer", ctypes.byref(resource), ctypes.c_uint(buffer), flags)
        return resource

    def unregister(self, resource: ctypes.c_void_p) -> None:
        """Undo `register`."""
        self._call("cuGraphicsUnregisterResource", resource)

    @contextmanager
    def mapped(self, resource: ctypes.c_void_p) -> Iterator[tuple[int, int]]:
        """Address and bytes of a registered buffer; it is CUDA's inside, and OpenGL's again behind.

        Both calls are ordered in CUDA's default stream: work in another waits on the host for what went before.
        """
        stream = ctypes.c_void_p()
        self._call("cuGraphicsMapResources", ctypes.c_uint(1), ctypes.byref(resource), stream)
        try:
            address, size = ctypes.c_uint64(), ctypes.c_size_t()
            self._call("cuGraphicsResourceGetMappedPointer_v2", ctypes.byref(address), ctypes.byref(size), resource)
            yield address.value, size.value
        finally:
            self._call("cuGraphicsUnmapResources", ctypes.c_uint(1), ctypes.byref(resource), stream)


class _PixelBuffer:
    """Memory to which CUDA writes and from which OpenGL fills textures."""

    def __init__(self, context: Any, driver: CudaDriver, n_bytes: int) -> None:
        self._driver, self.n_bytes = driver, n_bytes
        self.buffer = context.buffer(reserve=n_bytes, dynamic=True)
        try:
            check_allocation(context, "the buffer between CUDA and OpenGL")
            self._resource = driver.register(self.buffer.glo)
        except BaseException:
            self.buffer.release()
            raise

    @contextmanager
    def mapped(self) -> Iterator[int]:
        """Its address on the card; OpenGL has read what was there."""
        with self._driver.mapped(self._resource) as (address, size):
            if not address or size < self.n_bytes:
                raise NoInterop(f"CUDA sees {size} bytes at address {address} of a buffer of {self.n_bytes}")
            yield address

    def close(self) -> None:
        """Unregister first: CUDA must not hold on to what OpenGL takes back."""
        try:
            self._driver.unregister(self._resource)
        finally:
            self.buffer.release()


class _OnCard:
    """A user's array on the card: read where it lies."""

    def __init__(self, slices: CardSlices) -> None:
        self.dtype, self._slices = slices.dtype, slices

    def part(self, first: int, stop: int) -> CardSlices:
        """As it is, whatever slices are wanted."""
        return self._slices


class _Sent:
    """An array of the host's, (z, y, x) or (class, z, y, x): the slices wanted are copied to the card each time."""

    def __init__(self, device: Device, stream: Any, read: Any, dtype: npt.DTypeLike, address: int) -> None:
        self.dtype = np.dtype(dtype)
        self._device, self._stream, self._read, self._address = device, stream, read, address

    def part(self, first: int, stop: int) -> CardSlices:
        """Copied now."""
        host = np.ascontiguousarray(self._read(first, stop), self.dtype)
        self._device.upload(host, self._address, self._stream)
        self._device.finish(self._device.mark(self._stream))
        return CardSlices(self._address, self.dtype, host.shape, c_strides(host.shape), first)


class CudaUpload:
    """Writes a scene's textures from arrays on the card. What lies on the host instead is copied there by slabs.

    context: OpenGL, current on this thread, on the arrays' card. device, driver: others than the card, for tests.
    n_bytes: that it takes on the card.

    A context manager. Errors: NoInterop, then and later, with the reason.
    """

    def __init__(
        self, context: Any, packing: Packing, *, device: Device | None = None, driver: CudaDriver | None = None
    ) -> None:
        if packing.bin != (1, 1, 1):
            raise NoInterop("the volume is binned")
        self._packing = packing
        self._held = ExitStack()
        self.n_bytes = 0
        with _reasons(), ExitStack() as undo:
            undo.push(self._held)
            self._driver = _driver_for(context) if driver is None else driver
            self._device = card("render") if device is None else device
            self._stream = self._device.stream()  # CUDA is asked about OpenGL's card from here on: it is initialised
            self._check_cards()
            _, height, width = packing.shape
            texel = max(packing.components) * packing.bits // 8
            self._thickness = max(1, min(_BUFFER_BYTES // (texel * height * width), packing.shape[0]))
            pixels = _PixelBuffer(context, self._driver, texel * height * width * self._thickness)
            self._held.callback(pixels.close)
            self._pixels = pixels
            self.n_bytes += pixels.n_bytes
            self._zero = np.zeros(1, np.uint32)
            self._nonfinite = self._allocate(4)
            self._low_pass, self._raw = self._raw_source()
            self._classes = self._class_source()
            self._device.synchronise()  # whoever made the arrays may still be writing to them
            undo.pop_all()

    def __enter__(self) -> CudaUpload:
        """As it is."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Give everything back; again does no harm. What CUDA refuses to take back goes with the context."""
        with suppress(NoInterop), _reasons(), self._held:
            self._device.synchronise()

    def write(self, texture: Any, which: int, first: int, n: int, *, at: int = 0) -> int:
        """Slices [first, first + n) of the scene to those from `at` on of its texture number `which`.

        Returns: how many voxels were not finite, and became background.

        Errors: NoInterop; everything has been given back then, and the texture holds what it may.
        """
        packing, nonfinite = self._packing, 0
        _, height, width = packing.shape
        classes = tuple(index for place, index in enumerate(packing.drawn) if packing.place(place)[0] == which)
        texels = Texels(packing.components[which], packing.bits, packing.raw_texture == which, classes)
        try:
            with _reasons():
                for start in range(first, first + n, self._thickness):
                    count = min(self._thickness, first + n - start)
                    nonfinite += self._pack(texels, start, count)
                    view = (0, 0, at + start - first, width, height, count)
                    texture.write(self._pixels.buffer, viewport=view, alignment=1)
        except NoInterop:
            self.close()
            raise
        return nonfinite

    def _pack(self, texels: Texels, first: int, n: int) -> int:
        """Fill the buffer with a slab."""
        device, stream = self._device, self._stream
        depth, height, width = self._packing.shape
        device.upload(self._zero, self._nonfinite, stream)
        low_pass = self._low_pass if texels.raw else None
        if low_pass is not None and self._raw is not None:
            r = low_pass.radius
            raw = self._raw.part(max(first - r, 0), min(first + n + r, depth))
            for launch in low_pass.launches(raw, (depth, height, width), first, n, self._nonfinite):
                device.launch(launch, stream)
        classes = self._classes.part(first, first + n)
        with self._pixels.mapped() as address:
            device.synchronise()  # until OpenGL has read the slab before
            slab = first, (n, height, width)
            device.launch(texels.launch(low_pass, classes, slab, address, self._nonfinite), stream)
            found = np.empty(1, np.uint32)
            device.download(self._nonfinite, found, stream)
            device.finish(device.mark(stream))
        return int(found[0])

    def _allocate(self, n_bytes: int) -> int:
        self.n_bytes += aligned(n_bytes)
        return self._held.enter_context(allocated(self._device, aligned(n_bytes)))

    def _check_cards(self) -> None:
        """OpenGL, CuPy and the arrays on one card."""
        number = self._device.number
        drawn_on = self._driver.cards_of_opengl()
        if number not in drawn_on:
            raise NoInterop(f"OpenGL draws on card {drawn_on}, CUDA works on card {number}")
        for data in _arrays_on_card(self._packing.volume, self._packing.segmentation):
            lies_on = self._driver.card_of(CardSlices.of(data).address)
            if lies_on != number:
                raise NoInterop(f"an array lies on card {lies_on}, CUDA works on card {number}")

    def _raw_source(self) -> tuple[LowPass | None, _OnCard | _Sent | None]:
        volume, ramp = self._packing.volume, self._packing.transfer.raw
        if volume is None or ramp is None or not self._packing.has_raw:
            return None, None
        depth, height, width = volume.shape
        read_at_once = min(self._thickness + 2 * ramp.halo, depth)
        source: _OnCard | _Sent
        if _on_card(volume.data):
            source = _OnCard(CardSlices.of(volume.data))
            if source.dtype.name not in RAW_TYPES:
                raise NoInterop(f"voxels of {source.dtype.name} are not read there ({', '.join(RAW_TYPES)} are)")
        else:
            rows, columns = slice(0, height), slice(0, width)
            address = self._allocate(4 * read_at_once * height * width)
            source = _Sent(
                self._device,
                self._stream,
                lambda first, stop: volume.block((slice(first, stop), rows, columns)),
                np.float32,
                address,
            )
        room = LowPass.scratch_bytes(self._thickness, height, width, ramp.halo)
        scratch = (self._allocate(room), self._allocate(room) if ramp.halo else 0)
        return LowPass(self._taps(ramp), ramp.at_zero, ramp.at_one, scratch), source

    def _taps(self, ramp: RawRamp) -> Taps | None:
        if ramp.halo == 0:
            return None
        # The window that gives this radius: gaussian_taps rounds sigma times window.
        values = _core.gaussian_taps(ramp.low_pass_sigma_vox, 0, ramp.halo / ramp.low_pass_sigma_vox)
        address = self._allocate(values.nbytes)
        self._device.upload(values, address, self._stream)
        self._device.finish(self._device.mark(self._stream))
        return Taps(address, len(values) // 2)

    def _class_source(self) -> _OnCard | _Sent:
        data = self._packing.segmentation.data
        if _on_card(data):
            return _OnCard(CardSlices.of(data))
        dtype = np.dtype(data.dtype)
        n_bytes = math.prod(data.shape) // data.shape[1] * self._thickness * dtype.itemsize
        address = self._allocate(n_bytes)
        return _Sent(self._device, self._stream, lambda first, stop: data[:, first:stop], dtype, address)


def open_upload(
    context: Any, packing: Packing, *, device: Device | None = None, driver: CudaDriver | None = None
) -> tuple[CudaUpload | None, Packing, str]:
    """How a scene gets to the card: by CUDA where arrays of it lie there already, else through the host.

    Returns: the upload, or None; the scene as the host reads it, slab by slab; and, where it has to although arrays
    lie on a card, a notice that says so.
    """
    if not _arrays_on_card(packing.volume, packing.segmentation):
        return None, packing, ""
    volume = None if packing.volume is None else on_host(packing.volume)
    read = dataclasses.replace(packing, volume=volume, segmentation=on_host(packing.segmentation))
    try:
        return CudaUpload(context, packing, device=device, driver=driver), read, ""
    except NoInterop as reason:
        return None, read, notice(reason)


def notice(reason: NoInterop) -> str:
    """What the person should know who gave arrays on a card."""
    return f"arrays on the card were copied through the host to be drawn: {reason}"


def egl_device(volume: Volume | None, segmentation: SoftSegmentation) -> int | None:
    """The EGL device (moderngl's `device_index`) on the card on which the arrays lie; None for the usual one.

    CUDA_VISIBLE_DEVICES, which numbers CUDA's cards, does not number EGL's: EGL_NV_device_cuda tells them apart.
    """
    arrays = _arrays_on_card(volume, segmentation)
    try:
        return _egl_device_of(CudaDriver().card_of(CardSlices.of(arrays[0]).address)) if arrays else None
    except (NoInterop, OSError):
        return None


def _egl_device_of(number: int, library: Any = None) -> int | None:
    egl = ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1") if library is None else library
    egl.eglGetProcAddress.restype = ctypes.c_void_p

    def function(name: bytes, *types: Any) -> Any:
        address = egl.eglGetProcAddress(ctypes.c_char_p(name))
        return ctypes.CFUNCTYPE(ctypes.c_uint, *types)(address) if address else None

    devices, count = (ctypes.c_void_p * _MOST_CARDS)(), ctypes.c_int()
    pointer = ctypes.c_void_p
    query_devices = function(b"eglQueryDevicesEXT", ctypes.c_int, pointer, pointer)
    query = function(b"eglQueryDeviceAttribEXT", pointer, ctypes.c_int, pointer)
    if query_devices is None or query is None or not query_devices(_MOST_CARDS, devices, ctypes.byref(count)):
        return None
    for index in range(count.value):
        value = ctypes.c_ssize_t(-1)
        if query(devices[index], _EGL_CUDA_DEVICE, ctypes.byref(value)) and value.value == number:
            return index
    return None


def on_host(grid: _Grid) -> _Grid:
    """The same with data that come to the host as they are sliced, where they lie on a card."""
    return dataclasses.replace(grid, data=_Fetched(grid.data)) if _on_card(grid.data) else grid


class _Fetched:
    """An array on a card, read by slices."""

    def __init__(self, array: Any) -> None:
        told = CardSlices.of(array)
        self._array, self.shape, self.dtype = array, told.shape, told.dtype

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        part = self._array[key]
        if hasattr(part, "cpu"):  # torch
            return np.asarray(part.cpu())
        for name in ("get", "copy_to_host"):  # CuPy, numba
            if hasattr(part, name):
                return np.asarray(getattr(part, name)())
        return np.asarray(part)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype)


def _on_card(data: Any) -> bool:
    return hasattr(data, "__cuda_array_interface__")


def _arrays_on_card(volume: Volume | None, segmentation: SoftSegmentation) -> list[Any]:
    data = [segmentation.data] + ([] if volume is None else [volume.data])
    return [one for one in data if _on_card(one)]


def _driver_for(context: Any) -> CudaDriver:
    """The driver, where OpenGL is NVIDIA's too: CUDA is not asked about others."""
    if is_software(context) or "nvidia" not in str(context.info.get("GL_VENDOR", "")).lower():
        raise NoInterop(f"OpenGL draws on {context.info.get('GL_RENDERER')}")
    return CudaDriver()


@contextmanager
def _reasons() -> Iterator[None]:
    """What goes wrong with the card, CuPy or its compiler inside is a reason to do without them."""
    try:
        yield
    except NoInterop:
        raise
    except (CryoETError, DeviceError, RuntimeError, ImportError, OSError) as error:
        raise NoInterop(" ".join(str(error).split()) or type(error).__name__) from error
