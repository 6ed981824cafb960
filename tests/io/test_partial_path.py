# SPDX-License-Identifier: MIT
"""Outputs appear when they are whole, replace only what may be replaced, and leave nothing behind."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoet_engine import io
from cryoet_engine._checks import FileFormatError, InputError
from cryoet_engine.volume import SoftSegmentation, Volume

VOLUME = Volume(np.random.default_rng(0).random((80, 70, 70), np.float32))
SOFT = SoftSegmentation(np.random.default_rng(0).random((2, 80, 70, 70), np.float32), ("background", "b"))
NAMES = ["a.mrc", "a.mrc.gz", "a.zarr", "a.tif", "a.h5"]


class Stop(BaseException):
    pass


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "deep" / "picture.png"
    with io.partial_path(path) as partial:
        assert partial.name == "picture.png"  # for writers that go by the ending
        assert partial.parent == path.with_name("picture.png.partial")
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["picture.png"]


def test_an_older_file_stays_until_then(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Stop), io.partial_path(path) as partial:
        partial.write_text("new")
        raise Stop
    assert path.read_text() == "old"
    with io.partial_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, ValueError])
def test_an_exception_leaves_nothing(tmp_path, error):
    with pytest.raises(error), io.partial_path(tmp_path / "made" / "for" / "it" / "folder") as partial:
        partial.mkdir()
        (partial / "file").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_folders(tmp_path):
    path = tmp_path / "net"
    with io.partial_path(path) as partial:
        partial.mkdir()
        (partial / "net.json").write_text("1")
    with pytest.raises(FileFormatError, match="a folder with other data in it"), io.partial_path(path):
        pass
    with pytest.raises(Stop), io.partial_path(path, replaces=("net.json",)) as partial:
        partial.mkdir()
        raise Stop
    assert (path / "net.json").read_text() == "1"
    with io.partial_path(path, replaces=("net.json",)) as partial:
        partial.mkdir()
        (partial / "other").write_text("2")
    assert os.listdir(path) == ["other"]
    (tmp_path / "empty").mkdir()
    with io.partial_path(tmp_path / "empty") as partial:
        partial.mkdir()
        (partial / "x").write_text("")
    assert os.listdir(tmp_path / "empty") == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "net"]


def test_a_user_folder_is_never_deleted(tmp_path):
    mine = tmp_path / "thesis.zarr"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(FileFormatError, match="a folder with other data in it"):
        io.create_segmentation(mine, (2, 3, 4), ("background", "b"))
    with pytest.raises(FileFormatError, match="a folder with other data in it"):
        io.write(mine, VOLUME)
    later = tmp_path / "later.zarr"
    with pytest.raises(FileFormatError, match="a folder with other data in it"), io.partial_path(later) as partial:
        partial.mkdir()
        later.mkdir()  # it came meanwhile
        (later / "notes.txt").write_text("mine")
    assert (later / "notes.txt").exists()
    assert (mine / "thesis.tex").exists()
    assert sorted(os.listdir(tmp_path)) == ["later.zarr", "thesis.zarr"]


def test_files_and_folders_do_not_replace_each_other(tmp_path):
    (tmp_path / "a.zarr").write_text("a file")
    (tmp_path / "a.mrc").mkdir()
    for create in (
        lambda: io.create_segmentation(tmp_path / "a.zarr", (2, 3, 4), ("background", "b")),
        lambda: io.write(tmp_path / "a.zarr", VOLUME),
        lambda: io.write(tmp_path / "a.zarr", SOFT),
        lambda: io.write(tmp_path / "a.mrc", VOLUME),
    ):
        with pytest.raises(FileFormatError, match=r"expected a place for a (file|folder), got a"):
            create()
    assert sorted(os.listdir(tmp_path)) == ["a.mrc", "a.zarr"]
    with pytest.raises(FileFormatError, match="got nothing"), io.partial_path(tmp_path / "b"):
        pass


def test_what_a_killed_run_left_is_cleared_and_nothing_else(tmp_path):
    stale = tmp_path / "a.mrc.partial"
    stale.mkdir()
    (stale / "a.mrc").write_text("half")
    io.write(tmp_path / "a.mrc", VOLUME)
    assert os.listdir(tmp_path) == ["a.mrc"]
    stale.mkdir()
    (stale / "mine.txt").write_text("not ours")
    with pytest.raises(FileFormatError, match="expected a free name to write to meanwhile"):
        io.write(tmp_path / "a.mrc", VOLUME)
    assert (stale / "mine.txt").exists()


def test_killed_between_the_two_renames(tmp_path):
    """The older store then lies within the partial folder: the next run brings it back before anything else."""
    io.write(tmp_path / "a.zarr", VOLUME)
    (tmp_path / "a.zarr.partial").mkdir()
    (tmp_path / "a.zarr").rename(tmp_path / "a.zarr.partial" / "replaced")
    with pytest.raises(Stop), io.partial_path(tmp_path / "a.zarr"):
        raise Stop
    np.testing.assert_array_equal(io.read(tmp_path / "a.zarr").numpy(), VOLUME.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_cancelling_keeps_the_older_output(tmp_path, name):
    io.write(tmp_path / name, VOLUME)

    def cancel(stage, done, total, note=""):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.write(tmp_path / name, VOLUME.with_data(VOLUME.numpy() * 0), progress=cancel)
    assert os.listdir(tmp_path) == [name]
    np.testing.assert_array_equal(io.read(tmp_path / name).numpy(), VOLUME.numpy())


def test_a_segmentation_is_cancelled(tmp_path):
    path = tmp_path / "out" / "a.zarr"
    with pytest.raises(Stop), io.create_segmentation(path, (4, 5, 6), ("background", "b")) as out:
        out[:, 0:4, 0:5, 0:6] = np.zeros((2, 4, 5, 6), np.uint8)
        raise Stop
    assert os.listdir(tmp_path) == []
    io.write(path, SOFT)
    with pytest.raises(Stop), io.create_segmentation(path, (4, 5, 6), ("background", "b")):
        raise Stop
    assert io.read_segmentation(path).shape == (80, 70, 70)


@pytest.fixture
def small_files():
    """A limit on the size of a file: writing beyond it fails as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("one", [VOLUME, SOFT], ids=["volume", "segmentation"])
