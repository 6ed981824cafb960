# SPDX-License-Identifier: MIT
"""Independent pieces of work in processes of their own, each with its share of the threads.

Every piece has a fresh process: what it held is given back, and one that the system kills takes no other with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any, NoReturn

from .._checks import CryoETError
from .._progress import Progress, silent

_TELL_S = 0.2  # between two words of a process's progress
_END_S = 10.0  # that a process gets to clean up behind itself
_KILLED = "its process was killed, most likely for want of memory; run fewer at a time"
_NO_MEMORY = "out of memory; run fewer at a time"


@dataclass(frozen=True)
class Task:
    """A piece of work: `work(*arguments, progress=...)`, both of which have to be picklable; `name` for people."""

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(eq=False)
class _Running:
    task: Task
    process: Any
    messages: Connection
    state: str = ""
    ended: bool = False
    failure: str = ""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(tasks: Sequence[Task], *, jobs: int, stage: str, progress: Progress = silent) -> None:
    """Do all tasks, `jobs` at a time; a single one at a time is done in this process.

    progress: told of tasks done under the name `stage`, with a note on what is at work. An exception from it, Ctrl-C or
    a failing task stops the others, which get the time to clean up. CryoETError: names the task and its reason.
    """
    if jobs == 1:
        _run_here(tasks, stage, progress)
        return
    waiting, running, done = list(reversed(tasks)), list[_Running](), 0
    threads = max(1, cores() // jobs)
    if os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        threads = min(threads, int(os.environ["OMP_NUM_THREADS"]))
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(), threads))
            progress(stage, done, len(tasks), _note(running))
            wait([one.messages for one in running], timeout=1)
            for one in running:
                _listen(one)
            for one in [one for one in running if one.ended]:
                running.remove(one)
                _close(one)
                if one.failure:
                    raise CryoETError(f"{one.task.name}: {one.failure}")
                done += 1
    except BaseException:
        _stop(running)
        raise
    progress(stage, done, len(tasks))


def _run_here(tasks: Sequence[Task], stage: str, progress: Progress) -> None:
    for i, task in enumerate(tasks):

        def report(what: str, done: int, total: int, note: str = "", *, i: int = i, task: Task = task) -> None:
            progress(stage, i, len(tasks), _state(task, what, done, total))

        try:
            task.work(*task.arguments, progress=report)
        except CryoETError as error:
            raise CryoETError(f"{task.name}: {error}") from error
        except MemoryError as error:
            raise CryoETError(f"{task.name}: {_NO_MEMORY}") from error
    progress(stage, len(tasks), len(tasks))


def _state(task: Task, what: str, done: int, total: int) -> str:
    return f"{task.name} {what} {100 * done // max(total, 1)}%"


def _note(running: Sequence[_Running]) -> str:
    return ", ".join(one.state or f"{one.task.name} starts" for one in running)


def _start(task: Task, threads: int) -> _Running:
    # A forked child would inherit half-locked threads of OpenMP; a spawned one reads the environment as it starts.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, task), daemon=True)
    with _environment(OMP_NUM_THREADS=str(threads)), _deaf_to_interrupts():
        process.start()
    sender.close()
    return _Running(task, process, receiver)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What starts within never hears a terminal's Ctrl-C: this process hears it and ends them in order."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _listen(one: _Running) -> None:
    try:
        while not one.ended and one.messages.poll():
            kind, text = one.messages.recv()
            if kind == "progress":
                one.state = text
            else:
                one.ended, one.failure = True, text
    except (EOFError, OSError):
        one.process.join(_END_S)
        code = one.process.exitcode
        one.ended = True
        one.failure = _KILLED if code == -signal.SIGKILL else f"its process ended early, with {code}"


def _close(one: _Running) -> None:
    one.messages.close()
    one.process.join(_END_S)
    if one.process.is_alive():
        one.process.kill()
        one.process.join()
    one.process.close()


def _stop(running: Sequence[_Running]) -> None:
    for one in running:
        one.process.terminate()
    for one in running:
        _close(one)


def _work(messages: Connection, task: Task) -> None:
    """In the child."""
    signal.signal(signal.SIGTERM, _cancel)
    last = 0.0

    def report(what: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > _TELL_S:
            last = time.monotonic()
            messages.send(("progress", _state(task, what, done, total)))  # fails where the parent is gone: so do we

    failure = ""
    try:
        task.work(*task.arguments, progress=report)
    except KeyboardInterrupt:
        failure = "cancelled"
    except CryoETError as error:
        failure = str(error)
    except MemoryError:
        failure = _NO_MEMORY
    except Exception as error:
        failure = f"internal error ({type(error).__name__}: {error})"
    with contextlib.suppress(OSError):
        messages.send(("end", failure))


def _cancel(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
