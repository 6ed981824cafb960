# SPDX-License-Identifier: MIT
"""Batches read by threads while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """What `read` gives for each of some numbers, in order; the next ones are read while one is in use.

    read: a function of a number that bears being called from several threads at once. An exception of it arrives
        where its result is taken. As the order is that of the numbers, nothing depends on `threads`.
    threads: 0 reads when the result is taken. At most two results a thread wait to be taken.
    device: whose memory the threads may have to pin.

    A context: its threads end with it, after what they are reading at that moment.
    """

    def __init__(self, read: Callable[[int], T], numbers: Iterable[int], *, threads: int, device: torch.device) -> None:
        self._read, self._numbers = read, iter(numbers)
        self._waiting: deque[Future[T]] = deque()
        self._ahead = 2 * threads
        # Pinning is done by a thread's current card, which without this is the first one.
        card = (torch.cuda.set_device, (device,)) if device.type == "cuda" and device.index is not None else (None, ())
        self._pool = ThreadPoolExecutor(threads, "batches", *card) if threads else None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._pool is None:
            return self._read(next(self._numbers))
        while len(self._waiting) <= self._ahead and (number := next(self._numbers, None)) is not None:
            self._waiting.append(self._pool.submit(self._read, number))
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft().result()

    def __enter__(self) -> ReadAhead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()
