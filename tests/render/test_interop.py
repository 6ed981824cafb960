# SPDX-License-Identifier: MIT
"""From CUDA to textures: kernels by emulation, textures by llvmpipe, and between them a libcuda that is not one.

Shown: every call to the driver, in order and with its arguments; what OpenGL ends up with; that whatever fails leaves
nothing behind and says why. Not shown: that a card does the same (tests/gpu/test_interop_on_card.py).
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cryoet_engine import SoftSegmentation, TransferFunction, Volume
from cryoet_engine.render import interop
from cryoet_engine.render.interop import CudaDriver, CudaUpload, NoInterop, egl_device, on_host, open_upload
from cryoet_engine.render.packing import Packing
from cryoet_engine.transfer import Ramp, RawRamp

sys.path.append(str(Path(__file__).parents[1] / "cuda"))  # the emulated card
from emulated import CudaArray, EmulatedDevice
from emulation.launcher import Emulation

SHAPE = (11, 9, 37)
SLAB = ["cuGraphicsMapResources", "cuGraphicsResourceGetMappedPointer_v2", "cuGraphicsUnmapResources"]
HANDLE, GUARD = 0xBEEF, 64


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return Emulation(tmp_path_factory.mktemp("emulated"))


class Library:
    """libcuda as far as it is used. A mapped buffer is memory of the host, which OpenGL gets when it is unmapped.

    fails: the call that returns an error; at_call: which call of that name does.
    """

    def __init__(self, *, fails="", at_call=1, cards=(0,), lies_on=0, short=0):
        self.calls, self.registered, self.buffers = [], None, {}
        self.device = None
        self._fails, self._at_call, self._cards, self._lies_on, self._short = fails, at_call, cards, lies_on, short
        self._mapped = None

    def _call(self, name):
        self.calls.append(name)
        return 999 if name == self._fails and self.calls.count(name) == self._at_call else 0

    def cuInit(self, flags):
        assert flags.value == 0
        return self._call("cuInit")

    def cuGetErrorName(self, status, text):
        text._obj.value = b"CUDA_ERROR_UNKNOWN" if status.value == 999 else None
        return 0

    def cuGLGetDevices_v2(self, count, devices, room, which):
        assert room.value == len(devices) and which == 1  # all, not those of a frame
        devices[: len(self._cards)] = self._cards
        count._obj.value = len(self._cards)
        return self._call("cuGLGetDevices_v2")

    def cuPointerGetAttribute(self, value, attribute, address):
        assert attribute == 9 and address.value  # the card's number
        value._obj.value = self._lies_on
        return self._call("cuPointerGetAttribute")

    def cuGraphicsGLRegisterBuffer(self, resource, buffer, flags):
        status = self._call("cuGraphicsGLRegisterBuffer")
        assert flags.value == 2  # write, discard
        if not status:
            assert self.registered is None
            self.registered, resource._obj.value = self.buffers[buffer.value], HANDLE
        return status

    def _known(self, count, resources, stream):
        assert count.value == 1 and resources._obj.value == HANDLE and not stream.value
        assert self.registered is not None

    def cuGraphicsMapResources(self, count, resources, stream):
        self._known(count, resources, stream)
        status = self._call("cuGraphicsMapResources")
        if not status:
            assert self._mapped is None
            self._mapped = np.full(self.registered.size + GUARD, 0xCD, np.uint8)
            self.device.synchronised = False
        return status

    def cuGraphicsResourceGetMappedPointer_v2(self, address, size, resource):
        assert resource.value == HANDLE
        address._obj.value = self._mapped.ctypes.data
        size._obj.value = self.registered.size - self._short
        return self._call("cuGraphicsResourceGetMappedPointer_v2")

    def cuGraphicsUnmapResources(self, count, resources, stream):
        self._known(count, resources, stream)
        assert not self.device.writing, "unmapped while CUDA writes to it"
        n = self.registered.size
        assert (self._mapped[n:] == 0xCD).all(), "somebody wrote behind the buffer"
        self.registered.write(self._mapped[:n].tobytes())
        self._mapped = None
        return self._call("cuGraphicsUnmapResources")

    def cuGraphicsUnregisterResource(self, resource):
        assert resource.value == HANDLE and self._mapped is None
        assert not self.registered.released, "released before CUDA let go of it"
        self.registered = None
        return self._call("cuGraphicsUnregisterResource")


class Card(EmulatedDevice):
    """Sees to it that texels are written only after all work, OpenGL's reading too, was waited for."""

    synchronised, broken, writing = True, "", False

    def finish(self, event):
        super().finish(event)
        self.writing = self.writing and any(stream.queue for stream in self.streams)

    def synchronise(self):
        super().synchronise()
        self.synchronised, self.writing = True, False

    def launch(self, launch, stream):
        if launch.kernel == self.broken:
            raise RuntimeError("an illegal memory access")
        assert launch.kernel != "pack_texels" or self.synchronised
        self.writing = self.writing or launch.kernel == "pack_texels"
        super().launch(launch, stream)


