# SPDX-License-Identifier: MIT
"""The semi-supervised route of paper 1 (section 4) over several tomograms, as one function.

    strokes -> a forest for each tomogram -> its soft pseudo labels -> one network for all -> every tomogram segmented

A forest carries what was drawn through its own tomogram and fails on another one; the network learns from all the
pseudo labels together and holds where nothing was drawn. So there is one forest a tomogram, trained on the strokes of
that tomogram alone, as in the paper: a common one would have to bridge grey scales, focus and dose with filters that
know nothing of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from . import io
from ._checks import InputError, input_error
from ._progress import Progress, silent
from .features import FeatureSpec
from .forest import PixelClassifier
from .forest.strokes import labelled_voxels
from .inference import Blend, segment
from .models import Activation, Network, create_model, load_model
from .training import ConfusionMatrix, TrainingSettings, train
from .training.settings import Targets
from .volume import SoftSegmentation, Volume, one_voxel_size

T = TypeVar("T")
Array = npt.NDArray[Any]

FOREST, SOFT, NET, PROBA = "forest.safetensors", "soft.zarr", "net", "proba.zarr"
_LEVELS = 256  # of confidence that are told apart
_SLAB_VOXELS = 1 << 24  # counted at a time


class Stage(Protocol):
    """Does a part of the work, or reopens what it left when that was done before."""

    def __call__(self, name: str, work: Callable[[], T], reopen: Callable[[], T]) -> T:
        """What `work` or `reopen` returns."""


def at_once(name: str, work: Callable[[], T], reopen: Callable[[], T]) -> T:
    """The stage of those who keep no record."""
    return work()


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a caller of `semi_supervised` may do in its own way.

    stage: see `Stage`; names are "forest", "pseudo labels", "training" and "segmentation", with ", round 2" and
        ": NAME of the tomogram" behind them where there are several.
    segmenter: (folder of the network, tomogram, path, whether this is the last round) -> the segmentation it wrote to
        that path; by default `inference.segment`. Only where results go to a folder. What it changes beside the
        network's result (slices left out, dust) belongs to the last round: further ones would learn it as truth.
    tell: takes what a person should know before hours of work, a sentence at a time.
    """

    stage: Stage = at_once
    segmenter: Callable[[Path, Volume, Path, bool], SoftSegmentation] | None = None
    tell: Callable[[str], None] = lambda note: None


@dataclass(frozen=True, kw_only=True)
class SemiSupervisedSettings:
    """All that decides the route but the network, which is an argument.

    n_trees, features: of each forest. steps, training: of the network, in every round; without `training` the defaults,
        with targets and loss of `default_targets` and `default_loss`.
    rounds: 1 is the paper's route. In each further one (self-training) the network learns from more: beside the pseudo
        labels, now with the strokes as truth, from its own segmentation of the tomograms without strokes, where it is
        sure. Not on by default: in a trial it lost to as many more steps on the pseudo labels alone. One simulated
        tomogram with strokes, two without, mean F1 against the truth of a fourth: after 300 steps 0.715, after 300
        more with own labels 0.749, without 0.764; from 600 steps on the same, 0.764 to 0.757 and to 0.788. On own
        labels alone, without the pseudo labels, the 0.715 became 0.719.
    confident_share: which part of the voxels of each class that is: those of the highest probability. A share, and one
        for each class, because a network's probabilities are not calibrated, and because one threshold for all would
        leave little of thin and rare classes (class-balanced self-training, Zou et al., ECCV 2018).
    tile, overlap, blend: of `segment`. seed: of the forests; the network's is in `training`.
    """

    n_trees: int = 100
    features: FeatureSpec = field(default_factory=FeatureSpec)
    steps: int = 1500
    training: TrainingSettings | None = None
    rounds: int = 1
    confident_share: float = 0.5
    tile: int = 128
    overlap: int = 32
    blend: Blend = "trimmed"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.rounds, int) or isinstance(self.rounds, bool) or not 1 <= self.rounds <= 100:
            raise input_error("semi_supervised", "rounds", expected="a whole number from 1 to 100", got=self.rounds)
        if not 0 < self.confident_share <= 1:
            expected = "a number above 0, at most 1"
            raise input_error("semi_supervised", "confident_share", expected=expected, got=self.confident_share)


