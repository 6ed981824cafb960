# SPDX-License-Identifier: MIT
"""TIFF stacks and HDF5 datasets."""

import h5py
import numpy as np
import pytest
import tifffile

from cryoet_engine import io
from cryoet_engine._checks import FileFormatError, InputError
from cryoet_engine.volume import Volume

GRID = {
    "voxel_size_A": (13.48, 10.5, 7.25),
    "origin_A": (100.5, -200.25, 300.0),
    "start": (-3, 20, 500),
    "voxel_size_status": "estimated",
    "notes": ("SIRT, 29 tilts", "second line"),
}


def stack(shape=(4, 5, 6), dtype=np.uint8):
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 5, 6), (4, 1, 1), (3, 4, 3)])
def test_tiff_round_trip(tmp_path, dtype, shape):
    data = stack(shape, dtype)
    io.write(tmp_path / "a.tif", Volume(data[:, ::-1], **GRID))
    volume = io.read(tmp_path / "a.tif")
    assert volume.dtype == dtype
    np.testing.assert_array_equal(volume.numpy(), data[:, ::-1])
    assert volume.grid() == Volume(data, **GRID).grid()
    with tifffile.TiffFile(tmp_path / "a.tif") as peer:
        np.testing.assert_array_equal(peer.asarray().reshape(shape), data[:, ::-1])
        assert peer.imagej_metadata["unit"] == "nm"
        assert peer.imagej_metadata["spacing"] == pytest.approx(1.348)
        num, den = peer.pages[0].tags["XResolution"].value
        assert den / num == pytest.approx(0.725, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "factor"), [("nm", 10), ("um", 1e4), ("micron", 1e4), ("\\u00B5m", 1e4), ("angstrom", 1)]
)
def test_sizes_from_imagej(tmp_path, unit, factor):
    how = {"imagej": True, "resolution": (2.0, 4.0), "metadata": {"axes": "ZYX", "unit": unit, "spacing": 3.0}}
    tifffile.imwrite(tmp_path / "a.tif", stack(), **how)
    volume = io.read(tmp_path / "a.tif")
    assert volume.voxel_size_A == pytest.approx((3 * factor, factor / 4, factor / 2))
    del how["metadata"]["spacing"]
    tifffile.imwrite(tmp_path / "b.tif", stack(), **how)
    assert io.read(tmp_path / "b.tif").voxel_size_A == pytest.approx((factor / 2, factor / 4, factor / 2))


@pytest.mark.parametrize(
    "how", [{}, {"resolution": (72, 72)}, {"imagej": True, "metadata": {"unit": "pixel", "axes": "ZYX"}}]
)
def test_no_size_in_a_tiff(tmp_path, how):
    tifffile.imwrite(tmp_path / "a.tif", stack(), photometric="minisblack", **how)
    assert io.read(tmp_path / "a.tif").voxel_size_status == "unknown"


def test_ome_tiff_sizes(tmp_path):
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 5.0, "PhysicalSizeYUnit": "Å"}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack(), metadata={"axes": "ZYX", "PhysicalSizeZ": 0.001, **sizes})
    assert io.read(tmp_path / "a.ome.tif").voxel_size_A == (10.0, 5.0, 5.0)


@pytest.mark.parametrize(
    "how", [{"byteorder": ">"}, {"compression": "zlib"}, {"bigtiff": True}, {"tile": (16, 16)}, {"rowsperstrip": 2}]
)
def test_kinds_of_tiff(tmp_path, how):
    data = stack(dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", **how)
    volume = io.read(tmp_path / "a.tif")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.numpy(), data)
    np.testing.assert_array_equal(volume.data[3:1:-1, 2, 1:5:2], data[3:1:-1, 2, 1:5:2])


def test_tiffs_without_a_volume(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "channels.tif", stack((3, 8, 9)), imagej=True, metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "both.tif", stack((2, 3, 8, 9)), imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(tmp_path / "whole.tif", stack((9, 80, 90)), photometric="minisblack")
    raw = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "whole.tif").unlink()
    for keep in (12, 2000, len(raw) - 1000):
        (tmp_path / f"cut{keep}.tif").write_bytes(raw[:keep])
    for path in tmp_path.iterdir():
        with pytest.raises(FileFormatError, match=r"expected .* got") as caught:
            io.read(path)
        assert str(caught.value).startswith(str(path))
    with pytest.raises(InputError):
        io.write(tmp_path / "a.tif", Volume(np.array([[[1 << 30]]])))