class OpenGL:
    """A context whose buffers libcuda finds by their names."""

    def __init__(self, context, library):
        self._context, self._library, self.made = context, library, []

    def __getattr__(self, name):
        return getattr(self._context, name)

    def buffer(self, *, reserve, dynamic):
        made = self._context.buffer(reserve=reserve, dynamic=dynamic)
        buffer = SimpleNamespace(native=made, glo=made.glo, size=made.size, write=made.write, released=False)
        buffer.release = lambda: (setattr(buffer, "released", True), made.release())
        self._library.buffers[made.glo] = buffer
        self.made.append(buffer)
        return buffer


class Texture:
    def __init__(self, native):
        self.native = native

    def write(self, buffer, *, viewport, alignment):
        self.native.write(buffer.native, viewport=viewport, alignment=alignment)


def on_card(array):
    return array.view(CudaArray)


def scene(n_classes, *, kind="uint8", raw="float32", sigma=1.0, bits=8, there=("volume", "segmentation"), hidden=()):
    """A Packing of noise: class 0 hidden; `raw` None for classes alone."""
    rng = np.random.default_rng(0)
    shape = (n_classes + 1, *SHAPE)
    data = rng.random(shape, np.float32)
    if kind != "float32":
        data = (data * np.iinfo(kind).max).astype(kind)
    names = tuple(f"c{i}" for i in range(n_classes + 1))
    ramps = tuple(Ramp(left=0.3, visible=i > 0 and i not in hidden) for i in range(n_classes + 1))
    ramp = None if raw is None else RawRamp(low_pass_sigma_vox=sigma, at_zero=110.0, at_one=60.0)
    volume = None
    if raw is not None:
        grey = rng.normal(85, 20, SHAPE).astype(raw)
        volume = Volume(on_card(grey) if "volume" in there else grey)
    segmentation = SoftSegmentation(on_card(data) if "segmentation" in there else data, names)
    transfer = TransferFunction(classes=names, ramps=ramps, raw=ramp)
    return Packing.plan(volume, segmentation, transfer, bits=bits)