def default_targets(n_classes: int) -> Targets:
    """Soft for two classes, hard for more: what paper 1 (section 4.3) found to work better."""
    return "soft" if n_classes == 2 else "hard"


def default_loss(n_classes: int, targets: Targets) -> tuple[str, Activation]:
    """The loss, and the activation of the network, for a number of classes.

    Regression for two classes with soft targets, as in paper 1 (section 4.3; there with no activation), else that of
    `TrainingSettings`. The foreground's F1 against the truth of two unseen simulated tomograms, after 250 steps on the
    pseudo labels of two others (seeds 0 and 1): cross-entropy on hard targets 0.855, 0.846, on soft ones 0.857, 0.852;
    mean squared error with no activation 0.869, 0.861, with sigmoid 0.885, 0.871, with softmax (seed 0) 0.886.
    """
    return ("mse" if n_classes == 2 and targets == "soft" else TrainingSettings().loss), "softmax"


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """How good the network was after a round; none of it is the truth.

    held_back_f1: one a class, on the part of each tomogram that was held back, against the labels of that round: the
        forests' pseudo labels, and from the second round on the network's own ones, too.
    strokes, pseudo_labels: its segmentations of the tomograms with strokes, counted against those and against the
        forests' pseudo labels: the same yardsticks for every round, though not unseen ones.
    """

    held_back_f1: tuple[float, ...]
    strokes: ConfusionMatrix
    pseudo_labels: ConfusionMatrix


@dataclass(frozen=True, kw_only=True, eq=False)
class SemiSupervisedResult:
    """forests, pseudo_labels, drawn: one a pair; `drawn` counts the voxels of each class in the strokes.

    model: the trained network. segmentations: one a tomogram, those of the pairs first. rounds: one a round.
    notes: what a person should know of the input.
    """

    forests: tuple[PixelClassifier, ...]
    pseudo_labels: tuple[SoftSegmentation, ...]
    drawn: tuple[tuple[int, ...], ...]
    model: Network
    segmentations: tuple[SoftSegmentation, ...]
    rounds: tuple[Round, ...]
    notes: tuple[str, ...]


def semi_supervised(
    pairs: Sequence[tuple[Volume, Volume]],
    others: Sequence[Volume] = (),
    *,
    classes: Sequence[str],
    model: Network | None = None,
    settings: SemiSupervisedSettings = SemiSupervisedSettings(),
    names: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    hooks: Hooks = Hooks(),
    progress: Progress = silent,
) -> SemiSupervisedResult:
    """Strokes on some tomograms in, a network and the segmentation of all tomograms out.

    pairs: (tomogram, strokes): whole numbers of the tomogram's shape, 0 where nothing is drawn, 1..K classes. Shapes
        may differ from pair to pair. A class that is drawn in some tomograms only is never found by the forests of the
        others (a note says so): what there is of it there, they call something else.
    others: tomograms without strokes, to be segmented as well (and, with several rounds, learned from).
    classes: K names, background first. model: to be trained, in place; by default a small "unet3d".
    names: of all tomograms, those of the pairs first, all different: for stages, folders and messages.
    out: a folder for what is made; without it results are kept in memory. There lie `net`, and for each tomogram (in a
        folder of its name where there are several) `forest.safetensors`, `soft.zarr` (pseudo labels) and `proba.zarr`
        (the network's segmentation); the networks and segmentations of rounds before the last are `net_round1`,
        `proba_round1.zarr` and so on.

    Errors: InputError, before any work, for strokes that do not fit their tomogram or the classes, for a tomogram with
    strokes of one class alone, and for a class that is drawn in none; those of `PixelClassifier`, `train`, `segment`.
    """
    return _Route(pairs, others, tuple(classes), model, settings, tuple(names), out, hooks, progress).run()


