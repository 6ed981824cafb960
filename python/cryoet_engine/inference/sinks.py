# SPDX-License-Identifier: MIT
"""Where finished slices go: converted, and written while the network computes on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..blending import STORED, SlabBlender
from ..volume import probability_unit, quantise

PIECE = 8  # slices that are resampled, or filled with background, at a time

Blocks = dict[str, npt.NDArray[Any]]


class Output(Protocol):
    """Where slices go: a numpy array, or a store on the disk.

    Probabilities (class, z, y, x): what `io.create_segmentation` gives; maps (z, y, x): `io.create_volume`.
    """

    shape: tuple[int, ...]
    dtype: Any

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Store one region."""


class Store:
    """Writes slices in order, each once, in a thread of its own: of a chunked store whole chunks, maps first.

    So an interrupted run has whole chunks, and where probabilities are stored, so are the maps.

    probabilities: of all classes; maps: "labels", "variance". first: the slice to begin with.
    """

    def __init__(self, probabilities: Output, maps: Mapping[str, Output], *, first: int, last: int) -> None:
        self._outputs = {**maps, "probabilities": probabilities}
        self.last = last
        self.kind = np.dtype(str(probabilities.dtype))
        self.labels, self.variance = "labels" in maps, "variance" in maps
        self._chunk = max([int(chunks[-3]) for one in self._outputs.values() if (chunks := _chunks(one))], default=1)
        self._held: list[Blocks] = []
        self._start = self.next = first  # next: the slice that `put` takes next
        self._thread = ThreadPoolExecutor(1, "cryoet-write")
        self._writing: Future[None] | None = None

    def memory(self, z: slice) -> npt.NDArray[Any] | None:
        """These slices of probabilities themselves, where they are an array in memory that can be written to."""
        array = self._outputs["probabilities"]
        usable = isinstance(array, np.ndarray) and str(self.kind) in STORED and array[0].flags.c_contiguous
        return array[:, z] if usable and not self._held else None  # type: ignore[index]

    def put(self, blocks: Blocks) -> None:
        """Take the next slices: "probabilities" (class, z, y, x) of the stored type, and the maps (z, y, x)."""
        self._held.append(blocks)
        self.next += blocks["probabilities"].shape[1]
        stop = self.next if self.next == self.last else self.next // self._chunk * self._chunk
        if stop <= self._start:
            return
        whole = {
            name: np.concatenate([one[name] for one in self._held], axis=-3) if len(self._held) > 1 else block
            for name, block in self._held[0].items()
        }
        n = stop - self._start
        rest = {name: block[..., n:, :, :].copy() for name, block in whole.items()} if stop < self.next else None
        self._held = [rest] if rest else []
        self.wait()
        self._writing = self._thread.submit(
            self._write, slice(self._start, stop), {name: block[..., :n, :, :] for name, block in whole.items()}
        )
        self._start = stop

    def put_background(self, until: int) -> None:
        """Fill slices with background, certain."""
        _, _, height, width = self._outputs["probabilities"].shape
        while self.next < until:
            n = min(PIECE, until - self.next)
            block = np.zeros((self._outputs["probabilities"].shape[0], n, height, width), self.kind)
            block[0] = probability_unit(self.kind)
            blocks: Blocks = {"probabilities": block}
            if self.labels:
                blocks["labels"] = np.ones((n, height, width), np.uint8)
            if self.variance:
                blocks["variance"] = np.zeros((n, height, width), np.float32)
            self.put(blocks)

    def _write(self, z: slice, blocks: Blocks) -> None:
        for name, output in self._outputs.items():
            region = (z, *(slice(0, n) for n in output.shape[-2:]))
            array, block = output, blocks[name]
            if isinstance(array, np.ndarray) and np.may_share_memory(array, block):
                continue  # it was computed there
            output[region if name != "probabilities" else (slice(None), *region)] = block

    def wait(self) -> None:
        """Return when all that was given on is written; an error from it is raised here."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """End the thread; what it writes just now is written."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _chunks(output: Output) -> tuple[int, ...] | None:
    return getattr(output, "chunks", None)


class Sink(Protocol):
    """What takes finished slices from the blenders and hands them to a store."""

    def take(self, blender: SlabBlender, variance: SlabBlender | None, z: slice) -> None:
        """The slices z, which are the next ones of the blenders."""


class Direct:
    """Slices on the grid on which they were computed, converted where they were blended."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, blender: SlabBlender, variance: SlabBlender | None, z: slice) -> None:
        """The slices z, which are the next ones of the blenders."""
        store = self._store
        stored = str(store.kind) if str(store.kind) in STORED else "float32"
        out = store.memory(z)
        found, labels = blender.finish(z.stop, dtype=stored, labels=store.labels, out=out)
        store.put(_blocks(found if stored == str(store.kind) else quantise(found, store.kind), labels, variance, z))


def _blocks(
    found: npt.NDArray[Any], labels: npt.NDArray[np.uint8] | None, variance: SlabBlender | None, z: slice
) -> Blocks:
    blocks: Blocks = {"probabilities": found}
    if labels is not None:
        blocks["labels"] = labels + np.uint8(1)
    if variance is not None:
        blocks["variance"] = variance.finish(z.stop)[0][0]
    return blocks
