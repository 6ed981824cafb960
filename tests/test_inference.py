# SPDX-License-Identifier: MIT
"""Tiles must not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cryoet_engine import CryoETError, SoftSegmentation, Volume
from cryoet_engine.inference import segment, voxel_size_mismatch
from cryoet_engine.models import ModelConfig, ModelInfo, Normalisation, SegmentationModel, create_model, register

torch.set_num_threads(1)  # small tensors: threads would only wait for each other

SHAPE = (20, 46, 36)
VOXELS = np.random.default_rng(0).normal(100, 9, SHAPE).astype(np.float32)
VOLUME = Volume(VOXELS, voxel_size_A=(10.0, 11.0, 12.0), origin_A=(1.0, 2.0, 3.0), start=(4, 5, 6), notes=("hi",))


@register("test_three_layers")
class _ThreeLayers(SegmentationModel):
    """Three 3x3x3 layers: reach 3 in every direction."""

    presets = ("full",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layers = [nn.Conv3d(config.in_channels, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 6, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv3d(6, config.out_channels, 3, padding=1))
        self.divisor, self.receptive_radius = (1, 1, 1), (3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.check_lengths(x)
        out: torch.Tensor = self.layers(x)
        return out


@register("test_pooled")
class _Pooled(_ThreeLayers):
    """The same at half resolution, so that tiles must lie on a grid of two: reach 7."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.divisor, self.receptive_radius = (2, 2, 2), (7, 7, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.check_lengths(x)
        return nn.functional.interpolate(self.layers(nn.functional.max_pool3d(x, 2)), scale_factor=2)


def _network(name: str = "test_three_layers", activation: Any = "softmax") -> SegmentationModel:
    model = create_model(name, out_channels=3, activation=activation).eval()
    with torch.no_grad():
        model.layers[-1].weight.mul_(4)  # type: ignore[union-attr, operator]  # probabilities that differ
    return model


def _direct(model: SegmentationModel, voxels: Any = VOXELS) -> Any:
    """The network on the whole volume at once."""
    x = Normalisation.measure(Volume(voxels), "zscore")(voxels)
    with torch.inference_mode():
        return model.probabilities(torch.from_numpy(x)[None, None])[0].numpy()


def _error(model: SegmentationModel, **arguments: Any) -> float:
    found = segment(model, VOLUME, **{"dtype": "float32", "tile": 32, "overlap": 14} | arguments)
    return float(np.abs(found.data - _direct(model)).max())


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (24, 6), (20, 7), (16, 12), (200, 32)])
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_trimmed_equals_direct(tile: int, overlap: int, activation: Any) -> None:
    """The reach fits half the overlap: no seams. Measured: 2e-7."""
    model = _network(activation=activation)
    direct = np.clip(_direct(model), 0, 1)
    found = segment(model, VOLUME, tile=tile, overlap=overlap, dtype="float32")
    assert np.abs(found.data - direct).max() < 1e-6
    assert direct.std() > 0.05  # else anything would be near


def test_trimmed_equals_direct_at_the_published_tile() -> None:
    """128 and 32, three layers. Measured: 6e-8 (plain ramps: 6e-3)."""
    model = _network()
    voxels = np.random.default_rng(1).normal(size=(4, 140, 134)).astype(np.float32)
    found = segment(model, Volume(voxels), dtype="float32")
    assert np.abs(found.data - _direct(model, voxels)).max() < 1e-6


def test_trimmed_equals_direct_with_pooling() -> None:
    assert _error(_network("test_pooled")) < 1e-6  # measured: 0, the ramp being a step


def test_plain_ramps_show_the_tiles() -> None:
    """The published blending gives weight to voxels that saw a tile's padding. Measured: 0.019."""
    model = _network()
    assert _error(model, blend="plain") > 0.005
    # Where the network sees further than half the overlap, trimming makes it fainter: 0.041 against 0.052.
    assert 1e-4 < _error(model, overlap=4) < _error(model, overlap=4, blend="plain")