class _Route:
    def __init__(
        self,
        pairs: Sequence[tuple[Volume, Volume]],
        others: Sequence[Volume],
        classes: tuple[str, ...],
        model: Network | None,
        settings: SemiSupervisedSettings,
        names: tuple[str, ...],
        out: str | os.PathLike[str] | None,
        hooks: Hooks,
        progress: Progress,
    ) -> None:
        if not pairs:
            raise input_error("semi_supervised", "pairs", expected="at least one (tomogram, strokes)", got="none")
        self.volumes = [*(volume for volume, _ in pairs), *others]
        self.strokes = [strokes for _, strokes in pairs]
        if wrong := [one for one in (*self.volumes, *self.strokes) if not isinstance(one, Volume)]:
            raise input_error("semi_supervised", "pairs, others", expected="Volumes", got=type(wrong[0]).__name__)
        if len(set(classes)) < len(classes) or len(classes) < 2:
            raise input_error("semi_supervised", "classes", expected="two or more different names", got=classes)
        self.names = names or tuple(f"tomogram {k + 1}" for k in range(len(self.volumes)))
        if not len(set(self.names)) == len(self.names) == len(self.volumes):
            expected = f"{len(self.volumes)} different ones, one a tomogram"
            raise input_error("semi_supervised", "names", expected=expected, got=", ".join(self.names))
        self.classes, self.settings, self.hooks, self.progress = classes, settings, hooks, progress
        self.out = None if out is None else Path(out)
        targets = default_targets(len(classes))
        loss, activation = default_loss(len(classes), targets)
        self.training = settings.training or TrainingSettings(targets=targets, loss=loss)
        self.model = model or create_model(
            "unet3d",
            preset="small",
            out_channels=len(classes),
            activation="none" if settings.training else activation,
            seed=self.training.seed,
        )
        if self.model.config.out_channels != len(classes):
            expected = f"{len(classes)} output channels, one a class"
            raise input_error("semi_supervised", "model", expected=expected, got=self.model.config.out_channels)

    def run(self) -> SemiSupervisedResult:
        drawn = [self._drawn(k) for k in range(len(self.strokes))]
        notes = self._notes(drawn)
        for note in notes:
            self.hooks.tell(note)
        forests, pseudo = zip(*(self._pseudo_labels(k, drawn[k]) for k in range(len(self.strokes))), strict=True)
        labelled: list[SoftSegmentation] = list(pseudo)
        rounds: list[Round] = []
        segmentations: list[SoftSegmentation] = []
        for number in range(1, self.settings.rounds + 1):
            self._train(labelled, number)
            segmentations = [self._segment(k, number) for k in range(len(self.volumes))]
            rounds.append(self._judged(segmentations, pseudo))
            if number < self.settings.rounds:
                labelled = self._further_labels(pseudo, segmentations)
        return SemiSupervisedResult(
            forests=forests,
            pseudo_labels=pseudo,
            drawn=tuple(tuple(int(n) for n in counts) for counts in drawn),
            model=self.model,
            segmentations=tuple(segmentations),
            rounds=tuple(rounds),
            notes=tuple(notes),
        )

    # ---- before the work

    def _drawn(self, k: int) -> npt.NDArray[np.int64]:
        """Voxels drawn of each class in one pair."""
        where = f"strokes of {self.names[k]}" if len(self.volumes) > 1 else "strokes"
        volume, strokes = self.volumes[k], self.strokes[k]
        if strokes.shape != volume.shape:
            fix = "give the strokes that were drawn on this tomogram"
            got = f"{strokes.shape}"
            raise input_error(where, "shape", expected=f"the tomogram's, {volume.shape} (z, y, x)", got=got, fix=fix)
        try:
            _, labels = labelled_voxels(strokes)
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('fit: marks: ')}") from error
        n = len(self.classes)
        if labels.max() > n:
            expected = f"labels 1 to {n} ({', '.join(self.classes)})"
            raise input_error(where, "labels", expected=expected, got=labels.max())
        counts = np.bincount(labels, minlength=n + 1)[1:]
        if np.count_nonzero(counts) < 2:
            only = self.classes[int(counts.argmax())]
            fix = "mark at least one more class"
            raise input_error(where, "classes", expected="strokes of two classes or more", got=f"only {only}", fix=fix)
        return counts

    def _notes(self, drawn: Sequence[npt.NDArray[np.int64]]) -> list[str]:
        """What does not forbid the work; an error for a class that nobody drew."""
        total = np.sum(drawn, axis=0)
        if not total.all():
            raise input_error(
                "strokes",
                "classes",
                expected="strokes of every class",
                got=f"none of {', '.join(self._absent(total))}",
                fix="mark some of it, or leave the class out",
            )
        notes = []
        if self.settings.rounds > 1 and len(self.volumes) == len(self.strokes):
            notes.append("no tomogram without strokes to learn from: further rounds only train longer")
        notes += [
            f"{self.names[k]}: no strokes of {', '.join(self._absent(counts))}; its forest calls what there is of it "
            "something else, so mark some if there is any"
            for k, counts in enumerate(drawn)
            if not counts.all()
        ]
        first = self.volumes[0]
        for name, volume in zip(self.names[1:], self.volumes[1:], strict=True):
            known = "unknown" not in (volume.voxel_size_status, first.voxel_size_status)
            if known and not one_voxel_size(volume.voxel_size_A, first.voxel_size_A):
                mine, theirs = (" x ".join(f"{length:.4g}" for length in one.voxel_size_A) for one in (volume, first))
                notes.append(
                    f"{name}: voxels of {mine} Å (z, y, x), {self.names[0]} has {theirs}: to a network the same "
                    "structure is another one at another size; bin or resample first"
                )
        return notes

    def _absent(self, counts: npt.NDArray[np.int64]) -> list[str]:
        return [name for name, n in zip(self.classes, counts, strict=True) if not n]

    # ---- stages

    def _stage(self, what: str, k: int | None, number: int, work: Callable[[], T], reopen: Callable[[], T]) -> T:
        """A stage, named by what sets it apart from others."""
        name = what + (f", round {number}" if number and self.settings.rounds > 1 else "")
        name += f": {self.names[k]}" if k is not None and len(self.volumes) > 1 else ""
        return self.hooks.stage(name, work, reopen)

    def _path(self, k: int | None, name: str) -> Path | None:
        """Where a result of one tomogram, or (None) of all, is kept; nowhere without a folder."""
        if self.out is None:
            return None
        return self.out / name if k is None or len(self.volumes) == 1 else self.out / self.names[k] / name

    def _of_round(self, name: str, number: int) -> str:
        """The last round's results have the plain names."""
        stem, dot, suffix = name.partition(".")
        return name if number == self.settings.rounds else f"{stem}_round{number}{dot}{suffix}"

    def _kept(self, path: Path | None, volume: Volume, work: Callable[[Any], object]) -> SoftSegmentation:
        """What `work` stores in the (class, z, y, x) array that it is given, in memory or in an OME-Zarr."""
        if path is None:
            data = np.zeros((len(self.classes), *volume.shape), np.uint8)
            work(data)
            return SoftSegmentation(data, self.classes, **volume.grid())
        with io.create_segmentation(path, volume.shape, self.classes, dtype="uint8", grid=volume.grid()) as out:
            work(out)
        return io.read_segmentation(path)

    def _pseudo_labels(self, k: int, counts: npt.NDArray[np.int64]) -> tuple[PixelClassifier, SoftSegmentation]:
        """A forest of one tomogram's own strokes, and what it makes of that tomogram."""
        settings, volume, strokes = self.settings, self.volumes[k], self.strokes[k]
        file, path = self._path(k, FOREST), self._path(k, SOFT)
        known = np.flatnonzero(counts)
        whole = len(known) == len(counts)

        def fit() -> PixelClassifier:
            forest = PixelClassifier(settings.n_trees, spec=settings.features, seed=settings.seed)
            marks = strokes if whole else strokes.with_data(_Renumbered(strokes, known))
            forest.fit(volume, marks, classes=[self.classes[i] for i in known], progress=self.progress)
            if file is not None:
                forest.save(file)
            return forest

        forest = self._stage("forest", k, 0, fit, lambda: PixelClassifier.load(cast(Path, file)))

        def predict(out: Any) -> None:
            target = out if whole else _SomeClasses(out, known)
            forest.predict_proba(volume, out=target, device=self.training.device, progress=self.progress)

        soft = self._stage(
            "pseudo labels",
            k,
            0,
            lambda: self._kept(path, volume, predict),
            lambda: io.read_segmentation(cast(Path, path)),
        )
        return forest, soft

    def _train(self, labels: Sequence[SoftSegmentation], number: int) -> None:
        """Train the network on the first of the tomograms: as many as there are labels."""
        folder = self._path(None, self._of_round(NET, number))
        training = self.training
        if number > 1:
            # From where the last round ended, gently: a peak as at the beginning would undo it.
            schedule = "cosine" if training.schedule == "one_cycle" else training.schedule
            training = replace(
                training,
                schedule=schedule,
                learning_rate=training.learning_rate / 4,
                seed=training.seed + number - 1,
            )

        def work() -> Network:
            pairs = list(zip(self.volumes, labels, strict=False))
            names = self.names[: len(labels)]
            result = train(
                self.model,
                pairs,
                steps=self.settings.steps,
                settings=training,
                out=folder,
                names=names,
                progress=self.progress,
            )
            for note in result.notes:
                self.hooks.tell(note)
            return result.model

        self.model = self._stage("training", None, number, work, lambda: load_model(cast(Path, folder))[0])

    def _segment(self, k: int, number: int) -> SoftSegmentation:
        settings, volume = self.settings, self.volumes[k]
        path, folder = self._path(k, self._of_round(PROBA, number)), self._path(None, self._of_round(NET, number))

        def predict(out: Any) -> None:
            segment(
                self.model,
                volume,
                tile=settings.tile,
                overlap=settings.overlap,
                blend=settings.blend,
                out=out,
                device=self.training.device,
                progress=self.progress,
            )

        def work() -> SoftSegmentation:
            if self.hooks.segmenter is not None and path is not None and folder is not None:
                return self.hooks.segmenter(folder, volume, path, number == settings.rounds)
            return self._kept(path, volume, predict)

        return self._stage("segmentation", k, number, work, lambda: io.read_segmentation(cast(Path, path)))

    # ---- rounds

    def _further_labels(
        self, pseudo: Sequence[SoftSegmentation], segmentations: Sequence[SoftSegmentation]
    ) -> list[SoftSegmentation]:
        """What every tomogram is labelled with after the first round."""
        n = len(pseudo)
        every = np.zeros(len(self.classes))
        labels = [_Labels(one, every, strokes) for one, strokes in zip(pseudo, self.strokes, strict=True)]
        if others := segmentations[n:]:
            least = confidence_thresholds(others, self.settings.confident_share)
            labels += [_Labels(one, least, None) for one in others]
        return [
            SoftSegmentation(data, one.classes, one.colors, **one.grid())
            for data, one in zip(labels, [*pseudo, *others], strict=True)
        ]

    def _judged(self, segmentations: Sequence[SoftSegmentation], pseudo: Sequence[SoftSegmentation]) -> Round:
        strokes, labels = ConfusionMatrix(len(self.classes)), ConfusionMatrix(len(self.classes))
        for marks, soft, one in zip(self.strokes, pseudo, segmentations, strict=False):
            for slab in _slabs(one):
                found = np.asarray(one.data[:, slab]).argmax(0)
                strokes.update(np.asarray(marks.data[slab]).astype(np.int64) - 1, found)
                labels.update(np.asarray(soft.data[:, slab]).argmax(0), found)
        info = self.model.info
        held_back = tuple(info.metrics["f1"]) if info else ()
        return Round(held_back_f1=held_back, strokes=strokes, pseudo_labels=labels)