def test_a_broken_page_shows_when_it_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stack((3, 80, 90)), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = file.pages[1].dataoffsets[0]
    with (tmp_path / "a.tif").open("r+b") as stream:
        stream.seek(at)
        stream.write(b"\xff" * 40)
    volume = io.read(tmp_path / "a.tif")
    np.asarray(volume.data[0])
    with pytest.raises(FileFormatError, match="a part of the data cannot be read"):
        np.asarray(volume.data[1])


def test_larger_than_a_tiff_may_be(tmp_path):
    huge = Volume(np.broadcast_to(np.float32(0), (4096, 1024, 1024)))
    with pytest.raises(InputError, match=r"at most 4 GiB.*write \.mrc or \.zarr"):
        io.write(tmp_path / "a.tif", huge)
    assert list(tmp_path.iterdir()) == []


def test_real_tiffs(test_data):
    tubule = io.read(test_data / "microtubule" / "13pf_MT.tif")
    assert tubule.shape == (36, 206, 94)
    assert tubule.voxel_size_A == (10.52, 10.52, 10.52)
    np.testing.assert_array_equal(tubule.numpy(), tifffile.imread(test_data / "microtubule" / "13pf_MT.tif"))
    for path in (test_data / "references").glob("*.tif"):  # big-endian ones among them
        np.testing.assert_array_equal(io.read(path).numpy(), tifffile.imread(path))
    assert io.read(test_data / "virion-slice" / "TS_001.133.tif").shape == (1, 928, 960)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u8", "f2", "f4"])
def test_hdf5_round_trip(tmp_path, dtype):
    data = stack(dtype=dtype)
    io.write(tmp_path / "a.h5", Volume(data[::-1], **GRID))
    volume = io.read(tmp_path / "a.h5")
    np.testing.assert_array_equal(volume.numpy(), data[::-1])
    assert volume.dtype == dtype
    assert volume.grid() == Volume(data, **GRID).grid()
    with h5py.File(tmp_path / "a.h5") as peer:
        np.testing.assert_array_equal(peer["data"][:], data[::-1])
        np.testing.assert_allclose(peer["data"].attrs["element_size_um"], np.array(GRID["voxel_size_A"]) / 1e4)


def test_hdf5_by_name(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = stack(dtype=">f4")
        file["volumes/raw"].attrs["element_size_um"] = [0.002, 0.001, 0.0005]
        file["angles"] = np.zeros(41)
        file["name"] = "text"
    assert io.read(path).voxel_size_A == (20.0, 10.0, 5.0)
    assert io.read(path).dtype.isnative
    with h5py.File(path, "a") as file:
        file.create_dataset("labels", data=stack()[None, ..., None], chunks=(1, 2, 2, 2, 1))
    with pytest.raises(FileFormatError, match=r"got 2: labels, volumes/raw; name the one you mean: .*a\.h5:/labels"):
        io.read(path)
    for name in (f"{path}:/labels", f"{path}:labels", f"{path}/labels", path / "labels"):
        np.testing.assert_array_equal(io.read(name).numpy(), stack())
    np.testing.assert_array_equal(io.read(f"{path}:/labels").data[1:3, ::-1, 4], stack()[1:3, ::-1, 4])
    np.testing.assert_array_equal(io.read(f"{path}/volumes/raw").numpy(), stack())
    with pytest.raises(FileFormatError, match="dataset nothing: expected labels, volumes/raw, got none of that name"):
        io.read(f"{path}:/nothing")
    with pytest.raises(FileFormatError, match=r"dataset angles: .*got float64 of shape \(41,\)"):
        io.read(f"{path}:/angles")
    with pytest.raises(FileFormatError, match="dataset volumes"):
        io.read(f"{path}:/volumes")


def test_broken_hdf5(tmp_path):
    io.write(tmp_path / "a.h5", Volume(stack((9, 80, 90), np.float32)))
    raw = (tmp_path / "a.h5").read_bytes()
    for keep in (9, 1000, len(raw) // 2):
        (tmp_path / "b.h5").write_bytes(raw[:keep])
        with pytest.raises(FileFormatError, match=r"b\.h5: cannot be read"):
            io.read(tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["angles"] = np.zeros(41)
    with pytest.raises(FileFormatError, match="one dataset with three axes, got none"):
        io.read(tmp_path / "b.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["data"].attrs["cryoet_engine"] = "{}"
    with pytest.raises(FileFormatError, match="attribute cryoet_engine"):
        io.read(tmp_path / "a.h5")


def test_real_hdf5(test_data):
    for name, dtype in (("data", np.float32), ("target", np.int8)):
        path = test_data / "simulated-deepfinder" / f"tomo1_{name}.h5"
        volume = io.read(path)
        assert (volume.shape, volume.dtype) == ((100, 100, 100), dtype)
        with h5py.File(path) as peer:
            np.testing.assert_array_equal(volume.numpy(), peer["dataset"][:])
