# SPDX-License-Identifier: MIT
"""Long work beside the window: in threads, with progress, cancelled on demand, results handed over whole."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from .._checks import CryoETError
from .._progress import Progress


class _Cancelled(BaseException):
    """Raised inside a job's progress when it is no longer wanted; not an Exception, so that nothing swallows it."""


class Job:
    """One piece of work. stage, share (0..1 or None), note: how far it is; seconds: since it began."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stage, self.note = "", ""
        self.share: float | None = None
        self.cancelled = False
        self._started = self._stage_started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Of its present stage, as far as the share tells."""
        taken = time.monotonic() - self._stage_started
        return taken * (1 / self.share - 1) if self.share and 0.02 < self.share < 1 else None

    def cancel(self) -> None:
        """It ends at its next report of progress, and nothing comes of it."""
        self.cancelled = True

    def progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """What the work is given as `progress`."""
        if self.cancelled:
            raise _Cancelled
        if stage != self.stage:
            self._stage_started = time.monotonic()
        self.stage, self.note = stage, note
        self.share = done / total if total else None


class Jobs:
    """Jobs by name; one that is started again takes the place of the one before."""

    def __init__(self, failed: Callable[[str, str], None]) -> None:
        """failed: called with a job's name and a message, by `poll`."""
        self.running: list[Job] = []
        self._failed = failed
        self._done: queue.SimpleQueue[tuple[Job, Callable[[Any], None] | None, Any]] = queue.SimpleQueue()

    def start(self, name: str, work: Callable[[Progress], Any], then: Callable[[Any], None]) -> Job:
        """Run `work(progress)` in a thread of its own; `poll` hands what it returns to `then`."""
        for job in self.running:
            if job.name == name:
                job.cancel()
        job = Job(name)
        self.running.append(job)

        def run() -> None:
            try:
                result = work(job.progress)
            except _Cancelled:
                self._done.put((job, None, None))
            except CryoETError as error:
                self._done.put((job, None, str(error)))
            except ModuleNotFoundError as error:
                self._done.put((job, None, f"{name} needs the package {error.name}, which is not here"))
            except (OSError, MemoryError) as error:
                self._done.put((job, None, f"{name}: {str(error) or type(error).__name__}"))
            except Exception as error:
                self._done.put((job, None, f"{name}: {type(error).__name__}: {error}"))
            else:
                self._done.put((job, then, result))

        threading.Thread(target=run, name=name, daemon=True).start()
        return job

    def poll(self) -> None:
        """Hand over what is done; on the thread that draws."""
        while not self._done.empty():
            job, then, result = self._done.get()
            self.running.remove(job)
            if job.cancelled:
                continue
            if then is not None:
                then(result)
            elif result is not None:
                self._failed(job.name, " ".join(result.split()))

    def running_named(self, name: str) -> Job | None:
        """The job of this name that is not cancelled."""
        return next((job for job in self.running if job.name == name and not job.cancelled), None)

    def close(self) -> None:
        """Cancel all. Threads end at their next step; none holds the process."""
        for job in self.running:
            job.cancel()