def confidence_thresholds(segmentations: Sequence[SoftSegmentation], share: float) -> npt.NDArray[np.float64]:
    """For each class the probability from which on it is believed: of the voxels in which it is the most probable, in
    all segmentations together, at least `share` have that probability or more. 1 for a class that is nowhere found.
    """
    n = len(segmentations[0].classes)
    counts = np.zeros((n, _LEVELS), np.int64)
    for one in segmentations:
        for slab in _slabs(one):
            stored = np.asarray(one.data[:, slab])
            level = (stored.max(0) / one.unit * (_LEVELS - 1)).astype(np.int64)
            place = stored.argmax(0) * _LEVELS + level
            counts += np.bincount(place.ravel(), minlength=n * _LEVELS).reshape(n, _LEVELS)
    above = counts[:, ::-1].cumsum(1)[:, ::-1]  # voxels of at least this level
    enough = above >= share * above[:, :1]
    highest = _LEVELS - 1 - np.argmax(enough[:, ::-1], axis=1)
    return np.asarray(highest / (_LEVELS - 1))


def _slabs(segmentation: SoftSegmentation) -> Iterator[slice]:
    """Slices of z that read each chunk once, or as seldom as memory allows."""
    chunks = getattr(segmentation.data, "chunks", None)
    z, y, x = segmentation.shape
    depth = max(min(int(chunks[1]) if chunks else z, _SLAB_VOXELS // (y * x)), 1)
    for start in range(0, z, depth):
        yield slice(start, min(start + depth, z))


class _Labels(io.LazyArray):
    """A segmentation (class, z, y, x) where its most probable class reaches its threshold; strokes as certain."""

    def __init__(self, segmentation: SoftSegmentation, least: npt.NDArray[np.float64], strokes: Volume | None) -> None:
        data = segmentation.data
        super().__init__(data.shape, data.dtype, getattr(data, "chunks", None))
        self._data, self._strokes, self._unit = data, strokes, segmentation.unit
        self._least = least * segmentation.unit

    def _read(self, region: tuple[slice, ...]) -> Array:
        box = region[1:]
        stored = np.asarray(self._data[(slice(None), *box)])
        kept = stored * (stored.max(0) >= self._least[stored.argmax(0)])
        if self._strokes is not None:
            marks = np.asarray(self._strokes.data[box])
            drawn = marks == np.arange(1, len(stored) + 1).reshape(-1, 1, 1, 1)
            kept = np.where(marks > 0, drawn * np.asarray(self._unit, self.dtype), kept)
        return np.asarray(kept[region[0]])


class _Renumbered(io.LazyArray):
    """Strokes with the classes that were drawn numbered 1, 2, ... `known`: their numbers from 0."""

    def __init__(self, strokes: Volume, known: npt.NDArray[np.int64]) -> None:
        super().__init__(strokes.shape, np.uint8)
        self._data = strokes.data
        self._new = np.zeros(int(known[-1]) + 2, np.uint8)
        self._new[known + 1] = np.arange(1, len(known) + 1)

    def _read(self, region: tuple[slice, ...]) -> Array:
        return self._new[np.asarray(self._data[region]).astype(np.int64)]


class _SomeClasses:
    """Where a forest that knows some of the classes writes: the others get no probability."""

    def __init__(self, out: Any, known: npt.NDArray[np.int64]) -> None:
        self._out, self._known = out, known
        self.shape: tuple[int, ...] = (len(known), *out.shape[1:])
        self.dtype = np.dtype(out.dtype)

    def __setitem__(self, region: Any, part: Any) -> None:
        whole = np.zeros((self._out.shape[0], *np.shape(part)[1:]), self.dtype)
        whole[self._known] = part
        self._out[region] = whole