def test_gaussian_weights_make_the_tiles_fainter() -> None:
    """Voxels near a tile's padding count least. Measured: 0.0098, where plain ramps have 0.019."""
    model = _network()
    assert 1e-4 < _error(model, blend="gaussian") < 0.8 * _error(model, blend="plain")


def test_one_tile_is_direct() -> None:
    for blend in ("plain", "trimmed", "gaussian"):
        assert _error(_network(), tile=70, blend=blend) < 1e-6


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_stored_types_sum_to_one(dtype: str) -> None:
    found = segment(_network(), VOLUME, tile=32, overlap=16, dtype=dtype)
    assert found.data.dtype == dtype
    total = found.data.astype(float).sum(0) / found.unit
    # Three roundings of half a unit; float32: measured 4e-7
    assert np.abs(total - 1).max() <= (1e-6 if dtype == "float32" else 1.5 / found.unit)
    np.testing.assert_allclose(found.data / found.unit, _direct(_network()), atol=0.5 / found.unit + 1e-6)


def test_keeps_the_grid_and_names() -> None:
    model = _network()
    assert segment(model, VOLUME).classes == ("class 1", "class 2", "class 3")
    model.info = ModelInfo(classes=("a", "b", "c"), colors=((1, 0, 0),) * 3, voxel_size_A=(1, 1, 1))
    found = segment(model, VOLUME)
    assert found.grid() == VOLUME.grid()
    assert found.classes == ("a", "b", "c")
    assert found.colors == ((1, 0, 0),) * 3


def test_batches_and_dtypes_of_input_change_nothing() -> None:
    model = _network()
    one = segment(model, VOLUME, tile=24, overlap=8, dtype="float32").data
    np.testing.assert_allclose(
        segment(model, VOLUME, tile=24, overlap=8, dtype="float32", batch=5).data, one, atol=1e-6
    )
    data = VOXELS.astype(np.int16)
    plain = segment(model, Volume(data), tile=24, overlap=8).data
    swapped = Volume(np.asfortranarray(data.astype(">i2")))
    np.testing.assert_array_equal(segment(model, swapped, tile=24, overlap=8).data, plain)


@pytest.mark.parametrize("shape", [(1, 9, 130), (7, 1, 1), (3, 3, 3), (17, 8, 25)])
@pytest.mark.parametrize("name", ["unet3d", "test_pooled", "test_three_layers"])
def test_odd_and_thin_volumes(shape: tuple[int, int, int], name: str) -> None:
    voxels = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    preset = "small" if name == "unet3d" else "full"
    model = create_model(name, preset=preset, out_channels=2, activation="softmax")
    found = segment(model, Volume(voxels), tile=16, overlap=8, dtype="float32")
    assert found.data.shape == (2, *shape)
    np.testing.assert_allclose(found.data.sum(0), 1, atol=1e-6)
    # What lies beyond the far ends is the reflection of what is before them.
    more = [(0, -n % d) for n, d in zip(shape, model.divisor, strict=True)]
    normal = Normalisation.measure(Volume(voxels), "zscore")(voxels)
    with torch.inference_mode():
        whole = (
            model.eval().probabilities(torch.from_numpy(np.pad(normal, more, mode="symmetric"))[None, None])[0].numpy()
        )
    untiled = segment(model, Volume(voxels), tile=256, dtype="float32")
    np.testing.assert_allclose(untiled.data, whole[:, : shape[0], : shape[1], : shape[2]], atol=1e-6)


