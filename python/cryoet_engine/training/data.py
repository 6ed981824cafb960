# SPDX-License-Identifier: MIT
"""Patches from tomograms and their labels, read where they lie: no volume is ever loaded whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._checks import InputError, input_error
from .._progress import Progress
from ..models.normalisation import Normalisation
from ..tiling import tile_starts
from ..volume import Float32Array, Region, SoftSegmentation, Volume, one_voxel_size
from .settings import TrainingSettings

Shape: TypeAlias = tuple[int, int, int]
IntArray: TypeAlias = npt.NDArray[np.int64]
Labels: TypeAlias = SoftSegmentation | Volume

UNLABELLED = -1
_SAMPLES = 2048  # voxels of each class that are remembered to aim patches at
# Slices, and voxels, read at once in a pass over the labels: whole chunks where memory allows (9 bytes a voxel).
_SLAB, _SLAB_VOXELS = 32, 1 << 24


@dataclass(frozen=True)
class Patch:
    """Where a patch lies: its tomogram, the region it reads, and which part of it counts."""

    tomogram: int
    region: Region
    counts: Region


@dataclass(frozen=True, eq=False)
class Place:
    """Where patches are cut: a part of a tomogram, and a sample of the voxels of each class that is met in it."""

    tomogram: int
    region: Region
    samples: dict[int, IntArray]

    def random_region(self, patch: Shape, rng: np.random.Generator, *, aim: int | None = None) -> Region:
        """A region of at most `patch` voxels; with `aim`, one that has a voxel of that class in it."""
        voxel = None if aim is None else rng.choice(self.samples[aim])
        region = []
        for axis, (length, limits) in enumerate(zip(patch, self.region, strict=True)):
            last = max(limits.stop - length, limits.start)
            if voxel is None:
                start = int(rng.integers(limits.start, last + 1))
            else:
                start = int(np.clip(voxel[axis] - rng.integers(length), limits.start, last))
            region.append(slice(start, min(start + length, limits.stop)))
        return region[0], region[1], region[2]


def chunk_regions(region: Region, chunk: int) -> list[Region]:
    """Overlapping parts of a region, chunk x chunk voxels in y and x, in z as deep as it (paper 1, section 4.4).

    Along an axis longer than a chunk there are length // chunk + 1, evenly spread: of 1024 x 1440 voxels, 3 x 3 chunks
    of 512 at strides of 256 and 464.
    """
    axes = []
    for part in region[1:]:
        length = part.stop - part.start
        count = length // chunk + 1 if length > chunk else 1
        starts = np.linspace(part.start, max(part.stop - chunk, part.start), count).round().astype(int).tolist()
        axes.append([slice(start, min(start + chunk, part.stop)) for start in starts])
    return [(region[0], y, x) for y in axes[0] for x in axes[1]]


class LabelledTomogram:
    """A tomogram and its labels: what lies where, which part is held back, and patches of the rest.

    n_classes: of the network. Errors: InputError where shapes, classes or label values do not fit, where nothing is
    labelled, and for voxels that are not finite.
    """

    def __init__(self, volume: Volume, labels: Labels, n_classes: int, settings: TrainingSettings) -> None:
        if not isinstance(volume, Volume) or not isinstance(labels, SoftSegmentation | Volume):
            raise input_error(
                "train",
                "pair",
                expected="(Volume, SoftSegmentation or label Volume)",
                got=f"({type(volume)}, {type(labels)})",
            )
        if volume.shape != labels.shape:
            raise input_error(
                "train", "labels", expected=f"the tomogram's shape {volume.shape}", got=f"shape {labels.shape}"
            )
        if isinstance(labels, SoftSegmentation):
            if len(labels.classes) != n_classes:
                raise input_error(
                    "train",
                    "classes of the labels",
                    expected=f"{n_classes}, as many as the network's outputs",
                    got=f"{len(labels.classes)} ({', '.join(labels.classes)})",
                    fix="create the model with that out_channels",
                )
        elif labels.dtype.kind not in "iu":
            raise input_error("train", "label volume", expected="whole numbers 0..K", got=labels.dtype)
        self.volume, self.labels, self.n_classes = volume, labels, n_classes
        self.soft = settings.targets == "soft"
        self.normalisation = Normalisation.measure(volume, settings.normalisation)
        self.profiles, self._samples = self._scan(settings.seed)
        self.counts: IntArray = self.profiles[0].sum(0)
        if not self.counts.any():
            raise input_error("train", "labels", expected="labelled voxels", got="none")
        self.training: Region = tuple(slice(0, n) for n in volume.shape)  # type: ignore[assignment]
        self.held_back: Region | None = None

    def classes_at(self, region: Region) -> IntArray:
        """Class indices (z, y, x) of a region, `UNLABELLED` where there is no label."""
        if isinstance(self.labels, SoftSegmentation):
            stored = np.asarray(self.labels.data[(slice(None), *region)])
            index: IntArray = stored.argmax(0)
            index[~stored.any(0)] = UNLABELLED
            return index
        index = np.asarray(self.labels.data[region]).astype(np.int64) - 1
        if index.size and (index.min() < UNLABELLED or index.max() >= self.n_classes):
            raise input_error(
                "train",
                "label volume",
                expected=f"values from 0 to {self.n_classes}, the network's number of classes",
                got=f"{index.min() + 1} to {index.max() + 1}",
            )
        return index

    def read(self, region: Region, shape: Shape) -> tuple[Float32Array, npt.NDArray[Any]]:
        """Normalised voxels (z, y, x) and targets of a region, extended to `shape` at the far ends where it is shorter:
        voxels by reflection, targets as unlabelled.

        Targets are class indices, int64 (z, y, x); or probabilities, float32 (class, z, y, x), all zero where there is
        no label.
        """
        x = self.normalisation(self.volume.block(region))
        target: npt.NDArray[Any] = self.classes_at(region)
        if self.soft:
            if isinstance(self.labels, SoftSegmentation):
                target = self.labels.block(region)
                target /= np.maximum(target.sum(0), 1e-6)
            else:
                target = (target == np.arange(self.n_classes)[:, None, None, None]).astype(np.float32)
        more = [(0, length - n) for length, n in zip(shape, x.shape, strict=True)]
        if any(after for _, after in more):
            x = np.pad(x, more, mode="symmetric")
            if self.soft:
                target = np.pad(target, [(0, 0), *more])
            else:
                target = np.pad(target, more, constant_values=UNLABELLED)
        return x, target

    def hold_back(self, share: float) -> None:
        """Set aside the side of the volume in which classes are mixed most nearly as in the whole."""
        lengths = self.volume.shape
        # Across the longest axes, so that what is left stays longer than a patch where it can.
        axes = [axis for axis in range(3) if lengths[axis] * 2 >= max(lengths)]
        present = self.counts > 0
        best = (np.inf, 0, slice(0, 0))
        for axis in axes:
            width = max(round(share * lengths[axis]), 1)
            for side in (slice(0, width), slice(lengths[axis] - width, lengths[axis])):
                shares = self.profiles[axis][side].sum(0)[present] / self.counts[present]
                best = min(best, (float(np.abs(shares - share).max()), axis, side), key=lambda entry: entry[0])
        _, axis, side = best
        rest = slice(side.stop, lengths[axis]) if side.start == 0 else slice(0, side.start)
        whole = [slice(0, n) for n in lengths]
        self.held_back = tuple(side if a == axis else s for a, s in enumerate(whole))  # type: ignore[assignment]
        self.training = tuple(rest if a == axis else s for a, s in enumerate(whole))  # type: ignore[assignment]

    def samples_in(self, region: Region) -> dict[int, IntArray]:
        """For each class of which voxels are known in a region, a uniform sample of them, (n, 3)."""
        first, last = ([getattr(part, end) for part in region] for end in ("start", "stop"))
        inside = (sample[((sample >= first) & (sample < last)).all(1)] for sample in self._samples)
        return {k: sample for k, sample in enumerate(inside) if len(sample)}

    def validation_regions(self, patch: Shape) -> list[tuple[Region, Region]]:
        """Regions of at most `patch` voxels that cover what is held back, and the part of each that is held back."""
        if self.held_back is None:
            return []
        axes: list[list[tuple[slice, slice]]] = []
        for length, n, held in zip(patch, self.volume.shape, self.held_back, strict=True):
            length = min(length, n)
            width = held.stop - held.start
            if width <= length:  # the rest of such a patch is context from the training part
                starts = [held.start if held.start == 0 else held.stop - length]
            else:
                starts = [held.start + start for start in tile_starts(width, length, 0)]
            cut = [slice(start, start + length) for start in starts]
            axes.append([(s, slice(max(held.start - s.start, 0), min(held.stop - s.start, length))) for s in cut])
        return [((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z in axes[0] for y in axes[1] for x in axes[2]]

    def _scan(self, seed: int) -> tuple[list[IntArray], list[IntArray]]:
        """One pass over the labels: voxels of each class in every plane across each axis, (length, class), and a
        uniform random sample of each class's voxels, (n, 3).
        """
        shape, n = self.volume.shape, self.n_classes
        # A stream for each class, so that its keys, and with them the sample, do not hang on the slabs.
        streams = np.random.default_rng(seed).spawn(n)
        profiles = [np.zeros((length, n), np.int64) for length in shape]
        samples = [(np.zeros(0), np.zeros((0, 3), np.int64))] * n
        for z, index in self._planes():
            for k in range(n):
                mask = index == k
                flat = np.flatnonzero(mask)
                if not flat.size:
                    continue
                profiles[0][z, k] = flat.size
                profiles[1][:, k] += np.count_nonzero(mask, axis=1)
                profiles[2][:, k] += np.count_nonzero(mask, axis=0)
                keys = streams[k].random(flat.size)  # the voxels with the smallest are a uniform sample
                if flat.size > _SAMPLES:
                    kept = np.argpartition(keys, _SAMPLES)[:_SAMPLES]
                    flat, keys = flat[kept], keys[kept]
                where = np.stack([np.full(flat.size, z), *np.unravel_index(flat, index.shape)], 1)
                keys, where = np.concatenate([samples[k][0], keys]), np.concatenate([samples[k][1], where])
                order = np.argsort(keys)[:_SAMPLES]
                samples[k] = (keys[order], where[order])
        return profiles, [where for _, where in samples]

    def _planes(self) -> Iterator[tuple[int, IntArray]]:
        """Class indices (y, x) of every slice, with its number."""
        depth, rows, columns = self.volume.shape
        step = min(max(_SLAB_VOXELS // (rows * columns), 1), _SLAB)
        for start in range(0, depth, step):
            slab = slice(start, min(start + step, depth))
            yield from enumerate(self.classes_at((slab, slice(None), slice(None))), start)


class TrainingData:
    """All pairs: batches for training, fixed patches for validation.

    pairs: see `train`. divisor: of the network; patches are multiples of it.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Volume, Labels]],
        n_classes: int,
        divisor: Shape,
        settings: TrainingSettings,
        progress: Progress,
    ) -> None:
        if not pairs:
            raise input_error("train", "pairs", expected="at least one (tomogram, labels)", got="none")
        self.settings = settings
        self.tomograms: list[LabelledTomogram] = []
        for number, (volume, labels) in enumerate(pairs):
            progress("reading", number, len(pairs))
            try:
                self.tomograms.append(LabelledTomogram(volume, labels, n_classes, settings))
            except InputError as error:
                raise InputError(f"pair {number + 1}: {error}" if len(pairs) > 1 else str(error)) from error
        progress("reading", len(pairs), len(pairs))
        named = {t.labels.classes for t in self.tomograms if isinstance(t.labels, SoftSegmentation)}
        if len(named) > 1:
            got = " and ".join(", ".join(names) for names in sorted(named))
            raise input_error("train", "pairs", expected="the same classes in the same order", got=got)
        self.classes = named.pop() if named else tuple(f"class {k + 1}" for k in range(n_classes))
        self.counts: IntArray = np.sum([t.counts for t in self.tomograms], axis=0)
        if np.count_nonzero(self.counts) < min(2, n_classes):
            only = self.classes[int(self.counts.argmax())]
            raise input_error("train", "labels", expected="voxels of at least two classes", got=f"{only} alone")
        if settings.validation_share > 0:
            for tomogram in self.tomograms:
                if max(tomogram.volume.shape) > 1:
                    tomogram.hold_back(settings.validation_share)
        self.patch = self._patch_shape(divisor)
        self.places = [
            Place(k, region, tomogram.samples_in(region))
            for k, tomogram in enumerate(self.tomograms)
            for region in (
                chunk_regions(tomogram.training, settings.chunk)
                if settings.sampling == "chunks"
                else [tomogram.training]
            )
        ]
        self.notes = tuple(self._missing_classes() + self._mixed_voxel_sizes() + self._labels_of_other_sizes())

    def _missing_classes(self) -> list[str]:
        missing = [name for name, count in zip(self.classes, self.counts, strict=True) if not count]
        return [f"classes of no voxel in any labels, which cannot be learnt: {', '.join(missing)}"] if missing else []

    def _mixed_voxel_sizes(self) -> list[str]:
        """A network learns sizes in voxels; tomograms of different ones are told, with who has which."""
        pairs: dict[str, list[int]] = {}
        sizes = []
        for number, tomogram in enumerate(self.tomograms, 1):
            if tomogram.volume.voxel_size_status != "unknown":
                size = tomogram.volume.voxel_size_A
                sizes.append(size)
                text = f"{size[0]:.4g}" if max(size) < 1.001 * min(size) else " x ".join(f"{edge:.4g}" for edge in size)
                pairs.setdefault(text, []).append(number)
        if one_voxel_size(*sizes):
            return []
        groups = [f"{text} Å in pair {', '.join(map(str, numbers))}" for text, numbers in pairs.items()]
        return [f"voxel sizes differ by more than 10 % ({'; '.join(groups)}): better to bring them to one size first"]

    def _labels_of_other_sizes(self) -> list[str]:
        """A voxel of 1 Å is what labels have that were made in memory: that says nothing."""
        other = [
            str(number)
            for number, t in enumerate(self.tomograms, 1)
            if "unknown" not in (t.volume.voxel_size_status, t.labels.voxel_size_status)
            and t.labels.voxel_size_A != (1, 1, 1)
            and not one_voxel_size(t.volume.voxel_size_A, t.labels.voxel_size_A)
        ]
        return [f"labels have other voxel sizes than their tomograms: pair {', '.join(other)}"] if other else []

    def _patch_shape(self, divisor: Shape) -> Shape:
        """Patches of the size asked for, or as large as every training part allows."""
        lengths = []
        for axis, step in enumerate(divisor):
            room = min(t.training[axis].stop - t.training[axis].start for t in self.tomograms)
            lengths.append(max(min(self.settings.patch, room) // step, 1) * step)
        return lengths[0], lengths[1], lengths[2]

    @property
    def patches_per_epoch(self) -> int:
        """How many patches make an epoch: with chunks, as many as there are chunks in all tomograms."""
        return len(self.places) if self.settings.sampling == "chunks" else self.settings.patches_per_epoch

    def batch(self, number: int) -> tuple[Float32Array, npt.NDArray[Any], list[Patch], np.random.Generator]:
        """Patches (batch, z, y, x), their targets, where they come from, and the generator to augment them by.

        Each batch has its own random stream, so that a training resumes exactly with no generator's state stored, and
        threads may read batches in any order.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        size = self.settings.batch
        patches = [self._draw(k, rng) for k in range(number * size, (number + 1) * size)]
        read = [self.tomograms[patch.tomogram].read(patch.region, self.patch) for patch in patches]
        return np.stack([x for x, _ in read]), np.stack([target for _, target in read]), patches, rng

    def _draw(self, number: int, rng: np.random.Generator) -> Patch:
        """The patch of a number counted from the training's start.

        At random: a class first, then a tomogram that has it, so that a class of one tomogram among many is seen as
        often as the others. With chunks the turn decides the chunk: each comes once an epoch, in random order.
        """
        places = self.places
        if self.settings.sampling == "chunks":
            epoch, turn = divmod(number, len(places))
            order = np.random.default_rng([self.settings.seed, epoch, 1]).permutation(len(places))
            places = [places[order[turn]]]
        aim = None
        if rng.random() < self.settings.rare_share and (met := sorted({k for place in places for k in place.samples})):
            aim = met[rng.integers(len(met))]
            places = [place for place in places if aim in place.samples]
        place = places[rng.integers(len(places))]
        region = place.random_region(self.patch, rng, aim=aim)
        return Patch(place.tomogram, region, region)

    def validation_patches(self) -> list[Patch]:
        """The same patches at every call: all that cover what is held back, or a random choice of them."""
        each = -(-self.settings.validation_patches // len(self.tomograms))
        rng = np.random.default_rng(self.settings.seed)
        chosen: list[Patch] = []
        for number, tomogram in enumerate(self.tomograms):
            regions = tomogram.validation_regions(self.patch)
            chosen += [Patch(number, *regions[k]) for k in sorted(rng.permutation(len(regions))[:each])]
        return chosen

    def read_validation(self, patch: Patch) -> tuple[Float32Array, npt.NDArray[Any]]:
        """Voxels and targets as `LabelledTomogram.read` gives them, unlabelled outside the held-back part."""
        x, target = self.tomograms[patch.tomogram].read(patch.region, self.patch)
        masked = np.zeros_like(target) if self.tomograms[patch.tomogram].soft else np.full_like(target, UNLABELLED)
        counted = (..., *patch.counts)
        masked[counted] = target[counted]
        return x, masked

    def fingerprint(self) -> list[dict[str, Any]]:
        """What tells these data from others, for a training that is resumed."""
        return [
            {
                "shape": list(t.volume.shape),
                "offset": t.normalisation.offset,
                "scale": t.normalisation.scale,
                "voxels": t.counts.tolist(),
            }
            for t in self.tomograms
        ]
