# SPDX-License-Identifier: MIT
"""Finding a file, and letting an output appear under its name only when it is whole."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._checks import FileFormatError, file_error

#: What a full disk, a quota, a file size limit or a read-only file system say.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_RECORD = "resume.json"
ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")


def existing(path: str | os.PathLike[str]) -> Path:
    """The path if something is there, else an error that suggests names that are."""
    path = Path(path)
    try:
        found = path.exists()
    except OSError as error:
        raise read_error(path, error) from error
    if found:
        return path
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
        where = f"the folder {path.parent} does not exist either" if not path.parent.exists() else ""
    else:
        close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
        close += [name for name in sorted(names) if name.split(".")[0] == path.name.split(".")[0]]
        where = "did you mean " + " or ".join(list(dict.fromkeys(close))[:3]) + "?" if close else ""
    raise file_error(path, "file", expected="an existing file", got="none of that name", fix=where)


def read_error(path: Path, error: BaseException) -> FileFormatError:
    """A failure to read as an error for the user."""
    return file_error(path, "cannot be read", expected="a readable, whole file", got=reason(error))


def reason(error: BaseException) -> str:
    """An exception's own words, without errno and file name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a zarr group or array."""
    return any((folder / marker).is_file() for marker in ZARR_MARKERS)


@contextlib.contextmanager
def partial_path(path: str | os.PathLike[str], *, replaces: tuple[str, ...] = ZARR_MARKERS) -> Iterator[Path]:
    """Yield a path to write to; what stands there when the block ends takes the final name, else it is removed.

    The yielded path is `NAME.partial/NAME`, in a folder beside the final place: it bears the final name, so that
    writers which go by the extension work, and the rename stays within one file system. A file or a folder may be
    written. Missing parent folders are made. Whatever ends the block early (Ctrl-C included) removes the partial
    folder and the parents that were made.

    path: final place. A file there is replaced, only at the end. A folder there is replaced only if it is empty or
        holds one of the files named in `replaces` at its top (by default: if it is a zarr store), so that nobody's
        other data are ever deleted.

    Errors: FileFormatError where the place cannot be written, where something stands in the way, and where the disk
    runs full within the block.
    """
    path = Path(os.path.abspath(path))
    _check_replaceable(path, replaces)
    holder = path.with_name(path.name + ".partial")
    made = [parent for parent in (path.parent, *path.parents) if not parent.exists()]
    claim = contextlib.ExitStack()
    try:
        _remove_stale(holder, path.name)
        holder.mkdir(parents=True)
        claim.enter_context(claimed(holder))
    except FileFormatError:
        raise
    except FileExistsError as error:  # another run was faster
        raise _in_use(path) from error
    except OSError as error:
        remove_empty(made)
        raise file_error(
            path, "cannot be written", expected="a folder that may be written to", got=reason(error)
        ) from error
    try:
        with claim:
            yield holder / path.name
            _move_into_place(holder / path.name, path, replaces)
    except BaseException as error:
        _remove_for_good(holder)
        remove_empty(made)
        trouble = _disk_trouble(error)
        if trouble and not isinstance(error, FileFormatError):
            raise file_error(
                path,
                "writing failed",
                expected="room on the disk",
                got=trouble,
                fix="nothing was left behind; free some space or write elsewhere",
            ) from error
        raise
    shutil.rmtree(holder, ignore_errors=True)


@dataclass
class Work:
    """What `resumable_path` gives.

    folder: where to work. path: in it; what stands there takes the final name. done: how many steps of each stage are
    stored, by the stage's name.
    """

    folder: Path
    path: Path
    identity: Mapping[str, Any]
    done: dict[str, int] = field(default_factory=dict)

    def mark(self, stage: str, steps: int) -> None:
        """Note that so many steps of a stage are stored: an interrupted run goes on from there."""
        self.done[stage] = steps
        self.save()

    def save(self) -> None:
        """Write the record."""
        record = {"identity": self.identity, "done": self.done}
        write_whole(self.folder / _RECORD, json.dumps(record).encode())


