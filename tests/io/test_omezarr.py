# SPDX-License-Identifier: MIT
"""OME-Zarr: what others write is read, what is written others read."""

import json
import os

import numpy as np
import pytest
import zarr

from cryoet_engine import io
from cryoet_engine._checks import FileFormatError, InputError
from cryoet_engine.volume import DEFAULT_COLORS, SoftSegmentation, Volume

GRID = {
    "voxel_size_A": (13.48, 10.5, 7.25),
    "origin_A": (100.5, -200.25, 300.0),
    "start": (-3, 20, 500),
    "voxel_size_status": "estimated",
    "notes": ("SIRT, 29 tilts Å", "second line"),
}
SPACE = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]


def ome(path, arrays, *, version, axes=SPACE, transforms=None, whole=(), extra=None):
    """An OME-Zarr image as another program would write it."""
    group = zarr.create_group(str(path), zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, array in enumerate(arrays):
        group.create_array(str(i), data=array, chunks=tuple(min(n, 4) for n in array.shape))
        scale = {"type": "scale", "scale": [float(2**i)] * array.ndim}
        datasets.append(
            {
                "path": str(i),
                "coordinateTransformations": (transforms or [[scale]])[i % len(transforms or [0])]
                if transforms
                else [scale],
            }
        )
    image = {"axes": axes, "datasets": datasets}
    if whole:
        image["coordinateTransformations"] = list(whole)
    content = {"multiscales": [image], **(extra or {})}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": "0.5", **content}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_of_other_programs(tmp_path, version):
    data = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    levels = [[{"type": "scale", "scale": [1.5, 2.0, 2.5]}, {"type": "translation", "translation": [3.0, 4.0, 5.0]}]]
    whole = [{"type": "scale", "scale": [2.0, 1.0, 1.0]}, {"type": "translation", "translation": [0.0, 0.0, 1.0]}]
    path = ome(tmp_path / "a.zarr", [data], version=version, transforms=levels, whole=whole)
    volume = io.read(path)
    np.testing.assert_array_equal(volume.numpy(), data)
    np.testing.assert_array_equal(volume.data[-1, ::-2, 1:4], data[-1, ::-2, 1:4])
    assert volume.voxel_size_A == (30.0, 20.0, 25.0)
    assert volume.origin_A == (60.0, 40.0, 60.0)  # the level's translation is scaled by the image's scale, then moved
    assert volume.voxel_size_status == "known"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_finest_level_is_read(tmp_path, version):
    coarse, fine = np.zeros((2, 2, 2), np.float32), np.ones((4, 4, 4), np.float32)
    scales = [[{"type": "scale", "scale": [n] * 3}] for n in (2.0, 1.0)]
    assert io.read(ome(tmp_path / "a.zarr", [coarse, fine], version=version, transforms=scales)).shape == (4, 4, 4)
    assert io.read(ome(tmp_path / "b.zarr", [fine, coarse], version=version)).shape == (4, 4, 4)


@pytest.mark.parametrize(
    ("unit", "size", "status"),
    [
        ("angstrom", 4.0, "known"),
        ("nanometer", 40.0, "known"),
        ("micrometer", 4e4, "known"),
        (None, 4.0, "estimated"),
        ("parsec", 4.0, "estimated"),
    ],
)
def test_units(tmp_path, unit, size, status):
    axes = [{"name": axis, "type": "space", **({"unit": unit} if unit else {})} for axis in "zyx"]
    scale = [[{"type": "scale", "scale": [4.0] * 3}]]
    volume = io.read(ome(tmp_path / "a.zarr", [np.zeros((2, 2, 2))], version="0.5", axes=axes, transforms=scale))
    assert volume.voxel_size_A == (size,) * 3
    assert volume.voxel_size_status == status


def test_no_unit_and_scale_one_is_unknown(tmp_path):
    volume = io.read(ome(tmp_path / "a.zarr", [np.zeros((2, 2, 2))], version="0.4", axes=list("zyx")))
    assert volume.voxel_size_status == "unknown"


def test_time_channels_and_axis_order(tmp_path):
    data = np.random.default_rng(0).random((1, 3, 4, 5, 6), np.float32)
    lead = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    path = ome(tmp_path / "a.zarr", [data], version="0.4", axes=lead + SPACE)
    with pytest.raises(FileFormatError, match=r"got 3 channels; choose one: read_volume\(path, channel=0\)"):
        io.read(path)
    np.testing.assert_array_equal(io.read(path, channel=2).numpy(), data[0, 2])
    with pytest.raises(FileFormatError, match="expected 0 to 2, got 3"):
        io.read(path, channel=3)
    assert io.read(ome(tmp_path / "b.zarr", [data[:, :1]], version="0.5", axes=lead + SPACE)).shape == (4, 5, 6)
    several = ome(tmp_path / "c.zarr", [np.zeros((2, 3, 4, 5))], version="0.5", axes=[lead[0], *SPACE])
    with pytest.raises(FileFormatError, match="2 time points"):
        io.read(several)
    turned = ome(tmp_path / "d.zarr", [data[0, 0].transpose(2, 0, 1)], version="0.5", axes=[SPACE[2], *SPACE[:2]])
    np.testing.assert_array_equal(io.read(turned).numpy(), data[0, 0])
    np.testing.assert_array_equal(io.read(turned).data[1:3, 2, :3], data[0, 0, 1:3, 2, :3])
    flat = ome(tmp_path / "e.zarr", [data[0, 0, 0]], version="0.5", axes=SPACE[1:])
    np.testing.assert_array_equal(io.read(flat).numpy(), data[0, 0, :1])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_arrays(tmp_path, zarr_format):
    data = np.arange(60, dtype=">i4").reshape(3, 4, 5)
    zarr.create_array(str(tmp_path / "a.zarr"), data=data, zarr_format=zarr_format)
    volume = io.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(volume.numpy(), data)
    assert volume.dtype.isnative
    assert volume.voxel_size_status == "unknown"
    group = zarr.create_group(str(tmp_path / "b.zarr"), zarr_format=zarr_format)
    group.create_array("tomogram", data=data)
    group.create_array("angles", data=np.zeros(3))
    np.testing.assert_array_equal(io.read(tmp_path / "b.zarr").numpy(), data)
    group.create_array("mask", data=data)
    with pytest.raises(FileFormatError, match="several arrays; inside: mask, tomogram; name one"):
        io.read(tmp_path / "b.zarr")
    np.testing.assert_array_equal(io.read(tmp_path / "b.zarr" / "mask").numpy(), data)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "i8", "f2", "f4"])
