# SPDX-License-Identifier: MIT
"""Work that was interrupted is found again, by the one who did it, and never under its final name."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoet_engine import CryoETError, io

SETTINGS = {"tile": 8, "size": (1.0, 2.0)}


class Stop(Exception):
    pass


def begin(path: Path, settings: Any = SETTINGS, *, marks: int = 1) -> None:
    """Half a job."""
    with pytest.raises(Stop), io.resumable_path(path, settings) as work:
        (work.folder / "half").write_text("some")
        for k in range(marks):
            work.mark("slices", k + 1)
        raise Stop


@pytest.mark.parametrize("marks", [1, 3])
def test_goes_on_and_ends_whole(tmp_path: Path, marks: int) -> None:
    path = tmp_path / "deep" / "a.zarr"
    begin(path, marks=marks)
    assert [one.name for one in path.parent.iterdir()] == ["a.zarr.partial"]
    with io.resumable_path(path, SETTINGS) as work:
        assert work.done == {"slices": marks}
        assert (work.folder / "half").read_text() == "some"
        work.path.mkdir()
        assert not path.exists()
    assert [one.name for one in path.parent.iterdir()] == ["a.zarr"]
    with io.resumable_path(path.with_name("b"), SETTINGS) as work:
        assert work.done == {}
        work.path.write_text("new")


def test_nothing_done_leaves_nothing(tmp_path: Path) -> None:
    begin(tmp_path / "deep" / "a.zarr", marks=0)
    assert not list(tmp_path.iterdir())


def test_what_was_begun_and_not_marked_is_cleared(tmp_path: Path) -> None:
    """As after SIGKILL: nobody could remove it."""
    begin(tmp_path / "a.zarr")
    record = tmp_path / "a.zarr.partial" / "resume.json"
    record.write_text(record.read_text().replace('"slices": 1', ""))
    with pytest.raises(Stop), io.resumable_path(tmp_path / "a.zarr", {"other": 1}) as work:
        assert [one.name for one in work.folder.iterdir()] == ["resume.json"]
        raise Stop


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    begin(path)
    wanted = "interrupted run: expected the settings of this command, got another new, tile; repeat the command"
    with pytest.raises(CryoETError, match=wanted), io.resumable_path(path, SETTINGS | {"tile": 9, "new": True}):
        pass
    (tmp_path / "a.zarr.partial" / "resume.json").write_text("{")
    with pytest.raises(CryoETError, match="the record of an interrupted run"), io.resumable_path(path, SETTINGS):
        pass
    assert (tmp_path / "a.zarr.partial" / "half").exists()


def test_other_data_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.partial").mkdir()
    (tmp_path / "a.zarr.partial" / "diary").write_text("mine")
    with pytest.raises(CryoETError, match="other data"), io.resumable_path(tmp_path / "a.zarr", SETTINGS):
        pass
    begin(tmp_path / "b.zarr")
    with pytest.raises(CryoETError, match="other data"), io.partial_path(tmp_path / "b.zarr"):
        pass
    assert (tmp_path / "b.zarr.partial" / "half").exists()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with io.resumable_path(path, SETTINGS) as work:
        with pytest.raises(CryoETError, match="another run that is writing there"), io.resumable_path(path, SETTINGS):
            pass
        work.path.mkdir()


def test_a_full_disk_says_that_it_can_go_on(tmp_path: Path) -> None:
    told = "goes on from what is stored"
    with pytest.raises(CryoETError, match=told), io.resumable_path(tmp_path / "a.zarr", SETTINGS) as work:
        work.mark("slices", 1)
        raise OSError(errno.ENOSPC, "no room")
    assert (tmp_path / "a.zarr.partial").is_dir()


def test_stores_in_place_are_opened_again(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 255, (2, 70, 5, 6), dtype=np.uint8)
    for part in (slice(0, 64), slice(64, 70)):
        with io.create_segmentation(tmp_path / "s.zarr", (70, 5, 6), ("a", "b"), in_place=True) as out:
            out[:, part] = whole[:, part]
        with io.create_volume(tmp_path / "v.zarr", (70, 5, 6), dtype="uint8", in_place=True) as volume:
            volume[part] = whole[0, part]
    assert not list(tmp_path.glob("*.partial"))
    np.testing.assert_array_equal(io.read_segmentation(tmp_path / "s.zarr").data[:], whole)
    np.testing.assert_array_equal(io.read_volume(tmp_path / "v.zarr").data[:], whole[0])
    told = "to write in place"
    with (
        pytest.raises(CryoETError, match=told),
        io.create_volume(tmp_path / "v.mrc", (7, 5, 6), dtype="int8", in_place=True),
    ):
        pass