def textures_of(gl, packing, fill=0):
    z, y, x = packing.shape
    dtype = {8: "f1", 16: "nu2"}[packing.bits]
    made = [gl.texture3d((x, y, z), n, dtype=dtype) for n in packing.components]
    for texture, n in zip(made, packing.components, strict=True):
        texture.write(bytes([fill]) * (z * y * x * n * packing.bits // 8), alignment=1)
    return made


def content(texture, packing, n):
    dtype = {8: np.uint8, 16: np.uint16}[packing.bits]
    return np.frombuffer(texture.read(alignment=1), dtype).reshape(*packing.shape, n)


def expected(packing):
    slabs = list(packing.slabs())
    return [np.concatenate(one) for one in zip(*(slab.textures for slab in slabs), strict=True)], sum(
        slab.nonfinite for slab in slabs
    )


@pytest.fixture
def opened(gl, kernels):
    """opened(packing, library, card): a CudaUpload on the emulated card; at the end nothing of it may be left."""
    made = []

    def upload(packing, library=None, card=None):
        library, card = library or Library(), card or Card(kernels, seed=3)
        library.device, context = card, OpenGL(gl, library)
        made.append((library, card, context))
        return CudaUpload(context, packing, device=card, driver=CudaDriver(library))

    yield upload
    for library, card, context in made:
        assert library.registered is None
        assert card.held == []
        assert all(buffer.released for buffer in context.made)
    assert gl.error == "GL_NO_ERROR"


SCENES = {
    "raw and one class": dict(n_classes=1),
    "raw and two classes": dict(n_classes=2, kind="float32"),
    "raw and three classes": dict(n_classes=3, kind="uint16", raw="int16", sigma=0.0),
    "raw and four classes": dict(n_classes=4, raw="uint8"),
    "raw and seven classes": dict(n_classes=7, kind="uint16", bits=16, sigma=1.4),
    "a class hidden": dict(n_classes=4, kind="float32", bits=16, hidden=(2,)),
    "two classes alone": dict(n_classes=2, raw=None),
    "five classes alone": dict(n_classes=5, kind="float32", raw=None, bits=16),
    "volume on the host": dict(n_classes=3, there=("segmentation",)),
    "segmentation on the host": dict(n_classes=5, there=("volume",), kind="uint16"),
}


@pytest.mark.parametrize("name", SCENES)
def test_textures_hold_what_the_host_would_pack(gl, opened, monkeypatch, name):
    """Classes to the bit. The raw channel, filtered in float32: measured 0 at 8 bit, one level in 0.4 % at 16."""
    packing = scene(**SCENES[name])
    truth, _ = expected(packing)
    # Slabs of four slices of the larger texture.
    slice_bytes = max(packing.components) * packing.bits // 8 * SHAPE[1] * SHAPE[2]
    monkeypatch.setattr(interop, "_BUFFER_BYTES", 4 * slice_bytes + 1)
    made = textures_of(gl, packing)
    with opened(packing) as upload:
        for which, texture in enumerate(made):
            assert upload.write(Texture(texture), which, 0, SHAPE[0]) == 0
    for which, (texture, slab) in enumerate(zip(made, truth, strict=True)):
        found = content(texture, packing, packing.components[which])
        raw = int(packing.raw_texture == which)
        assert np.array_equal(found[..., raw:], slab[..., raw:])
        if raw:
            off = np.abs(found[..., 0].astype(int) - slab[..., 0])
            assert off.max() <= 1
            assert np.mean(off > 0) < (1e-3 if packing.bits == 8 else 0.02)
            assert np.ptp(slab[..., 0]) > 100  # else anything would be near
        texture.release()


def test_a_part_goes_where_it_is_wanted(gl, opened):
    packing = scene(4)
    truth, _ = expected(packing)
    made = textures_of(gl, packing, fill=7)
    with opened(packing) as upload:
        for which, texture in enumerate(made):
            upload.write(Texture(texture), which, 5, 3, at=2)
    for which, texture in enumerate(made):
        found = content(texture, packing, packing.components[which])
        assert np.abs(found[2:5].astype(int) - truth[which][5:8]).max() <= 1
        assert (found[:2] == 7).all() and (found[5:] == 7).all()
        texture.release()


def test_voxels_that_are_not_finite_are_counted_once(gl, opened, monkeypatch):
    packing = scene(2, kind="float32")
    data, grey = packing.segmentation.data, packing.volume.data
    data[1, 2, 3, 4:9], data[0, 0, 0, 0], data[2, 10, 8, 36] = np.nan, np.nan, np.inf
    grey[0, 0, 0], grey[4, 8, 36], grey[5, 5, 5] = np.nan, -np.inf, np.nan
    truth, count = expected(packing)
    assert count == 9
    monkeypatch.setattr(interop, "_BUFFER_BYTES", 1)  # a slice at a time: halos overlap
    (texture,) = textures_of(gl, packing)
    with opened(packing) as upload:
        assert upload.write(Texture(texture), 0, 0, SHAPE[0]) == count
        assert upload.write(Texture(texture), 0, 5, 1, at=5) == 1
    found = content(texture, packing, 4)
    assert np.array_equal(found[..., 1:], truth[0][..., 1:])
    assert np.abs(found[..., 0].astype(int) - truth[0][..., 0]).max() <= 1
    texture.release()


def test_every_call_in_order(gl, opened, monkeypatch):
    packing, library = scene(4), Library()
    monkeypatch.setattr(interop, "_BUFFER_BYTES", 6 * 4 * SHAPE[1] * SHAPE[2])  # two slabs
    made = textures_of(gl, packing)
    with opened(packing, library) as upload:
        start = ["cuInit", "cuGLGetDevices_v2", "cuPointerGetAttribute", "cuPointerGetAttribute"]
        assert library.calls == [*start, "cuGraphicsGLRegisterBuffer"]
        assert [buffer.size for buffer in library.buffers.values()] == [6 * 4 * SHAPE[1] * SHAPE[2]]
        del library.calls[:]
        upload.write(Texture(made[0]), 0, 0, SHAPE[0])
        assert library.calls == 2 * SLAB
        upload.write(Texture(made[1]), 1, 0, SHAPE[0])
        assert library.calls == 4 * SLAB
    assert library.calls == [*(4 * SLAB), "cuGraphicsUnregisterResource"]
    upload.close()
    assert library.calls == [*(4 * SLAB), "cuGraphicsUnregisterResource"]
    for texture in made:
        texture.release()


@pytest.mark.parametrize("name", ["cuInit", "cuGLGetDevices_v2", "cuPointerGetAttribute", "cuGraphicsGLRegisterBuffer"])
def test_what_fails_at_first_is_the_reason(opened, name):
    library = Library(fails=name)
    with pytest.raises(NoInterop, match=f"{name} failed: CUDA_ERROR_UNKNOWN"):
        opened(scene(2), library)
    assert "cuGraphicsUnregisterResource" not in library.calls


@pytest.mark.parametrize("at_call", [1, 2])
@pytest.mark.parametrize("name", SLAB)
def test_what_fails_later_leaves_nothing_behind(gl, opened, monkeypatch, name, at_call):
    packing, library = scene(1), Library(fails=name, at_call=at_call)
    monkeypatch.setattr(interop, "_BUFFER_BYTES", 6 * 2 * SHAPE[1] * SHAPE[2])
    (texture,) = textures_of(gl, packing)
    upload = opened(packing, library)
    with pytest.raises(NoInterop, match=f"{name} failed"):
        upload.write(Texture(texture), 0, 0, SHAPE[0])
    mapped, unmapped = (library.calls.count(one) for one in (SLAB[0], SLAB[2]))
    assert mapped == at_call
    assert unmapped == at_call - (name == SLAB[0])
    assert library.calls[-1] == "cuGraphicsUnregisterResource"
    texture.release()


def test_a_kernel_that_fails_leaves_nothing_behind(gl, opened, kernels):
    packing = scene(1)
    for broken in ("pack_texels", "spread_raw", "convolve_x"):
        library, card = Library(), Card(kernels)
        card.broken = broken
        (texture,) = textures_of(gl, packing)
        upload = opened(packing, library, card)
        with pytest.raises(NoInterop, match="an illegal memory access"):
            upload.write(Texture(texture), 0, 0, SHAPE[0])
        assert library.calls.count(SLAB[0]) == library.calls.count(SLAB[2]) == int(broken == "pack_texels")
        assert library.registered is None
        texture.release()


def test_a_buffer_that_cannot_be_unregistered_is_released(opened):
    library = Library(fails="cuGraphicsUnregisterResource")
    opened(scene(1), library).close()
    assert library.calls[-1] == "cuGraphicsUnregisterResource"


def test_a_mapping_that_is_too_small_is_refused(gl, opened):
    packing, library = scene(1), Library(short=1)
    (texture,) = textures_of(gl, packing)
    upload = opened(packing, library)
    with pytest.raises(NoInterop, match="CUDA sees"):
        upload.write(Texture(texture), 0, 0, SHAPE[0])
    assert "cuGraphicsUnmapResources" in library.calls
    texture.release()


def test_reasons_to_go_through_the_host(gl, opened, kernels, monkeypatch):
    with pytest.raises(NoInterop, match=r"OpenGL draws on card \[1\], CUDA works on card 0"):
        opened(scene(2), Library(cards=(1,)))
    with pytest.raises(NoInterop, match="an array lies on card 3, CUDA works on card 0"):
        opened(scene(2), Library(lies_on=3))
    with pytest.raises(NoInterop, match="voxels of float64 are not read there"):
        opened(scene(2, raw="float64"))
    with pytest.raises(NoInterop, match="binned"):
        opened(scene(2).binned((2, 2, 2)))
    small = Card(kernels, capacity=4096)
    monkeypatch.setattr(small, "allocate", lambda n_bytes: (_ for _ in ()).throw(interop.DeviceError("none is left")))
    with pytest.raises(NoInterop, match="none is left"):
        opened(scene(2), card=small)
    packing = scene(2)
    with pytest.raises(NoInterop, match=r"OpenGL draws on .*(llvmpipe|softpipe|swrast)"):
        CudaUpload(gl, packing, device=Card(kernels))

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(interop.ctypes, "CDLL", missing)
    with pytest.raises(NoInterop, match="no NVIDIA driver"):
        CudaDriver()
    assert egl_device(packing.volume, packing.segmentation) is None
    nvidia = SimpleNamespace(info={"GL_VENDOR": "NVIDIA Corporation", "GL_RENDERER": "NVIDIA RTX"})
    with pytest.raises(NoInterop, match="no NVIDIA driver"):
        CudaUpload(nvidia, packing, device=Card(kernels))


class Strict:
    """An array on a card that numpy cannot read; slices of at most `most` bytes come to the host when asked for."""

    most = 1 << 62

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    @property
    def __cuda_array_interface__(self):
        return {**self._array.__array_interface__, "version": 3}

    def __getitem__(self, key):
        return type(self)(self._array[key])

    def __array__(self, dtype=None, copy=None):
        raise TypeError("implicit conversion to a numpy array is not allowed")

    def fetched(self):
        assert self._array.nbytes <= self.most
        return self._array


class AsCupy(Strict):
    get = Strict.fetched


class AsTorch(Strict):
    cpu = Strict.fetched


class AsNumba(Strict):
    copy_to_host = Strict.fetched


@pytest.mark.parametrize("kind", [AsCupy, AsTorch, AsNumba])
def test_the_host_reads_slabs_of_what_lies_on_a_card(gl, monkeypatch, kind):
    plain = scene(3, there=())
    truth, _ = expected(plain)
    card = Packing.plan(
        Volume(kind(plain.volume.data), voxel_size_A=7.0),
        SoftSegmentation(kind(plain.segmentation.data), plain.segmentation.classes),
        plain.transfer,
    )
    upload, packing, notice = open_upload(gl, card)  # llvmpipe: through the host
    assert upload is None
    assert notice.startswith("arrays on the card were copied through the host to be drawn: OpenGL draws on")
    assert packing.volume.voxel_size_A == (7.0, 7.0, 7.0)
    monkeypatch.setattr("cryoet_engine.render.packing._SLAB_BYTES", 1)
    monkeypatch.setattr(kind, "most", 7 * 4 * SHAPE[1] * SHAPE[2])
    found, _ = expected(packing)
    assert np.array_equal(found[0], truth[0])
    monkeypatch.undo()
    estimate = TransferFunction.estimate(on_host(card.segmentation), on_host(card.volume))
    assert estimate == TransferFunction.estimate(plain.segmentation, plain.volume)
    assert np.array_equal(np.asarray(packing.volume.data), plain.volume.data)


def test_arrays_of_the_host_go_as_ever(gl):
    packing = scene(2, there=())
    assert open_upload(gl, packing) == (None, packing, "")
    assert on_host(packing.volume) is packing.volume
    assert egl_device(packing.volume, packing.segmentation) is None


def test_arrays_of_the_card_go_by_cuda(gl, kernels):
    library, card, packing = Library(), Card(kernels), scene(2, there=("segmentation",))
    library.device = card
    upload, read, notice = open_upload(OpenGL(gl, library), packing, device=card, driver=CudaDriver(library))
    assert isinstance(upload, CudaUpload) and notice == ""
    assert not hasattr(read.segmentation.data, "__cuda_array_interface__")
    assert upload.n_bytes >= 4 * SHAPE[0] * SHAPE[1] * SHAPE[2]
    upload.close()
    assert card.held == []


@pytest.mark.parametrize(("number", "index"), [(0, 2), (1, 0), (2, None)])
def test_the_egl_device_of_a_card(number, index):
    """Three devices: card 1, a software renderer without the attribute, card 0."""
    cards, pointer = {10: 1, 30: 0}, ctypes.c_void_p
    devices = (10, 20, 30)

    @ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)
    def query_devices(room, out, count):
        (pointer * room).from_address(out)[: len(devices)] = devices
        ctypes.c_int.from_address(count).value = len(devices)
        return 1

    @ctypes.CFUNCTYPE(ctypes.c_uint, pointer, ctypes.c_int, pointer)
    def query(device, attribute, value):
        assert attribute == 0x323A  # EGL_CUDA_DEVICE_NV
        if device not in cards:
            return 0
        ctypes.c_ssize_t.from_address(value).value = cards[device]
        return 1

    known = {b"eglQueryDevicesEXT": query_devices, b"eglQueryDeviceAttribEXT": query}

    class Procedure:
        def __call__(self, name):
            found = known.get(name.value)
            return ctypes.cast(found, pointer).value if found else None

    assert interop._egl_device_of(number, SimpleNamespace(eglGetProcAddress=Procedure())) == index
    del known[b"eglQueryDevicesEXT"]
    assert interop._egl_device_of(number, SimpleNamespace(eglGetProcAddress=Procedure())) is None
