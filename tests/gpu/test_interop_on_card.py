# SPDX-License-Identifier: MIT
"""Arrays on a card become textures on it, without a copy through the host: OpenGL and CUDA of one NVIDIA card."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import cryoet_engine as ce
from cryoet_engine.render import interop
from cryoet_engine.render.context import create_context
from cryoet_engine.render.interop import CudaUpload, NoInterop, egl_device
from cryoet_engine.render.packing import Packing
from cryoet_engine.transfer import Ramp, RawRamp, TransferFunction

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")]

SHAPE = (70, 61, 83)
NAMES = ("background", "a", "b", "c", "d", "e")


def arrays(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Smooth grey values and probabilities (class, z, y, x) as `kind` of balls beside each other."""
    z, y, x = (np.arange(n, dtype=np.float32) for n in SHAPE)
    grey = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    data = np.zeros((len(NAMES), *SHAPE), np.float32)
    for i in range(1, len(NAMES)):
        middle = (35, 30, 14 * i - 2)
        square = (z - middle[0])[:, None, None] ** 2 + (y - middle[1])[:, None] ** 2 + (x - middle[2]) ** 2
        data[i] = np.clip(1.5 - np.sqrt(square) / 12, 0, 1)
    if kind != "float32":
        data = np.rint(data * np.iinfo(kind).max).astype(kind)
    return grey, data


def packing(volume: Any, classes: Any, bits: Any) -> Packing:
    ramps = tuple(Ramp(left=0.3, visible=i > 0) for i in range(len(NAMES)))
    raw = RawRamp(low_pass_sigma_vox=1.0, at_zero=130.0, at_one=70.0)
    transfer = TransferFunction(classes=NAMES, ramps=ramps, raw=raw)
    return Packing.plan(ce.Volume(volume), ce.SoftSegmentation(classes, NAMES), transfer, bits=bits)


def sent(array: np.ndarray, holder: str) -> Any:
    if holder == "torch":
        return torch.from_numpy(array).cuda()
    return pytest.importorskip("cupy").asarray(array)


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    """OpenGL on the card of CUDA's arrays."""
    cupy = pytest.importorskip("cupy")
    one = cupy.zeros((2, 1, 1, 1), cupy.uint8)
    index = egl_device(None, ce.SoftSegmentation(one, ("background", "a")))
    assert index is not None, "EGL has no device that is this card (EGL_NV_device_cuda)"
    import moderngl

    options: dict[str, Any] = {"backend": "egl", "device_index": index}
    made = moderngl.create_context(standalone=True, require=430, **options)
    assert "NVIDIA" in made.info["GL_VENDOR"]
    yield made
    made.release()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("holder", ["cupy", "torch"])
def test_textures_hold_what_the_host_would_pack(
    context: Any, monkeypatch: pytest.MonkeyPatch, holder: str, kind: str, bits: int
) -> None:
    """Classes to the bit; the raw channel, filtered in another order of sums, to a level."""
    if holder == "torch" and kind == "uint16":
        pytest.skip("torch hands no uint16 to others on every version")
    grey, data = arrays(kind)
    plain = packing(grey, data, bits)
    slabs = list(plain.slabs())
    there = packing(sent(grey, holder), sent(data, holder), bits)
    # Several slabs, so that the buffer is filled while OpenGL may still be reading it.
    monkeypatch.setattr(interop, "_BUFFER_BYTES", 9 * SHAPE[1] * SHAPE[2] * 4 * bits // 8)
    z, y, x = SHAPE
    with CudaUpload(context, there) as upload:
        for which, n in enumerate(there.components):
            texture = context.texture3d((x, y, z), n, dtype={8: "f1", 16: "nu2"}[bits])
            assert upload.write(texture, which, 0, z) == 0
            stored = np.uint8 if bits == 8 else np.uint16
            found = np.frombuffer(texture.read(alignment=1), stored).reshape(z, y, x, n).astype(int)
            truth = np.concatenate([slab.textures[which] for slab in slabs])
            raw = int(plain.raw_texture == which)
            np.testing.assert_array_equal(found[..., raw:], truth[..., raw:])
            assert np.abs(found - truth).max() <= 1
            assert truth.std() > 5
            texture.release()
    assert context.error == "GL_NO_ERROR"


def test_again_and_again_keeps_nothing(context: Any) -> None:
    """Registered buffers and CUDA's memory are given back."""
    cupy = pytest.importorskip("cupy")
    grey, data = arrays("uint8")
    there = packing(sent(grey, "cupy"), sent(data, "cupy"), 8)
    free = []
    for _ in range(20):
        CudaUpload(context, there).close()
        context.finish()
        free.append(cupy.cuda.runtime.memGetInfo()[0])
    assert free[-1] >= free[4] - 2**20


def test_opengl_of_another_maker_is_told() -> None:
    """The software renderer, where there is one beside the card's."""
    import moderngl

    there = packing(*(sent(one, "torch") for one in arrays("uint8")), 8)
    for index in range(16):
        options: dict[str, Any] = {"backend": "egl", "device_index": index}
        try:
            made = moderngl.create_context(standalone=True, require=430, **options)
        except Exception:  # moderngl raises plain Exception: no such device, or one that cannot draw
            continue
        software = "NVIDIA" not in made.info["GL_VENDOR"]
        try:
            if software:
                with pytest.raises(NoInterop, match="OpenGL draws on"):
                    CudaUpload(made, there)
        finally:
            made.release()
        if software:
            return
    pytest.skip("EGL has no software renderer here")


@pytest.mark.parametrize("holder", ["cupy", "torch"])
def test_a_picture_of_arrays_on_the_card_is_that_of_the_host_s(holder: str) -> None:
    create_context().release()  # says what is missing where OpenGL is
    grey, data = arrays("uint8")
    plain = packing(grey, data, 8)
    pictures = []
    for make in (lambda array: array, lambda array: sent(array, holder)):
        volume, segmentation = ce.Volume(make(grey)), ce.SoftSegmentation(make(data), NAMES)
        pictures.append(ce.render_image(volume, segmentation, plain.transfer, size=(160, 90)))
    here, there = (np.asarray(one.image, int) for one in pictures)
    assert not any("through the host" in one for one in pictures[1].notices)
    assert np.abs(here - there).max() <= 2
    assert here.std() > 5
