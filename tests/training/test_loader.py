# SPDX-License-Identifier: MIT
"""Reading ahead: in order, bounded, and over when it is over."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from cryoet_engine.training.loader import ReadAhead

CPU = torch.device("cpu")


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_in_order_whatever_takes_long(threads: int) -> None:
    def read(number: int) -> int:
        time.sleep(0.003 * (number % 4 == 0))
        return number

    with ReadAhead(read, range(20), threads=threads, device=CPU) as batches:
        assert list(batches) == list(range(20))
        assert next(batches, None) is None
    assert not _threads()


@pytest.mark.parametrize("threads", [1, 3])
def test_reads_ahead_but_not_without_end(threads: int) -> None:
    read: list[int] = []
    with ReadAhead(lambda number: read.append(number), range(100), threads=threads, device=CPU) as batches:
        for taken in range(1, 5):
            next(batches)
            deadline = time.monotonic() + 10
            while len(read) < taken + 2 * threads and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.01)  # for one more than there should be
            assert len(read) == taken + 2 * threads
    assert not _threads()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_comes_where_its_batch_is_taken(threads: int) -> None:
    def read(number: int) -> int:
        if number == 3:
            raise OSError("the disk is gone")
        return number

    taken: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"), ReadAhead(read, range(9), threads=threads, device=CPU) as b:
        for number in b:
            taken.append(number)  # noqa: PERF402 (what was taken before the error)
    assert taken == [0, 1, 2]
    assert not _threads()


def test_an_interrupt_ends_the_threads() -> None:
    started = threading.Event()

    def read(number: int) -> int:
        started.set()
        return number

    with pytest.raises(KeyboardInterrupt), ReadAhead(read, range(1000), threads=2, device=CPU) as batches:
        next(batches)
        started.wait()
        raise KeyboardInterrupt
    assert not _threads()
