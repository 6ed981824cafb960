# SPDX-License-Identifier: MIT
"""What is not a volume: one clear line each, never a traceback of some library, never a wrong volume."""

import bz2
import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cryoet_engine import io
from cryoet_engine._checks import CryoETError, FileFormatError, InputError
from cryoet_engine.io import LazyArray
from cryoet_engine.volume import Volume

DATA = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def fails(path, text):
    with pytest.raises(FileFormatError, match=text) as caught:
        io.read(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "expected " in message
    assert ", got " in message
    assert "\n" not in message


@pytest.fixture
def good(tmp_path):
    io.write(tmp_path / "good.mrc", Volume(DATA))
    return tmp_path / "good.mrc"


def changed(good, at, dtype, *values):
    raw = bytearray(good.read_bytes())
    new = np.array(values, dtype).tobytes()
    raw[at : at + len(new)] = new
    path = good.with_name("bad.mrc")
    path.write_bytes(raw)
    return path


def test_names(tmp_path, good):
    fails(tmp_path / "god.mrc", r"an existing file, got none of that name; did you mean good\.mrc\?")
    fails(tmp_path / "good.rec", r"did you mean good\.mrc\?")
    fails(tmp_path / "quite_another.xyz", "got none of that name$")
    fails(tmp_path / "no" / "a.mrc", "the folder .*/no does not exist either")
    fails(good / "a.mrc", "got none of that name")
    fails(tmp_path / ("x" * 300), r"file name too long|none of that name")
    fails(Path(f"{good}:/inside"), "none of that name")
    (tmp_path / "empty.zarr").mkdir()
    fails(tmp_path / "empty.zarr", "expected a zarr store, got an empty one")
    (tmp_path / "empty.zarr" / "file").write_text("")
    fails(tmp_path / "empty.zarr", "none of zarr's files")
    (tmp_path / "dangling.mrc").symlink_to(tmp_path / "nowhere")
    fails(tmp_path / "dangling.mrc", "none of that name")
    if os.geteuid() != 0:
        good.chmod(0)
        fails(good, "permission denied")


@pytest.mark.parametrize("ending", ["mrc", "mrc.gz", "zarr", "tif", "h5", "dat"])
def test_content_that_is_something_else(tmp_path, ending):
    def named(content):
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        return path

    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    fails(named((tmp_path / "a.png").read_bytes()), "content: .* got a PNG file")
    fails(named(b""), "expected a volume, got an empty file")
    fails(named(b"PK\x03\x04" + bytes(2000)), "a zip archive file")
    for content in (b"z, y, x\n" * 500, np.random.default_rng(0).bytes(5000), bytes(5000), b"\xff" * 5000):
        fails(named(content), r"content: .* got something else|cannot be read")
    fails(named(b"short"), r"an MRC file, or one cut short|something else|cannot be read")


def test_renamed_volumes(tmp_path, good):
    (tmp_path / "a.tif").write_bytes(good.read_bytes())
    fails(tmp_path / "a.tif", "expected a TIFF file, as its name says, got an MRC file; rename it")
    io.write(tmp_path / "b.tif", Volume(DATA))
    (tmp_path / "b.tif").rename(tmp_path / "b.mrc")
    fails(tmp_path / "b.mrc", "expected an MRC file, as its name says, got a TIFF file; rename it")
    (tmp_path / "plain").write_bytes(good.read_bytes())
    np.testing.assert_array_equal(io.read(tmp_path / "plain").numpy(), DATA)  # no ending: the content decides
    with pytest.raises(InputError, match="channel"):
        io.read(good, channel=1)


@pytest.mark.parametrize("keep", [1, 500, 1023, 1024, 1200, 1024 + DATA.nbytes - 1])
def test_cut_short(good, keep):
    raw = good.read_bytes()
    bad = good.with_name("bad.mrc")
    bad.write_bytes(raw[:keep])
    fails(bad, "cut short")
    packed = good.with_name("bad.mrc.gz")
    packed.write_bytes(gzip.compress(raw[:keep]))
    fails(packed, "cut short")


@pytest.mark.parametrize("pack", [gzip, bz2])
def test_broken_compression(good, pack):
    whole = pack.compress(good.read_bytes())
    bad = good.with_name("bad.mrc.gz")
    for keep in (4, 15, len(whole) // 2, len(whole) - 5):
        bad.write_bytes(whole[:keep])
        fails(bad, "cannot be read|cut short")
    for at in (len(whole) // 2, len(whole) - 6):  # the last one is in the checksum
        broken = bytearray(whole)
        broken[at] ^= 0x55
        bad.write_bytes(broken)
        fails(bad, "cannot be read|cut short|content")


def test_header_that_claims_more_than_the_file_holds(good):
    fails(changed(good, 8, "<i4", 5), r"file size: expected 1624 bytes, as the header says \(6 x 5 x 5 float32\)")
    fails(changed(good, 0, "<i4", 1 << 20, 1 << 20, 1 << 20), "file size")
    fails(changed(good, 92, "<i4", 100), "file size")  # an extended header that is not there
    packed = good.with_name("a.mrc.gz")
    packed.write_bytes(gzip.compress(changed(good, 0, "<i4", 1 << 15, 1 << 15, 1 << 10).read_bytes()))
    fails(packed, "file size: expected 4398046512128 bytes")


@pytest.mark.parametrize(
    ("at", "values", "text"),
    [
        (12, (3,), "MRC mode: expected one of 0 .int8., 1 .* 12 .float16., got 3"),
        (12, (101,), "MRC mode: .* got 101"),
        (12, (-1,), "MRC mode"),
        (0, (0,), "sizes"),
        (4, (-5,), r"sizes: expected nx, ny, nz from 1 to 1048576, got \(6, -5, 4\)"),
        (8, (1 << 30,), "sizes"),
        (64, (1, 1, 3), r"axes .* expected 1, 2, 3 in some order, got \(1, 1, 3\)"),
        (64, (4, 2, 1), "axes"),
        (92, (-4,), "nsymbt"),
    ],
)
def test_headers_that_make_no_sense(good, at, values, text):
    fails(changed(good, at, "<i4", *values), text)


def test_noise_in_the_rest_of_the_header_is_survived(good):
    rng = np.random.default_rng(0)
    for at, n in ((28, 36), (76, 16), (96, 112), (196, 12), (216, 808)):
        volume = io.read(changed(good, at, "u1", *rng.integers(0, 256, n)))
        np.testing.assert_array_equal(volume.numpy(), DATA)
        assert min(volume.voxel_size_A) > 0


def test_any_byte_of_a_header_may_be_wrong(good):
    """A thousand headers with one wild byte: an error of ours or a volume, never anything else."""
    raw = good.read_bytes()
    bad = good.with_name("bad.mrc")
    rng = np.random.default_rng(0)
    for at in [*range(230), *rng.integers(230, 1024, 70)]:
        broken = bytearray(raw)
        broken[at] = int(rng.integers(256))
        bad.write_bytes(broken)
        try:
            io.read(bad).numpy()
        except CryoETError as error:
            assert "\n" not in str(error)


class Counting(LazyArray):
    """Counts what is read of 4 x 5 x 6 voxels."""

    def __init__(self):
        super().__init__(DATA.shape, DATA.dtype)
        self.read = 0

    def _read(self, region):
        part = DATA[region]
        self.read += part.size
        return part


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(1, 3),
        slice(None, None, -1),
        slice(3, 0, -2),
        slice(2, 2),
        slice(9, 12),
        ...,
        (..., 1),
        (1, ..., 2),
        (0, 1, 2),
        (slice(1, 99), slice(-2, None), np.int64(3)),
        (slice(None), slice(None, None, 3), slice(-1, -4, -1)),
        (),
    ],
)
def test_lazy_arrays_slice_as_numpy_does(key):
    lazy = Counting()
    np.testing.assert_array_equal(lazy[key], DATA[key])
    assert np.shape(lazy[key]) == np.shape(DATA[key])


def test_lazy_arrays():
    lazy = Counting()
    assert (lazy.ndim, lazy.size, lazy.nbytes, len(lazy)) == (3, 120, 480, 4)
    lazy[1, 2, 3]
    assert lazy.read == 1
    np.testing.assert_array_equal(np.asarray(lazy), DATA)
    assert np.asarray(lazy, np.int16).dtype == np.int16
    assert "Counting (4, 5, 6) float32" in repr(lazy)
    for key in (4, -5, (0, 0, 0, 0), [0, 1], None, True, np.zeros(4, bool), "z", 1.5, (..., ...)):
        with pytest.raises(IndexError):
            lazy[key]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(lazy, copy=False)


def test_fill_nonfinite():
    data = DATA.copy()
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    lazy = Counting()
    filled = io.fill_nonfinite(Volume(data, voxel_size_A=3.0), 7.5)
    assert filled.voxel_size_A == (3, 3, 3)
    np.testing.assert_array_equal(filled.numpy()[0, 0], [7.5, 7.5, 7.5, 3, 4, 5])
    assert filled.data[0, 0, 1] == 7.5
    assert np.isnan(data[0, 0, 0])
    io.fill_nonfinite(Volume(lazy), 0)
    assert lazy.read == 0
    whole = Volume(np.zeros((2, 2, 2), np.int8))
    assert io.fill_nonfinite(whole, 0) is whole
    with pytest.raises(InputError, match="a finite number"):
        io.fill_nonfinite(whole, np.nan)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.tif", "b.tif"])
def test_lazy_volumes_travel_to_another_process(tmp_path, name):
    io.write(tmp_path / name, Volume(DATA))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(io.read(tmp_path / name))).numpy(), DATA)
