# SPDX-License-Identifier: MIT
"""The engine behind strokes that grow into pseudo labels while one draws; it knows no window.

One worker thread: it trains the forest of `PixelClassifier` on the strokes, then predicts what is visible, then the
slices beside it, then the volume. Everything is cut into steps of tenths of a second (trees, slices, blocks), and
between two steps the worker looks whether something newer is wanted. numpy, scikit-learn's trees and the native module
release the GIL, so that the thread that draws goes on.

Training takes time in proportion to the labelled voxels: where they are many, visible slices get a first answer from
the first trees, which the whole forest's replaces.

What is cached: the channels of slices (61 float32 a voxel by default), and the feature rows of labelled voxels. A
stroke then costs trees and a forest's answers, no filters. Filters of one slice read 38 voxels on either side of it, so
that five slices cost little more than one (measured at 256 x 256: 0.18 s against 0.12 s on one core): neighbours
are computed along with the slice.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .._checks import CryoETError, input_error
from ..features import FeatureSource, as_volume
from ..forest.classifier import PixelClassifier
from ..forest.memory import CHUNK
from ..forest.storage import TrainingRecord
from ..forest.strokes import MAX_CLASSES, features_at
from ..tiling import Block, block_around, blocks
from ..volume import Float32Array, Region, SoftSegmentation, Statistics, Volume, statistics

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

Axis: TypeAlias = Literal["z", "y", "x"]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Positions: TypeAlias = npt.NDArray[np.intp]
Box: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

_AXES: tuple[Axis, ...] = ("z", "y", "x")
_NEIGHBOURS = (-1, 1, -2, 2)  # slices beside a visible one, in the order in which they are predicted
_REACH = 2
_SLAB_SHARE = 4  # of the cache, that one slab of neighbouring slices may take
_STROKE_CELL = (8, 64, 64)  # voxels; strokes are flat, and boxes around them should be
_STROKE_BATCH = 4096  # labelled voxels whose features are kept before the next are begun
_TREES = 10  # at most, as a rule, grown between two looks at what is wanted
# Trees times labelled voxels; one core grows 100 000 to 150 000 a second.
_STEP_WORK = 30_000  # between two looks
_DRAFT_WORK = 120_000  # before visible slices get a first answer
_LEAST_DRAFT = 5  # trees, for a first answer
_COMPUTED_VOXELS = 400_000  # whose channels are computed between two looks at what is wanted: tenths of a second
_PREDICTED_VOXELS = 1 << 17  # that go through the forest between two looks
_PIECE_VOXELS = 1 << 20  # that `confine` gives to other classes at a time
_DISTANCE_SLAB = 32  # slices whose distances are computed at a time


# ---- what goes in, what comes out


@dataclass(frozen=True)
class Plane:
    """One slice: the voxels with this index along this axis."""

    axis: Axis
    index: int


@dataclass(frozen=True, eq=False)
class SliceLabels:
    """Probabilities of one slice.

    proba: uint8 (class, rows, columns), 255 for certain; rows, columns: the other two axes in (z, y, x) order.
    """

    plane: Plane
    generation: int
    proba: Bytes


@dataclass(frozen=True, eq=False)
class VolumeLabels:
    """Probabilities of the whole volume, uint8."""

    generation: int
    segmentation: SoftSegmentation


@dataclass(frozen=True)
class Failure:
    """What went wrong, in a user's words. The engine goes on with the forest it had."""

    generation: int
    message: str


@dataclass(frozen=True, eq=False)
class Trained:
    """A new forest, of the classes that have strokes, and the seconds from the request to it."""

    generation: int
    classifier: PixelClassifier
    seconds: float


Result: TypeAlias = SliceLabels | VolumeLabels | Failure | Trained


@dataclass(frozen=True)
class Confinement:
    """A class kept to a box, to the neighbourhood of another class, or to both.

    box: (first, end) along z, y, x in voxels of the volume, end excluded; None: everywhere.
    near: a class; only voxels within `distance_vox` of where that class is the most probable one are allowed.
    """

    class_name: str
    box: Box | None = None
    near: str | None = None
    distance_vox: float = 0.0


