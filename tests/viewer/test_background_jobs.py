# SPDX-License-Identifier: MIT
"""Work beside the window: handed over on the thread that asks, cancelled, replaced, its errors told once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cryoet_engine._checks import input_error
from cryoet_engine._progress import Progress
from cryoet_engine.viewer.jobs import Jobs


class Told:
    """Jobs and what they told."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.failures: list[tuple[str, str]] = []
        self.jobs = Jobs(lambda name, text: self.failures.append((name, text)))

    def poll_until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end
            self.jobs.poll()
            time.sleep(0.002)

    def finish(self) -> None:
        """Poll until nothing runs."""
        self.poll_until(lambda: not self.jobs.running)


@pytest.fixture
def told() -> Told:
    return Told()


class Waiting:
    """Work that goes on until it is let go, and reports in between."""

    def __init__(self, result: object = None) -> None:
        self.go, self.began, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._result = result

    def __call__(self, progress: Progress) -> object:
        self.began.set()
        try:
            while not self.go.wait(0.002):
                progress("waiting", 1, 4, "a note")
            return self._result
        finally:
            self.ended.set()


def test_a_result_is_handed_over_by_poll_on_the_thread_that_polls(told: Told) -> None:
    threads: list[threading.Thread] = []
    told.jobs.start("one", lambda progress: threading.current_thread(), threads.append)
    time.sleep(0.05)
    assert not threads, "handed over before poll"
    assert told.jobs.running_named("one") is not None
    told.poll_until(lambda: bool(threads))
    assert threads[0] is not threading.current_thread()
    assert not told.jobs.running
    told.jobs.poll()
    assert len(threads) == 1


def test_none_is_a_result(told: Told) -> None:
    told.jobs.start("one", lambda progress: None, told.results.append)
    told.finish()
    assert told.results == [None]


def test_what_a_result_starts_runs_too(told: Told) -> None:
    """As a tomogram that was opened starts its 3D scene."""
    told.jobs.start(
        "one", lambda progress: 1, lambda one: told.jobs.start("two", lambda progress: one + 1, told.results.append)
    )
    told.poll_until(lambda: bool(told.results))
    assert told.results == [2]


def test_cancelled_work_ends_and_nothing_comes_of_it(told: Told) -> None:
    work = Waiting("result")
    job = told.jobs.start("one", work, told.results.append)
    assert work.began.wait(20)
    job.cancel()
    assert told.jobs.running_named("one") is None
    assert work.ended.wait(20), "it did not end at its next report"
    told.finish()
    assert not told.results
    assert not told.failures


def test_cancelled_after_its_last_report_it_still_hands_nothing_over(told: Told) -> None:
    work = Waiting("result")
    job = told.jobs.start("one", work, told.results.append)
    assert work.began.wait(20)
    work.go.set()
    assert work.ended.wait(20)
    job.cancel()
    told.finish()
    assert not told.results


def test_work_cannot_swallow_its_cancellation(told: Told) -> None:
    ended = threading.Event()

    def stubborn(progress: Progress) -> None:
        try:
            while True:
                try:
                    progress("working", 0, 0)
                except Exception:
                    continue
        finally:
            ended.set()

    told.jobs.start("one", stubborn, told.results.append).cancel()
    assert ended.wait(20)
    told.finish()


def test_the_same_name_takes_the_place_of_the_one_before(told: Told) -> None:
    old, new = Waiting("old"), Waiting("new")
    told.jobs.start("one", old, told.results.append)
    later = told.jobs.start("one", new, told.results.append)
    assert told.jobs.running_named("one") is later
    assert old.ended.wait(20), "the one before was not cancelled"
    new.go.set()
    told.finish()
    assert told.results == ["new"]


def test_other_names_run_beside(told: Told) -> None:
    one, two = Waiting(1), Waiting(2)
    told.jobs.start("one", one, told.results.append)
    told.jobs.start("two", two, told.results.append)
    two.go.set()
    told.poll_until(lambda: told.results == [2])
    assert told.jobs.running_named("one") is not None
    one.go.set()
    told.finish()
    assert told.results == [2, 1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (input_error("open", "shape", expected="3", got=2), "open: shape"),
        (OSError(28, "No space left on device", "out.mrc"), "one: [Errno 28]"),
        (MemoryError(), "one: MemoryError"),
        (ZeroDivisionError("by what"), "one: ZeroDivisionError: by what"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_told_once_in_one_line(told: Told, error: Exception, text: str) -> None:
    def work(progress: Progress) -> None:
        raise error

    told.jobs.start("one", work, told.results.append)
    told.finish()
    told.jobs.poll()
    assert [name for name, _ in told.failures] == ["one"]
    assert told.failures[0][1].startswith(text)
    assert "\n" not in told.failures[0][1]
    assert not told.results


def test_an_error_after_cancellation_is_told_to_nobody(told: Told) -> None:
    go = threading.Event()

    def work(progress: Progress) -> None:
        go.wait(20)
        raise OSError("the file went away")

    told.jobs.start("one", work, told.results.append).cancel()
    go.set()
    told.finish()
    assert not told.failures


def test_progress_tells_stage_note_share_and_time_left(told: Told) -> None:
    work = Waiting()
    job = told.jobs.start("one", work, told.results.append)
    told.poll_until(lambda: job.share is not None)
    assert (job.stage, job.note, job.share) == ("waiting", "a note", 0.25)
    left, seconds = job.seconds_left, job.seconds
    assert left is not None
    assert 0 < left < 3 * seconds  # a quarter of this stage is done, which began after the job
    work.go.set()
    told.finish()


@pytest.mark.parametrize(("done", "total"), [(0, 0), (0, 10), (1, 1000)])
def test_no_time_left_is_told_before_it_can_be_known(told: Told, done: int, total: int) -> None:
    reported = threading.Event()
    go = threading.Event()

    def work(progress: Progress) -> None:
        progress("working", done, total)
        reported.set()
        go.wait(20)

    job = told.jobs.start("one", work, told.results.append)
    assert reported.wait(20)
    assert job.seconds_left is None
    go.set()
    told.finish()


def test_close_ends_all(told: Told) -> None:
    works = [Waiting(n) for n in range(3)]
    for number, work in enumerate(works):
        told.jobs.start(str(number), work, told.results.append)
    told.jobs.close()
    assert all(work.ended.wait(20) for work in works)
    told.finish()
    assert not told.results