@contextlib.contextmanager
def resumable_path(
    path: str | os.PathLike[str], identity: Mapping[str, Any], *, replaces: tuple[str, ...] = ZARR_MARKERS
) -> Iterator[Work]:
    """As `partial_path`, but what is stored survives an early end, and the next call with the same identity finds it.

    Work goes on in `NAME.partial`; once a step is marked as done, Ctrl-C or a full disk leaves that folder. Before
    the first step, nothing is left.

    identity: plain JSON values, all that decides the result. Errors: those of `partial_path`; FileFormatError where
    `NAME.partial` is of another identity.
    """
    path = Path(os.path.abspath(path))
    _check_replaceable(path, replaces)
    holder = path.with_name(path.name + ".partial")
    made = [parent for parent in (path.parent, *path.parents) if not parent.exists()]
    work = Work(holder, holder / path.name, json.loads(json.dumps(identity)))
    try:
        if not (holder / _RECORD).is_file():
            _remove_stale(holder, path.name)
        holder.mkdir(parents=True, exist_ok=True)
    except FileFormatError:
        raise
    except OSError as error:
        remove_empty(made)
        place = "a folder that may be written to"
        raise file_error(path, "cannot be written", expected=place, got=reason(error)) from error
    with claimed(holder):
        work.done = _recorded(work)
        try:
            if not work.done:  # what was begun and not marked is of no use
                _empty(holder)
                work.save()
            yield work
            _move_into_place(work.path, path, replaces)
        except BaseException as error:
            if not work.done:
                _remove_for_good(holder)
                remove_empty(made)
            if (trouble := _disk_trouble(error)) and not isinstance(error, FileFormatError):
                fix = "free some space: the same command goes on from what is stored" if work.done else ""
                raise file_error(path, "writing failed", expected="room on the disk", got=trouble, fix=fix) from error
            raise
        shutil.rmtree(holder, ignore_errors=True)


def _recorded(work: Work) -> dict[str, int]:
    try:
        record = json.loads((work.folder / _RECORD).read_text())
        identity, done = record["identity"], {str(stage): int(steps) for stage, steps in record["done"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected, fix = "the record of an interrupted run", "remove that folder to begin anew"
        raise file_error(work.folder / _RECORD, "contents", expected=expected, got=reason(error), fix=fix) from error
    if identity == work.identity or not done:
        return done
    names = sorted(name for name in {*identity, *work.identity} if identity.get(name) != work.identity.get(name))
    raise file_error(
        work.folder,
        "interrupted run",
        expected="the settings of this command",
        got=f"another {', '.join(names)}",
        fix="repeat the command that was interrupted, remove that folder to begin anew, or choose another -o",
    )


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; the system lets go of it when this process ends, however it ends.

    Errors: FileFormatError where another run holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(folder) from error
        except OSError:  # some network file systems have no locks: then nobody is held off
            pass
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its name and rename it when whole; nothing of it is left where that fails, with OSError."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _in_use(path: Path) -> FileFormatError:
    fix = "wait for it, or choose another name"
    return file_error(path, "output", expected="a name of its own", got="another run that is writing there", fix=fix)


def _check_replaceable(path: Path, replaces: tuple[str, ...]) -> None:
    if not path.is_dir():
        return
    if any(path.iterdir()) and not any((path / marker).is_file() for marker in replaces):
        raise file_error(
            path,
            "output",
            expected="a new name, or an older output to replace",
            got="a folder with other data in it",
            fix="choose another name or remove the folder yourself",
        )


def _remove_stale(holder: Path, name: str) -> None:
    """Clear what a killed run left behind, but nothing else."""
    if not holder.exists():
        return
    if not holder.is_dir() or not {entry.name for entry in holder.iterdir()} <= {name, "replaced"}:
        raise file_error(
            holder, "output", expected="a free name to write to meanwhile", got="other data", fix="move it away"
        )
    with claimed(holder):
        pass  # else it is not stale: somebody writes there
    older = holder / "replaced"
    if older.exists() and not holder.with_name(name).exists():
        os.rename(older, holder.with_name(name))  # killed between the two renames: the older output is still good
    shutil.rmtree(holder)


def _move_into_place(partial: Path, path: Path, replaces: tuple[str, ...]) -> None:
    if not partial.exists():
        raise file_error(path, "output", expected=f"something written to {partial}", got="nothing")
    if path.is_dir() != partial.is_dir() and path.exists():
        kinds = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise file_error(path, "output", expected=f"a place for {kinds[1]}", got=f"{kinds[0]} of that name")
    try:
        if not path.is_dir():
            os.replace(partial, path)
            return
        _check_replaceable(path, replaces)
        old = partial.with_name("replaced")
        os.rename(path, old)
        try:
            os.rename(partial, path)
        except BaseException:
            os.rename(old, path)
            raise
    except PermissionError as error:
        raise file_error(path, "output", expected="a place that may be written to", got=reason(error)) from error


def _remove_for_good(folder: Path) -> None:
    """Remove a folder, again if it comes back: a library's thread may still finish what an interrupt cut off."""
    for _ in range(5):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def remove_empty(folders: list[Path]) -> None:
    """Remove those of these folders that are there and empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _disk_trouble(error: BaseException | None) -> str | None:
    """Find a full disk behind an exception: libraries wrap it, group it, or tell of it only in their text."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in _DISK_ERRORS:
            return os.strerror(one.errno).lower()
        told = re.search(r"errno = (\d+)", str(one))
        if told and int(told[1]) in _DISK_ERRORS:
            return os.strerror(int(told[1])).lower()
        if "No space left" in str(one) or re.search(r"\d+ requested and \d+ written", str(one)):
            return "no space left on device"  # the second is what numpy's tofile says
        todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return None