@dataclass(frozen=True)
class _Request:
    """Strokes to learn from: positions (n, 3) in C order and labels (n,), 1..K."""

    generation: int
    positions: Positions
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    confinements: tuple[Confinement, ...]
    whole: bool
    since: float  # time.monotonic


@dataclass(frozen=True)
class _Forest:
    """A trained classifier, and where its classes stand among all."""

    generation: int
    classifier: PixelClassifier
    classes: tuple[str, ...]
    places: tuple[int, ...]
    confinements: tuple[Confinement, ...]

    def spread(self, proba: Bytes) -> Bytes:
        """(classes with strokes, ...) -> (all classes, ...): nothing for those without."""
        if len(self.places) == len(self.classes):
            return proba
        out = np.zeros((len(self.classes), *proba.shape[1:]), np.uint8)
        out[list(self.places)] = proba
        return out


class _Superseded(Exception):
    """Something newer is wanted: raised between two steps of the worker, never seen outside."""


# ---- the engine


class LiveLabels:
    """Trains and predicts in the background; results are fetched with `poll`.

    volume: (z, y, x), any real dtype; its features are `FeatureSpec()`'s, 61 channels.
    n_trees, seed: as in `PixelClassifier`, whose `fit` on the same strokes gives the same forest.
    n_threads: of the worker; 0: all cores but one, which draws. channel_bytes: of cached channels of slices.

    All methods are for one other thread, and return at once; `close` waits for the step in progress. Also a context
    manager.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        n_trees: int = 100,
        seed: int = 0,
        n_threads: int = 0,
        channel_bytes: int = 512 << 20,
    ) -> None:
        if not isinstance(channel_bytes, int) or isinstance(channel_bytes, bool) or channel_bytes < 1:
            raise input_error("LiveLabels", "channel_bytes", expected="a number of bytes above 0", got=channel_bytes)
        # Which checks the numbers, too.
        self._model = PixelClassifier(n_trees, seed=seed, n_threads=n_threads or max(1, _processors() - 1))
        self._volume = as_volume(volume, "LiveLabels")
        self._budget = channel_bytes
        self._features: _Features | None = None  # the worker's own
        # Shared, under `_changed`:
        self._changed = threading.Condition()
        self._results: list[Result] = []
        self._request: _Request | None = None
        self._visible: tuple[Plane, ...] = ()
        self._todo: list[Plane] = []
        self._n_todo = 0
        self._epoch = 0  # work begun in an older one ends
        self._newest = 0  # the last generation given out
        self._shown = 0  # slices and volumes of older generations are dropped
        self._forest: _Forest | None = None
        self._sent: set[Plane] = set()  # slices that it has answered
        self._status: tuple[str, float | None] = ("", None)
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="live labels", daemon=True)
        self._thread.start()

    def learn(
        self,
        marks: Bytes,
        classes: Sequence[str],
        *,
        visible: Sequence[Plane],
        confinements: Sequence[Confinement] = (),
        whole: bool = True,
    ) -> int:
        """Train on these strokes and predict: visible slices, their neighbours, and if `whole` the volume.

        marks: uint8 (z, y, x), 0 unlabelled, 1..K classes; copied before this returns. Returns the generation, which
        the results carry. Older work ends. Classes without strokes have probability 0; with fewer than two classes
        that have strokes the result is a `Failure`. With many labelled voxels, visible slices come twice: of the
        first trees, before `Trained`, and of all.

        Errors: InputError for marks of another shape or type, labels beyond `classes`, slices outside the volume,
        and confinements of unknown classes.
        """
        names, kept = tuple(classes), tuple(confinements)
        _check_names(names)
        for one in kept:
            _check_confinement(one, names)
        planes = self._checked(visible, "learn")
        positions, labels = _strokes_of(marks, self._volume.shape, len(names))
        with self._changed:
            self._refuse_closed("learn")
            self._newest += 1
            self._shown = self._newest
            self._request = _Request(self._newest, positions, labels, names, kept, whole, time.monotonic())
            self._visible, self._todo = planes, []
            self._status = ("training", 0.0)
            self._supersede()
            return self._newest

    def look_at(self, visible: Sequence[Plane]) -> None:
        """Other slices are visible now: they come next, before more of the volume.

        Before the first forest their features are computed, so that the first stroke is answered sooner. The same
        slices again ask for nothing.
        """
        planes = self._checked(visible, "look_at")
        with self._changed:
            self._refuse_closed("look_at")
            if planes == self._visible:
                return
            self._visible = planes
            if self._request is None:
                self._plan_slices()
                self._changed.notify_all()

    def poll(self) -> list[Result]:
        """Results since the last call, in order, without slices and volumes of generations older than the newest."""
        with self._changed:
            found, self._results = self._results, []
            return [
                one for one in found if not isinstance(one, SliceLabels | VolumeLabels) or one.generation >= self._shown
            ]

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until `poll` has something, at most `timeout` seconds; whether it has. For scripts, not for windows."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._results), timeout)

    @property
    def status(self) -> tuple[str, float | None]:
        """What is being worked at, "training", "slices", "volume" or "", and the share of it that is done."""
        return self._status

    def cancel(self) -> None:
        """Stop the present work; the forest stays, and answers the next `look_at`."""
        with self._changed:
            self._request, self._visible, self._todo = None, (), []
            self._show_forest()
            self._supersede()

    def close(self) -> None:
        """Stop the work and the thread; waits for the step in progress, as a rule well under a second."""
        with self._changed:
            self._closed = True
            self._request, self._todo = None, []
            self._supersede()
        self._thread.join()
        self._features = None

    def __enter__(self) -> LiveLabels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, planes: Sequence[Plane], where: str) -> tuple[Plane, ...]:
        for plane in planes:
            if plane.axis not in _AXES or not 0 <= plane.index < self._volume.shape[_AXES.index(plane.axis)]:
                raise input_error(
                    where, "visible", expected=f"slices of a volume of {self._volume.shape} (z, y, x)", got=plane
                )
        return tuple(dict.fromkeys(planes))

    def _refuse_closed(self, where: str) -> None:
        if self._closed:
            raise input_error(where, "engine", expected="an open one", got="a closed one", fix="make a new LiveLabels")

    # ---- called with `_changed` held

    def _supersede(self) -> None:
        self._epoch += 1
        self._changed.notify_all()

    def _show_forest(self) -> None:
        """What was asked for and will not come leaves the forest there is in charge."""
        if self._forest is not None:
            self._shown = self._forest.generation

    def _plan_slices(self) -> None:
        """Visible slices, then those beside them that the present forest has not answered yet."""
        beside = [
            Plane(plane.axis, plane.index + step)
            for step in _NEIGHBOURS
            for plane in self._visible
            if 0 <= plane.index + step < self._volume.shape[_AXES.index(plane.axis)]
        ]
        new = [plane for plane in dict.fromkeys(beside) if plane not in self._sent and plane not in self._visible]
        self._todo = [*self._visible, *new]
        self._n_todo = len(self._todo)

    # ---- the worker

    def _work(self) -> None:
        while (task := self._next_task()) is not None:
            epoch, request = task
            try:
                self._answer(epoch, request)
            except _Superseded:
                pass
            except Exception as error:
                self._fail(epoch, request, error)
            with self._changed:
                if self._request is None:
                    self._status = ("", None)
                self._changed.notify_all()

    def _next_task(self) -> tuple[int, _Request | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._request is not None or bool(self._todo))
            if self._closed:
                return None
            request, self._request = self._request, None
            return self._epoch, request

    def _answer(self, epoch: int, request: _Request | None) -> None:
        if self._features is None:
            self._features = _Features(self._volume, self._model, self._budget)
        if request is not None:
            self._train(epoch, request, self._features)
        self._predict_slices(epoch, self._features)
        if self._forest is None:
            import_module("sklearn.ensemble")  # seconds, which the first stroke need not wait for
        if request is not None and request.whole:
            self._predict_volume(epoch, self._features)

    def _fail(self, epoch: int, request: _Request | None, error: Exception) -> None:
        message = str(error) if isinstance(error, CryoETError) else f"{type(error).__name__}: {error}"
        with self._changed:
            if epoch != self._epoch:
                return
            self._todo = []
            self._show_forest()
            generation = self._shown if request is None else request.generation
            self._results.append(Failure(generation, message))
            self._changed.notify_all()

    def _check(self, epoch: int) -> None:
        with self._changed:
            if epoch != self._epoch:
                raise _Superseded

    def _send(self, epoch: int, result: Result) -> None:
        with self._changed:
            self._check(epoch)
            self._results.append(result)
            self._changed.notify_all()

    def _train(self, epoch: int, request: _Request, features: _Features) -> None:
        self._status = ("training", 0.0)
        present = np.unique(request.labels)
        if len(present) < 2:
            only = "".join(f"; so far there are only some of {request.classes[label - 1]}" for label in present)
            raise CryoETError(f"draw strokes of at least two classes{only}")
        samples = features.rows_at(request.positions, lambda: self._check(epoch))
        names = tuple(request.classes[label - 1] for label in present)
        places = tuple(int(label) - 1 for label in present)
        labels = np.searchsorted(present, request.labels) + 1

        def made(trees: RandomForestClassifier) -> _Forest:
            classifier = _taken_over(trees, self._model, names)
            classifier.training = features.record(labels)
            return _Forest(request.generation, classifier, request.classes, places, request.confinements)

        draft = _draft_trees(len(labels), self._model.n_trees)
        for trees in _growing(self._model, samples, labels):
            n_trees = len(trees.estimators_)
            self._status = ("training", n_trees / self._model.n_trees)
            self._check(epoch)
            if draft <= n_trees < self._model.n_trees:
                self._draft(epoch, made(trees), features)
                draft = self._model.n_trees
        forest = made(trees)
        with self._changed:
            self._check(epoch)
            self._forest, self._sent = forest, set()
            self._plan_slices()
            self._send(epoch, Trained(request.generation, forest.classifier, time.monotonic() - request.since))

    def _draft(self, epoch: int, forest: _Forest, features: _Features) -> None:
        """Visible slices by the first trees, while the others grow."""
        with self._changed:
            visible = self._visible
        for plane in visible:
            self._send(epoch, _slice_labels(forest, features, plane, visible, lambda: self._check(epoch)))

    def _next_plane(self, epoch: int) -> tuple[Plane, tuple[Plane, ...]] | None:
        """What to predict next, and what is visible now."""
        with self._changed:
            self._check(epoch)
            if not self._todo:
                return None
            self._status = ("slices", 1 - len(self._todo) / self._n_todo)
            return self._todo.pop(0), self._visible

    def _predict_slices(self, epoch: int, features: _Features) -> None:
        def check() -> None:
            self._check(epoch)

        while (step := self._next_plane(epoch)) is not None:
            plane, visible = step
            if self._forest is None:
                features.warm(plane, visible, check)
                continue
            found = _slice_labels(self._forest, features, plane, visible, check)
            with self._changed:
                self._send(epoch, found)
                self._sent.add(plane)

    def _predict_volume(self, epoch: int, features: _Features) -> None:
        forest = self._forest
        assert forest is not None  # the worker has just trained it

        def between_blocks(stage: str, done: int, total: int, note: str = "") -> None:
            self._predict_slices(epoch, features)
            self._status = ("volume", done / total)

        found = forest.classifier.predict_proba(self._volume, block=CHUNK, progress=between_blocks)
        proba = confine(forest.spread(found.data), forest.classes, forest.confinements)
        segmentation = SoftSegmentation(proba, forest.classes, **self._volume.grid())
        self._send(epoch, VolumeLabels(forest.generation, segmentation))


def _slice_labels(
    forest: _Forest, features: _Features, plane: Plane, visible: Collection[Plane], check: Callable[[], None]
) -> SliceLabels:
    proba = forest.spread(features.predict(forest.classifier, plane, visible, check))
    shape = _slice_shape(features.shape, plane)
    z, y, x = (plane.index if axis == plane.axis else 0 for axis in _AXES)
    confined = confine(proba.reshape(len(proba), *shape), forest.classes, forest.confinements, origin=(z, y, x))
    return SliceLabels(plane, forest.generation, confined.reshape(proba.shape))


def _processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_names(names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names) or not 2 <= len(names) <= MAX_CLASSES:
        raise input_error("learn", "classes", expected=f"2 to {MAX_CLASSES} names, none twice", got=names)


def _strokes_of(marks: Bytes, shape: tuple[int, int, int], n_classes: int) -> tuple[Positions, npt.NDArray[np.int64]]:
    """Positions (n, 3) in C order and labels (n,) of the labelled voxels."""
    if marks.shape != shape or marks.dtype != np.uint8:
        raise input_error("learn", "marks", expected=f"uint8 {shape} (z, y, x)", got=f"{marks.dtype} {marks.shape}")
    drawn = np.flatnonzero(marks.any(axis=(1, 2)))  # far faster than looking for voxels everywhere
    where = [np.argwhere(marks[z]) for z in drawn]
    positions = np.concatenate(
        [np.empty((0, 3), np.intp), *(np.insert(yx, 0, z, axis=1) for z, yx in zip(drawn, where, strict=True))]
    )
    labels = marks[tuple(positions.T)].astype(np.int64)
    if labels.size and labels.max() > n_classes:
        raise input_error("learn", "marks", expected=f"labels 1 to {n_classes}", got=int(labels.max()))
    return positions, labels


def _growing(
    model: PixelClassifier, samples: Float32Array, labels: npt.NDArray[np.int64]
) -> Iterator[RandomForestClassifier]:
    """The forest of `model.fit`, after every few trees: scikit-learn's warm start draws the same seeds for them.

    Its trees grow in threads of this process ("prefer threads"), however many jobs.
    """
    from sklearn import config_context
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=0,
        max_features=min(model.max_features, samples.shape[1]),
        bootstrap=True,
        random_state=model.seed,
        n_jobs=model.n_threads,
        warm_start=True,
    )
    step = max(model.n_threads, min(_TREES, _STEP_WORK // len(samples)))
    for n_trees in [*range(step, model.n_trees, step), model.n_trees]:
        # The arguments are ours and the samples checked: looking at them again for every tree takes time.
        with config_context(skip_parameter_validation=True, assume_finite=True):
            forest.set_params(n_estimators=n_trees).fit(samples, labels)
        yield forest


def _taken_over(forest: RandomForestClassifier, model: PixelClassifier, names: tuple[str, ...]) -> PixelClassifier:
    made = PixelClassifier.from_sklearn(forest, spec=model.spec, classes=names, n_threads=model.n_threads)
    made.seed, made.max_features = model.seed, model.max_features
    return made


def _draft_trees(n_samples: int, n_trees: int) -> int:
    """After how many trees visible slices are worth a first answer; `n_trees` where the whole forest comes soon."""
    enough = max(_LEAST_DRAFT, math.ceil(_DRAFT_WORK / n_samples))
    return enough if 2 * enough <= n_trees else n_trees


# ---- features, kept


class _Features:
    """Channels of slices and rows of labelled voxels, computed once as long as there is room."""

    def __init__(self, volume: Volume, model: PixelClassifier, budget: int) -> None:
        self._statistics: Statistics = statistics(volume)
        mean = self._statistics.mean
        offset = float(np.float32(mean)) if math.isfinite(mean) else 0.0
        self._source = FeatureSource(volume, model.spec, offset, n_threads=model.n_threads)
        self._budget = budget
        self._slices: OrderedDict[Plane, Float32Array] = OrderedDict()  # (C, 1, rows, columns); oldest first
        self._bytes = 0
        self._known: npt.NDArray[np.int64] = np.empty(0, np.int64)  # flat positions, ascending
        self._rows: Float32Array = np.empty((0, self._source.n_channels), np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the volume."""
        return self._source.volume.shape

    def record(self, labels: npt.NDArray[np.int64]) -> TrainingRecord:
        """What a classifier trained on these labels knows of the volume."""
        volume = self._source.volume
        return TrainingRecord(
            mean=self._statistics.mean,
            std=self._statistics.std,
            voxel_size_A=volume.voxel_size_A,
            voxel_size_status=volume.voxel_size_status,
            offset=self._source.offset,
            samples=tuple(int(n) for n in np.bincount(labels)[1:]),
            package=version("cryoet-engine"),
        )

    def rows_at(self, positions: Positions, check: Callable[[], None]) -> Float32Array:
        """Channels (n, C) at positions (n, 3); only voxels never asked for before are computed."""
        flat = np.ravel_multi_index(tuple(positions.T), self.shape).astype(np.int64)
        new = ~np.isin(flat, self._known, assume_unique=True)
        for start in range(0, int(new.sum()), _STROKE_BATCH):
            batch = np.flatnonzero(new)[start : start + _STROKE_BATCH]
            rows = features_at(self._source, positions[batch], _STROKE_CELL, lambda *_: check())
            if not np.isfinite(rows).all():
                raise input_error(
                    "learn", "volume", expected="voxels whose features fit float32", got="features that overflow",
                    fix="scale the tomogram down, for example with cryoet filter --normalise min-max",
                )  # fmt: skip
            known = np.concatenate([self._known, flat[batch]])
            order = np.argsort(known)
            self._known, self._rows = known[order], np.concatenate([self._rows, rows])[order]
        found: Float32Array = self._rows[np.searchsorted(self._known, flat)]
        return found

    def warm(self, plane: Plane, visible: Collection[Plane], check: Callable[[], None]) -> None:
        """Have the channels of a slice at hand, if there is room."""
        if self._slice_bytes(plane) <= self._budget:
            self._channels(plane, visible, check)

    def predict(
        self, classifier: PixelClassifier, plane: Plane, visible: Collection[Plane], check: Callable[[], None]
    ) -> Bytes:
        """Probabilities (class, rows, columns) of a slice. `visible`: slices whose channels are not dropped for it."""
        rows, columns = _rows_columns(self.shape, plane)
        n_classes = len(classifier.classes)
        if self._slice_bytes(plane) <= self._budget:
            channels = self._channels(plane, visible, check)
            out = np.empty((n_classes, 1, rows, columns), np.uint8)
            for part in _pieces((slice(0, 1), slice(0, rows), slice(0, columns)), _PREDICTED_VOXELS):
                check()
                where = (slice(None), *part)
                out[where] = classifier.predict_channels(channels[where], dtype="uint8")
            return out[:, 0]
        region = _slab(self.shape, plane, 0)
        out = np.empty((n_classes, *_slice_shape(self.shape, plane)), np.uint8)
        for part in _pieces(region, min(_PREDICTED_VOXELS, self._budget // (4 * self._source.n_channels))):
            check()
            channels = self._source.compute(self._block(part))
            out[(slice(None), *_moved(part, region))] = classifier.predict_channels(channels, dtype="uint8")
        return out.reshape(n_classes, rows, columns)

    def _block(self, core: Region) -> Block:
        return block_around(self.shape, core, self._source.spec.halo)

    def _slice_bytes(self, plane: Plane) -> int:
        return 4 * self._source.n_channels * math.prod(_slice_shape(self.shape, plane))

    def _channels(self, plane: Plane, visible: Collection[Plane], check: Callable[[], None]) -> Float32Array:
        """Channels (C, 1, rows, columns) of a slice, columns contiguous."""
        found = self._slices.get(plane)
        if found is not None:
            self._slices.move_to_end(plane)
            return found
        shape = self.shape
        axis = _AXES.index(plane.axis)
        roomy = (2 * _REACH + 1) * self._slice_bytes(plane) <= self._budget // _SLAB_SHARE
        region = _slab(shape, plane, _REACH if roomy else 0)
        first, end = region[axis].start, region[axis].stop
        computed = np.empty((self._source.n_channels, *(part.stop - part.start for part in region)), np.float32)
        for part in _pieces(region, _COMPUTED_VOXELS):
            check()
            self._source.compute(self._block(part), computed[(slice(None), *_moved(part, region))])
        # The slice itself last: the most recently used one.
        for index in sorted(range(first, end), key=lambda index: -abs(index - plane.index)):
            one = Plane(plane.axis, index)
            if one not in self._slices:
                channels = np.ascontiguousarray(np.take(computed, index - first, axis=axis + 1))[:, None]
                self._keep(one, channels, {*visible, plane})
                if one == plane:
                    found = channels
        assert found is not None
        return found

    def _keep(self, plane: Plane, channels: Float32Array, wanted: Collection[Plane]) -> None:
        """Into the cache; the least recently used ones make room, wanted ones only for a wanted one."""
        for old in [one for one in self._slices if one not in wanted] + [one for one in self._slices if one in wanted]:
            if self._bytes + channels.nbytes <= self._budget or (old in wanted and plane not in wanted):
                break
            self._bytes -= self._slices.pop(old).nbytes
        if self._bytes + channels.nbytes <= self._budget:
            self._slices[plane] = channels
            self._bytes += channels.nbytes


def _slice_shape(shape: tuple[int, int, int], plane: Plane) -> tuple[int, int, int]:
    """(z, y, x) of a slice, 1 along its axis."""
    z, y, x = (1 if axis == plane.axis else n for axis, n in zip(_AXES, shape, strict=True))
    return z, y, x


def _rows_columns(shape: tuple[int, int, int], plane: Plane) -> tuple[int, int]:
    rows, columns = (n for axis, n in zip(_AXES, shape, strict=True) if axis != plane.axis)
    return rows, columns


def _slab(shape: tuple[int, int, int], plane: Plane, reach: int) -> Region:
    """A slice and `reach` slices on either side, as far as there are any."""
    z, y, x = (
        slice(max(plane.index - reach, 0), min(plane.index + reach + 1, n)) if axis == plane.axis else slice(0, n)
        for axis, n in zip(_AXES, shape, strict=True)
    )
    return z, y, x


def _pieces(region: Region, voxels: int) -> Iterator[Region]:
    """A flat region in pieces of about so many voxels at most."""
    z, y, x = (part.stop - part.start for part in region)
    thick = min(z, y, x)
    side = max(thick, math.isqrt(voxels // thick), 1)
    for block in blocks((z, y, x), (side, side, side), 0):
        a, b, c = (
            slice(part.start + whole.start, part.stop + whole.start)
            for part, whole in zip(block.core, region, strict=True)
        )
        yield a, b, c


def _moved(part: Region, region: Region) -> Region:
    """A part of a region, in the region's own coordinates."""
    z, y, x = (slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
    return z, y, x


# ---- classes kept to places


def confine(
    proba: Bytes,
    classes: Sequence[str],
    confinements: Sequence[Confinement],
    *,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> Bytes:
    """Take classes away where they may not be; the other classes get their share in proportion.

    proba: uint8 (class, z, y, x), the volume or a part of it that begins at `origin` (z, y, x); a slice has length 1
    along its axis. Where no other class has any, the background (class 0) gets all. Voxels that change sum to 255.
    Boxes count first, then neighbourhoods, of the most probable classes within the boxes; a slice knows only the
    neighbourhoods within itself. Without confinements the array itself is returned, else a new one.

    Errors: InputError for another type or shape, and for confinements of unknown classes.
    """
    names = tuple(classes)
    if proba.ndim != 4 or proba.dtype != np.uint8 or len(proba) != len(names):
        expected = f"uint8 ({len(names)} classes, z, y, x)"
        raise input_error("confine", "proba", expected=expected, got=f"{proba.dtype} {proba.shape}")
    for one in confinements:
        _check_confinement(one, names)
    if not confinements:
        return proba
    boxed = [one for one in confinements if one.box is not None]
    banned: dict[int, npt.NDArray[np.bool_]] = {}
    for one in boxed:
        _ban(banned, names.index(one.class_name), _outside(one.box, origin, proba.shape[1:]))
    out = _redistributed(proba, banned)
    near = [one for one in confinements if one.near is not None]
    if near:
        best = out.argmax(axis=0)
        for one in near:
            assert one.near is not None
            far = ~_within(best == names.index(one.near), one.distance_vox)
            _ban(banned, names.index(one.class_name), far)
        out = _redistributed(out, banned)
    return out


def _check_confinement(one: Confinement, names: tuple[str, ...]) -> None:
    for name in (one.class_name, one.near):
        if name is not None and name not in names:
            raise input_error("confine", "class", expected=", ".join(names), got=repr(name))
    if one.near == one.class_name:
        raise input_error("confine", "near", expected="another class", got=repr(one.near))
    if not (math.isfinite(one.distance_vox) and one.distance_vox >= 0):
        raise input_error("confine", "distance_vox", expected="a number of voxels, 0 or more", got=one.distance_vox)
    if one.box is not None and (
        len(one.box) != 3 or not all(len(side) == 2 and side[0] <= side[1] for side in one.box)
    ):
        raise input_error("confine", "box", expected="((z0, z1), (y0, y1), (x0, x1)), ascending", got=one.box)


def _ban(banned: dict[int, npt.NDArray[np.bool_]], index: int, where: npt.NDArray[np.bool_]) -> None:
    banned[index] = banned[index] | where if index in banned else where


def _outside(box: Box | None, origin: tuple[int, int, int], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    outside = np.ones(shape, np.bool_)
    if box is not None:
        inner = tuple(
            slice(max(side[0] - first, 0), max(side[1] - first, 0)) for side, first in zip(box, origin, strict=True)
        )
        outside[inner] = False
    return outside


def _within(mask: npt.NDArray[np.bool_], distance_vox: float) -> npt.NDArray[np.bool_]:
    """Voxels at most so far from the mask; some slices at a time, since distances take 20 bytes a voxel."""
    from scipy import ndimage

    out = np.zeros_like(mask)
    reach = math.floor(distance_vox)
    step = max(_DISTANCE_SLAB, reach)
    for start in range(0, len(mask), step):
        stop, first = min(start + step, len(mask)), max(start - reach, 0)
        part = mask[first : stop + reach]
        if part.any():
            distance = ndimage.distance_transform_edt(~part)[start - first : stop - first]
            out[start:stop] = distance <= distance_vox
    return out


def _redistributed(proba: Bytes, banned: dict[int, npt.NDArray[np.bool_]]) -> Bytes:
    """Every class zero where it is banned; the others get what it had in proportion, class 0 if they have none."""
    n_classes = len(proba)
    out = np.array(proba).reshape(n_classes, -1)
    barred = {index: where.reshape(-1) for index, where in banned.items()}
    for start in range(0, out.shape[1], _PIECE_VOXELS):
        piece = out[:, start : start + _PIECE_VOXELS]
        loses = np.zeros(piece.shape[1], np.bool_)
        for index, where in barred.items():
            loses |= where[start : start + _PIECE_VOXELS] & (piece[index] > 0)
        at = np.flatnonzero(loses)
        kept = piece[:, at].astype(np.int32)
        for index, where in barred.items():
            kept[index, where[start + at]] = 0
        piece[:, at] = _filled(kept)
    return out.reshape(proba.shape)


def _filled(kept: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Columns (class, n) stretched to sum to 255; rounding goes to the largest, an empty column to class 0."""
    total = kept.sum(axis=0)
    shares: npt.NDArray[np.int32] = kept * 255 // np.maximum(total, 1)
    shares[shares.argmax(axis=0), np.arange(kept.shape[1])] += 255 - shares.sum(axis=0)
    return shares