def test_a_disk_without_room(tmp_path, small_files, name, one):
    if one is SOFT and name != "a.zarr":
        return
    with pytest.raises(
        FileFormatError,
        match=r"writing failed: expected room on the disk, got (file too large|no space left on device)",
    ) as caught:
        io.write(tmp_path / name, one)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_export_is_whole_or_nothing(tmp_path):
    def cancel(stage, done, total, note=""):
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        io.export_classes(SOFT, tmp_path / "new" / "out", progress=cancel)
    assert os.listdir(tmp_path) == []


def test_a_disk_without_room_for_an_export(tmp_path, small_files):
    with pytest.raises(FileFormatError, match="writing failed"):
        io.export_classes(SOFT, tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Unable to write (file write failed: errno = 28, error message = 'No space left on device')"),
        ExceptionGroup("writing", [ValueError(), OSError(errno.ENOSPC, "No space left on device")]),
    ],
)
def test_however_a_library_says_it(tmp_path, error):
    told = pytest.raises(FileFormatError, match=r"writing failed.* got (no space left|disk quota)")
    with told as caught, io.partial_path(tmp_path / "a"):
        raise error
    assert caught.value.__cause__ is error
    with pytest.raises(FileFormatError, match="writing failed"), io.partial_path(tmp_path / "a"):
        try:
            raise error
        except Exception as inner:
            raise ValueError("wrapped") from inner
    with pytest.raises(ValueError, match="nothing to do with disks"), io.partial_path(tmp_path / "a"):
        raise ValueError("nothing to do with disks")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match=r"cannot be written: expected a folder that may be written to, got"):
        io.write(tmp_path / "file" / "a.mrc", VOLUME)
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(FileFormatError, match="got permission denied"):
        io.write(tmp_path / "a.mrc", VOLUME)


@pytest.mark.parametrize("name", ["a", "a.png", "a.mrcx", "a.tif.gz", "a.npy"])
def test_endings_that_mean_nothing(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a name ending in one of \.mrc"):
        io.write(tmp_path / name, VOLUME)


def test_an_interrupt_from_outside(tmp_path):
    """A real Ctrl-C while a volume is written slab by slab, in a process of its own."""
    code = f"""
import os, signal
import numpy as np
from cryoet_engine import io
from cryoet_engine.volume import Volume
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
def ctrl_c(stage, done, total, note=""):
    os.kill(os.getpid(), signal.SIGINT)
io.write({str(tmp_path / "a.mrc")!r}, Volume(np.zeros((3, 4, 5), np.float32)), progress=ctrl_c)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert os.listdir(tmp_path) == []


def test_two_runs_do_not_write_to_one_place(tmp_path: Path) -> None:
    with io.partial_path(tmp_path / "out") as first:
        first.write_text("first")
        with pytest.raises(FileFormatError, match="another run"), io.partial_path(tmp_path / "out"):
            raise AssertionError("the second run came in")
        assert first.read_text() == "first"
    assert (tmp_path / "out").read_text() == "first"
    with io.partial_path(tmp_path / "out") as again:  # and nothing is held afterwards
        again.write_text("again")