class Recorder:
    """A store that knows what was written, and holds nothing else."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
        self.data = np.full(shape, 77, dtype)
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.written = np.zeros(shape[1], int)
        self.order: list[int] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        _, z, y, x = key
        assert (y, x) == (slice(0, self.shape[2]), slice(0, self.shape[3]))
        self.written[z] += 1
        self.order.append(z.start)
        self.data[key] = value

    def __getitem__(self, key: Any) -> Any:
        return self.data[key]


def test_streams_slices_in_order_each_once() -> None:
    model = _network()
    out = Recorder((3, *SHAPE), np.uint16)
    found = segment(model, VOLUME, tile=16, overlap=8, out=out, dtype="uint8")
    assert (out.written == 1).all()
    assert out.order == sorted(out.order)
    assert len(out.order) == 2
    assert found.data is out
    expected = segment(model, VOLUME, tile=16, overlap=8, dtype="uint16")  # the store's own type counts
    np.testing.assert_array_equal(out.data, expected.data)
    with pytest.raises(CryoETError, match=r"out: expected shape .*\(3, 20, 46, 36\)"):
        segment(model, VOLUME, out=Recorder((2, *SHAPE)))


def test_reads_tile_by_tile() -> None:
    class Lazy:
        shape, dtype = SHAPE, VOXELS.dtype

        def __getitem__(self, key: Any) -> Any:
            part = VOXELS[key]
            assert part.size <= max(16**3, SHAPE[1] * SHAPE[2])  # a tile, or a slice for the statistics
            return part

    model = _network()
    lazy = segment(model, Volume(Lazy()), tile=16, overlap=8)
    np.testing.assert_array_equal(lazy.data, segment(model, VOLUME, tile=16, overlap=8).data)


def test_progress_and_cancelling() -> None:
    steps: list[tuple[int, int]] = []
    model = _network().train()
    segment(
        model,
        VOLUME,
        tile=32,
        overlap=16,
        batch=1,
        progress=lambda stage, done, total, note="": steps.append((done, total)),
    )
    assert steps == [(done, 4) for done in range(5)]
    assert model.training  # as it was

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        segment(model, VOLUME, tile=32, overlap=16, batch=1, progress=stop)


def test_the_same_every_time() -> None:
    model = create_model("unet3d", preset="small", out_channels=2, activation="softmax")
    small = Volume(VOXELS[:16, :24, :16])
    a, b = (segment(model, small, tile=16, overlap=8, dtype="float32").data for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"overlap": 32, "tile": 32}, "tile, overlap"),
        ({"overlap": -1}, "tile, overlap"),
        ({"tile": 16.0}, "tile, overlap"),
        ({"blend": "cosine"}, "blend: expected trimmed or plain or gaussian"),
        ({"dtype": "int32"}, "dtype"),
        ({"batch": 0}, "batch"),
        ({"device": "gpu"}, "device"),
        ({"model": nn.Conv3d(1, 1, 1)}, "a network from create_model"),
        ({"model": Path("/nowhere/net")}, "/nowhere/net: network"),
        ({"model": create_model("test_three_layers", in_channels=2)}, "one input channel"),
        ({"volume": VOXELS}, "a Volume"),
        ({"volume": Volume(np.where(VOXELS > 120, np.inf, VOXELS))}, "NaN or infinite; replace them"),
        ({"volume": Volume(np.zeros((4, 4, 4)))}, "voxels that differ"),
    ],
)
def test_refuses(arguments: dict[str, Any], what: str) -> None:
    call: dict[str, Any] = {"model": _network(), "volume": VOLUME} | arguments
    out = Recorder((3, *SHAPE))
    with pytest.raises(CryoETError, match=what):
        segment(call.pop("model"), call.pop("volume"), out=out, **call)
    assert not out.written.any()


def test_voxel_size_mismatch() -> None:
    info = ModelInfo(classes=("a",), colors=((0, 0, 0),), voxel_size_A=(12.0,) * 3)
    data = np.zeros((2, 2, 2))
    assert voxel_size_mismatch(info, Volume(data, voxel_size_A=12.9)) is None
    assert voxel_size_mismatch(info, Volume(data, voxel_size_A=11.0)) is None
    for size in (13.5, 6.0, (12.0, 12.0, 24.0)):
        told = voxel_size_mismatch(info, Volume(data, voxel_size_A=size))
        assert told is not None
        assert "trained on 12 x 12 x 12 Å" in told
    assert voxel_size_mismatch(info, Volume(data, voxel_size_status="unknown")) is None


def test_soft_segmentation_is_whole() -> None:
    assert isinstance(segment(_network(), VOLUME), SoftSegmentation)
