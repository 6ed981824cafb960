# SPDX-License-Identifier: MIT
"""MRC files: what mrcfile, IMOD, CCP4 and Relion write is read; what is written is valid and the same every time."""

import bz2
import gzip
import hashlib
import itertools
import warnings

import mrcfile
import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine._checks import CryoETError, FileFormatError, InputError
from cryoet_engine.io import _lazy, mrc
from cryoet_engine.volume import Volume

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}
GRID = {
    "voxel_size_A": (13.48, 10.5, 7.25),
    "origin_A": (100.5, -200.25, 300.0),
    "start": (-3, 20, 500),
    "notes": ("SIRT, 29 tilts", "second line"),
}


def voxels(dtype, shape=(5, 6, 7)):
    ramp = np.arange(np.prod(shape)).reshape(shape)
    return (ramp % 101).astype(dtype)


def raw_mrc(path, data, *, order="<", mode=2, **fields):
    """An MRC file made by hand: `data` as it lies in the file (section, row, column)."""
    header = np.zeros((), mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))
    header["nz"], header["ny"], header["nx"] = header["mz"], header["my"], header["mx"] = data.shape
    header["mode"] = mode
    header["cella"] = (data.shape[2] * 2.0, data.shape[1] * 3.0, data.shape[0] * 4.0)
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["map"], header["nversion"] = b"MAP ", 20140
    header["machst"] = (0x44, 0x44, 0, 0) if order == "<" else (0x11, 0x11, 0, 0)
    for name, value in fields.items():
        header[name] = value
    extended = b"\7" * int(header["nsymbt"])
    path.write_bytes(header.tobytes() + extended + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("mode", MODES)
def test_modes_and_byte_orders(tmp_path, mode, order):
    data = voxels(MODES[mode])
    if mode != 6:
        data = data * np.array(-1, data.dtype)
    volume = io.read(raw_mrc(tmp_path / "a.mrc", data, mode=mode, order=order))
    assert volume.dtype == MODES[mode]
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.numpy(), data)
    np.testing.assert_array_equal(volume.data[1:3, ::2, -1], data[1:3, ::2, -1])
    assert volume.voxel_size_A == (4.0, 3.0, 2.0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("crs", list(itertools.permutations((1, 2, 3))))
def test_axis_orders(tmp_path, crs, order):
    """Truth is laid out here by hand: nstart follows the file's axes; mx, cella and origin follow x, y, z."""
    truth = voxels(np.float32, (3, 4, 5))  # (z, y, x)
    axis_of = {1: 2, 2: 1, 3: 0}  # x, y, z as axes of truth
    stored = truth.transpose(axis_of[crs[2]], axis_of[crs[1]], axis_of[crs[0]])
    start = {1: 11, 2: 22, 3: 33}
    path = raw_mrc(
        tmp_path / "a.map",
        stored,
        order=order,
        mapc=crs[0],
        mapr=crs[1],
        maps=crs[2],
        nxstart=start[crs[0]],
        nystart=start[crs[1]],
        nzstart=start[crs[2]],
        mx=10,
        my=20,
        mz=40,
        cella=(15.0, 50.0, 140.0),
        origin=(1.0, 2.0, 3.0),
    )
    volume = io.read(path)
    np.testing.assert_array_equal(volume.numpy(), truth)
    np.testing.assert_array_equal(volume.block((slice(0, 2), slice(1, 3), slice(2, 5))), truth[0:2, 1:3, 2:5])
    assert volume.start == (33, 22, 11)
    assert volume.voxel_size_A == (3.5, 2.5, 1.5)
    assert volume.origin_A == (3.0, 2.0, 1.0)
    io.write(tmp_path / "b.mrc", volume)
    again = io.read(tmp_path / "b.mrc")
    np.testing.assert_array_equal(again.numpy(), truth)
    assert (again.start, again.voxel_size_A, again.origin_A) == (volume.start, volume.voxel_size_A, volume.origin_A)
    with mrcfile.open(tmp_path / "b.mrc") as peer:
        assert peer.nstart.item() == (11, 22, 33)


@pytest.mark.parametrize("mode", MODES)
def test_written_files_are_valid_and_keep_everything(tmp_path, mode):
    path = tmp_path / "a.mrc"
    data = voxels(MODES[mode])
    if mode == 12:
        data /= 8  # mrcfile's own check sums up in float16
    io.write(path, Volume(data, **GRID))
    with mrcfile.open(path) as peer:
        np.testing.assert_array_equal(peer.data, data)
        assert peer.header.mode == mode
        assert peer.header.dmin == data.min()
        assert peer.header.dmax == data.max()
        # float64 sums stored as float32: measured 6e-8 relative
        assert peer.header.dmean == pytest.approx(data.mean(dtype=np.float64), rel=2e-7)
        assert peer.header.rms == pytest.approx(data.std(dtype=np.float64), rel=2e-7)
    assert mrcfile.validate(path, print_file=None)
    again = io.read(path)
    assert isinstance(again.data, np.memmap)
    assert again.grid() | {"notes": again.notes[:2]} == Volume(data, **GRID).grid()
    assert again.notes[2].startswith("Written by cryoet-engine")
    io.write(tmp_path / "b.mrc", again)  # neither the notes nor anything else grow
    assert path.read_bytes() == (tmp_path / "b.mrc").read_bytes()


@pytest.mark.parametrize("name", ["a.mrc.gz", "a.rec.bz2", "a.MAP.GZ"])
def test_compressed(tmp_path, name, monkeypatch):
    data = voxels(np.float32)
    volume = Volume(data, **GRID)
    io.write(tmp_path / name, volume)
    io.write(tmp_path / "plain.mrc", volume)
    unpack = bz2 if name.endswith("bz2") else gzip
    assert unpack.open(tmp_path / name).read() == (tmp_path / "plain.mrc").read_bytes()
    np.testing.assert_array_equal(io.read(tmp_path / name).numpy(), data)
    first = hashlib.sha256((tmp_path / name).read_bytes()).digest()
    io.write(tmp_path / name, volume)
    assert hashlib.sha256((tmp_path / name).read_bytes()).digest() == first
    monkeypatch.setattr(mrc, "_IN_MEMORY_BYTES", 100)  # large ones go through a temporary file
    large = io.read(tmp_path / name)
    assert isinstance(large.data, np.memmap)
    np.testing.assert_array_equal(large.numpy(), data)


def test_compressed_content_under_a_plain_name(tmp_path):
    io.write(tmp_path / "a.mrc.gz", Volume(voxels(np.int16)))
    (tmp_path / "a.mrc.gz").rename(tmp_path / "a.mrc")
    np.testing.assert_array_equal(io.read(tmp_path / "a.mrc").numpy(), voxels(np.int16))


def test_extended_header_is_skipped(tmp_path):
    data = voxels(np.float32)
    path = raw_mrc(tmp_path / "a.mrc", data, nsymbt=(1 << 20) + 3, exttyp=b"FEI1")
    np.testing.assert_array_equal(io.read(path).numpy(), data)
    packed = tmp_path / "b.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(io.read(packed).numpy(), data)


@pytest.mark.parametrize(("flags", "dtype"), [(0, np.uint8), (1, np.int8)])
def test_imods_flag_for_bytes(tmp_path, flags, dtype):
    path = raw_mrc(tmp_path / "a.rec", np.full((2, 3, 4), 200, np.uint8), mode=0)
    raw = bytearray(path.read_bytes())
    raw[152:160] = np.array([1146047817, flags], "<i4").tobytes()
    path.write_bytes(raw)
    assert io.read(path).dtype == dtype
    assert io.read(path).data[0, 0, 0] == np.array(200, np.uint8).astype(dtype)


def test_old_file_without_map_string_or_stamp(tmp_path):
    for order in "<>":
        data = voxels(np.int16)
        path = raw_mrc(
            tmp_path / "a.st", data, mode=1, order=order, map=b"", machst=(0, 0, 0, 0), mapc=0, mapr=0, maps=0
        )
        np.testing.assert_array_equal(io.read(path).numpy(), data)


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_no_voxel_size(tmp_path, size):
    volume = io.read(raw_mrc(tmp_path / "a.mrc", voxels(np.float32), cella=(size, 9.0, 9.0)))
    assert volume.voxel_size_status == "unknown"
    assert volume.voxel_size_A == (1, 1, 1)
    io.write(tmp_path / "b.mrc", volume)
    assert mrcfile.validate(tmp_path / "b.mrc")
    assert io.read(tmp_path / "b.mrc").voxel_size_status == "unknown"


@pytest.mark.parametrize(
    ("label", "status"),
    [
        ("VOXEL SIZE NOT VERIFIED", "estimated"),
        ("voxel size is an Estimate", "estimated"),
        ("voxel size 3 A, measured", "known"),
        ("estimate of the defocus", "known"),
    ],
)
def test_status_from_labels_survives(tmp_path, label, status):
    labels = [label.encode(), *[b""] * 9]
    volume = io.read(raw_mrc(tmp_path / "a.mrc", voxels(np.float32), label=labels, nlabl=1))
    assert volume.voxel_size_status == status
    assert volume.notes == (label,)
    for name in ("b.mrc", "b.zarr", "b.tif", "b.h5"):
        io.write(tmp_path / name, volume)
        assert io.read(tmp_path / name).voxel_size_status == status


def test_status_survives_many_long_notes(tmp_path):
    notes = (*(f"{i} Å " + "long " * 30 for i in range(12)), "voxel size: estimate")
    volume = Volume(voxels(np.float32), voxel_size_status="estimated", notes=notes)
    io.write(tmp_path / "a.mrc", volume)
    again = io.read(tmp_path / "a.mrc")
    assert again.voxel_size_status == "estimated"
    assert len(again.notes) == 10
    assert max(map(len, again.notes)) <= 80
    assert again.notes[0].startswith("0 A long")
    assert mrcfile.validate(tmp_path / "a.mrc")


def test_a_corrected_voxel_size_is_no_estimate_any_more(tmp_path):
    volume = Volume(voxels(np.float32), voxel_size_A=5.0, notes=("VOXEL SIZE NOT VERIFIED", "kept"))
    io.write(tmp_path / "a.mrc", volume)
    again = io.read(tmp_path / "a.mrc")
    assert again.voxel_size_status == "known"
    assert again.notes[0] == "kept"


def test_types_that_mrc_lacks(tmp_path):
    def mode(data, **how):
        io.write(tmp_path / "a.mrc", Volume(np.asarray(data).reshape(1, 1, -1)), **how)
        with mrcfile.open(tmp_path / "a.mrc") as peer:
            np.testing.assert_array_equal(peer.data.ravel(), data)
            return int(peer.header.mode)

    assert mode(np.array([0.5, 2.0])) == 2
    assert mode(np.array([True, False])) == 0
    assert mode(np.array([0, 4], np.int32)) == 0
    assert mode(np.array([0, 127], np.uint8)) == 0
    assert mode(np.array([-1, 128], np.int64)) == 1
    assert mode(np.array([0, 200], np.uint8)) == 1
    assert mode(np.array([0, 65535], np.int32)) == 6
    assert mode(np.array([-70000, 1 << 24], np.int32)) == 2
    assert mode(np.array([1.0, 2.0], np.float32), dtype="int8") == 0
    assert mode(np.array([1, 2], ">i2")) == 1
    for data, how in [
        (np.array([1 << 25], np.int32), {}),
        (np.array([1j]), {}),
        (np.array([1.5], np.float32), {"dtype": "int8"}),
        (np.array([300], np.int16), {"dtype": "int8"}),
        (np.array([np.nan], np.float32), {"dtype": "int16"}),
        (np.array([1e300]), {}),
        (np.array([1e6], np.float32), {"dtype": "float16"}),
        (np.array([1], np.int16), {"dtype": "uint8"}),
        (np.array([1], np.int16), {"dtype": "colour"}),
    ]:
        (tmp_path / "a.mrc").unlink(missing_ok=True)
        with pytest.raises(InputError, match=r"expected .* got"):
            mode(data, **how)
        assert list(tmp_path.iterdir()) == []


def test_nonfinite_voxels_pass_and_statistics_leave_them_out(tmp_path):
    data = np.array([1.0, np.nan, 3.0, np.inf], np.float32).reshape(1, 2, 2)
    io.write(tmp_path / "a.mrc", Volume(data))
    np.testing.assert_array_equal(io.read(tmp_path / "a.mrc").numpy(), data)
    with mrcfile.open(tmp_path / "a.mrc", header_only=True) as peer:
        assert (peer.header.dmin, peer.header.dmax, peer.header.dmean, peer.header.rms) == (1, 3, 2, 1)


def test_slabs_give_the_same_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    volume = Volume((rng.normal(size=(37, 20, 10)) * 1e3 + 1e5).astype(np.float32)[:, ::-1])
    io.write(tmp_path / "a.mrc", volume)
    monkeypatch.setattr(_lazy, "_SLAB_BYTES", 3000)
    seen = []
    io.write(tmp_path / "b.mrc", volume, progress=lambda stage, done, total, note="": seen.append((done, total)))
    assert (tmp_path / "a.mrc").read_bytes() == (tmp_path / "b.mrc").read_bytes()
    assert len(seen) == 13
    assert seen[-1] == (37, 37)


def test_header_claims_of_a_huge_volume_cost_nothing(tmp_path):
    """A file of 4 TiB of holes opens at once and reads where it is asked to."""
    path = raw_mrc(tmp_path / "a.mrc", np.zeros((1, 1, 1), np.float32), nx=16384, ny=16384, nz=4096)
    try:
        with path.open("r+b") as stream:
            stream.truncate(1024 + 16384 * 16384 * 4096 * 4)
    except OSError:
        pytest.skip("the file system holds no sparse file of 4 TiB")
    volume = io.read(path)
    assert volume.shape == (4096, 16384, 16384)
    assert volume.block((slice(4000, 4001), slice(0, 2), slice(0, 2))).sum() == 0
    path.unlink()  # or somebody copies it


def test_reading_and_writing_the_same_name(tmp_path):
    path = tmp_path / "a.mrc"
    io.write(path, Volume(voxels(np.float32)))
    io.write(path, io.read(path).with_data(io.read(path).data))
    np.testing.assert_array_equal(io.read(path).numpy(), voxels(np.float32))


def test_a_stack_of_volumes_is_refused(tmp_path):
    path = raw_mrc(tmp_path / "a.mrcs", np.zeros((6, 2, 2), np.float32), ispg=401, mz=3)
    with pytest.raises(FileFormatError, match="a stack of 2 volumes"):
        io.read(path)


def test_skewed_cell_is_noted(tmp_path):
    volume = io.read(raw_mrc(tmp_path / "a.map", np.zeros((2, 2, 2), np.float32), cellb=(90, 94.25, 90)))
    assert volume.notes == ("Cell angles 90, 94.25, 90: taken as right angles",)


def test_real_files_as_mrcfile_reads_them(test_data):
    paths = [path for folder in ("maps", "structures/density", "lysosome") for path in (test_data / folder).iterdir()]
    assert len(paths) > 30
    for path in paths:
        volume = io.read(path)
        with mrcfile.open(path) as peer:
            crs = [int(peer.header[name]) for name in ("mapc", "mapr", "maps")]
            expected = peer.data.transpose([2 - crs.index(axis) for axis in (3, 2, 1)])
            np.testing.assert_array_equal(volume.numpy(), expected)
            # voxel sizes are given to 7 digits
            np.testing.assert_allclose(volume.voxel_size_A, peer.voxel_size.item()[::-1], rtol=2e-7)


def test_real_headers(test_data):
    lysosome = io.read(test_data / "lysosome" / "lysosome_bin2.mrc")
    assert lysosome.voxel_size_A == (24.64, 24.64, 24.64)
    assert lysosome.voxel_size_status == "estimated"
    emd = io.read(test_data / "maps" / "EMD-3001.map")  # mapc, mapr, maps = 3, 1, 2; nstart = 0, -21, -12 in that order
    assert emd.shape == (73, 25, 43)
    assert emd.start == (0, -12, -21)
    assert emd.voxel_size_A == (0.45875, 0.3925, 0.44825)


def test_errors_are_ours(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CryoETError):
            io.write(tmp_path / "a.xyz", Volume(voxels(np.int8)))
        with pytest.raises(CryoETError, match="a Volume or a SoftSegmentation"):
            io.write(tmp_path / "a.mrc", voxels(np.int8))