def test_volume_round_trip(tmp_path, dtype):
    data = np.arange(70 * 3 * 5).reshape(70, 3, 5).astype(dtype)
    io.write(tmp_path / "a.zarr", Volume(data[::-1, :, ::-1], **GRID))
    volume = io.read(tmp_path / "a.zarr")
    assert isinstance(volume, Volume)
    assert volume.dtype == data.dtype
    np.testing.assert_array_equal(volume.numpy(), data[::-1, :, ::-1])
    assert volume.grid() == Volume(data, **GRID).grid()
    peer = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    assert peer.metadata.zarr_format == 3
    np.testing.assert_array_equal(peer["0"][:], data[::-1, :, ::-1])
    assert peer["0"].chunks == (64, 3, 5)
    assert peer["0"].metadata.dimension_names == ("z", "y", "x")
    image = peer.attrs["ome"]["multiscales"][0]
    assert peer.attrs["ome"]["version"] == "0.5"
    assert [axis["unit"] for axis in image["axes"]] == ["angstrom"] * 3
    assert image["datasets"][0]["coordinateTransformations"] == [
        {"type": "scale", "scale": [13.48, 10.5, 7.25]},
        {"type": "translation", "translation": [100.5, -200.25, 300.0]},
    ]


def test_float64_and_unknown_size(tmp_path):
    io.write(tmp_path / "a.zarr", Volume(np.ones((2, 3, 4)), voxel_size_status="unknown"))
    volume = io.read(tmp_path / "a.zarr")
    assert volume.dtype == np.float32
    assert volume.voxel_size_status == "unknown"
    assert "unit" not in zarr.open_group(str(tmp_path / "a.zarr")).attrs["ome"]["multiscales"][0]["axes"][0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_soft_segmentation_round_trip(tmp_path, dtype):
    classes = ("background", "membrane", "spikes & more")
    colors = ((0.1, 0.2, 0.3), (1.0, 0.0, 0.5), (0.25, 0.5, 0.75))
    probability = np.random.default_rng(0).dirichlet((1, 1, 1), (70, 9, 11)).transpose(3, 0, 1, 2).astype(np.float32)
    with io.create_segmentation(
        tmp_path / "a.zarr",
        (70, 9, 11),
        classes,
        dtype=dtype,
        grid=Volume(probability[0], **GRID).grid(),
        colors=colors,
        attributes={"model": {"name": "unet3d", "steps": 500}},
    ) as out:
        assert sorted(os.listdir(tmp_path)) == ["a.zarr.partial"]
        for z in range(0, 70, 33):  # blocks that share chunks
            out[:, z : z + 33, 0:9, 0:5] = probability[:, z : z + 33, :, :5]
            out[:, z : z + 33, 0:9, 5:11] = probability[:, z : z + 33, :, 5:]
        before = out.segmentation
        np.testing.assert_array_equal(before.data[1, 3], out[1, 3])
    assert os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(before.data[1, 3], out.segmentation.data[1, 3])  # it follows the store
    found = io.read(tmp_path / "a.zarr")
    assert isinstance(found, SoftSegmentation)
    assert (found.classes, found.colors, found.data.dtype) == (classes, colors, np.dtype(dtype))
    assert found.grid() == Volume(probability[0], **GRID).grid()
    whole = found.block((slice(None), slice(None), slice(None)))
    # half a step of the quantisation (plus float32 rounding); measured 0.00196, 7.7e-6, 0
    assert np.abs(whole - probability).max() <= {"uint8": 0.5 / 255, "uint16": 0.5 / 65535, "float32": 0}[dtype] + 1e-7
    attributes = zarr.open_group(str(tmp_path / "a.zarr")).attrs
    assert attributes["cryoet_engine"]["model"]["steps"] == 500
    assert [one["label"] for one in attributes["ome"]["omero"]["channels"]] == list(classes)
    assert attributes["ome"]["omero"]["channels"][1]["color"] == "FF00BC"  # sRGB of 1, 0, 0.5
    assert zarr.open_group(str(tmp_path / "a.zarr"))["0"].chunks == (1, 64, 9, 11)
    io.write(tmp_path / "b.zarr", found)
    again = io.read_segmentation(tmp_path / "b.zarr")
    np.testing.assert_array_equal(np.asarray(again.data), np.asarray(found.data))
    assert (again.classes, again.colors, again.grid()) == (found.classes, found.colors, found.grid())
    io.write(tmp_path / "c.zarr", found, dtype="uint8")
    assert io.read(tmp_path / "c.zarr").data.dtype == np.uint8
    assert io.read_segmentation(tmp_path / "c.zarr", classes="abc").classes == ("a", "b", "c")
    with pytest.raises(FileFormatError, match="expected a volume, got a soft segmentation"):
        io.read_volume(tmp_path / "a.zarr")


def test_same_input_gives_the_same_bytes(tmp_path):
    data = np.random.default_rng(0).random((2, 5, 6, 7), np.float32)
    for name in ("x", "y"):
        folder = tmp_path / name
        folder.mkdir()
        io.write(folder / "a.zarr", SoftSegmentation(data, ("background", "b"), **GRID))
        for ending in ("tif", "h5", "mrc"):
            io.write(folder / f"a.{ending}", Volume(data[0], **GRID))
    files = [path.relative_to(tmp_path / "x") for path in (tmp_path / "x").rglob("*") if path.is_file()]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes(), file


def test_what_a_segmentation_takes(tmp_path):
    def create(name="a.zarr", shape=(2, 3, 4), classes=("background", "m"), **how):
        return io.create_segmentation(tmp_path / name, shape, classes, **how)

    for wrong in (
        {"name": "a.mrc"},
        {"shape": (2, 3)},
        {"shape": (0, 3, 4)},
        {"classes": ()},
        {"classes": ("m", "m")},
        {"dtype": "int8"},
        {"colors": [(1, 1, 1)]},
        {"attributes": {"when": object()}},
        {"attributes": {"loss": float("nan")}},
    ):
        with pytest.raises(InputError, match=r"expected .* got"):
            create(**wrong)
    assert list(tmp_path.iterdir()) == []
    out = create(colors=DEFAULT_COLORS[:2])
    with pytest.raises(InputError, match="NaN"):
        out[:, 0:1, 0:3, 0:4] = np.full((2, 1, 3, 4), np.nan)
    with pytest.raises(InputError, match="floats or uint8"):
        out[:, 0:1, 0:3, 0:4] = np.zeros((2, 1, 3, 4), np.int64)
    for region, shape in (
        ((slice(None), 0), (2, 3, 5)),
        ((slice(None), slice(0, 1)), ()),
        (slice(None, None, -1), (2, 2, 3, 4)),
    ):
        with pytest.raises(InputError, match="array: expected shape"):
            out[region] = np.zeros(shape, np.float32)
    out[1, 0] = np.full((3, 4), 0.2)
    assert out[1, 0].max() == 51
    out[:, 0:1, 0:3, 0:4] = np.full((2, 1, 3, 4), 1.5)  # clipped
    assert out[0, 0, 0, 0] == 255
    out.discard()
    out.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="a closed one"):
        out[:, 0:1, 0:3, 0:4] = np.zeros((2, 1, 3, 4), np.uint8)
    out = create()
    out.close()
    out.close()
    assert io.read_segmentation(tmp_path / "a.zarr").shape == (2, 3, 4)


