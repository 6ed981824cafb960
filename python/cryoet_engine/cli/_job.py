# SPDX-License-Identifier: MIT
"""A folder of results that is whole or absent: work goes on in NAME.partial, and the same command resumes it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from .._checks import file_error
from ._console import say

T = TypeVar("T")
RECORD = "job.json"


class Job:
    """A partial folder, and which of its stages are done.

    announces: say which stage begins, where the progress bars alone would not tell. A stage's result is named only when
    whole (see io.partial_path), so "done" is what `job.json` says after it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.announces = folder, False
        self.record: dict[str, Any] = {"version": __version__, "settings": settings, "stages": {}}

    def save(self) -> None:
        """Write the record."""
        from ..io._files import write_whole

        write_whole(self.folder / RECORD, json.dumps(self.record, indent=2, ensure_ascii=False).encode() + b"\n")

    def stage(self, name: str, work: Callable[[], T], reopen: Callable[[], T]) -> T:
        """Do a stage, or reopen its result when an interrupted run has already done it."""
        stages = self.record["stages"]
        if name in stages:
            say(f"{name}: done before, kept")
            return reopen()
        if self.announces:
            say(name)
        start = time.perf_counter()
        result = work()
        stages[name] = {"seconds": round(time.perf_counter() - start, 2)}
        self.save()
        return result

    def seconds(self) -> dict[str, float]:
        """How long each stage took."""
        return {name: float(entry["seconds"]) for name, entry in self.record["stages"].items()}


def file_identity(path: str) -> dict[str, Any]:
    """What tells one input from another: absolute path, size and time of change."""
    entry = Path(path)
    try:
        status = entry.stat()
    except FileNotFoundError:
        return {"path": str(entry)}  # opening it gives the better message
    return {"path": str(entry.resolve()), "bytes": status.st_size, "changed": int(status.st_mtime)}


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record if isinstance(record.get("settings"), dict) and isinstance(record["stages"], dict) else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None


@contextmanager
def job(out: Path, settings: dict[str, Any], *, restart: bool = False) -> Iterator[Job]:
    """Work in OUT.partial; rename it to OUT when the block ends well, keep it to be resumed when it does not.

    A second run into the same folder is refused while the first one works. An OUT that is there already is replaced
    only when it is empty, or when it is the result of an earlier job and `restart` says so.
    """
    from ..io._files import claimed

    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir()) and _read_record(out) is None):
        raise file_error(
            out,
            "output folder",
            expected="a new or empty folder",
            got="something else",
            fix="choose another -o",
        )
    record = _read_record(out) or {}
    foreign = {entry.name for entry in out.glob("*")} - {RECORD, *record.get("files", [])}
    if restart and record and foreign:
        raise file_error(
            out,
            "output folder",
            expected="the files of an earlier run",
            got=f"others too ({', '.join(sorted(foreign)[:3])})",
            fix="move them away, or choose another -o",
        )
    if not restart and _read_record(out) is not None:
        raise file_error(
            out,
            "output folder",
            expected="a new folder",
            got="a finished run",
            fix="add --overwrite, or choose another -o",
        )
    partial = out.with_name(out.name + ".partial")
    if partial.exists() and not _ours(partial):
        raise file_error(partial, "folder", expected="nothing of that name", got="foreign files", fix="move it away")
    partial.mkdir(parents=True, exist_ok=True)
    with claimed(partial):
        current = _begun(partial, settings, restart)
        try:
            current.save()
            yield current
        except BaseException:
            if any(entry.name != RECORD for entry in partial.glob("*")):
                say(f"{partial} keeps what is done: the same command goes on from there")
            else:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        current.record["files"] = sorted(entry.name for entry in partial.iterdir())
        current.save()
        if out.exists():
            shutil.rmtree(out)
        os.replace(partial, out)


def _ours(partial: Path) -> bool:
    """Whether a folder is empty, or that of an interrupted run."""
    return partial.is_dir() and (not any(partial.iterdir()) or _read_record(partial) is not None)


def _begun(partial: Path, settings: dict[str, Any], restart: bool) -> Job:
    """The job of a claimed folder: that of an interrupted run with the same settings, or a new one."""
    current = Job(partial, settings)
    before = _read_record(partial)
    if before is not None and before["settings"] == settings and before.get("version") == __version__:
        current.record = before
        say(f"resuming {partial}")
    elif before is not None and not restart:
        other = [name for name in settings if settings[name] != before["settings"].get(name)] or ["version"]
        raise file_error(
            partial,
            "interrupted run",
            expected="the settings of this command",
            got=f"another {', '.join(other)}",
            fix="add --overwrite to begin anew, or choose another -o",
        )
    else:
        for entry in partial.iterdir():  # the folder itself stays: the claim is on it
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return current