def test_broken_stores(tmp_path):
    def store(name):
        io.write(tmp_path / name, Volume(np.random.default_rng(0).random((70, 8, 8), np.float32)))
        return tmp_path / name

    broken = store("chunk.zarr") / "0" / "c" / "0" / "0" / "0"
    raw = bytearray(broken.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    broken.write_bytes(raw)
    volume = io.read(tmp_path / "chunk.zarr")  # opens: nothing is read yet
    np.asarray(volume.data[64:])
    with pytest.raises(FileFormatError, match=r"chunk\.zarr: a part of the data cannot be read"):
        volume.block((slice(0, 2), slice(0, 2), slice(0, 2)))
    broken.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(FileFormatError, match="a part of the data cannot be read"):
        volume.numpy()

    (store("json.zarr") / "zarr.json").write_text("{ not json")
    (store("array.zarr") / "0" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    (store("gone.zarr") / "0" / "zarr.json").unlink()
    for name, change in {
        "grid.zarr": lambda a: a["cryoet_engine"]["grid"].update(voxel_size_A=[0, 1, 1]),
        "status.zarr": lambda a: a["cryoet_engine"]["grid"].update(voxel_size_status="guessed"),
        "kind.zarr": lambda a: a["cryoet_engine"].update(kind="soft_segmentation", classes=["a"]),
        "axes.zarr": lambda a: a["ome"]["multiscales"][0].update(axes=[{"name": "x"}]),
        "path.zarr": lambda a: a["ome"]["multiscales"][0].update(datasets=[{}]),
        "none.zarr": lambda a: a["ome"]["multiscales"][0].update(datasets=[]),
        "list.zarr": lambda a: a["ome"].update(multiscales=[5]),
    }.items():
        file = store(name) / "zarr.json"
        content = json.loads(file.read_text())
        change(content["attributes"])
        file.write_text(json.dumps(content))
    zarr.create_group(str(tmp_path / "empty.zarr"))
    zarr.create_group(str(tmp_path / "groups.zarr")).create_group("inner")
    zarr.create_array(str(tmp_path / "line.zarr"), data=np.zeros(3))
    zarr.create_array(str(tmp_path / "complex.zarr"), data=np.zeros((2, 2, 2), "c8"))
    for path in tmp_path.iterdir():
        if path.name != "chunk.zarr":
            with pytest.raises(FileFormatError, match=r"expected .* got") as caught:
                io.read(path)
            assert str(caught.value).startswith(str(path))
            assert "\n" not in str(caught.value)
